//! Submission (`spec/jobs.md` §5): the check of opcodes, which needs no queue, and the taking of a job.

use super::entry::{Entry, add_reason};
use super::event::{Answer, Ask};
use super::show::After;
use super::{LIVE_JOBS_MAX, Queue, rows};
use gantry_model::error::{Ecode, GanetiError};
use gantry_model::ids::JobId;
use gantry_model::job::{Class, JOB_JSON_BYTES_MAX, Job, OpState, Phase};
use gantry_model::opcode::{OP_ID, OpcodeError, Secret, check, redact};
use gantry_model::task::AttemptRef;
use gantry_model::time::Ts;
use serde_json::{Map, Value, json};

/// A checked job that has no number yet. Its opcodes are redacted.
#[derive(Debug, Clone)]
pub struct NewJob {
    ops: Vec<Map<String, Value>>,
    secrets: Vec<Vec<Secret>>,
    bytes: usize,
}

/// Where a job comes from.
#[derive(Debug, Default)]
pub(super) struct Origin {
    class: Class,
    key: Option<String>,
    attempt: Option<AttemptRef>,
}

impl Origin {
    pub fn attempt(at: AttemptRef, key: Option<String>) -> Self {
        Self { class: Class::Attempt, key, attempt: Some(at) }
    }

    pub fn keyed(key: String) -> Self {
        Self { class: Class::Reconcile, key: Some(key), attempt: None }
    }
}

/// Why a job is refused before the queue sees it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// An opcode is wrong. Ganeti calls that a request that cannot be parsed.
    #[error(transparent)]
    Opcode(#[from] OpcodeError),
}

/// Checks a job's opcodes, fills in their defaults, and takes the secrets out. Takes time with large
/// opcodes, so it is called outside the queue's task.
///
/// # Errors
/// The first opcode that is wrong.
pub fn prepare(ops: Vec<Map<String, Value>>) -> Result<NewJob, SubmitError> {
    let mut job = NewJob { ops: Vec::with_capacity(ops.len()), secrets: Vec::new(), bytes: 0 };
    for op in ops {
        let mut op = check(&Value::Object(op))?;
        job.secrets.push(redact(&mut op));
        job.bytes += serde_json::to_string(&op).map_or(usize::MAX, |text| text.len());
        job.ops.push(op);
        if job.bytes > JOB_JSON_BYTES_MAX {
            job.ops.clear();
            job.secrets.clear();
            break;
        }
    }
    Ok(job)
}

impl NewJob {
    /// Why it is no job, if so.
    fn refusal(&self) -> Option<GanetiError> {
        if self.bytes > JOB_JSON_BYTES_MAX {
            let text = format!("the opcodes of a job may take {JOB_JSON_BYTES_MAX} bytes of JSON together");
            return Some(GanetiError::prereq(text, Ecode::WrongInput));
        }
        let text = "a job needs at least one opcode";
        self.ops.is_empty().then(|| GanetiError::prereq(text, Ecode::WrongInput))
    }

    /// The job under its number: dependencies absolute, reason trails with an entry each.
    fn into_job(self, id: JobId, now: Ts, origin: Origin) -> Result<(Job, Vec<Vec<Secret>>), GanetiError> {
        let had_secrets = self.secrets.iter().any(|s| !s.is_empty());
        let mut ops = Vec::with_capacity(self.ops.len());
        for (index, mut input) in self.ops.into_iter().enumerate() {
            resolve_depends(&mut input, id)?;
            let name = input.get(OP_ID).and_then(Value::as_str).unwrap_or_default();
            let source = format!("gnt:opcode:{}", name.trim_start_matches("OP_").to_lowercase());
            let mut op = OpState::new(input);
            add_reason(&mut op, &source, &format!("job={id};index={index}"), now);
            ops.push(op);
        }
        let job = Job {
            id,
            ops,
            received_timestamp: now,
            start_timestamp: None,
            end_timestamp: None,
            phase: Phase::Queued,
            archived: false,
            had_secrets,
            process_id: None,
            seen_w: 0,
            class: origin.class,
            key: origin.key,
            attempt: origin.attempt,
        };
        Ok((job, if had_secrets { self.secrets } else { Vec::new() }))
    }
}

/// Makes the job numbers in `depends` absolute (`spec/jobs.md` §6).
fn resolve_depends(input: &mut Map<String, Value>, id: JobId) -> Result<(), GanetiError> {
    for entry in input.get_mut("depends").and_then(Value::as_array_mut).into_iter().flatten() {
        let Some(job) = entry.get_mut(0) else { continue };
        let number = job.as_i64().unwrap_or(0);
        let own = i64::try_from(id.0).unwrap_or(i64::MAX);
        let target = if number > 0 { number } else { own.saturating_add(number) };
        if target == own {
            return Err(GanetiError::prereq(format!("job {id} would depend on itself"), Ecode::WrongInput));
        }
        if target < 1 {
            let text = format!("dependency {number} of job {id} names no job");
            return Err(GanetiError::prereq(text, Ecode::WrongInput));
        }
        *job = json!(target);
    }
    Ok(())
}

impl Queue {
    pub(super) fn submit(&mut self, now: Ts, ask: Ask, job: NewJob, into_drained: bool) {
        if self.drained && !into_drained {
            return self.reply(ask, Err(drained()));
        }
        let answer = self.add(now, job, JobId(self.last_id + 1), Origin::default());
        if let Ok(id) = answer {
            self.give_out(id);
        }
        self.reply(ask, answer.map(Answer::Submitted));
    }

    pub(super) fn submit_many(&mut self, now: Ts, ask: Ask, jobs: Vec<NewJob>) {
        if self.drained {
            return self.reply(ask, Err(drained()));
        }
        let first = self.last_id + 1;
        let ids = first..first + jobs.len() as u64;
        let answers: Vec<_> =
            ids.clone().zip(jobs).map(|(id, job)| self.add(now, job, JobId(id), Origin::default())).collect();
        // Refused jobs keep their number too: relative dependencies of the later ones count them.
        if !ids.is_empty() && answers.iter().any(Result::is_ok) {
            self.give_out(JobId(ids.end - 1));
        }
        self.reply(ask, Ok(Answer::SubmittedMany(answers)));
    }

    pub(super) fn add(
        &mut self,
        now: Ts,
        job: NewJob,
        id: JobId,
        origin: Origin,
    ) -> Result<JobId, GanetiError> {
        if let Some(refusal) = job.refusal() {
            return Err(refusal);
        }
        let full = |queue: &Self| queue.lanes.of(Class::Ganeti).live >= LIVE_JOBS_MAX;
        if origin.class == Class::Ganeti && full(self) {
            self.make_room();
            if full(self) {
                return Err(GanetiError { class: "JobQueueFull".to_owned(), args: Vec::new() });
            }
        }
        let (job, secrets) = job.into_job(id, now, origin)?;
        self.lanes.of_mut(job.class).live += 1;
        let mut entry = Entry::new(job, 0, None);
        entry.secrets = secrets;
        self.live.insert(id, entry);
        self.dirty.insert(id);
        self.enqueue(id);
        Ok(id)
    }

    /// Records that ids up to `last` are used up.
    pub(super) fn give_out(&mut self, last: JobId) {
        self.last_id = last.0;
        self.serial_rev += 1;
        self.serials.insert("job", rows::serial("job", last.0, self.serial_rev));
    }

    pub(super) fn set_drained(&mut self, ask: Ask, flag: bool) {
        self.drained = flag;
        self.setting_rev += 1;
        self.changes.push(rows::setting("drained", &json!(flag), self.setting_rev));
        self.after.push(After::Drained(flag));
        self.reply(ask, Ok(Answer::Set));
    }

    pub(super) fn set_watcher_pause(&mut self, ask: Ask, until: Option<f64>) {
        self.setting_rev += 1;
        self.changes.push(rows::setting("watcher_pause", &json!(until), self.setting_rev));
        self.after.push(After::WatcherPause(until));
        self.reply(ask, Ok(Answer::Set));
    }
}

pub(super) fn drained() -> GanetiError {
    GanetiError::new("JobQueueDrainError", "Job queue is drained, refusing job")
}
