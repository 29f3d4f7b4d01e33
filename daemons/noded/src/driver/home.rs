//! Files of a VM's home, from outside. What is inside is hostile: no link, device, fifo or `..` of it is followed
//! (openat2 beneath the home, no symlinks, no other file system), nothing blocks, everything is bounded. The scratch
//! room is in vmd's mount namespace and is reached through `/proc/PID/root`.

use super::{Class, DriverError};
pub use gantry_model::path::join;
use gantry_model::path::{self, DEPTH_MAX, ENTRIES_MAX};
use gantry_proto::vmd::{UID_USER, place};
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, mkdirat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, fchownat, unlinkat};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// Where artifacts are.
pub const OUT: &str = "out";

/// A regular file found in `out/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its path below `out/`.
    pub path: String,
    /// Its size when seen, bytes.
    pub bytes: u64,
}

/// What a listing found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// Regular files with one name each, sorted.
    pub files: Vec<Found>,
    /// How many entries are something else, have further names, or names that are no text.
    pub refused: u64,
    /// Whether there is more than is looked at.
    pub truncated: bool,
}

/// The home of one VM.
#[derive(Debug)]
pub struct Home {
    dir: OwnedFd,
    user: u32,
}

fn beneath() -> ResolveFlag {
    ResolveFlag::RESOLVE_BENEATH
        | ResolveFlag::RESOLVE_NO_SYMLINKS
        | ResolveFlag::RESOLVE_NO_MAGICLINKS
        | ResolveFlag::RESOLVE_NO_XDEV
}

fn failed(what: &str) -> impl Fn(Errno) -> DriverError {
    move |errno| {
        let class = match errno {
            Errno::ENOENT | Errno::ENOTDIR => Class::NotFound,
            Errno::ENOSPC | Errno::EDQUOT => Class::NoSpace,
            _ => Class::BadImage,
        };
        DriverError::new(class, format!("{what}: {errno}"))
    }
}

/// The parts of a path that may be used within a home.
///
/// # Errors
/// [`Class::Refused`] for others than [`path::parts`] takes.
pub fn parts(path: &str) -> Result<Vec<&str>, DriverError> {
    path::parts(path).map_err(|why| DriverError::new(Class::Refused, why))
}

fn open(dir: impl AsFd, path: &str, flags: OFlag, mode: Mode) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    openat2(dir, path, OpenHow::new().flags(flags).mode(mode).resolve(beneath()))
}

fn open_dir(dir: impl AsFd, path: &str) -> Result<OwnedFd, Errno> {
    open(dir, path, OFlag::O_RDONLY | OFlag::O_DIRECTORY, Mode::empty())
}

fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT
}

fn is_plain_file(stat: &FileStat) -> bool {
    kind(stat) == SFlag::S_IFREG && stat.st_nlink == 1
}

fn size(stat: &FileStat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or(0)
}

impl Home {
    /// The home of `vm`, which the vmd with process id `vmd` has.
    ///
    /// # Errors
    /// [`Class::NotFound`] when it has none.
    pub fn open(vmd: i32, vm: &str, uid_base: u32) -> Result<Self, DriverError> {
        let path = format!("/proc/{vmd}/root{}/home", place::scratch(vm));
        Self::at(Path::new(&path), uid_base + UID_USER)
    }

    /// The directory at `path`, whose files belong to `user`.
    ///
    /// # Errors
    /// [`Class::NotFound`] when it is not there.
    pub fn at(path: &Path, user: u32) -> Result<Self, DriverError> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        let dir = nix::fcntl::open(path, flags, Mode::empty()).map_err(failed("the VM's home"))?;
        Ok(Self { dir, user })
    }

    /// Writes a file of the user, in place of what had the name; directories are made as needed. Mode 0755 if
    /// `executable`, else 0644.
    ///
    /// # Errors
    /// [`Class::BadImage`] for a path that is not plain or meets a link; [`Class::NoSpace`].
    pub fn put(&self, path: &str, mut bytes: &[u8], executable: bool) -> Result<(), DriverError> {
        self.put_from(path, &mut bytes, executable)
    }

    /// Makes a directory and those above it, if they are missing.
    ///
    /// # Errors
    /// As [`Home::put`].
    pub fn make_dir(&self, path: &str) -> Result<(), DriverError> {
        self.descend(&parts(path)?).map(drop).map_err(failed(path))
    }

    fn descend(&self, parts: &[&str]) -> Result<OwnedFd, Errno> {
        let mut dir = self.dir.try_clone().map_err(|_| Errno::EMFILE)?;
        for part in parts {
            dir = self.enter(&dir, part)?;
        }
        Ok(dir)
    }

    /// As [`Home::put`], with the bytes of a reader.
    ///
    /// # Errors
    /// As [`Home::put`], and the reader's.
    pub fn put_from(&self, path: &str, bytes: &mut dyn Read, executable: bool) -> Result<(), DriverError> {
        let told = failed(path);
        let parts = parts(path)?;
        let (name, above) = parts.split_last().expect("a path has a part");
        let dir = self.descend(above).map_err(&told)?;
        match unlinkat(&dir, *name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(errno) => return Err(told(errno)),
        }
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL;
        let mode = Mode::from_bits_truncate(if executable { 0o755 } else { 0o644 });
        let file = open(&dir, name, flags, mode).map_err(&told)?;
        fchown(&file, Some(Uid::from_raw(self.user)), Some(Gid::from_raw(self.user))).map_err(&told)?;
        std::io::copy(bytes, &mut File::from(file))
            .map(drop)
            .map_err(|error| told(Errno::from_raw(error.raw_os_error().unwrap_or(nix::libc::EIO))))
    }

    /// Removes what has a file's name, if it can: no directory, and over no link.
    pub fn remove(&self, path: &str) {
        let Some((above, name)) = parts(path).ok().map(|_| path.rsplit_once('/').unwrap_or((".", path)))
        else {
            return;
        };
        if let Ok(dir) = open_dir(&self.dir, above) {
            // Whoever asks tells already what is worse than a file that stays.
            let _ = unlinkat(&dir, name, UnlinkatFlags::NoRemoveDir);
        }
    }

    /// Opens a plain file without waiting for anything; with its size now.
    ///
    /// # Errors
    /// [`Class::NotFound`]; [`Class::BadImage`] for anything that is not a plain file with one name, reached without
    /// links.
    pub fn open_file(&self, path: &str) -> Result<(File, u64), DriverError> {
        parts(path)?;
        let file = open(&self.dir, path, OFlag::O_RDONLY, Mode::empty()).map_err(failed(path))?;
        let stat = fstat(&file).map_err(failed(path))?;
        if !is_plain_file(&stat) {
            let text = format!("{path}: not a regular file with one name");
            return Err(DriverError::new(Class::BadImage, text));
        }
        Ok((File::from(file), size(&stat)))
    }

    /// Bytes that come free when the plain file of that name is replaced; 0 when there is none.
    #[must_use]
    pub fn held(&self, path: &str) -> u64 {
        let open = parts(path).ok().and_then(|_| open(&self.dir, path, OFlag::O_RDONLY, Mode::empty()).ok());
        let stat = open.and_then(|file| fstat(file).ok()).filter(is_plain_file);
        stat.map_or(0, |stat| u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512))
    }

    /// Size of the file system it is on, bytes: no archive that fits is larger, whatever is there already.
    ///
    /// # Errors
    /// The system's.
    pub fn size(&self) -> Result<u64, DriverError> {
        let whole = nix::sys::statvfs::fstatvfs(&self.dir).map_err(failed("the VM's home"))?;
        Ok(whole.blocks().saturating_mul(whole.fragment_size()))
    }

    fn enter(&self, dir: &OwnedFd, name: &str) -> Result<OwnedFd, Errno> {
        match mkdirat(dir, name, Mode::from_bits_truncate(0o755)) {
            Ok(()) => {
                let (user, group) = (Uid::from_raw(self.user), Gid::from_raw(self.user));
                fchownat(dir, name, Some(user), Some(group), AtFlags::AT_SYMLINK_NOFOLLOW)?;
            }
            Err(Errno::EEXIST) => {}
            Err(errno) => return Err(errno),
        }
        open_dir(dir, name)
    }

    /// Reads a whole regular file of the home, if it has at most `bytes_max`.
    ///
    /// # Errors
    /// [`Class::NotFound`]; [`Class::NoSpace`] when it is larger; [`Class::BadImage`] for anything that is not a plain
    /// file with one name, reached without links.
    pub fn read(&self, path: &str, bytes_max: u64) -> Result<Vec<u8>, DriverError> {
        let (file, bytes) = self.open_file(path)?;
        let large = || DriverError::new(Class::NoSpace, format!("{path}: over {bytes_max} bytes"));
        if bytes > bytes_max {
            return Err(large());
        }
        // It may grow while it is read.
        let mut bytes = Vec::new();
        file.take(bytes_max + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| DriverError::new(Class::Lost, format!("{path}: {error}")))?;
        if bytes.len() as u64 > bytes_max { Err(large()) } else { Ok(bytes) }
    }

    /// The regular files below `out/`. No such directory: none.
    ///
    /// # Errors
    /// When `out` is something else.
    pub fn list_out(&self) -> Result<Listing, DriverError> {
        match self.list(OUT) {
            Err(DriverError { class: Class::NotFound, .. }) => Ok(Listing::default()),
            other => other,
        }
    }

    /// The regular files below a directory of it; empty = all of it.
    ///
    /// # Errors
    /// [`Class::NotFound`] when it is not there; [`Class::Refused`] when it is something else.
    pub fn list(&self, below: &str) -> Result<Listing, DriverError> {
        if !below.is_empty() {
            parts(below)?;
        }
        let mut listing = Listing::default();
        let mut left = ENTRIES_MAX;
        let mut todo = vec![String::new()];
        while let Some(path) = todo.pop() {
            let whole = join(below, &path);
            let whole = if whole.is_empty() { ".".to_owned() } else { whole };
            let dir = match open_dir(&self.dir, &whole) {
                Ok(dir) => dir,
                Err(Errno::ENOENT) if !path.is_empty() => continue,
                Err(Errno::ENOENT) => {
                    let text = format!("'{below}' is not in the VM's home");
                    return Err(DriverError::new(Class::NotFound, text));
                }
                Err(Errno::ENOTDIR | Errno::ELOOP) if path.is_empty() => {
                    let text =
                        format!("'{below}' is no regular file and no directory; links are not followed");
                    return Err(DriverError::new(Class::Refused, text));
                }
                Err(errno) if path.is_empty() => return Err(failed(below)(errno)),
                Err(_) => {
                    listing.refused += 1;
                    continue;
                }
            };
            if look(dir, &path, &mut listing, &mut todo, &mut left).is_err() {
                listing.refused += 1;
            }
        }
        listing.files.sort_by(|one, other| one.path.cmp(&other.path));
        Ok(listing)
    }
}

/// Takes one directory's entries.
fn look(
    dir: OwnedFd,
    path: &str,
    listing: &mut Listing,
    todo: &mut Vec<String>,
    left: &mut usize,
) -> Result<(), Errno> {
    let at = dir.try_clone().map_err(|_| Errno::EMFILE)?;
    for entry in Dir::from_fd(dir)?.iter() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        if *left == 0 {
            listing.truncated = true;
            return Ok(());
        }
        *left -= 1;
        let name = std::str::from_utf8(name).ok().filter(|name| !name.contains(char::is_control));
        let Some(name) = name else {
            listing.refused += 1;
            continue;
        };
        let path = join(path, name);
        let stat = nix::sys::stat::fstatat(&at, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        if is_plain_file(&stat) {
            listing.files.push(Found { path, bytes: size(&stat) });
        } else if kind(&stat) == SFlag::S_IFDIR && path.split('/').count() < DEPTH_MAX - 1 {
            todo.push(path);
        } else {
            listing.refused += 1;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_not_listed_as_empty() {
        let dir = tempfile::tempdir().expect("a directory");
        let home = Home::at(dir.path(), nix::unistd::getuid().as_raw()).expect("a home");
        assert_eq!(home.list_out().expect("listed"), Listing::default(), "out may be missing");
        let class = |path: &str| home.list(path).map_err(|error| error.class);
        assert_eq!(class("none"), Err(Class::NotFound));
        std::os::unix::fs::symlink("/etc", dir.path().join("link")).expect("a link");
        nix::unistd::mkfifo(&dir.path().join("fifo"), Mode::S_IRWXU).expect("a pipe");
        for path in ["link", "fifo", "../x", "/etc"] {
            assert_eq!(class(path), Err(Class::Refused), "{path}");
        }
        std::fs::create_dir(dir.path().join("empty")).expect("a directory");
        assert_eq!(class("empty"), Ok(Listing::default()));
    }

    #[test]
    fn only_plain_files_hold_what_replacing_them_frees() {
        let dir = tempfile::tempdir().expect("a directory");
        let home = Home::at(dir.path(), nix::unistd::getuid().as_raw()).expect("a home");
        home.put("d/f", &[7; 100_000], false).expect("put");
        std::os::unix::fs::symlink("d/f", dir.path().join("link")).expect("a link");
        assert!((100_000..200_000).contains(&home.held("d/f")), "{}", home.held("d/f"));
        assert!(home.size().expect("a size") > home.held("d/f"));
        for path in ["d", "link", "none", "../x"] {
            assert_eq!(home.held(path), 0, "{path}");
        }
        std::fs::hard_link(dir.path().join("d/f"), dir.path().join("again")).expect("a name");
        assert_eq!(home.held("d/f"), 0, "it stays under its other name");
    }
}
