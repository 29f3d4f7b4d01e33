//! One VM: noted, started once or again, watched, ended. The runtime's process and the link to PID 1 are owned by one
//! task ([`Vm::keep`]); everything else asks it by setting [`Inner::ending`].

use crate::command::{self, Caps, Command};
use crate::error::{Class, fail, io as io_fail};
use crate::io::cgroup::{self, Cgroup, Counts, Layout};
use crate::io::runtime::{self, Process, Runtime};
use crate::io::spool::{Found, FoundCommand, Spool};
use crate::io::stage;
use gantry_init::link;
use gantry_init::wire::{Exec, FromInit, How, ToInit};
use gantry_proto::envelope::Fail;
use gantry_proto::noded::OpenLimits;
use gantry_proto::vmd::{
    self, CreateRequest, ExecRequest, Stream, UID_USER, VmFacts, VmState, VmUsage, place,
};
use gantry_rt::Tasks;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::{Gid, Uid, fchown};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::unix::pipe;
use tokio::sync::watch;
use tokio::time::timeout;

/// Commands that may run at once in a VM: each has three descriptors and three tasks here.
pub const RUNNING_MAX: usize = 16;
/// Commands that one VM may have had: each has entries in the spool.
pub const COMMANDS_MAX: usize = 1_024;
/// Open files of a command; lowered to the host's hard limit.
const FILES_MAX: u64 = 4_096;
/// Exit code of a command that could not be started, as a shell's.
const EXIT_NOT_RUN: i32 = 126;

/// vmd's end of the socket to a VM's PID 1.
type Link = AsyncFd<OwnedFd>;

/// What all VMs share.
#[derive(Debug, Clone)]
pub struct Shared {
    /// What runs them.
    pub runtime: Runtime,
    /// Where their control groups are.
    pub layout: Layout,
    /// What outlives vmd.
    pub spool: Spool,
    /// Carries their tasks.
    pub tasks: Tasks,
}

/// See the module.
pub struct Vm {
    /// What was asked for.
    pub request: CreateRequest,
    shared: Shared,
    cgroup: Cgroup,
    inner: Mutex<Inner>,
    tick: watch::Sender<u64>,
}

struct Inner {
    state: VmState,
    why: String,
    link: Option<Arc<Link>>,
    /// Its PID 1, as a process of the host.
    pid: Option<i32>,
    commands: BTreeMap<String, Arc<Command>>,
    next: u32,
    /// The last counts of a VM that has ended.
    counts: Option<Counts>,
    /// Signs of life asked for, and those that came. Both count on over starts.
    pings: u64,
    pongs: u64,
    /// The limits in force, where they are known: setting them is some ten files of the kernel's.
    limits: Option<vmd::VmLimits>,
    /// What its scratch room has now, MiB.
    scratch_mib: u64,
    /// It shall end, or is ending.
    ending: bool,
    /// It is being removed: nothing starts any more.
    removed: bool,
}

/// What is free in a scratch room.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    /// Bytes used.
    pub used_bytes: u64,
    /// Bytes free.
    pub free_bytes: u64,
    /// Inodes free.
    pub free_inodes: u64,
}

impl Vm {
    fn with(request: CreateRequest, shared: Shared, state: VmState, why: &str) -> Arc<Self> {
        let cgroup = Cgroup::new(&shared.layout, &request.cgroup);
        let inner = Inner {
            state,
            why: why.to_owned(),
            link: None,
            pid: None,
            commands: BTreeMap::new(),
            next: 0,
            counts: None,
            pings: 0,
            pongs: 0,
            limits: None,
            scratch_mib: request.scratch_mib,
            ending: false,
            removed: false,
        };
        let (tick, _) = watch::channel(0);
        Arc::new(Self { request, shared, cgroup, inner: Mutex::new(inner), tick })
    }

    /// Notes a new one.
    ///
    /// # Errors
    /// The disk's.
    pub fn create(request: CreateRequest, shared: Shared) -> Result<Arc<Self>, Fail> {
        shared.spool.create(&request).map_err(|error| io_fail("note the VM", &error))?;
        Ok(Self::with(request, shared, VmState::Created, ""))
    }

    /// One of a vmd that is gone. Whatever is left of it is ended first.
    ///
    /// # Errors
    /// When something of it does not die.
    pub async fn found(found: Found, shared: Shared) -> io::Result<Arc<Self>> {
        let (state, why) = if found.started {
            (VmState::Lost, "gantry-vmd ended meanwhile, and its VMs with it")
        } else {
            (VmState::Created, "")
        };
        let vm = Self::with(found.request, shared, state, why);
        vm.cgroup.kill().await?;
        vm.cgroup.remove()?;
        for (number, FoundCommand { name, end }) in found.commands {
            let place = vm.shared.spool.place(&vm.request.vm, number);
            let command = Arc::new(Command::found(&name, number, place, end));
            let mut inner = vm.inner();
            inner.next = inner.next.max(number);
            inner.commands.insert(name, command);
        }
        Ok(vm)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Changes are single assignments: whole whoever panicked.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        let value = change(&mut self.inner());
        self.tick.send_modify(|tick| *tick += 1);
        value
    }

    async fn until<T>(&self, mut look: impl FnMut(&Inner) -> Option<T>) -> T {
        let mut tick = self.tick.subscribe();
        loop {
            if let Some(value) = look(&self.inner()) {
                return value;
            }
            // The sender lives as long as self.
            let _ = tick.changed().await;
        }
    }

    /// Its control group.
    #[must_use]
    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// What it counted so far, also after its end.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let last = self.inner().counts;
        last.unwrap_or_else(|| self.cgroup.counts())
    }

    /// What is free in its scratch room; None when there is none.
    #[must_use]
    pub fn scratch_room(&self) -> Option<Room> {
        let found = nix::sys::statvfs::statvfs(place::scratch(&self.request.vm).as_str()).ok()?;
        let size = found.fragment_size();
        let used = found.blocks().saturating_sub(found.blocks_free());
        Some(Room {
            used_bytes: used * size,
            free_bytes: found.blocks_available() * size,
            free_inodes: found.files_available(),
        })
    }

    /// Whether it is being removed.
    #[must_use]
    pub fn is_removed(&self) -> bool {
        self.inner().removed
    }

    /// Asks its keeper to end it.
    pub fn end(&self) {
        self.change(|inner| inner.ending |= matches!(inner.state, VmState::Starting | VmState::Running));
    }

    /// As noded sees it.
    #[must_use]
    pub fn facts(&self) -> VmFacts {
        let inner = self.inner();
        VmFacts {
            vm: self.request.vm.clone(),
            label: self.request.label.clone(),
            state: inner.state,
            uid_base: self.request.uid_base,
            scratch_mib: self.request.scratch_mib,
            limits: self.request.limits,
            why: inner.why.clone(),
        }
    }

    /// What it uses.
    #[must_use]
    pub fn usage(&self) -> VmUsage {
        let counts = self.counts();
        let room = self.scratch_room();
        VmUsage {
            cpu_us: counts.cpu_us,
            memory_bytes: counts.memory,
            memory_peak_bytes: counts.memory_peak,
            oom_kills: counts.oom_kills,
            pids: counts.pids,
            forks_refused: counts.forks_refused,
            scratch_bytes: room.map_or(0, |room| room.used_bytes),
            scratch_free_bytes: room.map_or(0, |room| room.free_bytes),
            scratch_free_inodes: room.map_or(0, |room| room.free_inodes),
            io_bytes: counts.io_bytes,
        }
    }

    /// The failure of a call that needs it running.
    fn not_running(&self, inner: &Inner) -> Fail {
        let name = &self.request.vm;
        match inner.state {
            VmState::Lost => fail(Class::Lost, format!("VM {name} is lost: {}", inner.why)),
            VmState::Created | VmState::Starting | VmState::Stopped | VmState::Running => {
                fail(Class::NotRunning, format!("VM {name} does not run {}", inner.why))
            }
        }
    }

    /// Starts it; when this returns, commands can run.
    ///
    /// # Errors
    /// It runs, is lost, or can't be started; then nothing of this start is left.
    pub async fn start(self: Arc<Self>) -> Result<(), Fail> {
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
        let mut child =
            self.shared.runtime.run(name, its).map_err(|error| io_fail("start the runtime", &error))?;
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

    /// Waits for init's first word and puts it into the control groups.
    async fn ready(&self, child: &mut Process, link: &Link) -> Result<(), Fail> {
        let told = |class, what: &str| {
            let said = runtime::tail(&self.request.vm);
            fail(class, format!("{what}: {}", if said.is_empty() { "it said nothing" } else { &said }))
        };
        let said = async {
            tokio::select! {
                biased;
                () = self.until(|inner| inner.ending.then_some(())) => Err(told(Class::NotRunning, "the start was given up")),
                packet = hear(link) => match packet {
                    Some((FromInit::Ready, Some(pid))) => Ok(pid),
                    Some(_) => Err(told(Class::BadImage, "PID 1 is not gantry-init")),
                    None => Err(told(Class::Locked, "the runtime could not start the VM")),
                },
                () = child.over() => Err(told(Class::Locked, "the runtime could not start the VM")),
            }
        };
        let time = Duration::from_millis(self.request.ready_ms);
        let late = || Err(told(Class::Timeout, "the VM is not ready in time"));
        let pid = timeout(time, said).await.unwrap_or_else(|_| late())?;
        self.inner().pid = Some(pid);
        self.cgroup.enter(pid).map_err(|error| io_fail("put the VM into its control groups", &error))
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
        self.inner().link = None;
        drop(link);
        self.clean_up(child).await;
        self.set_ended(why);
    }

    fn take(&self, message: FromInit) {
        let (number, how) = match message {
            FromInit::Ready => return,
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

    /// Ends commands politely for `grace`, then everything by force.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn stop(self: Arc<Self>, grace: Duration) -> Result<(), Fail> {
        let running = {
            let inner = self.inner();
            if inner.state != VmState::Running {
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
        self.ended().await;
        Ok(())
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

    /// Sets limits of a running VM, at most those it was created with.
    ///
    /// # Errors
    /// It does not run, or the limits are above its own, or the kernel refuses them.
    pub fn limit(&self, limits: &vmd::VmLimits) -> Result<(), Fail> {
        let mut inner = self.inner();
        if inner.state != VmState::Running {
            return Err(self.not_running(&inner));
        }
        let own = &self.request.limits;
        if limits.memory_mib > own.memory_mib
            || limits.cpu_percent > own.cpu_percent
            || limits.pids > own.pids
        {
            return Err(fail(Class::Refused, "limits above those the VM was created with"));
        }
        if inner.limits.take() != Some(*limits) {
            self.cgroup.limit(limits).map_err(|error| io_fail("set limits", &error))?;
        }
        inner.limits = Some(*limits);
        Ok(())
    }

    /// Sets limits and scratch room of a running VM; None = its own.
    ///
    /// # Errors
    /// As [`Vm::limit`] and [`Vm::room`]; above its own nothing is changed.
    pub fn confine(&self, wanted: Option<OpenLimits>) -> Result<(), Fail> {
        let (own, room) = (self.request.limits, self.request.scratch_mib);
        let Some(OpenLimits { memory_mib, pids, disk_mib }) = wanted else {
            self.limit(&own)?;
            return self.room(room);
        };
        let above = memory_mib > own.memory_mib || pids > own.pids || disk_mib > room;
        if above || memory_mib == 0 || pids == 0 || disk_mib == 0 {
            let text = format!(
                "limits must be from 1 to the VM's own: {} MiB of memory, {} processes, {room} MiB of disk",
                own.memory_mib, own.pids
            );
            return Err(fail(Class::Refused, text));
        }
        self.limit(&vmd::VmLimits { memory_mib, pids, cpu_percent: own.cpu_percent })?;
        self.room(disk_mib)
    }

    /// Sets the size of its scratch room, at most its own.
    ///
    /// # Errors
    /// Above its own; less than is in use; the kernel's.
    pub fn room(&self, mib: u64) -> Result<(), Fail> {
        if mib == 0 || mib > self.request.scratch_mib {
            return Err(fail(
                Class::Refused,
                "a scratch room of nothing, or above the one the VM was created with",
            ));
        }
        let mut inner = self.inner();
        if inner.scratch_mib != mib {
            stage::resize(&self.request.vm, mib).map_err(|error| match error.kind() {
                io::ErrorKind::InvalidInput => {
                    fail(Class::NoSpace, format!("more than {mib} MiB are in use"))
                }
                _ => io_fail("resize the scratch room", &error),
            })?;
            inner.scratch_mib = mib;
        }
        Ok(())
    }

    /// Asks PID 1 for a sign of life and waits for it; the caller bounds that.
    ///
    /// # Errors
    /// It does not run, or ends meanwhile.
    pub async fn ping(&self) -> Result<(), Fail> {
        let asked = {
            let mut inner = self.inner();
            let Some(link) = inner.link.clone().filter(|_| inner.state == VmState::Running) else {
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
            let Some(pid) = inner.pid.filter(|_| inner.state == VmState::Running) else {
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
        self.cgroup.limit(&limits).map_err(|error| io_fail("restore limits", &error))?;
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
        let before = self.cgroup.counts();
        if let Err(error) = link::send(link.get_ref(), &bytes, &fds) {
            let _ = place.drop_it();
            return Err(io_fail("hand the command to PID 1", &error));
        }
        let caps = Caps {
            output_bytes: request.output_bytes_max,
            wall: Duration::from_millis(request.wall_ms),
            cpu_us: request.cpu_ms.saturating_mul(1000),
        };
        let command = Arc::new(Command::new(name.1, number, place, caps));
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
