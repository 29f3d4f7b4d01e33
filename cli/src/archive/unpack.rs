//! An archive from a virtual machine into a local directory. What comes from there is hostile: only regular files and
//! directories, only below the directory, through no link, over no file unless asked.

use super::ENTRIES_MAX;
use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};
use tar::EntryType;

/// Why an archive could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// It is damaged.
    #[error("the archive cannot be read: {0}")]
    Archive(io::Error),
    /// A file or directory cannot be made.
    #[error("cannot write {}: {error}", .path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A file is there already.
    #[error("{} is there already; name another directory, or give --force to replace files", .0.display())]
    Exists(PathBuf),
    /// A name that leaves the directory.
    #[error("the archive names '{0}', which is absolute or has '..'; nothing more is unpacked")]
    Name(String),
    /// A link or another kind of entry.
    #[error("the archive has '{0}', which is no regular file and no directory; nothing more is unpacked")]
    Kind(String),
    /// A link in the local directory stands in the way.
    #[error("{} is no directory, so nothing is written below it; take it away", .0.display())]
    Link(PathBuf),
    /// Too many entries.
    #[error("the archive has more than {ENTRIES_MAX} entries; nothing more is unpacked")]
    Many,
    /// More bytes than were to come.
    #[error("the archive has more than {} MiB of files; nothing more is unpacked", .0 >> 20)]
    Large(u64),
}

/// What was unpacked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// How many files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Unpacks into `dir`, which is made if need be; at most `max` bytes. With `force` files are replaced.
///
/// # Errors
/// The first entry that is not allowed or cannot be written.
pub fn unpack(archive: impl Read, dir: &Path, max: u64, force: bool) -> Result<Unpacked, UnpackError> {
    let write = |path: &Path, error| UnpackError::Write { path: path.to_owned(), error };
    fs::create_dir_all(dir).map_err(|error| write(dir, error))?;
    let mut archive = tar::Archive::new(archive);
    let mut done = Unpacked::default();
    for (count, entry) in archive.entries().map_err(UnpackError::Archive)?.enumerate() {
        let mut entry = entry.map_err(UnpackError::Archive)?;
        if count >= ENTRIES_MAX {
            return Err(UnpackError::Many);
        }
        let name = entry.path().map_err(UnpackError::Archive)?.into_owned();
        let kind = entry.header().entry_type();
        if !matches!(kind, EntryType::Regular | EntryType::Continuous | EntryType::Directory) {
            return Err(UnpackError::Kind(name.display().to_string()));
        }
        let path = below(dir, &name)?;
        if kind == EntryType::Directory {
            fs::create_dir_all(&path).map_err(|error| write(&path, error))?;
            continue;
        }
        done.files += 1;
        done.bytes = done.bytes.saturating_add(entry.size());
        if done.bytes > max {
            return Err(UnpackError::Large(max));
        }
        let mode = if entry.header().mode().is_ok_and(|mode| mode & 0o100 != 0) { 0o755 } else { 0o644 };
        write_file(&path, &mut entry, mode, force)?;
    }
    Ok(done)
}

/// The path of an entry, whose directories are made; none of them may be a link.
fn below(dir: &Path, name: &Path) -> Result<PathBuf, UnpackError> {
    let bad = || UnpackError::Name(name.display().to_string());
    let mut parts = Vec::new();
    for part in name.components() {
        match part {
            Component::Normal(part) => parts.push(part),
            Component::CurDir => {}
            Component::RootDir | Component::ParentDir | Component::Prefix(_) => return Err(bad()),
        }
    }
    let mut path = dir.to_owned();
    for (at, part) in parts.iter().enumerate() {
        path.push(part);
        let last = at + 1 == parts.len();
        match fs::symlink_metadata(&path) {
            Ok(meta) if meta.is_symlink() || (!last && !meta.is_dir()) => {
                return Err(UnpackError::Link(path));
            }
            Ok(_) => {}
            Err(_) if last => {}
            Err(_) => {
                fs::create_dir(&path).map_err(|error| UnpackError::Write { path: path.clone(), error })?
            }
        }
    }
    Ok(path)
}

fn write_file(path: &Path, from: &mut impl Read, mode: u32, force: bool) -> Result<(), UnpackError> {
    let write = |error| UnpackError::Write { path: path.to_owned(), error };
    if force {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(write(error)),
            Ok(()) | Err(_) => {}
        }
    }
    let mut file = match OpenOptions::new().write(true).create_new(true).mode(mode).open(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return Err(UnpackError::Exists(path.to_owned()));
        }
        other => other.map_err(write)?,
    };
    io::copy(from, &mut file).map(drop).map_err(write)
}

#[cfg(test)]
mod tests {
    use super::super::header;
    use super::*;

    /// An archive with these entries; names go in as they are, however bad.
    fn archive(entries: &[(&str, EntryType, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, kind, text) in entries {
            let link = matches!(kind, EntryType::Symlink | EntryType::Link);
            let mut header = header(*kind, 0o644, if link { 0 } else { text.len() as u64 });
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            if link {
                header.set_link_name(text).unwrap();
            }
            header.set_cksum();
            builder.append(&header, if link { &[][..] } else { text.as_bytes() }).unwrap();
        }
        builder.into_inner().unwrap()
    }

    const FILE: EntryType = EntryType::Regular;

    #[test]
    fn files_and_directories_come_out() {
        let dir = tempfile::tempdir().unwrap();
        let bytes = archive(&[("./a/b", FILE, "x"), ("e/", EntryType::Directory, ""), ("c", FILE, "yy")]);
        let to = dir.path().join("new");
        assert_eq!(unpack(&bytes[..], &to, 10, false).unwrap(), Unpacked { files: 2, bytes: 3 });
        assert_eq!(fs::read_to_string(to.join("a/b")).unwrap(), "x");
        assert!(to.join("e").is_dir());
        assert!(matches!(unpack(&bytes[..], &to, 10, false), Err(UnpackError::Exists(_))));
        unpack(&bytes[..], &to, 10, true).unwrap();
        assert!(matches!(unpack(&bytes[..], &to, 2, true), Err(UnpackError::Large(2))));
    }

    #[test]
    fn nothing_leaves_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("in");
        for name in ["../out", "/tmp/gantry-never", "a/../../out"] {
            let error = unpack(&archive(&[(name, FILE, "x")])[..], &to, 10, true).unwrap_err();
            assert!(matches!(error, UnpackError::Name(_)), "{name}: {error}");
        }
        for kind in [EntryType::Symlink, EntryType::Link, EntryType::Fifo, EntryType::Char] {
            let error = unpack(&archive(&[("l", kind, "/etc")])[..], &to, 10, true).unwrap_err();
            assert!(matches!(error, UnpackError::Kind(_)), "{kind:?}: {error}");
        }
        std::os::unix::fs::symlink(dir.path(), to.join("way")).unwrap();
        for name in ["way/out", "way"] {
            let error = unpack(&archive(&[(name, FILE, "x")])[..], &to, 10, true).unwrap_err();
            assert!(matches!(error, UnpackError::Link(_)), "{name}: {error}");
        }
        assert!(!dir.path().join("out").exists());
    }

    #[test]
    fn a_damaged_archive_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let mut bytes = archive(&[("a", FILE, "x")]);
        bytes[0] = b'!';
        assert!(matches!(unpack(&bytes[..], dir.path(), 10, false), Err(UnpackError::Archive(_))));
    }
}
