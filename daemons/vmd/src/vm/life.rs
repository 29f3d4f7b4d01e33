//! A VM's life: its start, its keeper, its end, and its removal.

use super::{Link, Vm};
use crate::error::{Class, fail, io as io_fail};
use crate::io::cgroup;
use crate::io::runtime::{self, Process};
use crate::io::stage;
use gantry_init::link;
use gantry_init::wire::{FromInit, How, ToInit};
use gantry_proto::envelope::Fail;
use gantry_proto::vmd::VmState;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::timeout;

/// Exit code of a command that could not be started, as a shell's.
const EXIT_NOT_RUN: i32 = 126;

impl Vm {
    /// Starts it; when this returns, commands can run.
    ///
    /// # Errors
    /// It runs, is lost, or can't be started; then nothing of this start is left.
    pub async fn start(self: Arc<Self>) -> Result<(), Fail> {
        if self.inner().dead {
            self.ended().await;
        }
        let first = self.change(|inner| match inner.state {
            _ if inner.removed => Err(fail(Class::NotFound, "the VM is being removed")),
            VmState::Running => Err(fail(Class::Running, "the VM runs")),
            VmState::Starting => Err(fail(Class::Locked, "the VM is being started")),
            VmState::Lost => Err(self.not_running(inner)),
            VmState::Created | VmState::Stopped => {
                let first = inner.state == VmState::Created;
                inner.state = VmState::Starting;
                inner.counts = None;
                Ok(first)
            }
        })?;
        let launched = self.launch(first).await;
        if let Err(failed) = &launched {
            self.set_ended(&failed.text);
        }
        launched
    }

    async fn launch(self: &Arc<Self>, first: bool) -> Result<(), Fail> {
        let name = &self.request.vm;
        if first {
            self.shared.spool.start(name).map_err(|error| io_fail("note the start", &error))?;
        }
        stage::prepare(&self.request).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => fail(Class::BadImage, format!("can't set up the VM: {error}")),
            _ => io_fail("set up the VM", &error),
        })?;
        self.cgroup.create(&self.request.limits).map_err(|error| io_fail("make control groups", &error))?;
        self.inner().limits = Some(self.request.limits);
        let (ours, its) = link::pair().map_err(|error| io_fail("make a socket", &error))?;
        let link = watch_readable(ours).map_err(|error| io_fail("watch a socket", &error))?;
        let mut child = self.run(its).await.map_err(|error| io_fail("start the runtime", &error))?;
        let ready = self.ready(&mut child, &link).await;
        if let Err(failed) = ready {
            drop(link);
            self.clean_up(child).await;
            return Err(failed);
        }
        let link = Arc::new(link);
        self.change(|inner| {
            inner.state = VmState::Running;
            inner.pongs = inner.pings;
            inner.link = Some(Arc::clone(&link));
        });
        let vm = Arc::clone(self);
        self.shared.tasks.spawn("vm", async move { vm.keep(child, link).await });
        Ok(())
    }

    /// Starts the runtime, beside vmd's own thread: whoever starts a program stands still until that has begun.
    async fn run(&self, stdin: OwnedFd) -> io::Result<Process> {
        let (runtime, name) = (self.shared.runtime.clone(), self.request.vm.clone());
        tokio::task::spawn_blocking(move || runtime.run(&name, stdin)).await.map_err(io::Error::other)?
    }

    /// Waits for init's first word and has it in the control groups.
    async fn ready(&self, child: &mut Process, link: &Link) -> Result<(), Fail> {
        let time = Duration::from_millis(self.request.ready_ms);
        let late = || Err(self.told(Class::Timeout, "the VM is not ready in time"));
        timeout(time, self.settle(child, link)).await.unwrap_or_else(|_| late())
    }

    /// A failure with what the runtime and init said.
    fn told(&self, class: Class, what: &str) -> Fail {
        let said = runtime::tail(&self.request.vm);
        fail(class, format!("{what}: {}", if said.is_empty() { "it said nothing" } else { &said }))
    }

    async fn settle(&self, child: &mut Process, link: &Link) -> Result<(), Fail> {
        let pid = self.word(child, link, &FromInit::Ready).await?;
        self.inner().pid = Some(pid);
        let failed = |error: io::Error| io_fail("put the VM into its control groups", &error);
        let Some(doors) = self.cgroup.doors().map_err(failed)? else {
            let cgroup = self.cgroup.clone();
            let entered = tokio::task::spawn_blocking(move || cgroup.enter(pid)).await;
            return entered.map_err(io::Error::other).flatten().map_err(failed);
        };
        let bytes = ToInit::Enter.encode().map_err(|error| fail(Class::Locked, error.to_string()))?;
        let doors: Vec<_> = doors.iter().map(AsFd::as_fd).collect();
        link::send(link.get_ref(), &bytes, &doors).map_err(failed)?;
        self.word(child, link, &FromInit::Entered).await.map(drop)
    }

    /// Waits until init says this, and nothing else. Its pid.
    async fn word(&self, child: &mut Process, link: &Link, wanted: &FromInit) -> Result<i32, Fail> {
        tokio::select! {
            biased;
            () = self.until(|inner| inner.ending.then_some(())) => Err(self.told(Class::NotRunning, "the start was given up")),
            packet = hear(link) => match packet {
                Some((said, Some(pid))) if said == *wanted => Ok(pid),
                Some(_) => Err(self.told(Class::BadImage, "PID 1 is not gantry-init")),
                None => Err(self.told(Class::Locked, "the runtime could not start the VM")),
            },
            () = child.over() => Err(self.told(Class::Locked, "the runtime could not start the VM")),
        }
    }

    /// Owns the runtime's process and the link while it runs.
    async fn keep(self: Arc<Self>, mut child: Process, link: Arc<Link>) {
        loop {
            tokio::select! {
                () = self.until(|inner| inner.ending.then_some(())) => break,
                packet = hear(&link) => match packet {
                    Some((message, _)) => self.take(message),
                    None => break,
                },
                () = child.over() => break,
            }
        }
        // Ends that were told before the VM's own.
        while let Ok(packet) = link::receive(link.get_ref()) {
            match FromInit::decode(&packet.bytes) {
                Ok(message) => self.take(message),
                Err(_) => break,
            }
        }
        let why = if self.inner().ending { "it was stopped" } else { "its PID 1 is gone" };
        let asked = {
            let mut inner = self.inner();
            inner.link = None;
            inner.ending
        };
        drop(link);
        if !asked {
            // From here on nothing starts in it, and its PID 1 answers nobody. Nobody may be listening.
            let _ = self.shared.deaths.send(self.request.vm.clone());
        }
        self.clean_up(child).await;
        self.set_ended(why);
    }

    fn take(&self, message: FromInit) {
        let (number, how) = match message {
            FromInit::Ready | FromInit::Entered => return,
            FromInit::Alive => return self.change(|inner| inner.pongs += 1),
            FromInit::Ended { number, how } => (number, how),
            FromInit::Refused { number, why } => {
                tracing::warn!(vm = self.request.vm, why, "a command could not be started");
                (number, How::Exit(EXIT_NOT_RUN))
            }
        };
        let command = self.inner().commands.values().find(|one| one.runs() && one.number == number).cloned();
        if let Some(command) = command {
            command.ended(how);
        }
    }

    /// Ends every process of it and the runtime; counters are kept, the groups removed.
    async fn clean_up(&self, child: Process) {
        let name = &self.request.vm;
        if let Err(error) = self.cgroup.kill().await {
            tracing::error!(vm = name, %error, "can't end a VM");
        } else {
            self.change(|inner| inner.dead = true);
        }
        child.end().await;
        let init = self.inner().pid.take();
        if let Some(pid) = init {
            cgroup::reap_one(pid).await;
        }
        self.shared.runtime.delete(name).await;
        let counts = self.cgroup.counts();
        self.change(|inner| inner.counts = Some(counts));
        if let Err(error) = self.cgroup.remove() {
            tracing::error!(vm = name, %error, "can't remove a VM's control groups");
        }
    }

    fn set_ended(&self, why: &str) {
        let commands: Vec<_> = self.change(|inner| {
            inner.state = VmState::Stopped;
            inner.dead = false;
            inner.ending = false;
            inner.why = why.to_owned();
            inner.commands.values().cloned().collect()
        });
        for command in commands {
            command.gone();
        }
    }

    /// Waits until it neither runs nor starts.
    pub async fn ended(&self) {
        self.until(|inner| (!matches!(inner.state, VmState::Starting | VmState::Running)).then_some(()))
            .await;
    }

    /// Waits until it has no process any more: its files stay as they are from then on. Its runtime may still be at work.
    async fn dead(&self) {
        self.until(|inner| {
            let ended = !matches!(inner.state, VmState::Starting | VmState::Running);
            (inner.dead || ended).then_some(())
        })
        .await;
    }

    /// Ends commands politely for `grace`, then everything by force. When this returns no process of it is left but a PID 1
    /// that is being ended, if no other was there; what its runtime has to put away, nobody waits for.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn stop(self: Arc<Self>, grace: Duration) -> Result<(), Fail> {
        let running = {
            let inner = self.inner();
            if !inner.runs() {
                return Err(self.not_running(&inner));
            }
            inner.commands.values().filter(|command| command.runs()).cloned().collect::<Vec<_>>()
        };
        for command in &running {
            self.signal(command.number, nix::libc::SIGTERM);
        }
        let all = async {
            for command in &running {
                command.wait().await;
            }
        };
        let _ = timeout(grace, all).await;
        self.end();
        if self.is_alone() {
            self.change(|inner| inner.dead = true);
        }
        self.dead().await;
        Ok(())
    }

    /// Whether its PID 1, which writes no files, is the only process of a VM in which nothing starts any more. What it was
    /// told last may not have begun yet: that counts as a command that runs.
    fn is_alone(&self) -> bool {
        let inner = self.inner();
        let Some(pid) = inner.pid.filter(|_| inner.ending) else { return false };
        !inner.commands.values().any(|command| command.runs()) && self.cgroup.has_only(pid)
    }

    /// Ends it and removes everything of it.
    ///
    /// # Errors
    /// When something resists; what is left is still noted, and may be removed again.
    pub async fn remove(self: Arc<Self>) -> Result<(), Fail> {
        self.change(|inner| inner.removed = true);
        self.end();
        self.ended().await;
        let commands: Vec<_> = self.inner().commands.values().cloned().collect();
        for command in commands {
            command.wait().await;
        }
        self.cgroup.kill().await.map_err(|error| io_fail("end the VM", &error))?;
        self.cgroup.remove().map_err(|error| io_fail("remove control groups", &error))?;
        stage::clear(&self.request.vm).await.map_err(|error| io_fail("remove the VM's mounts", &error))?;
        let numbers: Vec<_> = self.inner().commands.values().map(|command| command.number).collect();
        self.shared
            .spool
            .remove(&self.request.vm, numbers)
            .map_err(|error| io_fail("remove the spool", &error))
    }
}

#[allow(deprecated, reason = "its flaw is types that change their descriptor; an OwnedFd does not")]
fn watch_readable(socket: OwnedFd) -> io::Result<Link> {
    AsyncFd::with_interest(socket, Interest::READABLE)
}

/// The next message and its sender; None when the other end is closed or talks nonsense.
async fn hear(link: &Link) -> Option<(FromInit, Option<i32>)> {
    loop {
        let mut guard = link.readable().await.ok()?;
        match link::receive(link.get_ref()) {
            Ok(packet) => return Some((FromInit::decode(&packet.bytes).ok()?, packet.pid)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => guard.clear_ready(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
}
