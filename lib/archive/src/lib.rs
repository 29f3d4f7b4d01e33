//! Tar archives of files that go into VMs: what may be in one. luxid asks before it takes a task, a node before the first
//! file is written. Only headers are read; neither the time nor the memory that takes depends on what they say. Plain
//! tar, not compressed; regular files and directories only. Images, which have links, are another matter: [`image`].

pub mod image;

use gantry_model::path::{self, ENTRIES_MAX, shown};
use std::collections::HashSet;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use tar::{Archive, Entry, EntryType, PaxExtensions};

/// Largest entry that says something of the next one, such as its long name, bytes: the reader keeps them in memory.
const EXTENSION_BYTES_MAX: u64 = 8 << 10;
/// Most headers of an archive: each entry may have a long name and extensions before it.
const HEADERS_MAX: usize = 4 * ENTRIES_MAX;

/// Why an archive can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the archive can't be used: {0}")]
pub struct Unfit(String);

/// What a checked archive holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Content {
    /// Files and directories.
    pub entries: usize,
    /// Bytes of its files.
    pub bytes: u64,
    /// Its files, by their paths.
    pub files: HashSet<String>,
}

/// An archive that its reader does not understand.
#[must_use]
pub fn unreadable(error: io::Error) -> Unfit {
    // The reader's texts may quote the archive.
    Unfit(shown(&error.to_string()))
}

/// Reads an archive from its beginning.
///
/// # Errors
/// When the file can't be read.
pub fn read<R: Read + Seek>(file: &mut R) -> Result<Archive<BufReader<&mut R>>, Unfit> {
    file.seek(SeekFrom::Start(0)).map_err(unreadable)?;
    Ok(Archive::new(BufReader::new(file)))
}

/// One entry's plain path (empty for the directory itself) and whether it is a directory. It comes below `below`.
///
/// # Errors
/// For links, devices and names that may not be used.
pub fn plain<R: Read>(entry: &Entry<'_, R>, below: &str) -> Result<(String, bool), Unfit> {
    let name = entry.path_bytes();
    let named = |what: &str| Unfit(format!("'{}' {what}", shown(&String::from_utf8_lossy(&name))));
    let is_dir = match entry.header().entry_type() {
        EntryType::Regular => false,
        EntryType::Directory => true,
        _ => return Err(named("is neither a regular file nor a directory")),
    };
    let text = std::str::from_utf8(&name).map_err(|_| named("is not UTF-8"))?;
    let path = text.strip_prefix("./").unwrap_or(text).trim_end_matches('/');
    if path.is_empty() || path == "." {
        return if is_dir && !text.starts_with('/') {
            Ok((String::new(), true))
        } else {
            Err(Unfit("an entry without a name".to_owned()))
        };
    }
    path::parts(&path::join(below, path)).map_err(Unfit)?;
    Ok((path.to_owned(), is_dir))
}

/// Checks a whole archive whose files are to come below directory `below` of a home (empty = the home).
///
/// # Errors
/// Links, devices, odd names, entries in each other's way, too many of them, and what is no archive.
pub fn check<R: Read + Seek>(file: &mut R, below: &str) -> Result<Content, Unfit> {
    if !below.is_empty() {
        path::parts(below).map_err(Unfit)?;
    }
    let length = file.seek(SeekFrom::End(0)).map_err(unreadable)?;
    extensions(file)?;
    let mut content = Content::default();
    let mut dirs = HashSet::new();
    for entry in read(file)?.entries_with_seek().map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let (path, is_dir) = plain(&entry, below)?;
        let end = entry.raw_file_position().checked_add(entry.size());
        if end.is_none_or(|end| end > length) {
            return Err(Unfit(format!("it ends within '{}'", shown(&path))));
        }
        content.entries += 1;
        content.bytes = content.bytes.saturating_add(entry.size());
        if content.entries > ENTRIES_MAX {
            return Err(Unfit(format!("more than {ENTRIES_MAX} entries")));
        }
        if is_dir {
            dirs.insert(path);
        } else {
            content.files.insert(path);
        }
    }
    match both(&content.files, &dirs) {
        Some(path) => Err(Unfit(format!("'{}' is a file and a directory", shown(path)))),
        None => Ok(content),
    }
}

/// A file that is a directory, too: named as one, or with something below it.
fn both<'a>(files: &'a HashSet<String>, dirs: &'a HashSet<String>) -> Option<&'a str> {
    let above = |path: &'a String| path.match_indices('/').map(|(at, _)| &path[..at]);
    let below = files.iter().chain(dirs).flat_map(above);
    dirs.iter().map(String::as_str).chain(below).find(|path| files.contains(*path))
}

/// Looks at what says something of other entries, before a reader that takes it at its word does.
fn extensions<R: Read + Seek>(file: &mut R) -> Result<(), Unfit> {
    let mut headers = 0;
    for entry in read(file)?.entries_with_seek().map_err(unreadable)?.raw(true) {
        let mut entry = entry.map_err(unreadable)?;
        headers += 1;
        if headers > HEADERS_MAX {
            return Err(Unfit(format!("more than {ENTRIES_MAX} entries")));
        }
        let kind = entry.header().entry_type();
        let speaks = matches!(
            kind,
            EntryType::GNULongName
                | EntryType::GNULongLink
                | EntryType::XHeader
                | EntryType::XGlobalHeader
                | EntryType::GNUSparse
        );
        if speaks && entry.size() > EXTENSION_BYTES_MAX {
            return Err(Unfit(format!(
                "a name or a header of {} bytes, at most {EXTENSION_BYTES_MAX} are possible",
                entry.size()
            )));
        }
        // Its blocks are a list that may go on for the rest of the archive.
        if kind == EntryType::GNUSparse {
            return Err(Unfit("a sparse file; pack it without --sparse".to_owned()));
        }
        if kind == EntryType::XHeader {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).map_err(unreadable)?;
            no_size(&bytes)?;
        }
    }
    Ok(())
}

/// A size beside that of the header would make two readers see two archives. Packers write one from 8 GiB on only.
fn no_size(extensions: &[u8]) -> Result<(), Unfit> {
    for extension in PaxExtensions::new(extensions) {
        if extension.map_err(unreadable)?.key_bytes() == b"size" {
            return Err(Unfit("a file whose size stands in an extended header".to_owned()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
