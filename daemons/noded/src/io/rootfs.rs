//! Unpacks an image's archive into a root directory for VMs. What is in it is not trusted: every name is resolved
//! beneath the new root without following a link, all belongs to root, setuid bits and device nodes are left out, hard
//! links may only name files of the archive. Symlinks are kept as they are: they mean something inside a VM only. What is refused here by
//! names is refused at import already, by [`gantry_archive::image`].

use super::room;
use gantry_archive::{Unfit, image};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, SFlag, fchmod, fstatat, mkdirat};
use nix::unistd::{LinkatFlags, UnlinkatFlags, linkat, symlinkat, unlinkat};
use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File};
use std::io::{self, BufReader, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use tar::{Archive, Entry, EntryType};

/// Most bytes of an image's files.
const BYTES_MAX: u64 = 16 << 30;
/// Most entries: a distribution with compilers has some 100,000.
const ENTRIES_MAX: u64 = 1_000_000;
/// The disk's room is looked at before every so many entries, and before each of so many bytes: the reserve is larger
/// than what may come in between.
const LOOK_ENTRIES: u64 = 64;
const LOOK_BYTES: u64 = 1 << 20;
/// What VMs need to be there: mount points.
const DIRS: [&str; 9] = ["etc", "home", "home/tester", "tmp", "dev", "proc", "sys", "run", ".gantry"];

fn wrong(path: &[u8], why: &str) -> io::Error {
    let shown = String::from_utf8_lossy(path).escape_debug().to_string();
    io::Error::new(io::ErrorKind::InvalidData, format!("'{shown}': {why}"))
}

/// The parts of a path that may be used; none for the root itself.
fn owned(parts: Result<Vec<&[u8]>, Unfit>) -> io::Result<Vec<OsString>> {
    let parts = parts.map_err(|why| io::Error::new(io::ErrorKind::InvalidData, why))?;
    Ok(parts.into_iter().map(|part| OsString::from_vec(part.to_vec())).collect())
}

fn parts(path: &[u8]) -> io::Result<Vec<OsString>> {
    owned(image::parts(path))
}

fn open(dir: impl AsFd, name: &OsStr, flags: OFlag, mode: Mode) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlag::RESOLVE_BENEATH
        | ResolveFlag::RESOLVE_NO_SYMLINKS
        | ResolveFlag::RESOLVE_NO_MAGICLINKS
        | ResolveFlag::RESOLVE_NO_XDEV;
    let flags = flags | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    openat2(dir, name, OpenHow::new().flags(flags).mode(mode).resolve(resolve))
}

struct Rootfs {
    root: OwnedFd,
}

impl Rootfs {
    /// The directory of these parts, made as needed.
    fn dir(&self, parts: &[OsString]) -> Result<OwnedFd, Errno> {
        let mut dir = self.root.try_clone().map_err(|_| Errno::EMFILE)?;
        for part in parts {
            match mkdirat(&dir, part.as_os_str(), Mode::from_bits_truncate(0o755)) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(errno) => return Err(errno),
            }
            dir = open(&dir, part, OFlag::O_RDONLY | OFlag::O_DIRECTORY, Mode::empty())?;
        }
        Ok(dir)
    }

    /// The directory above, with no file in the name's way.
    fn above<'a>(&self, parts: &'a [OsString]) -> Result<(OwnedFd, &'a OsStr), Errno> {
        let (name, above) = parts.split_last().ok_or(Errno::EISDIR)?;
        let dir = self.dir(above)?;
        match unlinkat(&dir, name.as_os_str(), UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok((dir, name)),
            Err(errno) => Err(errno),
        }
    }

    fn file(&self, parts: &[OsString], mode: u32, content: &mut dyn Read) -> io::Result<()> {
        let (dir, name) = self.above(parts)?;
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL;
        let mut file = File::from(open(&dir, name, flags, Mode::from_bits_truncate(0o600))?);
        io::copy(content, &mut file)?;
        Ok(fchmod(&file, Mode::from_bits_truncate(mode & 0o777))?)
    }

    fn link(&self, parts: &[OsString], target: &[OsString]) -> io::Result<()> {
        let (name, above) = target.split_last().ok_or(Errno::EISDIR)?;
        let from = self.dir(above)?;
        let stat = fstatat(&from, name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW)?;
        if SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT != SFlag::S_IFREG {
            return Err(wrong(name.as_bytes(), "a hard link to something else than a file"));
        }
        if parts == target {
            return Ok(());
        }
        let (dir, new) = self.above(parts)?;
        Ok(linkat(&from, name.as_os_str(), &dir, new, LinkatFlags::empty())?)
    }

    fn take<R: Read>(&self, entry: &mut Entry<'_, R>) -> io::Result<()> {
        let path = entry.path_bytes().into_owned();
        let to = owned(image::entry_parts(&path))?;
        let mode = entry.header().mode()?;
        let done = match entry.header().entry_type() {
            EntryType::Regular | EntryType::Continuous => self.file(&to, mode, entry),
            EntryType::Directory => self
                .dir(&to)
                .map_err(io::Error::from)
                .and_then(|dir| Ok(fchmod(&dir, Mode::from_bits_truncate((mode | 0o700) & 0o777))?)),
            EntryType::Symlink => {
                let target = entry.link_name_bytes().ok_or_else(|| wrong(&path, "a link to nothing"))?;
                let (dir, name) = self.above(&to)?;
                symlinkat(OsStr::from_bytes(&target), &dir, name).map_err(io::Error::from)
            }
            EntryType::Link => {
                let target = entry.link_name_bytes().ok_or_else(|| wrong(&path, "a link to nothing"))?;
                self.link(&to, &parts(&target)?)
            }
            EntryType::Char | EntryType::Block | EntryType::Fifo | EntryType::XGlobalHeader => Ok(()),
            _ => Err(wrong(&path, "an entry of an unknown kind")),
        };
        done.map_err(|error| match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ELOOP | Errno::ENOTDIR | Errno::EXDEV | Errno::EISDIR | Errno::ENOENT) => {
                wrong(&path, "its way leads over a link or something else that is no directory")
            }
            _ => error,
        })
    }

    /// What a VM needs in any root.
    fn furnish(&self) -> io::Result<()> {
        for path in DIRS {
            let all = parts(path.as_bytes())?;
            // A link in a mount point's place would lead the runtime elsewhere.
            let (name, above) = all.split_last().ok_or(Errno::EISDIR)?;
            let dir = self.dir(above)?;
            match unlinkat(&dir, name.as_os_str(), UnlinkatFlags::NoRemoveDir) {
                Ok(()) | Err(Errno::ENOENT | Errno::EISDIR) => {}
                Err(errno) => return Err(errno.into()),
            }
            self.dir(&all)?;
        }
        self.file(&parts(b".gantry/init")?, 0o755, &mut io::empty())
    }
}

/// Unpacks `archive` into `to`, which is made anew, as long as `reserve` bytes of its disk stay free.
///
/// # Errors
/// `InvalidData` for what is not to be unpacked; `QuotaExceeded` above the bounds; `StorageFull`; the disk's.
pub fn unpack(archive: File, to: &Path, reserve: u64) -> io::Result<()> {
    match fs::remove_dir_all(to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    DirBuilder::new().mode(0o755).create(to)?;
    fs::set_permissions(to, fs::Permissions::from_mode(0o755))?;
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    let rootfs = Rootfs { root: nix::fcntl::open(to, flags, Mode::empty())? };
    let (mut entries, mut bytes) = (0_u64, 0_u64);
    for entry in Archive::new(BufReader::new(archive)).entries()? {
        let mut entry = entry?;
        entries += 1;
        bytes = bytes.saturating_add(entry.size());
        if entries > ENTRIES_MAX || bytes > BYTES_MAX {
            let text = format!("more than {ENTRIES_MAX} entries or {BYTES_MAX} bytes");
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, text));
        }
        // Small files take more than they have: the disk itself is looked at.
        if entries % LOOK_ENTRIES == 1 || entry.size() >= LOOK_BYTES {
            room::look(to, entry.size(), reserve)?;
        }
        rootfs.take(&mut entry)?;
    }
    rootfs.furnish()
}

#[cfg(test)]
#[path = "rootfs_tests.rs"]
mod tests;
