//! Where jobs are born: a process that luxid keeps, and that forks for each start. A program that is started costs a
//! run of the dynamic linker or the C library's own start, and each page it touches anew; a child of one that is
//! there costs neither. It has one thread and makes nothing that a job would have to get rid of.
//!
//! On its standard input, a packet socket, it hears of starts: `ID E-R-C`, and the job's end of its socketpair with it. It
//! answers nothing: what is born speaks for itself, and of what is not the socketpair's other end is closed. When luxid's end closes it
//! leaves; its children stay.

use fork::{Fork, fork};
use gantry_model::ids::JobOwner;
use gantry_rpc::parcel;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::dup2_stdin;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};

/// Longest packet: two numbers and a start.
const PACKET_BYTES_MAX: usize = 256;

/// Who returns from [`serve`].
#[derive(Debug)]
pub enum Born {
    /// A job's process; its end of the socketpair is its standard input.
    Job(JobOwner),
    /// The nursery, whose luxid is gone.
    Nobody,
}

/// Forks for each start until luxid's end closes.
///
/// # Errors
/// The kernel's, with which the nursery ends; luxid makes another.
pub fn serve() -> io::Result<Born> {
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGCHLD);
    mask.thread_block()?;
    let dead = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
    let input = io::stdin();
    loop {
        let mut fds =
            [PollFd::new(input.as_fd(), PollFlags::POLLIN), PollFd::new(dead.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(why) => return Err(why.into()),
        }
        let said = fds[0].any().unwrap_or(true);
        while let Ok(Some(_)) = dead.read_signal() {}
        reap();
        if !said {
            continue;
        }
        let mut room = [0; PACKET_BYTES_MAX];
        let (bytes, line) = match parcel::receive(&input, &mut room) {
            Err(why) if why.kind() == io::ErrorKind::ConnectionReset => (0, None),
            other => other?,
        };
        if bytes == 0 {
            return Ok(Born::Nobody);
        }
        match (owner(&room[..bytes]), line) {
            (Some(owner), Some(line)) => {
                if bear(owner, line)? {
                    drop(dead);
                    mask.thread_unblock()?;
                    return Ok(Born::Job(owner));
                }
            }
            _ => complain("gantry-job: the nursery heard what is no start"),
        }
    }
}

/// Whether this is the child.
fn bear(owner: JobOwner, line: OwnedFd) -> io::Result<bool> {
    match fork() {
        Ok(Fork::Parent(_)) => Ok(false),
        // In the place of the nursery's own socket, which is luxid's word on the nursery's life.
        Ok(Fork::Child) => dup2_stdin(line).map(|()| true).map_err(io::Error::from),
        Err(why) => {
            complain(&format!("gantry-job {owner}: no process can be made: {why}"));
            Ok(false)
        }
    }
}

/// To luxid's log of jobs; that it can't be written is no reason to end.
fn complain(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Takes the ends of dead children, which tell nobody anything: luxid has a descriptor of each.
fn reap() {
    while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        if status == WaitStatus::StillAlive {
            return;
        }
    }
}

fn owner(packet: &[u8]) -> Option<JobOwner> {
    let (job, start) = std::str::from_utf8(packet).ok()?.split_once(' ')?;
    Some(JobOwner { job: job.parse().ok()?, start: start.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_job_and_a_start_are_a_packet() {
        let found = owner(b"12 1-2-3").expect("a start");
        assert_eq!(found.to_string(), "12.1-2-3");
        for bad in ["", "12", "12 1-2", "x 1-2-3", "12 1-2-3 more", "0 1-2-3"] {
            assert!(owner(bad.as_bytes()).is_none(), "{bad}");
        }
        assert!(owner(&[0xff, 0x20]).is_none());
    }
}
