//! The daemons' processes: starting, finding again after boot's own restart, signals, ends.
//!
//! A process is known by pid, start time and the machine's boot id, so that a pid used again is never
//! mistaken for a daemon (and never gets its signals).

use gantry_model::root::Root;
use gantry_rt::files::atomic_write;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use rustix::process::{PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};
use std::fs::OpenOptions;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Place of the start time in `/proc/PID/stat`, counted after the command's closing parenthesis (proc(5)).
const START_TIME_FIELD: usize = 19;

/// What tells one process from every other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Its pid.
    pub pid: u32,
    /// When it started, in the kernel's ticks since the machine's start.
    pub start_time: u64,
    /// The machine's start.
    pub boot_id: String,
}

impl Identity {
    /// That of a living process (a zombie does not live).
    #[must_use]
    pub fn of(pid: u32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        if matches!(*fields.first()?, "Z" | "X") {
            return None;
        }
        let start_time = fields.get(START_TIME_FIELD)?.parse().ok()?;
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?.trim().to_owned();
        Some(Self { pid, start_time, boot_id })
    }

    /// Whether this process still lives.
    #[must_use]
    pub fn lives(&self) -> bool {
        Self::of(self.pid).as_ref() == Some(self)
    }
}

/// Starts `gantry-NAME --root R`, in a process group of its own, its output appended to its log, and writes
/// its pid file. The process outlives boot.
///
/// # Errors
/// The program is missing or cannot be run, or the log cannot be opened.
pub fn start(root: &Root, libexec: &Path, name: &str) -> io::Result<Identity> {
    let program = libexec.join(format!("gantry-{name}"));
    let log_path = root.log().join(format!("{name}.log"));
    let about =
        |error: io::Error, path: &Path| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let log = OpenOptions::new().append(true).create(true).mode(0o640).open(&log_path);
    let log = log.map_err(|error| about(error, &log_path))?;
    let child = Command::new(&program)
        .arg("--root")
        .arg(root.path())
        .env(crate::config::LIBEXEC_ENV, libexec)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0)
        .spawn()
        .map_err(|error| about(error, &program))?;
    // Not waited for through the handle: `reap` takes all ends, also those of grandchildren.
    let pid = child.id();
    let identity = Identity::of(pid).unwrap_or(Identity { pid, start_time: 0, boot_id: String::new() });
    if let Err(error) = write_pid_file(root, name, &identity) {
        tracing::warn!(daemon = name, %error, "cannot write the pid file; a restarted boot finds it by its socket");
    }
    Ok(identity)
}

fn write_pid_file(root: &Root, name: &str, identity: &Identity) -> io::Result<()> {
    atomic_write(&root.pid_file(name), &serde_json::to_vec(identity)?, 0o644)
}

/// The process in a daemon's pid file, if it is alive and the same.
#[must_use]
pub fn from_pid_file(root: &Root, name: &str) -> Option<Identity> {
    let bytes = std::fs::read(root.pid_file(name)).ok()?;
    let identity: Identity = serde_json::from_slice(&bytes).ok()?;
    identity.lives().then_some(identity)
}

/// Notes a process that was found by other means.
pub fn note(root: &Root, name: &str, identity: &Identity) {
    if let Err(error) = write_pid_file(root, name, identity) {
        tracing::warn!(daemon = name, %error, "cannot write the pid file");
    }
}

/// Removes a daemon's pid file, if it is there.
pub fn forget(root: &Root, name: &str) {
    let _ = std::fs::remove_file(root.pid_file(name));
}

/// Sends a signal; a process that has gone needs none.
pub fn send(pid: u32, signal: Signal) {
    let Ok(raw) = i32::try_from(pid) else { return };
    match kill(Pid::from_raw(raw), signal) {
        Ok(()) | Err(Errno::ESRCH) => {}
        Err(error) => tracing::warn!(pid, %signal, %error, "cannot send a signal"),
    }
}

/// A descriptor that becomes readable when the process ends.
///
/// # Errors
/// The process is gone, or the kernel has no pidfds.
#[allow(deprecated, reason = "its flaw is types that change their descriptor; an OwnedFd does not")]
pub fn watch(pid: u32) -> io::Result<AsyncFd<OwnedFd>> {
    let raw = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    let raw = raw.ok_or(io::ErrorKind::InvalidInput)?;
    AsyncFd::with_interest(pidfd_open(raw, PidfdFlags::NONBLOCK)?, Interest::READABLE)
}

/// Takes all ends of children (and of grandchildren that came to boot) that have happened: pid and how.
#[must_use]
pub fn reap() -> Vec<(u32, String)> {
    let mut ends = Vec::new();
    loop {
        let (pid, how) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) => (pid, format!("ended with exit status {code}")),
            Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, format!("killed by {signal}")),
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return ends,
            Ok(_) | Err(Errno::EINTR) => continue,
            Err(error) => {
                tracing::warn!(%error, "cannot wait for children");
                return ends;
            }
        };
        ends.push((u32::try_from(pid.as_raw()).unwrap_or(0), how));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_more_than_its_pid() {
        let own = Identity::of(std::process::id()).unwrap();
        assert!(own.lives());
        assert!(!Identity { start_time: own.start_time + 1, ..own.clone() }.lives());
        assert!(!Identity { boot_id: "other".to_owned(), ..own }.lives());
        assert_eq!(Identity::of(u32::MAX), None);
    }
}
