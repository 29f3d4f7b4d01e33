//! Jobs and opcodes as stored and shown (`spec/jobs.md` §2, §3): states, log entries, reports.

use crate::ids::{JobId, JobOwner, StartNo};
use crate::time::Ts;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Lowest and highest priority number; lower is more urgent.
pub const PRIORITY_MIN: i32 = -20;
/// See [`PRIORITY_MIN`].
pub const PRIORITY_MAX: i32 = 19;
/// Most bytes of JSON that one job's opcodes, or one opcode's result, may take (DESIGN §6).
pub const JOB_JSON_BYTES_MAX: usize = 1 << 20;
/// Result of opcodes that never ran because an earlier one failed (`spec/jobs.md` §3).
pub const PRECEDING_FAILED: &str = "Preceding opcode failed";
/// Result of cancelled opcodes (`spec/jobs.md` §3).
pub const CANCELED_RESULT: &str = "Job canceled by request";

/// Status word of an opcode or a job, in Ganeti's order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Not picked up.
    Queued,
    /// Waits for locks.
    Waiting,
    /// Will end as canceled.
    Canceling,
    /// Works.
    Running,
    /// Ended by request.
    Canceled,
    /// Ended well.
    Success,
    /// Ended badly.
    Error,
}

impl Status {
    /// The word on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Waiting => "waiting",
            Self::Canceling => "canceling",
            Self::Running => "running",
            Self::Canceled => "canceled",
            Self::Success => "success",
            Self::Error => "error",
        }
    }

    /// Whether nothing changes any more.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Canceled | Self::Success | Self::Error)
    }
}

/// One log entry: serial (over the whole job, from 1), time, type, message (`spec/jobs.md` §4).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LogEntry(pub u64, pub Ts, pub String, pub Value);

/// One opcode of a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OpState {
    /// The opcode object with all parameters; secrets redacted.
    pub input: Map<String, Value>,
    /// Where it stands.
    pub status: Status,
    /// None until finished; `[class, [args]]` or a text on error.
    #[serde(default)]
    pub result: Value,
    /// Its log.
    #[serde(default)]
    pub log: Vec<LogEntry>,
    /// Current priority.
    pub priority: i32,
    /// Status left `queued`.
    #[serde(default)]
    pub start_timestamp: Option<Ts>,
    /// Locks held, work begins.
    #[serde(default)]
    pub exec_timestamp: Option<Ts>,
    /// Finished.
    #[serde(default)]
    pub end_timestamp: Option<Ts>,
}

impl OpState {
    /// A fresh opcode.
    #[must_use]
    pub fn new(input: Map<String, Value>) -> Self {
        let priority = input.get("priority").and_then(Value::as_i64).unwrap_or(0);
        Self {
            input,
            status: Status::Queued,
            result: Value::Null,
            log: Vec::new(),
            priority: i32::try_from(priority).unwrap_or(0).clamp(PRIORITY_MIN, PRIORITY_MAX),
            start_timestamp: None,
            exec_timestamp: None,
            end_timestamp: None,
        }
    }

    /// Ends it, unless it has ended.
    pub fn end(&mut self, status: Status, result: Value, now: Ts) {
        if !self.status.is_final() {
            self.status = status;
            self.result = result;
            self.end_timestamp = Some(now);
        }
    }
}

/// Where luxid stands with a job, beside the status words clients see (P4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "phase")]
pub enum Phase {
    /// No process. (A start that is under way is in luxid's memory only: P4.1.)
    Queued,
    /// The process of this start was told to go, or is about to be.
    Running {
        /// The start.
        start: StartNo,
    },
    /// Over.
    Ended,
}

/// Which limit of running jobs a job counts against (DESIGN §6).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// Submitted over LUXI: `max_running_jobs`.
    #[default]
    Ganeti,
    /// An attempt of a task: limited by the leases there are.
    Attempt,
    /// A reconciler's keyed job: 2 per vm-capable node, 64 in all.
    Reconcile,
}

/// A job: the body of a `job` object in queue.data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// Its number.
    pub id: JobId,
    /// Its opcodes, in order of execution.
    pub ops: Vec<OpState>,
    /// When it was submitted.
    pub received_timestamp: Ts,
    /// When its first opcode was picked up.
    #[serde(default)]
    pub start_timestamp: Option<Ts>,
    /// Set exactly when it is final.
    #[serde(default)]
    pub end_timestamp: Option<Ts>,
    /// Where luxid stands with it.
    #[serde(flatten)]
    pub phase: Phase,
    /// Whether it lies in the archive.
    #[serde(default)]
    pub archived: bool,
    /// Whether the submitted opcodes carried secrets, which live in luxid's memory only.
    #[serde(default)]
    pub had_secrets: bool,
    /// Pid of its process, for people.
    #[serde(default)]
    pub process_id: Option<u32>,
    /// Highest W index the job saw: it is shown final only once the configuration copy is that far.
    #[serde(default)]
    pub seen_w: u64,
    /// Which running limit it counts against.
    #[serde(default)]
    pub class: Class,
    /// The reconciler's key (kind, entity, generation): at most one live job has it (I10).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The attempt it executes, for jobs of class [`Class::Attempt`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<crate::task::AttemptRef>,
}

impl Job {
    /// The status word of the whole job, by scanning its opcodes (`spec/jobs.md` §3).
    #[must_use]
    pub fn status(&self) -> Status {
        let mut status = Status::Queued;
        let mut all_success = !self.ops.is_empty();
        for op in &self.ops {
            match op.status {
                Status::Success => continue,
                Status::Queued => {}
                Status::Waiting | Status::Running => status = op.status,
                Status::Error | Status::Canceling | Status::Canceled => return op.status,
            }
            all_success = false;
        }
        if all_success { Status::Success } else { status }
    }

    /// Most urgent priority number among unfinished opcodes, 0 when none is left.
    #[must_use]
    pub fn priority(&self) -> i32 {
        self.ops.iter().filter(|op| !op.status.is_final()).map(|op| op.priority).min().unwrap_or(0)
    }

    /// The owner of its locks while it runs.
    #[must_use]
    pub fn owner(&self) -> Option<JobOwner> {
        match self.phase {
            Phase::Running { start } => Some(JobOwner { job: self.id, start }),
            Phase::Queued | Phase::Ended => None,
        }
    }
}

/// What changed in one opcode since it began: part of a report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OpReport {
    /// Where it stands.
    pub status: Status,
    /// Null until finished.
    #[serde(default)]
    pub result: Value,
    /// Its current priority.
    pub priority: i32,
    /// The opcode as the job expanded it (full names, uuids), if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<Map<String, Value>>,
    /// Times.
    #[serde(default)]
    pub start: Option<Ts>,
    /// Times.
    #[serde(default)]
    pub exec: Option<Ts>,
    /// Times.
    #[serde(default)]
    pub end: Option<Ts>,
    /// Log entries luxid has not confirmed yet, at most [`JOB_JSON_BYTES_MAX`] of the whole job.
    #[serde(default)]
    pub log: Vec<LogEntry>,
}

/// A job's whole state as its process knows it: cumulative, so that the last one says all (P4.4).
/// JSON on its way to luxid and in the spool file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Whose it is.
    pub owner: JobOwner,
    /// Rises with every report of this start.
    pub number: u64,
    /// What has become of it.
    pub outcome: Outcome,
    /// One entry per opcode.
    pub ops: Vec<OpReport>,
    /// Highest W index seen.
    pub seen_w: u64,
    /// Where an attempt's work stands: the task state it is in ([`crate::task::TaskState`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<crate::task::TaskState>,
}

/// How far a start of a job got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Still at work.
    Underway,
    /// All opcodes final.
    Ended,
    /// The process left before it was told to go (P4.3): nothing was done.
    NeverBegan,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(words: &[Status]) -> Job {
        let op = |status: &Status| OpState { status: *status, ..OpState::new(Map::new()) };
        Job {
            id: JobId(1),
            ops: words.iter().map(op).collect(),
            received_timestamp: Ts(1, 2),
            start_timestamp: None,
            end_timestamp: None,
            phase: Phase::Queued,
            archived: false,
            had_secrets: false,
            process_id: None,
            seen_w: 0,
            class: Class::Ganeti,
            key: None,
            attempt: None,
        }
    }

    #[test]
    fn a_jobs_status_follows_from_its_opcodes() {
        use Status::{Canceled, Canceling, Error, Queued, Running, Success, Waiting};
        for (ops, want) in [
            (&[Queued, Queued][..], Queued),
            (&[Success, Queued], Queued),
            (&[Success, Waiting], Waiting),
            (&[Success, Running, Queued], Running),
            (&[Success, Error, Error], Error),
            (&[Success, Canceled], Canceled),
            (&[Canceling, Queued], Canceling),
            (&[Success, Success], Success),
            (&[], Queued),
        ] {
            assert_eq!(job(ops).status(), want, "{ops:?}");
        }
    }

    #[test]
    fn a_job_is_read_back_as_written() {
        let mut one = job(&[Status::Running]);
        one.phase = Phase::Running { start: StartNo { epoch: 1, run: 2, counter: 3 } };
        let text = serde_json::to_string(&one).unwrap();
        assert_eq!(serde_json::from_str::<Job>(&text).unwrap(), one);
    }
}
