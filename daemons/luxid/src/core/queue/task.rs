//! Tasks: taken, cancelled, run again, put in line, retried, removed (`model.md` §2.5). What an attempt goes through is in
//! [`super::attempt`].
//!
//! ```text
//!            line's head, attempt stored      granted            job ends, result stored
//!   in line ───────────────────────────▶ asking ──────▶ working ───────────────────────▶ over
//!     ▲  ▲              wait              │                │ infra-fail
//!     │  └────────────────────────────────┘                │
//!     └──────────────── later (0.2 s to 10 s) ◀────────────┘
//! ```
//! A task row and its place in line are one record: the stages are worked out from it after a restart (C2).

use super::event::{Answer, Ask};
use super::line::{Place, Who};
use super::show::{After, Topic};
use super::{Holder, Queue, Timer, rows};
use gantry_model::error::{Ecode, GanetiError};
use gantry_model::ids::TaskId;
use gantry_model::task::{AttemptOutcome, Task, TaskSpec, TaskState, WAITING_TASKS_MAX};
use gantry_model::time::Ts;
use std::sync::Arc;

/// Largest specification, in bytes of JSON: it travels in an opcode, and a job's opcodes may take 1 MiB.
pub const SPEC_BYTES_MAX: usize = 512 << 10;
/// Most bytes of all specifications that wait or run together: all of them are in memory.
pub const SPECS_BYTES_MAX: usize = 512 << 20;
/// Longest text kept of why an attempt ended, in bytes: a task has one for each attempt, and is one row of the log.
const WHY_BYTES_MAX: usize = 1024;
/// First and longest pause after an infrastructure failure, in milliseconds.
pub const BACKOFF_MS: (u64, u64) = (200, 10_000);

/// How far a task is, in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// In line for a VM.
    InLine,
    /// Gets in line later.
    Later(Ts),
    /// Its attempt is stored, or about to be; then wconfd is asked for its lease.
    Asking,
    /// Its attempt has a job.
    Working,
    /// Final.
    Over,
}

/// A task.
#[derive(Debug)]
pub(super) struct TaskEntry {
    /// The newest state, committed or not.
    pub task: Arc<Task>,
    /// Its revision in queue.data.
    pub rev: u64,
    /// The revision clients see.
    pub shown: Option<u64>,
    pub stage: Stage,
    /// Index of W at which its current lease was granted in this run.
    pub granted_at: u64,
    /// JSON bytes of its specification.
    pub bytes: usize,
}

impl TaskEntry {
    pub fn new(task: Task, rev: u64) -> Self {
        let bytes = spec_bytes(&task.spec);
        Self { task: Arc::new(task), rev, shown: None, stage: Stage::InLine, granted_at: 0, bytes }
    }

    pub fn task_mut(&mut self) -> &mut Task {
        Arc::make_mut(&mut self.task)
    }

    /// Whether its lease was granted, and no later than `index`.
    pub fn had_lease(&self, index: u64) -> bool {
        self.stage == Stage::Working && self.granted_at <= index
    }

    pub fn place(&self) -> Place {
        Place {
            priority: self.task.spec.priority,
            received: self.task.received,
            who: Who::Task(self.task.id),
        }
    }
}

/// Size of a specification, for its bounds.
#[must_use]
pub fn spec_bytes(spec: &TaskSpec) -> usize {
    serde_json::to_string(spec).map_or(usize::MAX, |text| text.len())
}

/// The pause after the infrastructure failure of an attempt.
fn backoff(now: Ts, attempt: u32) -> Ts {
    let ms = BACKOFF_MS.0.saturating_mul(1 << attempt.saturating_sub(1).min(16)).min(BACKOFF_MS.1);
    let micros = u64::from(now.1) + ms * 1000;
    Ts(now.0 + micros / 1_000_000, u32::try_from(micros % 1_000_000).expect("below a million"))
}

/// A reason as it is stored.
pub(super) fn cut(mut why: String) -> String {
    why.truncate(why.floor_char_boundary(WHY_BYTES_MAX));
    why
}

impl Queue {
    pub(super) fn submit_task(&mut self, now: Ts, ask: Ask, spec: TaskSpec, refusal: Option<GanetiError>) {
        let known = spec.key.as_ref().and_then(|key| self.task_keys.get(key)).copied();
        let answer = match (known, refusal) {
            (Some(id), _) => Ok(id),
            (None, Some(why)) => Err(why),
            (None, None) => self.take_task(now, spec, None),
        };
        self.reply(ask, answer.map(Answer::TaskSubmitted));
    }

    pub(super) fn rerun_tasks(&mut self, now: Ts, ask: Ask, ids: Vec<TaskId>) {
        let answers = ids.into_iter().map(|id| self.rerun(now, id)).collect();
        self.reply(ask, Ok(Answer::TasksSubmitted(answers)));
    }

    fn rerun(&mut self, now: Ts, id: TaskId) -> Result<TaskId, GanetiError> {
        let entry = self.tasks.get(&id).ok_or_else(|| unknown(id))?;
        if !entry.task.state.is_final() {
            let text = format!("task {id} is {} and not over; cancel it first", entry.task.state.as_str());
            return Err(GanetiError::prereq(text, Ecode::WrongState));
        }
        let spec = TaskSpec { key: None, ..entry.task.spec.clone() };
        self.take_task(now, spec, Some(id))
    }

    fn take_task(
        &mut self,
        now: Ts,
        spec: TaskSpec,
        rerun_of: Option<TaskId>,
    ) -> Result<TaskId, GanetiError> {
        if self.drained {
            return Err(super::submit::drained());
        }
        let bytes = spec_bytes(&spec);
        self.room_for(bytes)?;
        self.last_task += 1;
        self.task_serial_rev += 1;
        self.serials.insert("task", rows::serial("task", self.last_task, self.task_serial_rev));
        let id = TaskId(self.last_task);
        let task = Task {
            id,
            spec,
            state: TaskState::Pending,
            received: now,
            start: None,
            end: None,
            attempts: Vec::new(),
            not_before: None,
            why: None,
            result: None,
            rerun_of,
        };
        if let Some(key) = &task.spec.key {
            self.task_keys.insert(key.clone(), id);
        }
        self.spec_bytes += bytes;
        self.tasks.insert(id, TaskEntry::new(task, 0));
        self.dirty_tasks.insert(id);
        self.line_up(id);
        Ok(id)
    }

    fn room_for(&self, bytes: usize) -> Result<(), GanetiError> {
        let refuse = |text: String| Err(GanetiError::prereq(text, Ecode::TempInsufficientResources));
        if bytes > SPEC_BYTES_MAX {
            let text = format!(
                "the task takes {bytes} bytes of JSON, at most {SPEC_BYTES_MAX} are possible; put what is large into its input"
            );
            return Err(GanetiError::prereq(text, Ecode::WrongInput));
        }
        if self.tasks.len() - self.final_tasks.len() >= WAITING_TASKS_MAX {
            return refuse(format!(
                "{WAITING_TASKS_MAX} tasks wait or run already; try again when some have ended"
            ));
        }
        if self.spec_bytes + bytes > SPECS_BYTES_MAX {
            return refuse(
                "the tasks that wait take too much memory; try again when some have ended".to_owned(),
            );
        }
        Ok(())
    }

    /// Puts a task in line, with the attempt it has or none.
    pub(super) fn line_up(&mut self, id: TaskId) {
        let Some(entry) = self.tasks.get_mut(&id) else { return };
        entry.stage = Stage::InLine;
        let (place, pool) = (entry.place(), entry.task.spec.pool.clone());
        self.lines.entry(pool.clone()).or_default().join(place, 1);
        self.stirred.insert(pool);
    }

    /// Its pause is over.
    pub(super) fn task_due(&mut self, id: TaskId) {
        if self.tasks.get(&id).is_some_and(|entry| matches!(entry.stage, Stage::Later(_))) {
            self.line_up(id);
        }
    }

    pub(super) fn cancel_task(&mut self, now: Ts, ask: Ask, id: TaskId) {
        let Some(entry) = self.tasks.get(&id) else {
            return self.told(ask, false, format!("Task {id} not found"));
        };
        let state = entry.task.state;
        if state.is_final() {
            return self.told(ask, false, format!("Task {id} is over already: {}", state.as_str()));
        }
        self.end_attempt(now, id, AttemptOutcome::Cancelled, Some("cancelled on request".to_owned()));
        self.end_task(now, id, TaskState::Cancelled, Some("cancelled on request".to_owned()));
        self.told(ask, true, format!("Task {id} cancelled"));
    }

    /// It can never be served.
    pub(super) fn task_hopeless(&mut self, now: Ts, id: TaskId, why: &str) {
        self.end_attempt(now, id, AttemptOutcome::InfraFail, Some(why.to_owned()));
        self.end_task(now, id, TaskState::Unknown, Some(why.to_owned()));
    }

    /// The current attempt failed, and not for what the user wrote: again later, or given up (I17).
    pub(super) fn retry(&mut self, now: Ts, id: TaskId, why: String) {
        let why = cut(why);
        self.end_attempt(now, id, AttemptOutcome::InfraFail, Some(why.clone()));
        let Some(entry) = self.tasks.get_mut(&id) else { return };
        let attempts = u32::try_from(entry.task.attempts.len()).unwrap_or(u32::MAX);
        if attempts >= entry.task.spec.max_attempts {
            let why = format!("gave up after {attempts} attempts: {why}");
            return self.end_task(now, id, TaskState::Unknown, Some(why));
        }
        let due = backoff(now, attempts);
        entry.stage = Stage::Later(due);
        let task = entry.task_mut();
        task.state = TaskState::Retrying;
        task.not_before = Some(due);
        task.why = Some(why);
        self.timers.insert((due, Timer::Task(id)));
        self.dirty_tasks.insert(id);
    }

    /// Makes a task final.
    pub(super) fn end_task(&mut self, now: Ts, id: TaskId, state: TaskState, why: Option<String>) {
        self.out_of_line(id);
        let Some(entry) = self.tasks.get_mut(&id) else { return };
        entry.stage = Stage::Over;
        let task = entry.task_mut();
        task.state = state;
        task.why = why.map(cut);
        task.not_before = None;
        task.end = Some(now);
        self.spec_bytes -= entry.bytes;
        self.dirty_tasks.insert(id);
        self.final_tasks.add(now, &entry.task);
        self.drop_final_tasks();
    }

    fn out_of_line(&mut self, id: TaskId) {
        let Some(entry) = self.tasks.get(&id) else { return };
        if entry.stage == Stage::InLine
            && let Some(line) = self.lines.get_mut(&entry.task.spec.pool)
        {
            line.leave(&entry.place());
            self.stirred.insert(entry.task.spec.pool.clone());
        }
    }

    /// Removes the oldest final tasks beyond what is kept.
    pub(super) fn drop_final_tasks(&mut self) {
        while let Some(id) = self.final_tasks.take_beyond() {
            let Some(entry) = self.tasks.remove(&id) else { continue };
            self.final_tasks.gone(&entry.task);
            if let Some(key) = &entry.task.spec.key {
                self.task_keys.remove(key);
            }
            self.dirty_tasks.remove(&id);
            self.changes.push(rows::remove(super::kind::TASK, &id, entry.rev + 1));
            self.after.push(After::TaskGone(id));
        }
    }

    /// Answers at once when there is something new to see, else when there is.
    pub(super) fn wait_task(&mut self, ask: Ask, id: TaskId, rev: u64) {
        let shown = self.tasks.get(&id).map(|entry| entry.shown);
        self.wait_for(ask, Topic::Task(id), shown, rev);
    }

    /// Ends the current attempt, if there is one. Its lease ends once that is stored and its job is over.
    pub(super) fn end_attempt(&mut self, now: Ts, id: TaskId, outcome: AttemptOutcome, why: Option<String>) {
        self.out_of_line(id);
        let Some(entry) = self.tasks.get_mut(&id) else { return };
        if entry.task.current().is_none() {
            return;
        }
        let Some(attempt) = entry.task_mut().attempts.last_mut() else { return };
        attempt.outcome = Some(outcome);
        attempt.why = why.map(cut);
        attempt.end = Some(now);
        let (lease, job) = (attempt.lease, attempt.job);
        self.dirty_tasks.insert(id);
        self.holders.insert(lease, Holder::Closing);
        if let Some(line) = self.lines.get_mut(&entry.task.spec.pool) {
            line.refuse(lease);
            // What it would have got another may ask for: if it was never granted no news will say so.
            self.stirred.insert(entry.task.spec.pool.clone());
        }
        match job.filter(|job| self.live.get(job).is_some_and(|entry| !entry.is_over())) {
            // The lease ends with the job.
            Some(job) => self.kill_attempt(now, job),
            None => self.after.push(After::EndLease(lease, outcome.as_str())),
        }
    }
}

pub(super) fn unknown(id: TaskId) -> GanetiError {
    GanetiError::prereq(format!("there is no task {id}"), Ecode::UnknownEntity)
}
