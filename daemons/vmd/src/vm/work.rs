//! What is done in a running VM: commands, their signals and their end, and the sign of life of its PID 1.

use super::{Inner, Vm};
use crate::command::{self, Caps, Command};
use crate::error::{Class, fail, io as io_fail};
use gantry_init::link;
use gantry_init::wire::{Exec, ToInit};
use gantry_proto::envelope::Fail;
use gantry_proto::vmd::{ExecRequest, Stream, UID_USER, VmState};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::{Gid, Uid, fchown};
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::unix::pipe;

/// Commands that may run at once in a VM: each has three descriptors and three tasks here.
pub const RUNNING_MAX: usize = 16;
/// Commands that one VM may have had: each has entries in the spool.
pub const COMMANDS_MAX: usize = 1_024;
/// Open files of a command; lowered to the host's hard limit.
const FILES_MAX: u64 = 4_096;

impl Vm {
    /// Asks PID 1 for a sign of life and waits for it; the caller bounds that.
    ///
    /// # Errors
    /// It does not run, or ends meanwhile.
    pub async fn ping(&self) -> Result<(), Fail> {
        let asked = {
            let mut inner = self.inner();
            let Some(link) = inner.link.clone().filter(|_| inner.runs()) else {
                return Err(self.not_running(&inner));
            };
            // Questions that were not answered yet stand for this one, too: a silent PID 1's queue must not fill.
            if inner.pings == inner.pongs {
                let bytes = ToInit::Ping.encode().map_err(|error| fail(Class::Locked, error.to_string()))?;
                link::send(link.get_ref(), &bytes, &[]).map_err(|error| io_fail("ask PID 1", &error))?;
                inner.pings += 1;
            }
            inner.pings
        };
        let heard = |inner: &Inner| match inner.state {
            VmState::Running if inner.pongs >= asked => Some(true),
            VmState::Running => None,
            _ => Some(false),
        };
        if self.until(heard).await { Ok(()) } else { Err(self.not_running(&self.inner())) }
    }

    /// Ends every process but PID 1; commands that ran count as cancelled.
    ///
    /// # Errors
    /// It does not run; something does not die.
    pub async fn end_work(self: Arc<Self>) -> Result<(), Fail> {
        let (pid, commands) = {
            let inner = self.inner();
            let Some(pid) = inner.pid.filter(|_| inner.runs()) else {
                return Err(self.not_running(&inner));
            };
            (pid, inner.commands.values().filter(|command| command.runs()).cloned().collect::<Vec<_>>())
        };
        for command in &commands {
            let _ = command.cancel();
        }
        // Killing leaves no room for processes.
        self.inner().limits = None;
        self.cgroup.kill_but(Some(pid)).await.map_err(|error| io_fail("end a VM's work", &error))?;
        for command in commands {
            command.wait().await;
        }
        let limits = self.request.limits;
        self.cgroup.limit(&limits, None).map_err(|error| io_fail("restore limits", &error))?;
        self.inner().limits = Some(limits);
        Ok(())
    }

    /// Sends a signal to a command's process group.
    pub fn signal(&self, number: u32, signal: i32) {
        let link = self.inner().link.clone();
        let bytes = ToInit::Signal { number, signal }.encode();
        if let (Some(link), Ok(bytes)) = (link, bytes)
            && let Err(error) = link::send(link.get_ref(), &bytes, &[])
        {
            tracing::warn!(vm = self.request.vm, %error, "can't send a signal");
        }
    }

    /// A command by name.
    ///
    /// # Errors
    /// When there is none.
    pub fn command(&self, name: &str) -> Result<Arc<Command>, Fail> {
        self.inner().commands.get(name).cloned().ok_or_else(|| command::unknown(name))
    }

    /// Starts a command unless its name is known. True = it was.
    ///
    /// # Errors
    /// The VM does not run, or the command can't be started; its name is then free, except when it may have begun.
    pub fn exec(self: &Arc<Self>, request: &ExecRequest) -> Result<bool, Fail> {
        let mut inner = self.inner();
        if inner.commands.contains_key(&request.command) {
            return Ok(true);
        }
        let link = match (inner.state, inner.link.clone()) {
            (VmState::Running, Some(link)) if !inner.ending && !inner.removed => link,
            _ => return Err(self.not_running(&inner)),
        };
        let running = inner.commands.values().filter(|command| command.runs()).count();
        if running >= RUNNING_MAX || inner.commands.len() >= COMMANDS_MAX {
            let text = format!(
                "{running} of {} commands run; bounds are {RUNNING_MAX} and {COMMANDS_MAX}",
                inner.commands.len()
            );
            return Err(fail(Class::Locked, text));
        }
        inner.next += 1;
        let number = inner.next;
        let bytes = self.packet(number, request)?;
        let user = self.request.uid_base + UID_USER;
        let prepared = prepare(&request.stdin, user).map_err(|error| io_fail("prepare a command", &error))?;
        let name = (&self.request.vm, &request.command);
        let place = self
            .shared
            .spool
            .begin(name.0, name.1, number)
            .map_err(|error| io_fail("note a command", &error))?;
        let fds = [prepared.input.as_fd(), prepared.out.1.as_fd(), prepared.err.1.as_fd()];
        // Before PID 1 hears of it: starting it may be what the kernel kills PID 1 for.
        let before = self.cgroup.spent();
        if let Err(error) = link::send(link.get_ref(), &bytes, &fds) {
            let _ = place.drop_it();
            return Err(io_fail("hand the command to PID 1", &error));
        }
        let caps = Caps {
            output_bytes: request.output_bytes_max,
            wall: Duration::from_millis(request.wall_ms),
            cpu_us: request.cpu_ms.saturating_mul(1000),
        };
        let command = Arc::new(Command::new(name.1, number, place, caps, Arc::clone(&self.budget)));
        inner.commands.insert(name.1.clone(), Arc::clone(&command));
        drop(inner);
        let tasks = &self.shared.tasks;
        tasks.spawn("output", Arc::clone(&command).drain(Stream::Out, prepared.out.0));
        tasks.spawn("output", Arc::clone(&command).drain(Stream::Err, prepared.err.0));
        tasks.spawn("command", command.mind(Arc::clone(self), before));
        Ok(false)
    }

    fn packet(&self, number: u32, request: &ExecRequest) -> Result<Vec<u8>, Fail> {
        let exec = ToInit::Exec(Exec {
            number,
            uid: UID_USER,
            files_max: FILES_MAX,
            file_bytes_max: self.request.scratch_mib << 20,
            cwd: request.cwd.clone(),
            argv: request.argv.clone(),
            env: request.env.iter().map(|(name, value)| format!("{name}={value}")).collect(),
        });
        exec.encode().map_err(|error| fail(Class::BadImage, error.to_string()))
    }
}

struct Prepared {
    input: OwnedFd,
    out: (pipe::Receiver, OwnedFd),
    err: (pipe::Receiver, OwnedFd),
}

/// Descriptors that `user` may also open again by their names in /proc.
fn prepare(stdin: &[u8], user: u32) -> io::Result<Prepared> {
    let input = if stdin.is_empty() {
        File::open("/dev/null")?.into()
    } else {
        let mut file = File::from(memfd_create("stdin", MFdFlags::MFD_CLOEXEC)?);
        file.write_all(stdin)?;
        file.seek(SeekFrom::Start(0))?;
        own(file.as_fd(), user)?;
        file.into()
    };
    Ok(Prepared { input, out: output(user)?, err: output(user)? })
}

fn output(user: u32) -> io::Result<(pipe::Receiver, OwnedFd)> {
    let (reader, writer) = io::pipe()?;
    own(writer.as_fd(), user)?;
    Ok((pipe::Receiver::from_owned_fd(reader.into())?, writer.into()))
}

fn own(fd: impl AsFd, user: u32) -> io::Result<()> {
    Ok(fchown(fd, Some(Uid::from_raw(user)), Some(Gid::from_raw(user)))?)
}
