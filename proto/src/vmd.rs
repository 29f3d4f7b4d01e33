//! Verbs of gantry-vmd on `vmd.sock` (DESIGN §7). The only caller is this node's noded. vmd knows no lease and no
//! fence: a VM is a name and a room, a command a name within it. Names are letters, digits, `.`, `_` and `-`.
//!
//! All verbs may be repeated. Failures carry a [`Code`](crate::envelope::Code) and, as body, the name of the driver's error class.

use crate::noded::{OpenLimits, OutputPiece};
use crate::verbs;
use serde::{Deserialize, Serialize};

/// Protocol name in the hello.
pub const PROTOCOL: &str = "vmd";
/// Where vmd's VMs are, in its own mount namespace: a file system in memory that hides this directory of the host.
pub const STAGE: &str = "/mnt";
/// Longest name of a VM or a command, bytes: with a suffix it still is a file name.
pub const NAME_BYTES_MAX: usize = 200;

/// Paths in vmd's mount namespace, which bundles must name.
pub mod place {
    use super::STAGE;

    /// gantry-init.
    #[must_use]
    pub fn init() -> String {
        format!("{STAGE}/init")
    }

    /// Everything of a VM.
    #[must_use]
    pub fn vm(name: &str) -> String {
        format!("{STAGE}/vm/{name}")
    }

    /// The root directory of a VM, read-only.
    #[must_use]
    pub fn root(name: &str) -> String {
        format!("{}/root", vm(name))
    }

    /// What a VM may write, bounded; holds [`super::SCRATCH_DIRS`].
    #[must_use]
    pub fn scratch(name: &str) -> String {
        format!("{}/scratch", vm(name))
    }
}

/// Directories that vmd makes in a VM's scratch room, with their modes; `home` belongs to the user, and has `out/`.
pub const SCRATCH_DIRS: [(&str, u32); 3] = [("home", 0o755), ("tmp", 0o1777), ("shm", 0o1777)];

verbs! {
    /// What it is and what it found on this machine.
    1 Info(()) as InfoReply;
    /// Notes a VM, for as long as the machine runs. Nothing runs yet. There already: `exists`.
    2 Create(CreateRequest) as ();
    /// Starts it; answered when its PID 1 takes commands. Runs: `running`.
    3 Start(VmName) as ();
    /// Starts a command, or finds the one with this name.
    4 Exec(ExecRequest) as ExecReply;
    /// Output from an offset on; waits until there is some, or the end.
    5 Read(ReadRequest) as ReadReply;
    /// Waits for a command's end.
    6 Wait(CommandName) as CommandEnd;
    /// Sends a signal to a command's process group.
    7 Signal(SignalRequest) as ();
    /// Ends a command; it then counts as cancelled unless it ended well before.
    8 Cancel(CommandName) as ();
    /// Ends all commands and the VM: politely, then by force. What it wrote and its records stay; when answered, nothing
    /// of it can change a file any more.
    9 Stop(StopRequest) as ();
    /// Ends a VM by force and removes all of it. Not there: `not-found`.
    10 Remove(VmName) as ();
    /// Every VM noted.
    11 List(()) as Vec<VmFacts>;
    /// What a VM uses and has used.
    12 Usage(VmName) as VmUsage;
    /// Lowers or restores the limits of a running VM; never above those it was created with.
    13 Limit(LimitRequest) as ();
    /// One VM. Not there: `not-found`.
    14 Show(VmName) as VmFacts;
    /// Output of a command from these offsets on, both streams as they grow, then its end.
    15 Follow(FollowRequest) => OutputPiece as CommandEnd;
    /// Asks PID 1 for a sign of life; answers when it comes.
    16 Ping(VmName) as ();
    /// Ends every process of a VM but its PID 1. Commands that ran count as cancelled.
    17 EndWork(VmName) as ();
    /// Sets the size of a VM's scratch room, at most the one it was created with. Below what is used: `no-space`.
    18 Room(RoomRequest) as ();
    /// Removes what is below these control groups and is no noted VM's, and what else of no noted VM is there.
    19 Sweep(SweepRequest) as SweepReply;
    /// Sets what the work in a running VM may use: its limits and its scratch room. Above its own, or zero: `refused`,
    /// with nothing changed; a room below what is used: `no-space`.
    20 Confine(ConfineRequest) as ();
    /// Deaths of VMs that nobody asked for, as they are seen. Ends when the listener is too slow: it then looks for itself. A
    /// vmd of before does not know it.
    21 Deaths(()) => Death as ();
}

/// See [`Deaths`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Death {
    /// First of each stream: every death from here on is told.
    Begun,
    /// This VM, which ran, has died or is dying: no command starts in it any more.
    Of(VmName),
}

/// See [`Info`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InfoReply {
    /// The runtime's program.
    pub runtime: String,
    /// First line of its `--version`.
    pub version: String,
    /// `v1` or `v2`: whose limits hold.
    pub cgroups: String,
}

/// A VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmName {
    /// Its name.
    pub vm: String,
}

/// What a VM may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmLimits {
    /// Memory and swap together, MiB.
    pub memory_mib: u64,
    /// Hundredths of a CPU.
    pub cpu_percent: u64,
    /// Processes and threads, PID 1 included.
    pub pids: u64,
}

/// See [`Create`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateRequest {
    /// Its name; also the runtime's.
    pub vm: String,
    /// The caller's own notes, given back by [`List`].
    pub label: String,
    /// Path below every cgroup hierarchy, `gantry/NODE/VM`.
    pub cgroup: String,
    /// The bundle's `config.json`, with paths of [`place`].
    pub config: String,
    /// A directory of the host that becomes its root, read-only.
    pub root: String,
    /// Host uid and gid of its PID 1; [`UID_RANGE`] ids from here on are its own.
    pub uid_base: u32,
    /// Size of its scratch room, MiB. In memory, and counts as the VM's.
    pub scratch_mib: u64,
    /// Its limits.
    pub limits: VmLimits,
    /// Most time from start to ready, ms.
    pub ready_ms: u64,
}

/// Ids of a VM, from its base on.
pub const UID_RANGE: u32 = 65_536;
/// The user in a VM who runs commands.
pub const UID_USER: u32 = 1_000;

/// See [`Exec`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecRequest {
    /// Where.
    pub vm: String,
    /// Names it for ever in this VM.
    pub command: String,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Its whole environment.
    pub env: Vec<(String, String)>,
    /// Working directory in the VM.
    pub cwd: String,
    /// Standard input; empty = /dev/null.
    #[serde(with = "crate::codec::raw")]
    pub stdin: Vec<u8>,
    /// Most bytes kept of each output.
    pub output_bytes_max: u64,
    /// Wall clock, ms.
    pub wall_ms: u64,
    /// CPU time of the whole VM while it runs, ms.
    pub cpu_ms: u64,
}

/// See [`Exec`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecReply {
    /// It was known; nothing was started.
    pub known: bool,
}

/// A command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandName {
    /// Where.
    pub vm: String,
    /// Which.
    pub command: String,
}

/// One of a command's outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

/// See [`Read`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadRequest {
    /// Whose.
    pub of: CommandName,
    /// Which.
    pub stream: Stream,
    /// Where to begin.
    pub offset: u64,
    /// Most bytes wanted.
    pub bytes_max: u64,
}

/// See [`Read`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadReply {
    /// From the offset on.
    #[serde(with = "crate::codec::raw")]
    pub bytes: Vec<u8>,
    /// Nothing follows.
    pub last: bool,
    /// More was written than kept.
    pub truncated: bool,
}

/// See [`Wait`]. Of a command whose end nobody saw only [`Why::Lost`] is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandEnd {
    /// Why it ended.
    pub why: Why,
    /// From start to end, ms.
    pub wall_ms: u64,
    /// CPU time the VM used meanwhile, µs.
    pub cpu_us: u64,
    /// Highest memory of the VM so far, bytes.
    pub memory_peak_bytes: u64,
    /// More was written to an output than kept.
    pub truncated: bool,
}

/// Why a command ended: the first that holds, exit code 0 before all (DESIGN §7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Why {
    /// By itself, with this code.
    Exit(i32),
    /// By a signal that vmd did not send.
    Signal(i32),
    /// Cancelled.
    Cancelled,
    /// Output over its limit.
    Output,
    /// Wall clock.
    Wall,
    /// CPU time.
    Cpu,
    /// The kernel killed in this VM for memory.
    Memory,
    /// The scratch room is full.
    Disk,
    /// The limit of processes was met.
    Pids,
    /// Gone without an end.
    Lost,
}

/// See [`Signal`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignalRequest {
    /// To which.
    pub to: CommandName,
    /// What.
    pub signal: i32,
}

/// See [`Stop`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopRequest {
    /// Which.
    pub vm: String,
    /// How long commands may take after SIGTERM, ms.
    pub grace_ms: u64,
}

/// Where a VM stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum VmState {
    /// Noted, never started.
    Created,
    /// Starting.
    Starting,
    /// Takes commands.
    Running,
    /// It has ended, or was stopped.
    Stopped,
    /// vmd was away and it is gone.
    Lost,
}

/// A VM as vmd has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmFacts {
    /// Its name.
    pub vm: String,
    /// The caller's notes.
    pub label: String,
    /// Where it stands.
    pub state: VmState,
    /// First of its host uids.
    pub uid_base: u32,
    /// Size of its scratch room, MiB.
    pub scratch_mib: u64,
    /// The limits it was created with.
    pub limits: VmLimits,
    /// Why it is not running, for people.
    pub why: String,
}

/// See [`Usage`]. Of a VM that does not run, the last values.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmUsage {
    /// CPU time, µs.
    pub cpu_us: u64,
    /// Memory now, bytes.
    pub memory_bytes: u64,
    /// Highest memory, bytes.
    pub memory_peak_bytes: u64,
    /// Processes the kernel killed for memory.
    pub oom_kills: u64,
    /// Processes now.
    pub pids: u64,
    /// Forks refused.
    pub forks_refused: u64,
    /// Used of the scratch room, bytes.
    pub scratch_bytes: u64,
    /// Free in the scratch room, bytes.
    pub scratch_free_bytes: u64,
    /// Free inodes there.
    pub scratch_free_inodes: u64,
    /// Read from and written to block devices, bytes. A VM's own files are in memory: this is what it reads of its image,
    /// where that was not in the host's memory yet. 0 where the kernel does not count it: version 1 counts only on disks
    /// for which some group of the machine has a limit.
    pub io_bytes: u64,
}

/// See [`Limit`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitRequest {
    /// Which.
    pub vm: String,
    /// From now on.
    pub limits: VmLimits,
}

/// See [`Follow`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FollowRequest {
    /// Whose.
    pub of: CommandName,
    /// First byte of standard output wanted; None = none of it.
    pub out: Option<u64>,
    /// The same of standard error.
    pub err: Option<u64>,
}

/// See [`Room`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoomRequest {
    /// Which.
    pub vm: String,
    /// MiB.
    pub scratch_mib: u64,
}

/// See [`Confine`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfineRequest {
    /// Which.
    pub vm: String,
    /// From now on; None = what it was created with.
    pub limits: Option<OpenLimits>,
}

/// See [`Sweep`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SweepRequest {
    /// Path below every cgroup hierarchy that holds this node's VMs and nothing else, `gantry/NODE`.
    pub cgroup: String,
}

/// See [`Sweep`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SweepReply {
    /// What was removed, by name.
    pub removed: Vec<String>,
    /// What stays, and why.
    pub failed: Vec<(String, String)>,
}

/// Whether `name` may name a VM or a command.
#[must_use]
pub fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=NAME_BYTES_MAX).contains(&name.len()) && !name.starts_with('.') && name.bytes().all(plain)
}
