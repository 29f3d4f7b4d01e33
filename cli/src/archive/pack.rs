//! Local files into a tar archive: regular files and directories, sorted by name, without times and owners, so that
//! the same files always make the same archive.

use super::{ENTRIES_MAX, header};
use gantry_model::path::{parts, shown};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use tar::EntryType;

/// Why files could not be packed.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// A file or directory cannot be read.
    #[error("cannot read {}: {error}", .path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The archive cannot be written.
    #[error("cannot write the archive: {0}")]
    Write(io::Error),
    /// A symbolic link.
    #[error("{} is a symbolic link; only regular files and directories are sent: replace it by what it points to", .0.display())]
    Link(PathBuf),
    /// A pipe, socket or device.
    #[error("{} is no regular file and no directory; take it away or name the files to send", .0.display())]
    Kind(PathBuf),
    /// A name that a machine does not take, or that leaves the place it is to be sent to.
    #[error("{}: {why}; rename it or leave it out", shown(&.path.display().to_string()))]
    Name {
        /// Where it is.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// A name that is no UTF-8.
    #[error("the name {} is not UTF-8; rename it", .0.display())]
    Utf8(PathBuf),
    /// It became shorter meanwhile.
    #[error("{} changed while it was read; run the command again", .0.display())]
    Changed(PathBuf),
    /// Too much.
    #[error("{} brings the files to over {} MiB, which is the most that can be sent; leave some out", .path.display(), .max >> 20)]
    Large {
        /// The file that was too much.
        path: PathBuf,
        /// The limit, bytes.
        max: u64,
    },
    /// Too many.
    #[error("there are more than {ENTRIES_MAX} files and directories; send fewer, or an archive of them")]
    Many,
}

/// A local file or directory and its name in the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Where it is.
    pub path: PathBuf,
    /// Name in the archive, with `/`.
    pub name: String,
    /// Whether it is a directory.
    dir: bool,
    /// Size of a file.
    bytes: u64,
}

/// What was packed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Packed {
    /// How many files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What lies at `path`, which the archive calls `name` (empty: the entries of this directory stand at its top),
/// sorted. With `follow` symbolic links count as what they point to.
///
/// # Errors
/// What cannot be sent, by its path.
pub fn sources(path: &Path, name: &str, follow: bool, out: &mut Vec<Source>) -> Result<(), PackError> {
    if !name.is_empty() {
        fits(path, name)?;
    }
    let read = |error| PackError::Read { path: path.to_owned(), error };
    let meta = if follow { fs::metadata(path) } else { fs::symlink_metadata(path) }.map_err(read)?;
    if out.len() >= ENTRIES_MAX {
        return Err(PackError::Many);
    }
    if meta.is_symlink() {
        return Err(PackError::Link(path.to_owned()));
    }
    if meta.is_file() {
        out.push(Source { path: path.to_owned(), name: name.to_owned(), dir: false, bytes: meta.len() });
        return Ok(());
    }
    if !meta.is_dir() {
        return Err(PackError::Kind(path.to_owned()));
    }
    if !name.is_empty() {
        out.push(Source { path: path.to_owned(), name: name.to_owned(), dir: true, bytes: 0 });
    }
    let mut children = Vec::new();
    for child in fs::read_dir(path).map_err(read)? {
        let child = child.map_err(read)?;
        let own = child.file_name().into_string().map_err(|_| PackError::Utf8(child.path()))?;
        children.push((own, child.path()));
    }
    children.sort();
    for (own, child) in children {
        let name = if name.is_empty() { own } else { format!("{name}/{own}") };
        sources(&child, &name, follow, out)?;
    }
    Ok(())
}

/// Whether a machine takes what lies at `path` under the name `name`: it asks the same. With `--follow` links may go in a
/// circle; this ends it.
///
/// # Errors
/// When it does not, by its path here.
pub fn fits(path: &Path, name: &str) -> Result<(), PackError> {
    parts(name).map(drop).map_err(|why| PackError::Name { path: path.to_owned(), why })
}

/// Writes the archive. At most `max` bytes of files.
///
/// # Errors
/// What cannot be read, what changed meanwhile, too much.
pub fn pack(sources: &[Source], follow: bool, max: u64, out: impl Write) -> Result<Packed, PackError> {
    let mut sum = 0u64;
    for source in sources {
        sum = sum.saturating_add(source.bytes);
        if sum > max {
            return Err(PackError::Large { path: source.path.clone(), max });
        }
    }
    let mut builder = tar::Builder::new(out);
    let mut packed = Packed::default();
    for source in sources {
        if source.dir {
            let mut header = header(EntryType::Directory, 0o755, 0);
            builder
                .append_data(&mut header, format!("{}/", source.name), io::empty())
                .map_err(PackError::Write)?;
            continue;
        }
        packed.files += 1;
        packed.bytes += source.bytes;
        add_file(&mut builder, source, follow)?;
    }
    builder.into_inner().and_then(|mut out| out.flush()).map_err(PackError::Write)?;
    Ok(packed)
}

fn add_file(builder: &mut tar::Builder<impl Write>, source: &Source, follow: bool) -> Result<(), PackError> {
    let read = |error| PackError::Read { path: source.path.clone(), error };
    let file = open(&source.path, follow).map_err(read)?;
    let meta = file.metadata().map_err(read)?;
    if !meta.is_file() || meta.len() != source.bytes {
        return Err(PackError::Changed(source.path.clone()));
    }
    let mode = if meta.permissions().mode() & 0o100 != 0 { 0o755 } else { 0o644 };
    let mut header = header(EntryType::Regular, mode, source.bytes);
    // Exactly as many bytes as the header says: a file that grows is cut, one that shrank is told.
    let mut counted = Counted { inner: file.take(source.bytes), read: 0 };
    let done = builder.append_data(&mut header, &source.name, &mut counted);
    if counted.read != source.bytes {
        return Err(PackError::Changed(source.path.clone()));
    }
    done.map_err(PackError::Write)
}

/// Opens without waiting for a pipe that took the file's place.
fn open(path: &Path, follow: bool) -> io::Result<File> {
    use nix::fcntl::OFlag;
    let flags = if follow { OFlag::O_NONBLOCK } else { OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW };
    OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)
}

struct Counted<R> {
    inner: R,
    read: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.read += n as u64;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(dir: &Path) -> Result<Vec<Source>, PackError> {
        let mut out = Vec::new();
        sources(dir, "", false, &mut out).map(|()| out)
    }

    fn packed(dir: &Path) -> Vec<u8> {
        let mut out = Vec::new();
        pack(&all(dir).unwrap(), false, 1 << 20, &mut out).unwrap();
        out
    }

    #[test]
    fn the_same_files_make_the_same_archive() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for (dir, order) in [(&a, ["x/2", "1"]), (&b, ["1", "x/2"])] {
            fs::create_dir(dir.path().join("x")).unwrap();
            for name in order {
                fs::write(dir.path().join(name), name).unwrap();
            }
        }
        fs::set_permissions(b.path().join("1"), fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(packed(a.path()), packed(b.path()));
        let names: Vec<String> = all(a.path()).unwrap().into_iter().map(|s| s.name).collect();
        assert_eq!(names, ["1", "x", "x/2"]);
        fs::write(b.path().join("1"), "other").unwrap();
        assert_ne!(packed(a.path()), packed(b.path()));
    }

    #[test]
    fn long_names_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let deep = format!("{0}/{0}", "d".repeat(120));
        fs::create_dir_all(dir.path().join(&deep)).unwrap();
        fs::write(dir.path().join(&deep).join("f"), "x").unwrap();
        let bytes = packed(dir.path());
        let mut archive = tar::Archive::new(&bytes[..]);
        let paths: Vec<String> = archive
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().display().to_string())
            .collect();
        assert_eq!(paths.last().unwrap(), &format!("{deep}/f"));
    }

    #[test]
    fn what_is_no_file_is_refused_by_its_path() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("/etc/passwd", &link).unwrap();
        let error = all(dir.path()).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{} is a symbolic link", link.display())), "{error}");
        fs::remove_file(&link).unwrap();
        nix::unistd::mkfifo(&link, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let error = all(dir.path()).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{} is no regular file", link.display())), "{error}");
        for name in ["../x", "/x", "a/../b", "a/./b"] {
            let error = sources(dir.path(), name, false, &mut Vec::new()).unwrap_err();
            assert!(matches!(error, PackError::Name { .. }), "{name}");
        }
    }

    /// What a machine would refuse once the archive is there is refused here, where the file still has a path.
    #[test]
    fn names_that_no_machine_takes_are_refused_by_their_paths() {
        for name in ["a\nb", &["d"; 17].join("/")] {
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir_all(dir.path().join(name)).unwrap();
            let error = all(dir.path()).unwrap_err();
            let path = dir.path().join(name).display().to_string();
            assert!(matches!(error, PackError::Name { .. }), "{error}");
            assert!(error.to_string().starts_with(&path.replace('\n', "\\n")), "{error}");
        }
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join(["d"; 16].join("/"))).unwrap();
        assert_eq!(all(dir.path()).unwrap().len(), 16);
    }

    #[test]
    fn too_much_is_refused_before_it_is_read() {
        let dir = tempfile::tempdir().unwrap();
        File::create(dir.path().join("big")).unwrap().set_len(11).unwrap();
        let all = all(dir.path()).unwrap();
        let mut out = Vec::new();
        let error = pack(&all, false, 10, &mut out).unwrap_err();
        assert!(matches!(error, PackError::Large { max: 10, .. }) && out.is_empty(), "{error}");
        assert_eq!(pack(&all, false, 11, &mut out).unwrap(), Packed { files: 1, bytes: 11 });
    }

    #[test]
    fn a_file_that_shrank_is_told() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("f"), "abc").unwrap();
        let all = all(dir.path()).unwrap();
        fs::write(dir.path().join("f"), "a").unwrap();
        assert!(matches!(pack(&all, false, 10, io::sink()), Err(PackError::Changed(_))));
    }

    #[test]
    fn links_are_followed_on_request_but_not_in_circles() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("f"), "abc").unwrap();
        std::os::unix::fs::symlink("f", dir.path().join("link")).unwrap();
        let mut out = Vec::new();
        sources(dir.path(), "", true, &mut out).unwrap();
        assert_eq!(out.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), ["f", "link"]);
        std::os::unix::fs::symlink(".", dir.path().join("loop")).unwrap();
        assert!(sources(dir.path(), "", true, &mut Vec::new()).is_err());
    }
}
