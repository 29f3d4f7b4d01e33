//! Unix sockets by path. `sun_path` holds 107 bytes; longer paths go through `/proc/self/fd/DIRFD/NAME`
//! (DESIGN §1). Sockets are close-on-exec: no child keeps one (P4.5).

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag, open};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind as bind_fd, listen, socket,
};
use nix::sys::stat::{Mode, fchmod};
use std::fs::{File, Permissions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longest path that fits `sun_path` with its closing zero.
const SUN_PATH_BYTES_MAX: usize = 107;

/// Connections that may wait to be accepted: as many as a socket serves at once.
const BACKLOG: i32 = 1_024;

/// How long [`bind`] waits for a listener to go. A process that is killed while it starts a child leaves its listener
/// to that child until the child's exec, some milliseconds later.
const GOING_MS: u64 = 1_000;
/// Pause between two looks at such a listener.
const LOOK_MS: u64 = 20;

/// Listens at `path`, whose file gets `mode`; never wider, not for a moment.
///
/// A stale file, one nobody listens on, is replaced; a living one is left alone. Two processes that race for one
/// path are put in order by a lock on its directory. Blocks for up to a second when somebody listens there.
///
/// # Errors
/// `AddrInUse` when somebody listens there or the file is no socket; else what the system says.
///
/// # Panics
/// Outside a tokio runtime.
pub fn bind(path: &Path, mode: u32) -> io::Result<tokio::net::UnixListener> {
    let mut looks = GOING_MS / LOOK_MS;
    loop {
        match bind_now(path, mode) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && looks > 0 => {
                looks -= 1;
                std::thread::sleep(Duration::from_millis(LOOK_MS));
            }
            done => return done,
        }
    }
}

fn bind_now(path: &Path, mode: u32) -> io::Result<tokio::net::UnixListener> {
    let dir = open_dir(path)?;
    let dir = Flock::lock(dir, FlockArg::LockExclusive).map_err(|(_, errno)| io::Error::from(errno))?;
    let fd = match try_bind(path, &dir, mode) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_stale(path, &dir)? => {
            std::fs::remove_file(path)?;
            try_bind(path, &dir, mode)?
        }
        other => other?,
    };
    listen(&fd, Backlog::new(BACKLOG)?)?;
    drop(dir);
    let listener = std::os::unix::net::UnixListener::from(fd);
    listener.set_nonblocking(true)?;
    tokio::net::UnixListener::from_std(listener)
}

/// Connects to `path`.
///
/// # Errors
/// `ConnectionRefused` when nobody listens, `NotFound` when there is no file, `WouldBlock` when the backlog is full.
pub async fn connect(path: &Path) -> io::Result<tokio::net::UnixStream> {
    if fits(path) {
        return tokio::net::UnixStream::connect(path).await;
    }
    let dir = open_dir(path)?;
    tokio::net::UnixStream::connect(through(&dir, path)?).await
}

fn fits(path: &Path) -> bool {
    path.as_os_str().len() <= SUN_PATH_BYTES_MAX
}

fn open_dir(path: &Path) -> io::Result<File> {
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    let fd: OwnedFd = open(dir, OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    Ok(File::from(fd))
}

/// `path` if it fits, else the short way to the same file.
fn through(dir: &File, path: &Path) -> io::Result<PathBuf> {
    if fits(path) {
        return Ok(path.to_owned());
    }
    let name = path.file_name().ok_or(Errno::EINVAL)?;
    Ok(Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(name))
}

fn try_bind(path: &Path, dir: &File, mode: u32) -> io::Result<OwnedFd> {
    let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    // Linux makes the file with the mode of the unbound socket, less the umask: narrow first, then as asked.
    fchmod(&fd, Mode::from_bits_truncate(0o600 & mode))?;
    let short = through(dir, path)?;
    bind_fd(fd.as_raw_fd(), &UnixAddr::new(&short)?)?;
    std::fs::set_permissions(&short, Permissions::from_mode(mode))?;
    Ok(fd)
}

/// Whether `path` is a socket that refuses connections.
fn is_stale(path: &Path, dir: &File) -> io::Result<bool> {
    let short = through(dir, path)?;
    if !std::fs::symlink_metadata(&short)?.file_type().is_socket() {
        return Ok(false);
    }
    let fd = socket(
        AddressFamily::Unix,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        None,
    )?;
    let probe = nix::sys::socket::connect(fd.as_raw_fd(), &UnixAddr::new(&short)?);
    Ok(probe == Err(Errno::ECONNREFUSED))
}

#[cfg(test)]
mod tests;
