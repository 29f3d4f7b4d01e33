//! One VM: noted, started once or again, watched, ended. The runtime's process and the link to PID 1 are owned by one
//! task, its keeper ([`life`]); everything else asks it by setting [`Inner::ending`]. Here is what is known of it;
//! [`work`] is what is done in it, [`limits`] what it may use.

mod life;
mod limits;
mod work;

use crate::command::Command;
use crate::core::budget::Budget;
use crate::error::{Class, fail, io as io_fail};
use crate::io::cgroup::{Cgroup, Counts, Layout, Spent};
use crate::io::runtime::Runtime;
use crate::io::spool::{Found, FoundCommand, Spool};
use gantry_proto::envelope::Fail;
use gantry_proto::vmd::{self, CreateRequest, VmFacts, VmState, VmUsage, place};
use gantry_rt::Tasks;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::io::unix::AsyncFd;
use tokio::sync::{broadcast, watch};
pub use work::{COMMANDS_MAX, RUNNING_MAX};

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
    /// Names of those that die though nobody asked for it.
    pub deaths: broadcast::Sender<String>,
}

/// Deaths that a listener may be behind: more die at once only with vmd itself.
pub const DEATHS_MAX: usize = 256;

/// See the module.
pub struct Vm {
    /// What was asked for.
    pub request: CreateRequest,
    shared: Shared,
    cgroup: Cgroup,
    /// Of its commands' outputs.
    budget: Arc<Budget>,
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
    /// None of its processes is left, but perhaps a PID 1 that is being ended; its end is not whole yet.
    dead: bool,
    /// It is being removed: nothing starts any more.
    removed: bool,
}

impl Inner {
    fn runs(&self) -> bool {
        self.state == VmState::Running && !self.dead
    }
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
            dead: false,
            removed: false,
        };
        let (tick, _) = watch::channel(0);
        let budget = Arc::default();
        Arc::new(Self { request, shared, cgroup, budget, inner: Mutex::new(inner), tick })
    }

    /// Notes a new one.
    ///
    /// # Errors
    /// The disk's.
    pub fn create(request: CreateRequest, shared: Shared) -> Result<Arc<Self>, Fail> {
        shared.spool.create(&request).map_err(|error| io_fail("note the VM", &error))?;
        Ok(Self::with(request, shared, VmState::Created, ""))
    }

    /// One of a vmd that is gone. Whatever is left of it is ended first. What does not die now (a process that hangs in the
    /// kernel) is ended by the removal, and keeps nobody else's VMs from being served.
    pub async fn found(found: Found, shared: Shared) -> Arc<Self> {
        let (state, why) = if found.started {
            (VmState::Lost, "gantry-vmd ended meanwhile, and its VMs with it")
        } else {
            (VmState::Created, "")
        };
        let vm = Self::with(found.request, shared, state, why);
        if let Err(error) = vm.cgroup.kill().await.and_then(|()| vm.cgroup.remove()) {
            tracing::error!(vm = vm.request.vm, %error, "a VM of an earlier vmd does not die");
        }
        for (number, FoundCommand { name, end }) in found.commands {
            let place = vm.shared.spool.place(&vm.request.vm, number);
            let command = Arc::new(Command::found(&name, number, place, end));
            let mut inner = vm.inner();
            inner.next = inner.next.max(number);
            inner.commands.insert(name, command);
        }
        vm
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
        let (last, dead) = {
            let inner = self.inner();
            (inner.counts, inner.dead)
        };
        let mut counts = last.unwrap_or_else(|| self.cgroup.counts());
        if dead {
            // The kernel counts a PID 1 until its runtime has taken its end.
            counts.pids = 0;
        }
        counts
    }

    /// What tells how a command ended, and the highest memory so far; also after its end.
    #[must_use]
    pub fn spent(&self) -> (Spent, u64) {
        let last = self.inner().counts;
        match last {
            Some(last) => {
                let Counts { cpu_us, oom_kills, forks_refused, .. } = last;
                (Spent { cpu_us, oom_kills, forks_refused }, last.memory_peak)
            }
            None => (self.cgroup.spent(), self.cgroup.memory_peak()),
        }
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
            state: if inner.dead { VmState::Stopped } else { inner.state },
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
}
