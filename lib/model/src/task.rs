//! Tasks: submitted tests, their attempts and results, as luxid stores them (`model.md` §2.3, §2.5); the checks of what is
//! submitted are in `rules`.

use crate::ids::{Generation, InstanceUuid, JobId, LeaseUuid, NodeUuid, TaskId};
use crate::time::Ts;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

mod rules;

pub use rules::{check, fits, is_digest, lease_ms};

/// Most execute steps of a task.
pub const STEPS_MAX: usize = 256;
/// Longest command, bytes: what one argument of a program may have is 128 KiB.
pub const COMMAND_BYTES_MAX: usize = 64 << 10;
/// Most bytes of environment of a task.
pub const ENV_BYTES_MAX: usize = 64 << 10;
/// Longest command with all of the environment, bytes: both reach the VM's PID 1 in one packet of 96 KiB, with what Gantry adds.
pub const START_BYTES_MAX: usize = 88 << 10;
/// Most attempts a task may ask for (I17: infrastructure failures are bounded).
pub const ATTEMPTS_MAX: u32 = 10;
/// Attempts when nothing is said.
pub const ATTEMPTS_DEFAULT: u32 = 3;
/// Largest input archive, bytes (DESIGN §4).
pub const INPUT_BYTES_MAX: u64 = 256 << 20;
/// Largest archive of an image, bytes: a whole distribution with compilers has some 4 GiB. The command line, the
/// master's body store and the nodes have this one bound.
pub const IMAGE_BYTES_MAX: u64 = 8 << 30;
/// Most bytes of a task's artifacts (DESIGN §4).
pub const ARTIFACT_BYTES_MAX: u64 = 64 << 20;
/// Most bytes kept of one stream that may be asked for.
pub const OUTPUT_BYTES_MAX: u64 = 64 << 20;
/// Most labels; most bytes of a label, name, user or key.
pub const LABELS_MAX: usize = 64;
/// See [`LABELS_MAX`].
pub const TEXT_BYTES_MAX: usize = 255;
/// Outputs up to so many bytes that are text lie in the record, larger ones are bodies in the store.
pub const INLINE_BYTES_MAX: usize = 4 << 10;
/// Waiting tasks (DESIGN §4).
pub const WAITING_TASKS_MAX: usize = 100_000;

/// Limits of each step. What is not given is [`Limits::default`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Wall clock, s.
    pub wall_s: u64,
    /// CPU time of the whole VM, s.
    pub cpu_s: u64,
    /// Memory, MiB.
    pub memory_mib: u64,
    /// Processes and threads.
    pub pids: u64,
    /// Room for files, MiB.
    pub disk_mib: u64,
    /// Kept of each output stream, KiB; one byte more ends the step.
    pub output_kib: u64,
}

impl Default for Limits {
    /// DESIGN §7.
    fn default() -> Self {
        Self { wall_s: 60, cpu_s: 60, memory_mib: 256, pids: 64, disk_mib: 64, output_kib: 1024 }
    }
}

/// A command to run in the VM.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Step {
    /// For people; empty = its number.
    pub name: String,
    /// Run by `sh -c` in the home directory.
    pub command: String,
    /// A file of the input that becomes standard input; None = /dev/null.
    pub stdin: Option<String>,
    /// Own wall clock, s; None = the task's.
    pub wall_s: Option<u64>,
    /// Own CPU time, s; None = the task's.
    pub cpu_s: Option<u64>,
}

/// A body in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BodyRef {
    /// SHA-256, lower-case hex.
    pub digest: String,
    /// Size, bytes.
    pub bytes: u64,
}

/// What is submitted: the argument of `SubmitTask`, and the keys of a task file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskSpec {
    /// For people.
    #[serde(default)]
    pub name: String,
    /// Which pool's VMs.
    pub pool: String,
    /// Label of who submits.
    #[serde(default)]
    pub user: String,
    /// A tar archive, unpacked in the home directory; uploaded before.
    #[serde(default)]
    pub input: Option<BodyRef>,
    /// Runs first; when it fails nothing else runs.
    #[serde(default)]
    pub compile: Option<Step>,
    /// Run one after the other.
    pub execute: Vec<Step>,
    /// Whether later steps run after one that failed.
    #[serde(default)]
    pub keep_going: bool,
    /// Limits of each step.
    #[serde(default)]
    pub limits: Limits,
    /// Added to PATH, HOME and LANG.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Lower is more urgent.
    #[serde(default)]
    pub priority: i32,
    /// Attempts in all, for infrastructure failures only.
    #[serde(default = "attempts_default")]
    pub max_attempts: u32,
    /// For people and filters.
    #[serde(default)]
    pub labels: BTreeSet<String>,
    /// Submitting again with the same key answers the same task (C1).
    #[serde(default)]
    pub key: Option<String>,
}

fn attempts_default() -> u32 {
    ATTEMPTS_DEFAULT
}

/// State of a task; the numbers are Judicator's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "u8", try_from = "u8")]
#[repr(u8)]
pub enum TaskState {
    /// In line for its first VM.
    Pending = 0,
    /// Compiles.
    Compiling = 1,
    /// The compile step failed; final.
    CompileFailed = 2,
    /// Executes.
    Running = 3,
    /// A step failed; final.
    RunFailed = 4,
    /// All steps succeeded; final.
    Success = 5,
    /// In line again after an infrastructure failure.
    Retrying = 6,
    /// Cancelled; final.
    Cancelled = 7,
    /// Gave up for infrastructure failures; final.
    Unknown = 8,
}

impl From<TaskState> for u8 {
    fn from(state: TaskState) -> Self {
        state as Self
    }
}

impl TryFrom<u8> for TaskState {
    type Error = String;
    fn try_from(number: u8) -> Result<Self, String> {
        let all = [
            Self::Pending,
            Self::Compiling,
            Self::CompileFailed,
            Self::Running,
            Self::RunFailed,
            Self::Success,
            Self::Retrying,
            Self::Cancelled,
            Self::Unknown,
        ];
        all.get(usize::from(number)).copied().ok_or_else(|| format!("{number} is no task state"))
    }
}

impl TaskState {
    /// The word people read.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Compiling => "compiling",
            Self::CompileFailed => "compile-failed",
            Self::Running => "running",
            Self::RunFailed => "run-failed",
            Self::Success => "success",
            Self::Retrying => "retrying",
            Self::Cancelled => "cancelled",
            Self::Unknown => "unknown-error",
        }
    }

    /// Whether nothing changes any more.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(
            self,
            Self::CompileFailed | Self::RunFailed | Self::Success | Self::Cancelled | Self::Unknown
        )
    }
}

/// Which attempt of which task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AttemptRef {
    /// The task.
    pub task: TaskId,
    /// From 1.
    pub number: u32,
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AttemptOutcome {
    /// Every step exited with 0.
    UserOk,
    /// A step failed or met a limit: never retried.
    UserFail,
    /// The VM, its node or a daemon failed: retried, not the user's.
    InfraFail,
    /// On request.
    Cancelled,
}

impl AttemptOutcome {
    /// The word people read.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UserOk => "user-ok",
            Self::UserFail => "user-fail",
            Self::InfraFail => "infra-fail",
            Self::Cancelled => "cancelled",
        }
    }
}

/// One attempt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    /// From 1.
    pub number: u32,
    /// Its lease, drawn before it is asked for.
    pub lease: LeaseUuid,
    /// Its job, once the lease was granted.
    #[serde(default)]
    pub job: Option<JobId>,
    /// Its VM, once granted.
    #[serde(default)]
    pub vm: Option<crate::lease::LeasedVm>,
    /// Name of its slot, for people.
    #[serde(default)]
    pub slot_name: String,
    /// When its job was made.
    #[serde(default)]
    pub start: Option<Ts>,
    /// When it ended.
    #[serde(default)]
    pub end: Option<Ts>,
    /// How.
    #[serde(default)]
    pub outcome: Option<AttemptOutcome>,
    /// Why, when not well.
    #[serde(default)]
    pub why: Option<String>,
}

/// Bytes a step wrote to one stream.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// How many were kept.
    pub bytes: u64,
    /// All of them, when they are text and at most [`INLINE_BYTES_MAX`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Else their digest in the body store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
}

/// Why a step ended: the first that holds; exit code 0 before all (DESIGN §7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EndWhy {
    /// By itself; see the exit code.
    Exit,
    /// By a signal nobody of Gantry sent; see the signal.
    Signal,
    /// On request.
    Cancelled,
    /// Wrote more than may be kept of a stream.
    Output,
    /// Wall clock limit.
    Wall,
    /// CPU limit.
    Cpu,
    /// Memory limit: the kernel killed for it.
    Memory,
    /// Disk limit: the room for files was full.
    Disk,
    /// Process limit.
    Pids,
}

impl EndWhy {
    /// The word people read.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exit => "exit",
            Self::Signal => "signal",
            Self::Cancelled => "cancelled",
            Self::Output => "output limit",
            Self::Wall => "wall limit",
            Self::Cpu => "cpu limit",
            Self::Memory => "memory limit",
            Self::Disk => "disk limit",
            Self::Pids => "process limit",
        }
    }
}

/// What became of one step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepResult {
    /// Its name.
    pub name: String,
    /// Whether it is the compile step.
    #[serde(default)]
    pub compile: bool,
    /// Why it ended.
    pub why: EndWhy,
    /// Exit code, when it exited.
    #[serde(default)]
    pub exit: Option<i32>,
    /// Signal, when one ended it.
    #[serde(default)]
    pub signal: Option<i32>,
    /// Wall clock, ms.
    pub wall_ms: u64,
    /// CPU time of the VM meanwhile, µs.
    pub cpu_us: u64,
    /// Highest memory of the VM so far, bytes.
    pub memory_peak_bytes: u64,
    /// More was written to a stream than kept.
    #[serde(default)]
    pub truncated: bool,
    /// Standard output.
    pub out: Output,
    /// Standard error.
    pub err: Output,
}

impl StepResult {
    /// Whether it did what it should.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.why == EndWhy::Exit && self.exit == Some(0)
    }
}

/// A file found under `out/`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    /// Below `out/`.
    pub path: String,
    /// Size, bytes.
    pub bytes: u64,
}

/// The stored result of a task (I6: one, by its current attempt).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskResult {
    /// The steps that ran, in order.
    pub steps: Vec<StepResult>,
    /// What was found under `out/`.
    #[serde(default)]
    pub artifacts: Vec<Artifact>,
    /// A tar archive of them in the body store; None when there are none.
    #[serde(default)]
    pub archive: Option<BodyRef>,
    /// Entries of `out/` that are no regular files, or did not fit the limit, and were left out.
    #[serde(default)]
    pub refused: u64,
    /// Files of the archive that `artifacts` does not name: they are too many for a record.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unnamed: u64,
    /// CPU time of the whole attempt, µs.
    #[serde(default)]
    pub cpu_us: u64,
    /// Wall clock of all steps, ms.
    #[serde(default)]
    pub wall_ms: u64,
    /// Highest memory of the VM, bytes.
    #[serde(default)]
    pub memory_peak_bytes: u64,
    /// Bytes read from and written to block devices, where the kernel counts them. A VM's own files are in memory: only
    /// what it read of its image can be here.
    #[serde(default)]
    pub io_bytes: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// What OP_TASK_RUN answers: its opcode result. A job that ends in error instead was an infrastructure failure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunReport {
    /// [`TaskState::Success`], [`TaskState::RunFailed`] or [`TaskState::CompileFailed`].
    pub state: TaskState,
    /// Why, when not well: "step 2: memory limit".
    #[serde(default)]
    pub why: Option<String>,
    /// What is stored.
    pub result: TaskResult,
}

/// A task: the body of a `task` object in queue.data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Task {
    /// Its number.
    pub id: TaskId,
    /// What was submitted.
    pub spec: TaskSpec,
    /// Where it stands.
    pub state: TaskState,
    /// When it was submitted.
    pub received: Ts,
    /// When its first attempt began.
    #[serde(default)]
    pub start: Option<Ts>,
    /// Set exactly when it is final.
    #[serde(default)]
    pub end: Option<Ts>,
    /// Its attempts; the last is the current one. An attempt without job waits for its lease.
    #[serde(default)]
    pub attempts: Vec<Attempt>,
    /// Not before then, after an infrastructure failure.
    #[serde(default)]
    pub not_before: Option<Ts>,
    /// Why it waits, or why it ended as it did.
    #[serde(default)]
    pub why: Option<String>,
    /// Its result, once one is stored.
    #[serde(default)]
    pub result: Option<TaskResult>,
    /// The task it runs again.
    #[serde(default)]
    pub rerun_of: Option<TaskId>,
}

impl Task {
    /// Digests of the bodies it names: input, archive, outputs too long for a record.
    pub fn bodies(&self) -> impl Iterator<Item = &str> {
        self.sized_bodies().map(|(digest, _)| digest)
    }

    /// The same, each with its size in bytes.
    pub fn sized_bodies(&self) -> impl Iterator<Item = (&str, u64)> {
        let result = self.result.iter();
        let archive = result.clone().filter_map(|r| r.archive.as_ref());
        let whole = self.spec.input.iter().chain(archive).map(|body| (body.digest.as_str(), body.bytes));
        let steps = result.flat_map(|r| &r.steps);
        let outputs = steps.flat_map(|step| [&step.out, &step.err]);
        whole.chain(outputs.filter_map(|out| Some((out.digest.as_deref()?, out.bytes))))
    }

    /// The current attempt, if one was begun and has not ended.
    #[must_use]
    pub fn current(&self) -> Option<&Attempt> {
        self.attempts.last().filter(|attempt| attempt.outcome.is_none())
    }
}

/// Name of the command for step `n` of an attempt (compile is 0, execute steps count from 1), as vmd knows it: the
/// same name attaches and never runs twice (P5.5).
#[must_use]
pub fn exec_name(lease: LeaseUuid, attempt: u32, step: usize) -> String {
    format!("{lease}.{attempt}.{step}")
}

/// A VM's place, for people and for relaying.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmPlace {
    /// Where.
    pub node: NodeUuid,
    /// The slot.
    pub slot: InstanceUuid,
    /// Its generation.
    pub generation: Generation,
}

#[cfg(test)]
mod tests;
