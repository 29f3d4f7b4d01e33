//! The end of a process that may be nobody's child here, told by the kernel instead of looked for: timers are good for a
//! millisecond at best, and a VM's end is what its user waits for.

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A descriptor that becomes readable at the end of the process.
///
/// # Errors
/// The process is gone, or the kernel has no pidfds.
#[allow(deprecated, reason = "its flaw is types that change their descriptor; an OwnedFd does not")]
pub fn watch(pid: i32) -> io::Result<AsyncFd<OwnedFd>> {
    let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
    AsyncFd::with_interest(pidfd_open(pid, PidfdFlags::NONBLOCK)?, Interest::READABLE)
}

/// Waits for the end of a watched process, at most `pause`; for just so long when none is watched.
pub async fn within(pause: Duration, watched: Option<&AsyncFd<OwnedFd>>) {
    match watched {
        // Late or not, the caller looks again.
        Some(watched) => drop(tokio::time::timeout(pause, watched.readable()).await),
        None => tokio::time::sleep(pause).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[tokio::test]
    async fn the_end_of_a_process_is_told_and_the_pause_is_kept_without_one() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let watched = watch(child.id().cast_signed()).unwrap();
        let pause = Duration::from_millis(20);
        let begun = std::time::Instant::now();
        within(pause, Some(&watched)).await;
        within(pause, None).await;
        assert!(begun.elapsed() >= 2 * pause, "it lives");
        child.kill().unwrap();
        // Far more than the test may take: only the end can end this wait.
        within(Duration::from_secs(600), Some(&watched)).await;
        child.wait().unwrap();
        assert!(watch(child.id().cast_signed()).is_err(), "it is gone");
    }
}
