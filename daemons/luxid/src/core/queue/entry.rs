//! One live job as the queue keeps it: what is stored, and what is in memory only.

use super::event::{Ask, Process};
use super::schedule::Bucket;
use gantry_model::error::GanetiError;
use gantry_model::ids::{JobId, StartNo};
use gantry_model::job::{Job, OpState, PRECEDING_FAILED, Phase, Status};
use gantry_model::opcode::{Secret, is_redacted};
use gantry_model::time::Ts;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Source of the reason entry of a job whose process could not be started (`spec/jobs.md` §5).
pub(super) const REASON_START: &str = "gnt:daemon:luxid:startjobs";
/// The same for a job whose process died.
pub(super) const REASON_DEATH: &str = "gnt:daemon:luxid:deathdetection";
/// Result of an opcode whose secret parameters were lost with a restart (DESIGN §6).
pub(super) const SECRETS_LOST: &str =
    "the secret parameters of this job were lost when luxid restarted; submit it again";

/// How far the current start got, as far as memory knows. See the picture in [`super`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// No start under way: the job is queued or over.
    Idle,
    /// A process is being started; it has not said ready.
    Starting(StartNo),
    /// It is ready; `running` is on its way to the disk.
    Storing(StartNo),
    /// `running` is durable and go is being said; the job may or may not have heard it.
    Going(StartNo),
    /// It was told to go, or an earlier luxid may have told it.
    Running(StartNo),
}

/// A live job.
#[derive(Debug)]
pub(super) struct Entry {
    /// The newest state, committed or not.
    pub job: Arc<Job>,
    /// Its revision in queue.data.
    pub rev: u64,
    /// The process of the current start; stored with the job.
    pub process: Option<Process>,
    /// Revision and status that clients see.
    pub shown: Option<(u64, Status)>,
    pub stage: Stage,
    /// Per opcode; empty when there are none, or when they were lost.
    pub secrets: Vec<Vec<Secret>>,
    pub buckets: BTreeSet<Bucket>,
    /// Jobs that must be over first.
    pub waits_for: BTreeSet<JobId>,
    pub failed_starts: u32,
    /// The opcode at which the current start must stop, because of a dependency, and how (`spec/jobs.md` §6).
    pub stop_at: Option<(usize, Ending)>,
    /// Somebody had the process killed: it is not to be started again.
    pub killed: bool,
    /// Who waits to hear how a cancel ended.
    pub cancelers: Vec<Ask>,
    /// Number of the newest report of the current start.
    pub report: u64,
    /// JSON bytes of the kept log.
    pub log_bytes: usize,
}

impl Entry {
    pub fn new(job: Job, rev: u64, process: Option<Process>) -> Self {
        let buckets = super::schedule::buckets(&job);
        let log_bytes = super::merge::log_bytes(&job);
        Self {
            job: Arc::new(job),
            rev,
            process,
            shown: None,
            stage: Stage::Idle,
            secrets: Vec::new(),
            buckets,
            waits_for: BTreeSet::new(),
            failed_starts: 0,
            stop_at: None,
            killed: false,
            cancelers: Vec::new(),
            report: 0,
            log_bytes,
        }
    }

    /// The current start, from the spawning of its process to the end of the job.
    pub fn start(&self) -> Option<StartNo> {
        match self.stage {
            Stage::Idle => None,
            Stage::Starting(s) | Stage::Storing(s) | Stage::Going(s) | Stage::Running(s) => Some(s),
        }
    }

    /// Whether it waits for a start.
    pub fn is_queued(&self) -> bool {
        self.job.phase == Phase::Queued && self.stage == Stage::Idle
    }

    /// Whether nothing changes any more, but that it may be archived.
    pub fn is_over(&self) -> bool {
        self.job.phase == Phase::Ended
    }

    pub fn job_mut(&mut self) -> &mut Job {
        Arc::make_mut(&mut self.job)
    }

    /// Whether it carries a secret that nobody has any more.
    pub fn lost_secrets(&self) -> bool {
        let held = |index: usize| self.secrets.get(index).is_some_and(|s| !s.is_empty());
        let ops = self.job.ops.iter().enumerate();
        self.job.had_secrets
            && ops.filter(|(_, op)| !op.status.is_final()).any(|(i, op)| is_redacted(&op.input) && !held(i))
    }
}

/// Why a job ends other than by its own report.
#[derive(Debug, Clone)]
pub(super) enum Ending {
    /// On request.
    Canceled,
    /// The first unfinished opcode failed by itself, hence the later ones too.
    Failed(GanetiError),
    /// All unfinished opcodes failed for the same reason: source of the reason entry, text.
    Lost(&'static str, String),
}

/// Ends the opcodes that have not ended.
pub(super) fn end_ops(job: &mut Job, ending: &Ending, now: Ts) {
    let mut first = true;
    for op in job.ops.iter_mut().filter(|op| !op.status.is_final()) {
        match ending {
            Ending::Canceled => op.end(Status::Canceled, json!(gantry_model::job::CANCELED_RESULT), now),
            Ending::Failed(why) if first => op.end(Status::Error, why.to_value(), now),
            Ending::Failed(_) => {
                op.end(Status::Error, GanetiError::exec(PRECEDING_FAILED).to_value(), now);
            }
            Ending::Lost(source, text) => {
                add_reason(op, source, text, now);
                op.end(Status::Error, json!(text), now);
            }
        }
        first = false;
    }
}

/// Adds an entry to an opcode's reason trail (`spec/jobs.md` §5).
pub(super) fn add_reason(op: &mut OpState, source: &str, text: &str, now: Ts) {
    let entry = json!([source, text, now.0 * 1_000_000_000 + u64::from(now.1) * 1000]);
    match op.input.get_mut("reason") {
        Some(Value::Array(trail)) => trail.push(entry),
        Some(_) | None => {
            op.input.insert("reason".to_owned(), json!([entry]));
        }
    }
}
