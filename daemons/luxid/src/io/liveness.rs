//! Whether a job's process lives (P4.5): by its socket, and only by the kernel's word. A stopped or busy process is
//! alive; time-outs prove nothing.

use crate::core::queue::Process;
use gantry_model::ids::JobOwner;
use gantry_model::root::Root;
use std::io;
use std::sync::OnceLock;
use std::time::Duration;

/// How long a connect may take before it counts as "somebody is there".
const CONNECT_MS: u64 = 2_000;

/// What the kernel says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It lives, or nothing proves the contrary.
    Alive,
    /// It is gone.
    Dead,
}

/// This boot of the machine.
///
/// # Errors
/// When /proc is not there.
pub fn boot_id() -> io::Result<&'static str> {
    static BOOT_ID: OnceLock<String> = OnceLock::new();
    if let Some(id) = BOOT_ID.get() {
        return Ok(id);
    }
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
    Ok(BOOT_ID.get_or_init(|| id))
}

/// When the process with this pid began, in clock ticks since boot; None when there is none or it is a zombie.
///
/// # Errors
/// When /proc can't be read, for want of file descriptors say: that proves nothing.
pub fn start_time(pid: u32) -> io::Result<Option<u64>> {
    let stat = match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat,
        Err(error) if is_gone(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok(parse_start_time(&stat))
}

/// What the kernel says of a process that is not there, or that leaves while its file is read.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(nix::libc::ESRCH)
}

fn parse_start_time(stat: &str) -> Option<u64> {
    // The second field is the program's name in parentheses and may hold anything.
    let mut fields = stat[stat.rfind(')')? + 1..].split_whitespace();
    let state = fields.next()?;
    if state == "Z" || state == "X" {
        return None;
    }
    // State is field 3; the start time is field 22.
    fields.nth(18)?.parse().ok()
}

/// The facts by which this process is found again.
///
/// # Errors
/// When it is gone, or /proc can't be read.
pub fn process(pid: u32) -> io::Result<Process> {
    let start_time = start_time(pid)?.ok_or(io::ErrorKind::NotFound)?;
    Ok(Process { pid, start_time, boot_id: boot_id()?.to_owned() })
}

/// Whether exactly this process still runs, or may: what can't be looked at is not called dead.
#[must_use]
pub fn still_runs(process: &Process) -> bool {
    match (boot_id(), start_time(process.pid)) {
        (Ok(boot), _) if boot != process.boot_id => false,
        (_, Ok(found)) => found == Some(process.start_time),
        (_, Err(error)) => {
            tracing::warn!(pid = process.pid, %error, "can't look whether a job's process runs");
            true
        }
    }
}

/// Whether the process of a start lives.
pub async fn probe(root: &Root, owner: JobOwner, process: Option<&Process>) -> Verdict {
    let path = root.job_socket(owner);
    let connect = gantry_rpc::unix::connect(&path);
    match tokio::time::timeout(Duration::from_millis(CONNECT_MS), connect).await {
        Err(_) | Ok(Ok(_)) => Verdict::Alive,
        Ok(Err(error)) => judge(&error, process),
    }
}

/// What a failed connect says about the process behind the socket.
#[must_use]
pub fn judge(error: &io::Error, process: Option<&Process>) -> Verdict {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Verdict::Dead,
        // The file may be gone while the process lives: a tidied /run, a job about to leave.
        io::ErrorKind::NotFound if !process.is_some_and(still_runs) => Verdict::Dead,
        _ => Verdict::Alive,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_runs_and_its_successor_does_not() {
        let own = process(std::process::id()).unwrap();
        assert!(still_runs(&own));
        assert!(!still_runs(&Process { start_time: own.start_time + 1, ..own.clone() }));
        assert!(!still_runs(&Process { boot_id: "another".to_owned(), ..own }));
    }

    #[test]
    fn only_refusal_or_a_missing_file_without_a_process_is_death() {
        let own = process(std::process::id()).unwrap();
        let verdict = |kind: io::ErrorKind, process| judge(&io::Error::from(kind), process);
        assert_eq!(verdict(io::ErrorKind::ConnectionRefused, Some(&own)), Verdict::Dead);
        assert_eq!(verdict(io::ErrorKind::WouldBlock, None), Verdict::Alive);
        assert_eq!(verdict(io::ErrorKind::TimedOut, None), Verdict::Alive);
        assert_eq!(verdict(io::ErrorKind::NotFound, Some(&own)), Verdict::Alive);
        assert_eq!(verdict(io::ErrorKind::NotFound, None), Verdict::Dead);
    }
}
