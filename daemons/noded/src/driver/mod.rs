//! The seam between NodeD's bookkeeping and what makes VMs (DESIGN §7). A driver makes, starts, watches and
//! removes VMs by their runtime id; it knows no fence, floor or lease, and decides nothing about them.
//!
//! The contract every driver keeps:
//! - **Idempotent by id.** `create` of what is there answers [`Class::Exists`], `destroy` of what is not there
//!   [`Class::NotFound`]; NodeD takes both as success. After any failure a driver re-reads the true state
//!   rather than believing a tool's exit code.
//! - **Never called at once for one VM.** NodeD runs one changing verb per slot at a time; `list`, `info`
//!   and `stats` may come at any time.
//! - **Bounded.** NodeD drops a call's future after [`Driver::limit`]; the outcome then counts as unknown
//!   ([`Class::Timeout`]) and the same call comes again. Dropping must leave no process of the tool behind.
//! - **Only its own.** A driver shows and touches only what carries this cluster's label and this node's root.

pub mod archive;
pub mod fake;
pub mod home;
pub mod oci;

use gantry_model::ids::{ClusterUuid, Generation, InstanceUuid};
use gantry_proto::noded::{CommandEnd, OpenLimits, OutputPiece, VmSpec};
use gantry_proto::vmd::VmUsage;
use home::Home;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;
use tokio::sync::mpsc;

/// What a driver call returns: a future that the trait object can carry.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, DriverError>> + Send + 'a>>;

/// Which VM: one generation of one slot of one cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct VmId {
    /// The cluster.
    pub cluster: ClusterUuid,
    /// The slot.
    pub slot: InstanceUuid,
    /// The generation.
    pub generation: Generation,
}

impl fmt::Display for VmId {
    /// The runtime id, `gantry-CLUSTER8-SLOT-GEN`; full uuids go into the runtime's annotations.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "gantry-{}-{}-{}", self.cluster.short(), self.slot, self.generation)
    }
}

/// The calls of a driver, for time limits, faults and logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CallKind {
    /// [`Driver::probe`].
    Probe,
    /// [`Driver::create`].
    Create,
    /// [`Driver::start`].
    Start,
    /// [`Driver::exec`].
    Exec,
    /// [`Driver::stop`].
    Stop,
    /// [`Driver::destroy`].
    Destroy,
    /// [`Driver::list`].
    List,
    /// [`Driver::info`].
    Info,
    /// [`Driver::stats`].
    Stats,
    /// [`Driver::alive`].
    Alive,
    /// [`Driver::limit_work`].
    Limit,
    /// [`Driver::end_work`].
    End,
    /// [`Driver::signal`], [`Driver::cancel`].
    Signal,
    /// [`Driver::home`].
    Home,
    /// [`Driver::usage`].
    Usage,
    /// [`Driver::sweep`].
    Sweep,
}

impl CallKind {
    /// Its name, as in configuration files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Probe => "probe",
            Self::Create => "create",
            Self::Start => "start",
            Self::Exec => "exec",
            Self::Stop => "stop",
            Self::Destroy => "destroy",
            Self::List => "list",
            Self::Info => "info",
            Self::Stats => "stats",
            Self::Alive => "alive",
            Self::Limit => "limit",
            Self::End => "end",
            Self::Signal => "signal",
            Self::Home => "home",
            Self::Usage => "usage",
            Self::Sweep => "sweep",
        }
    }

    /// Default time limit: what changes a VM may have to unpack an image or wait for a guest to shut down;
    /// what looks must never hold up an inventory.
    #[must_use]
    pub fn limit(self) -> Duration {
        Duration::from_secs(match self {
            Self::Create => 120,
            Self::Start | Self::Stop | Self::Destroy | Self::Sweep => 60,
            Self::Probe | Self::Exec | Self::End => 30,
            Self::List | Self::Info | Self::Stats | Self::Limit | Self::Signal | Self::Home | Self::Usage => {
                10
            }
            // A VM whose processors are all taken answers late; a dead one never.
            Self::Alive => 5,
        })
    }
}

/// Error classes that NodeD tells apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// No such VM or command.
    NotFound,
    /// There already.
    Exists,
    /// It runs, and the call needs it stopped.
    Running,
    /// It does not run, and the call needs it running.
    NotRunning,
    /// Someone else works on it: the same call may succeed later.
    Locked,
    /// Memory, disk or another resource is used up.
    NoSpace,
    /// No such image, or not one of this driver's.
    BadImage,
    /// The time limit passed: it is unknown what was done.
    Timeout,
    /// The VM was there and is gone, or the driver's helper died with it.
    Lost,
    /// The request asks for what it can't have.
    Refused,
}

impl Class {
    /// Its name, as it travels in failures.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NotFound => "not-found",
            Self::Exists => "exists",
            Self::Running => "running",
            Self::NotRunning => "not-running",
            Self::Locked => "locked",
            Self::NoSpace => "no-space",
            Self::BadImage => "bad-image",
            Self::Timeout => "timeout",
            Self::Lost => "lost",
            Self::Refused => "refused",
        }
    }
}

/// A failed call.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {text}", class.name())]
pub struct DriverError {
    /// What kind of failure.
    pub class: Class,
    /// What, why and what to do, for people.
    pub text: String,
}

impl DriverError {
    /// A failure of `class`.
    pub fn new(class: Class, text: impl Into<String>) -> Self {
        Self { class, text: text.into() }
    }
}

/// What a driver found out about its machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// One line for `gnt-node info`: tool and version.
    pub about: String,
}

/// A VM as a driver sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Which.
    pub vm: VmId,
    /// Whether it runs.
    pub running: bool,
    /// Its memory, MiB.
    pub memory_mib: u64,
    /// Its CPUs.
    pub vcpus: u64,
    /// Its disk, MiB.
    pub disk_mib: u64,
    /// Most processes in it.
    pub pids: u64,
    /// The imported image it is made from.
    pub image_digest: Option<String>,
}

impl Seen {
    /// Whether work in it may have these limits: from 1 to its own.
    ///
    /// # Errors
    /// [`Class::Refused`].
    pub fn fits(&self, limits: OpenLimits) -> Result<(), DriverError> {
        let OpenLimits { memory_mib, pids, disk_mib } = limits;
        let pairs = [(memory_mib, self.memory_mib), (pids, self.pids), (disk_mib, self.disk_mib)];
        if pairs.iter().all(|(asked, own)| (1..=*own).contains(asked)) {
            return Ok(());
        }
        let text = format!(
            "limits must be from 1 to the VM's own: {} MiB of memory, {} processes, {} MiB of disk",
            self.memory_mib, self.pids, self.disk_mib
        );
        Err(DriverError::new(Class::Refused, text))
    }
}

/// What a VM has used so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// CPU time, microseconds.
    pub cpu_us: u64,
    /// Memory in use now, MiB.
    pub memory_mib: u64,
    /// Disk in use now, MiB.
    pub disk_mib: u64,
}

/// What [`Driver::sweep`] found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Swept {
    /// Removed, by runtime id.
    pub removed: Vec<String>,
    /// What stays, and why.
    pub failed: Vec<(String, String)>,
}

/// A command for a VM. `id` is (lease, attempt, n) in text: the same id attaches and never runs twice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecSpec {
    /// Names this command for ever.
    pub id: String,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Added to the VM's own environment.
    pub env: Vec<(String, String)>,
    /// Working directory; None = the user's home.
    pub cwd: Option<String>,
    /// Standard input; empty = /dev/null.
    pub stdin: Vec<u8>,
    /// Most bytes kept of each output stream; passing it ends the command with [`Ended::Output`].
    pub output_bytes_max: u64,
    /// Wall clock limit; passing it ends the command with [`Ended::Wall`].
    pub wall_ms: u64,
    /// CPU limit; passing it ends the command with [`Ended::Cpu`].
    pub cpu_ms: u64,
}

/// How a command ended. A command without this record is an infrastructure failure, never the user's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ended {
    /// By itself.
    Exit(i32),
    /// By a signal nobody here sent.
    Signal(i32),
    /// Cancelled by its owner.
    Cancelled,
    /// Over its output limit.
    Output,
    /// Over its wall clock limit.
    Wall,
    /// Over its CPU limit.
    Cpu,
    /// The kernel killed for memory.
    Memory,
    /// Its disk is full.
    Disk,
    /// Over its process limit.
    Pids,
    /// Its process is gone without a record (VM destroyed or lost): it is not run again.
    Lost,
}

/// One of a command's two outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

/// A piece of output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// The bytes from the wanted offset on; empty only at the end.
    pub bytes: Vec<u8>,
    /// Nothing follows.
    pub last: bool,
}

/// An attached command. Dropping it detaches; the command goes on, and its output is kept by the driver's
/// side (for `oci` by vmd, which outlives noded) until the VM is destroyed.
pub trait Execution: Send {
    /// At most `max` bytes from `offset` on; waits until there is a byte or the end. May be repeated.
    fn read(&mut self, output: Output, offset: u64, max: usize) -> Answer<'_, Chunk>;
    /// Sends a signal to the command's process group. Ended commands: [`Class::NotRunning`].
    fn signal(&mut self, signal: i32) -> Answer<'_, ()>;
    /// Waits for the end. May be repeated; the answer never changes.
    fn ended(&mut self) -> Answer<'_, Ended>;
}

/// One way to make VMs.
pub trait Driver: Send + Sync + 'static {
    /// Its name in specifications: `fake`, `oci`, `openvz`.
    fn name(&self) -> &'static str;

    /// Whether none of its VMs is there any more after the machine was off.
    fn dies_with_machine(&self) -> bool;

    /// How long NodeD waits for a call.
    fn limit(&self, call: CallKind) -> Duration {
        call.limit()
    }

    /// Tries whether it works on this machine by doing it, not by looking for files.
    fn probe(&self) -> Answer<'_, Probe>;

    /// Makes the VM, stopped, with all that it needs reserved. There already: [`Class::Exists`], also when only half
    /// made; a following `start` then finishes or fails.
    fn create<'a>(&'a self, vm: &'a VmId, spec: &'a VmSpec) -> Answer<'a, ()>;

    /// Starts it and returns once commands can run in it. Runs already: [`Class::Running`].
    fn start<'a>(&'a self, vm: &'a VmId) -> Answer<'a, ()>;

    /// Starts a command, or attaches to the one with this id. The id is durable on the driver's side
    /// before the command runs; a known id without process and without end is [`Ended::Lost`].
    fn exec<'a>(&'a self, vm: &'a VmId, command: &'a ExecSpec) -> Answer<'a, Box<dyn Execution>>;

    /// Starts a command unless its id is known; true = it was. As [`Driver::exec`] in all else.
    fn begin<'a>(&'a self, vm: &'a VmId, command: &'a ExecSpec) -> Answer<'a, bool>;

    /// Ends every command and the VM itself, politely for at most `grace`, then by force. What it holds stays, and nothing of the VM
    /// can change it when this returns.
    /// Not running: [`Class::NotRunning`].
    fn stop<'a>(&'a self, vm: &'a VmId, grace: Duration) -> Answer<'a, ()>;

    /// Removes the VM with all that was made for it, running or not, whole or half made. When this returns
    /// success or [`Class::NotFound`], nothing of it lives and nothing of it comes back.
    fn destroy<'a>(&'a self, vm: &'a VmId) -> Answer<'a, ()>;

    /// Every VM of this cluster on this node, by label, also half-made and stopped ones.
    fn list(&self) -> Answer<'_, Vec<Seen>>;

    /// One VM. Not there: [`Class::NotFound`].
    fn info<'a>(&'a self, vm: &'a VmId) -> Answer<'a, Seen>;

    /// What it used so far. Not there: [`Class::NotFound`].
    fn stats<'a>(&'a self, vm: &'a VmId) -> Answer<'a, Stats>;

    /// Asks its PID 1, and answers when that does. Not running: [`Class::NotRunning`].
    fn alive<'a>(&'a self, vm: &'a VmId) -> Answer<'a, ()>;

    /// Gives the work in a running VM these limits; None = the VM's own. Above the VM's own: [`Class::Refused`].
    fn limit_work<'a>(&'a self, vm: &'a VmId, limits: Option<OpenLimits>) -> Answer<'a, ()>;

    /// Ends every command and what commands left running; the VM stays.
    fn end_work<'a>(&'a self, vm: &'a VmId) -> Answer<'a, ()>;

    /// Sends a signal to a command's process group. Ended: [`Class::NotRunning`]; unknown: [`Class::NotFound`].
    fn signal<'a>(&'a self, vm: &'a VmId, command: &'a str, signal: i32) -> Answer<'a, ()>;

    /// Ends a command; it counts as cancelled. Errors as of [`Driver::signal`].
    fn cancel<'a>(&'a self, vm: &'a VmId, command: &'a str) -> Answer<'a, ()>;

    /// Sends what a command's outputs have from `from` on (standard output, standard error; None = none of it) as they
    /// grow, and answers its end. Any number of followers; dropping one ends nothing. Not bounded in time.
    fn follow<'a>(
        &'a self,
        vm: &'a VmId,
        command: &'a str,
        from: (Option<u64>, Option<u64>),
        pieces: mpsc::Sender<OutputPiece>,
    ) -> Answer<'a, CommandEnd>;

    /// The directory that commands have as their home, also after a stop, until the VM is destroyed.
    fn home<'a>(&'a self, vm: &'a VmId) -> Answer<'a, Home>;

    /// Everything that is counted of a VM.
    fn usage<'a>(&'a self, vm: &'a VmId) -> Answer<'a, VmUsage>;

    /// Removes what is left of VMs that the driver does not know any more.
    fn sweep(&self) -> Answer<'_, Swept>;

    /// Tells of VMs that die though nobody asked for it, at once; None first, and again when some may have been missed: whoever
    /// listens then looks at all. Not bounded in time. Ends, in error, when nothing can be told now: to be asked again. A driver that
    /// never hears of a death keeps silent; its VMs are looked at all the same.
    fn deaths(&self, told: mpsc::Sender<Option<VmId>>) -> Answer<'_, ()> {
        Box::pin(async move {
            told.closed().await;
            Ok(())
        })
    }
}

/// Waits for a driver's call no longer than its limit.
///
/// # Errors
/// The call's own, or [`Class::Timeout`].
pub async fn bounded<T>(
    driver: &dyn Driver,
    call: CallKind,
    answer: Answer<'_, T>,
) -> Result<T, DriverError> {
    let limit = driver.limit(call);
    tokio::time::timeout(limit, answer).await.unwrap_or_else(|_| {
        let name = driver.name();
        let text = format!("{} of driver {name} did not end within {} ms", call.name(), limit.as_millis());
        Err(DriverError::new(Class::Timeout, text))
    })
}
