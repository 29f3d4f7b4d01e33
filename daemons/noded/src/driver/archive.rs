//! Tar archives that go into a VM's home and come out of it. An archive is checked whole before its first file is
//! written; files are written and read through [`Home`], which follows nothing. Regular files and directories only.

use super::home::{self, Home};
use super::{Class, DriverError};
use gantry_proto::noded::VmGetReply;
use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use tar::{Archive, EntryType};

/// Most entries of an archive: as many as a listing looks at.
pub const ENTRIES_MAX: usize = 10_000;
/// Most bytes of all names that an answer tells: half a frame.
const NAMES_BYTES_MAX: usize = 2 << 20;

/// What a checked archive holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Content {
    /// Files and directories.
    pub entries: usize,
    /// Bytes of its files.
    pub bytes: u64,
}

fn bad(text: String) -> DriverError {
    DriverError::new(Class::Refused, format!("the archive can't be used: {text}"))
}

fn unreadable(error: io::Error) -> DriverError {
    bad(error.to_string())
}

/// One entry's plain path (empty for the root itself) and whether it is a directory.
fn plain<R: Read>(entry: &tar::Entry<'_, R>, below: &str) -> Result<(String, bool), DriverError> {
    let name = entry.path_bytes();
    let shown = || String::from_utf8_lossy(&name).escape_debug().to_string();
    let is_dir = match entry.header().entry_type() {
        EntryType::Regular => false,
        EntryType::Directory => true,
        _ => return Err(bad(format!("'{}' is neither a regular file nor a directory", shown()))),
    };
    let name_text = std::str::from_utf8(&name).map_err(|_| bad(format!("'{}' is not UTF-8", shown())))?;
    let path = name_text.strip_prefix("./").unwrap_or(name_text).trim_end_matches('/');
    if path.is_empty() || path == "." {
        return if is_dir && !name_text.starts_with('/') {
            Ok((String::new(), true))
        } else {
            Err(bad("an entry without a name".to_owned()))
        };
    }
    let odd = path.chars().any(char::is_control) || home::parts(&home::join(below, path)).is_err();
    if odd {
        Err(bad(format!("'{}' is not a plain relative path", shown())))
    } else {
        Ok((path.to_owned(), is_dir))
    }
}

fn entries(file: &mut File) -> Result<Archive<BufReader<&mut File>>, DriverError> {
    file.seek(SeekFrom::Start(0)).map_err(unreadable)?;
    Ok(Archive::new(BufReader::new(file)))
}

/// Checks a whole archive that is to be unpacked in directory `below` of a home (empty = the home) with `room` bytes.
///
/// # Errors
/// [`Class::Refused`] for links, devices, odd names, entries in each other's way and too many; [`Class::NoSpace`].
pub fn check(file: &mut File, below: &str, room: u64) -> Result<Content, DriverError> {
    if !below.is_empty() {
        home::parts(below)?;
    }
    let length = file.metadata().map_err(unreadable)?.len();
    let mut content = Content::default();
    let (mut files, mut dirs) = (HashSet::new(), HashSet::new());
    for entry in entries(file)?.entries().map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let (path, is_dir) = plain(&entry, below)?;
        let end = entry.raw_file_position().checked_add(entry.size());
        if end.is_none_or(|end| end > length) {
            return Err(bad(format!("it ends within '{path}'")));
        }
        content.entries += 1;
        content.bytes = content.bytes.saturating_add(entry.size());
        if content.entries > ENTRIES_MAX {
            return Err(bad(format!("more than {ENTRIES_MAX} entries")));
        }
        if content.bytes > room {
            let text = format!("files of more than {room} bytes, the room there is");
            return Err(DriverError::new(Class::NoSpace, text));
        }
        dirs.extend(path.match_indices('/').map(|(at, _)| path[..at].to_owned()));
        if is_dir {
            dirs.insert(path)
        } else {
            files.insert(path)
        };
    }
    match files.intersection(&dirs).next() {
        Some(path) => Err(bad(format!("'{path}' is a file and a directory"))),
        None => Ok(content),
    }
}

/// Unpacks a checked archive. What has a file's name is replaced.
///
/// # Errors
/// As of [`Home::put`].
pub fn unpack(file: &mut File, home: &Home, below: &str) -> Result<(), DriverError> {
    if !below.is_empty() {
        home.make_dir(below)?;
    }
    for entry in entries(file)?.entries().map_err(unreadable)? {
        let mut entry = entry.map_err(unreadable)?;
        let (path, is_dir) = plain(&entry, below)?;
        let whole = home::join(below, &path);
        if is_dir {
            if !path.is_empty() {
                home.make_dir(&whole)?;
            }
            continue;
        }
        let executable = entry.header().mode().is_ok_and(|mode| mode & 0o111 != 0);
        home.put_from(&whole, &mut entry, executable)?;
    }
    Ok(())
}

/// Writes the regular files below `path` of a home, or the one file there, as an archive.
///
/// # Errors
/// [`Class::NotFound`] when nothing is there; [`Class::Lost`] when `out` takes no more.
pub fn pack(home: &Home, path: &str, bytes_max: u64, out: impl Write) -> Result<VmGetReply, DriverError> {
    let file = if path.is_empty() { None } else { home.open_file(path).ok() };
    let (listing, below) = match file {
        Some((_, bytes)) => {
            let (above, name) = path.rsplit_once('/').unwrap_or(("", path));
            let found = home::Found { path: name.to_owned(), bytes };
            (home::Listing { files: vec![found], ..home::Listing::default() }, above)
        }
        None => (home.list(path)?, path),
    };
    let refused = listing.refused + u64::from(listing.truncated);
    let mut reply = VmGetReply { files: Vec::new(), refused };
    let mut names_left = NAMES_BYTES_MAX;
    let mut builder = tar::Builder::new(out);
    let mut left = bytes_max;
    for found in listing.files {
        // It may have become something else since it was listed.
        let Ok((file, bytes)) = home.open_file(&home::join(below, &found.path)) else {
            reply.refused += 1;
            continue;
        };
        if bytes > left || found.path.len() > names_left {
            reply.refused += 1;
            continue;
        }
        left -= bytes;
        names_left -= found.path.len();
        append(&mut builder, &found.path, file, bytes)
            .map_err(|error| DriverError::new(Class::Lost, format!("{}: {error}", found.path)))?;
        reply.files.push((found.path, bytes));
    }
    builder.finish().map_err(|error| DriverError::new(Class::Lost, error.to_string()))?;
    Ok(reply)
}

/// Exactly `bytes` of the file, whatever it does meanwhile.
fn append<W: Write>(builder: &mut tar::Builder<W>, path: &str, file: File, bytes: u64) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let executable = file.metadata()?.permissions().mode() & 0o111 != 0;
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes);
    header.set_mode(if executable { 0o755 } else { 0o644 });
    header.set_entry_type(EntryType::Regular);
    builder.append_data(&mut header, path, file.chain(io::repeat(0)).take(bytes))
}
