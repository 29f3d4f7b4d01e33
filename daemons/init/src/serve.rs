//! PID 1 at work: one thread that waits for packets and for dead children.

use crate::command::{self, Started};
use crate::link;
use crate::wire::{EXEC_FDS, Exec, FromInit, How, ToInit};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill, killpg};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};

/// Serves the socket on standard input until its other end closes; then its exit code, 0. A process that was to become a
/// command and could not returns from here too, with the code it has to end with.
///
/// # Errors
/// When the socket or the kernel fails; the VM then ends.
pub fn serve() -> io::Result<u8> {
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGCHLD);
    mask.thread_block()?;
    let children = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    let mut init = Init { socket, running: BTreeMap::new() };
    init.say(&FromInit::Ready)?;
    loop {
        let mut fds = [
            PollFd::new(init.socket.as_fd(), PollFlags::POLLIN),
            PollFd::new(children.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let said = fds[0].any().unwrap_or(true);
        while let Ok(Some(_)) = children.read_signal() {}
        init.reap()?;
        if said && let ControlFlow::Break(code) = init.hear()? {
            return Ok(code);
        }
    }
}

/// Goes into the control groups whose `tasks` these are. Each writer moves itself: to move another process, the kernel keeps
/// all forks of the machine waiting until every processor has seen it, which takes it up to 20 ms.
fn enter(doors: Vec<OwnedFd>) -> io::Result<()> {
    const MYSELF: &[u8] = b"0";
    let told = |why: io::Error| io::Error::new(why.kind(), format!("can't enter the control groups: {why}"));
    doors.into_iter().try_for_each(|door| File::from(door).write_all(MYSELF)).map_err(told)
}

fn start(exec: &Exec, fds: Vec<OwnedFd>, link: &mut OwnedFd) -> Result<Started, String> {
    let stdio: [OwnedFd; EXEC_FDS] =
        fds.try_into().map_err(|_| "the packet has not its three descriptors".to_owned())?;
    command::start(exec, &stdio, link)
}

struct Init {
    socket: OwnedFd,
    running: BTreeMap<i32, u32>,
}

impl Init {
    fn say(&self, message: &FromInit) -> io::Result<()> {
        let bytes = message.encode().map_err(io::Error::other)?;
        link::send(&self.socket, &bytes, &[])
    }

    /// Takes one packet, unless there will be no more.
    fn hear(&mut self) -> io::Result<ControlFlow<u8>> {
        let packet = match link::receive(&self.socket) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(ControlFlow::Break(0)),
            other => other?,
        };
        if packet.bytes.is_empty() {
            return Ok(ControlFlow::Break(0));
        }
        match ToInit::decode(&packet.bytes).map_err(io::Error::other)? {
            ToInit::Exec(exec) => {
                let number = exec.number;
                match start(&exec, packet.fds, &mut self.socket) {
                    Ok(Started::Process(pid)) => _ = self.running.insert(pid, number),
                    Ok(Started::Failed(code)) => return Ok(ControlFlow::Break(code)),
                    Err(why) => self.say(&FromInit::Refused { number, why })?,
                }
            }
            ToInit::Signal { number, signal } => self.signal(number, signal),
            ToInit::Ping => self.say(&FromInit::Alive)?,
            ToInit::Enter => {
                enter(packet.fds)?;
                self.say(&FromInit::Entered)?;
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// To the process group; to the process itself as long as it has none.
    fn signal(&self, number: u32, signal: i32) {
        let Ok(signal) = Signal::try_from(signal) else { return };
        for (pid, _) in self.running.iter().filter(|(_, running)| **running == number) {
            let pid = Pid::from_raw(*pid);
            if killpg(pid, signal).is_err() {
                let _ = kill(pid, signal);
            }
        }
    }

    /// Takes the ends of all dead children. A command is over with its main process: what is left of its process
    /// group is killed, so that nobody waits for the outputs it holds.
    fn reap(&mut self) -> io::Result<()> {
        loop {
            let (pid, how) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, How::Exit(code)),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, How::Signal(signal as i32)),
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return Ok(()),
                Ok(_) | Err(Errno::EINTR) => continue,
                Err(error) => return Err(error.into()),
            };
            if let Some(number) = self.running.remove(&pid.as_raw()) {
                let _ = killpg(pid, Signal::SIGKILL);
                self.say(&FromInit::Ended { number, how })?;
            }
        }
    }
}
