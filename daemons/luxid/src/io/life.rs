//! By what the end of a process is heard of that is nobody's child here: a pidfd.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Signal, pidfd_send_signal};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The life of one process.
#[derive(Debug)]
pub struct Life(AsyncFd<OwnedFd>);

impl Life {
    /// That of the process behind a pidfd.
    ///
    /// # Errors
    /// When it can't be watched.
    #[allow(deprecated, reason = "its flaw is types that change their descriptor; an OwnedFd does not")]
    pub fn of(process: OwnedFd) -> io::Result<Self> {
        AsyncFd::with_interest(process, Interest::READABLE).map(Self)
    }

    /// Its pid; 0 when it has ended and is not there any more.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn pid(&self) -> io::Result<u32> {
        let path = format!("/proc/self/fdinfo/{}", self.0.get_ref().as_raw_fd());
        let text = std::fs::read_to_string(path)?;
        let pid = text.lines().find_map(|line| line.strip_prefix("Pid:"));
        let pid = pid.and_then(|pid| pid.trim().parse::<i64>().ok());
        pid.map(|pid| u32::try_from(pid).unwrap_or(0))
            .ok_or_else(|| io::Error::other("a descriptor of no process"))
    }

    /// Waits for its end.
    pub async fn ended(&self) {
        // A watch that breaks would make the living dead.
        while self.0.readable().await.is_err() || !self.is_over() {
            tokio::task::yield_now().await;
        }
    }

    /// Whether it has ended.
    #[must_use]
    pub fn is_over(&self) -> bool {
        let mut fds = [PollFd::new(self.0.get_ref(), PollFlags::IN)];
        matches!(poll(&mut fds, Some(&Timespec::default())), Ok(1))
    }

    /// Kills it, whatever has its pid by now.
    pub fn kill(&self) {
        let _ = pidfd_send_signal(self.0.get_ref(), Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{Pid, PidfdFlags, pidfd_open};
    use std::time::Duration;

    #[tokio::test]
    async fn a_process_ends_once() {
        let mut child = std::process::Command::new("sleep").arg("600").spawn().expect("starts");
        let pid = Pid::from_child(&child);
        let life = Life::of(pidfd_open(pid, PidfdFlags::empty()).expect("a pidfd")).expect("watched");
        assert!(!life.is_over());
        assert_eq!(life.pid().expect("a pid"), child.id());
        assert!(tokio::time::timeout(Duration::from_millis(50), life.ended()).await.is_err());
        life.kill();
        // Dead, whether anybody has taken its end or not.
        life.ended().await;
        assert!(life.is_over());
        child.wait().expect("taken");
        assert_eq!(life.pid().expect("none"), 0);
        life.ended().await;
        life.kill();
    }
}
