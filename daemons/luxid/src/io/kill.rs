//! Ending a job's process with SIGKILL, and no other process (P4.9): the pid comes from the socket's other end, is
//! pinned by a pidfd, and its start time is compared before the signal is sent.

use super::liveness::start_time;
use crate::core::queue::{KillResult, Process};
use gantry_model::ids::JobOwner;
use gantry_model::root::Root;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// Kills the process of a start.
pub async fn kill(root: &Root, owner: JobOwner, process: Option<&Process>) -> KillResult {
    // Kept open until the signal is sent: while it stands, the pid at its other end is not another's.
    let stream = gantry_rpc::unix::connect(&root.job_socket(owner)).await;
    let peer = stream.as_ref().ok().and_then(|s| s.peer_cred().ok()?.pid());
    let Some(pid) = peer.or_else(|| process.and_then(|p| i32::try_from(p.pid).ok())) else {
        return KillResult::AlreadyDead;
    };
    let result = send(pid, process);
    drop(stream);
    tracing::info!(%owner, pid, ?result, "kill");
    result
}

fn send(pid: i32, process: Option<&Process>) -> KillResult {
    let pinned = Pid::from_raw(pid).map(|pid| pidfd_open(pid, PidfdFlags::empty()));
    let Some(Ok(pidfd)) = pinned else { return KillResult::AlreadyDead };
    let found = u32::try_from(pid).ok().and_then(|pid| start_time(pid).ok().flatten());
    let is_it = match process {
        Some(process) => found == Some(process.start_time) && u32::try_from(pid) == Ok(process.pid),
        None => found.is_some(),
    };
    if !is_it {
        return KillResult::AlreadyDead;
    }
    match pidfd_send_signal(&pidfd, Signal::KILL) {
        Ok(()) => KillResult::Sent,
        Err(_) => KillResult::AlreadyDead,
    }
}

#[cfg(test)]
mod tests {
    use super::super::liveness::process;
    use super::*;

    #[test]
    fn the_same_pid_is_another_process_if_it_began_at_another_time() {
        let mut child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let own = process(child.id()).unwrap();
        let earlier = Process { start_time: own.start_time - 1, ..own.clone() };
        assert_eq!(send(pid, Some(&earlier)), KillResult::AlreadyDead);
        let other = Process { pid: own.pid + 1, ..own.clone() };
        assert_eq!(send(pid, Some(&other)), KillResult::AlreadyDead);
        assert!(child.try_wait().unwrap().is_none(), "it was not meant");
        assert_eq!(send(pid, Some(&own)), KillResult::Sent);
        assert!(!child.wait().unwrap().success());
        assert_eq!(send(pid, Some(&own)), KillResult::AlreadyDead);
    }
}
