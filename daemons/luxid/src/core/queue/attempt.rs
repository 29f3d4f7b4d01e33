//! Attempts: a line's head gets its lease uuid stored and asks (C3), a grant makes the attempt's job, the job's report
//! stores the result (I6), and then the lease ends (P1.13): see [`super::turn_over`].

use super::entry::{Ending, Stage as Start};
use super::event::Action;
use super::line::Who;
use super::show::After;
use super::task::Stage;
use super::{Holder, Queue, Timer, submit, turn_over};
use gantry_model::ids::{JobId, JobOwner, LeaseUuid, TaskId};
use gantry_model::job::{Class, Job, Status};
use gantry_model::lease::{LeaseOwner, LeasedVm};
use gantry_model::opcode::OP_ID;
use gantry_model::task::{Attempt, AttemptOutcome, AttemptRef, RunReport, TaskState, lease_ms};
use gantry_model::time::Ts;
use serde_json::{Map, Value, json};

/// First and longest wait before a line that was told to wait asks again although nothing was heard of its pool, in
/// seconds: whether a node is claimed does not stand in the configuration.
const ASK_AGAIN_S: (u64, u64) = (1, 30);

/// The opcode of an attempt.
pub const OP_TASK_RUN: &str = "OP_TASK_RUN";

/// VMs granted, in order, and the names of their slots.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Grant {
    /// The VMs.
    pub vms: Vec<LeasedVm>,
    /// A name for each, as far as known.
    pub names: Vec<String>,
}

/// How an attempt's job ended.
enum Found {
    Result(Box<RunReport>),
    Failure(String),
}

impl Queue {
    /// Lets the heads of the lines ask, where there was news.
    pub(super) fn serve_lines(&mut self, now: Ts) {
        if !self.open {
            return;
        }
        for pool in std::mem::take(&mut self.stirred) {
            while let Some((who, count)) = self.lines.get_mut(&pool).and_then(super::line::Line::next) {
                let lease = match who {
                    Who::Task(id) => self.ask_for_task(id),
                    Who::Request(lease) => self.ask_for_request(lease),
                };
                if let (Some(lease), Some(line)) = (lease, self.lines.get_mut(&pool)) {
                    line.ask(lease, count);
                    self.after.push(After::Grab(lease));
                }
            }
            self.ask_again_later(now, &pool);
        }
    }

    fn ask_again_later(&mut self, now: Ts, pool: &str) {
        let Some(line) = self.lines.get_mut(pool) else { return };
        if line.stock.is_none() && line.is_idle() {
            self.lines.remove(pool);
            return;
        }
        if !line.waits() || line.stopped.is_none() && line.stock.is_some() || line.armed {
            return;
        }
        line.armed = true;
        let wait = ASK_AGAIN_S.0.saturating_mul(1 << line.stops.saturating_sub(1).min(10)).min(ASK_AGAIN_S.1);
        self.timers.insert((Ts(now.0 + wait, now.1), Timer::Pool(pool.to_owned())));
    }

    /// The line has waited for news long enough. Of a pool that was removed before somebody got in line none will come.
    pub(super) fn pool_due(&mut self, pool: String) {
        if let Some(line) = self.lines.get_mut(&pool) {
            line.stopped = None;
            line.armed = false;
            line.blind = line.stock.is_none();
            self.stirred.insert(pool);
        }
    }

    /// Gives a task its next attempt, unless it has one that has not begun: same k, same lease.
    fn ask_for_task(&mut self, id: TaskId) -> Option<LeaseUuid> {
        let fresh = LeaseUuid(uuid::Uuid::from_bytes(self.ids.fresh()));
        let entry = self.tasks.get_mut(&id)?;
        entry.stage = Stage::Asking;
        if let Some(attempt) = entry.task.current() {
            return Some(attempt.lease);
        }
        let task = entry.task_mut();
        let number = u32::try_from(task.attempts.len()).unwrap_or(u32::MAX).saturating_add(1);
        task.attempts.push(Attempt {
            number,
            lease: fresh,
            job: None,
            vm: None,
            slot_name: String::new(),
            start: None,
            end: None,
            outcome: None,
            why: None,
        });
        self.holders.insert(fresh, Holder::Wanted(Who::Task(id)));
        self.dirty_tasks.insert(id);
        Some(fresh)
    }

    /// The lease's uuid is stored: ask wconfd, unless it is wanted no more.
    pub(super) fn grab(&mut self, lease: LeaseUuid) {
        let Some(Holder::Wanted(who)) = self.holders.get(&lease).copied() else { return };
        let action = match who {
            Who::Task(id) => self.tasks.get(&id).and_then(|entry| {
                let attempt = entry.task.current().filter(|attempt| attempt.lease == lease)?;
                let spec = &entry.task.spec;
                let owner = LeaseOwner::Task { task: id, attempt: attempt.number };
                let (pool, for_ms) = (spec.pool.clone(), lease_ms(spec));
                Some(Action::Grab { lease, owner, pool, count: 1, for_ms, ttl_ms: None })
            }),
            Who::Request(_) => self.requests.get(&lease).map(|entry| {
                let request = &entry.request;
                Action::Grab {
                    lease,
                    owner: LeaseOwner::User { name: request.user.clone() },
                    pool: request.pool.clone(),
                    count: request.count,
                    for_ms: request.for_ms,
                    ttl_ms: request.ttl_ms,
                }
            }),
        };
        self.out.actions.extend(action);
    }

    /// wconfd has the lease, and its grant was not heard here: luxid or the connection died before. It is asked for
    /// again although no VM is clean: it has its own.
    pub(super) fn grab_again(&mut self, who: Who, lease: LeaseUuid) {
        let place = match who {
            Who::Task(id) => {
                self.tasks.get_mut(&id).filter(|entry| entry.stage == Stage::InLine).map(|entry| {
                    entry.stage = Stage::Asking;
                    (entry.task.spec.pool.clone(), entry.place(), 1)
                })
            }
            Who::Request(_) => {
                self.requests.get_mut(&lease).and_then(super::request::RequestEntry::ask_again)
            }
        };
        let Some((pool, place, count)) = place else { return };
        let line = self.lines.entry(pool).or_default();
        line.leave(&place);
        line.ask(lease, count);
        self.after.push(After::Grab(lease));
    }

    fn pool_of(&self, who: Who) -> Option<String> {
        match who {
            Who::Task(id) => self.tasks.get(&id).map(|entry| entry.task.spec.pool.clone()),
            Who::Request(lease) => self.requests.get(&lease).map(|entry| entry.request.pool.clone()),
        }
    }

    /// wconfd granted the lease in the batch of this index.
    pub(super) fn granted(&mut self, now: Ts, lease: LeaseUuid, index: u64, grant: Grant) {
        match self.holders.get(&lease).copied() {
            Some(Holder::Wanted(who)) => {
                let pool = self.pool_of(who);
                if let Some(line) = pool.as_ref().and_then(|pool| self.lines.get_mut(pool)) {
                    line.grant(lease, index <= self.mirror);
                }
                if let Some(pool) = &pool
                    && index > self.mirror
                {
                    self.unseen.insert((index, lease), pool.clone());
                }
                self.stirred.extend(pool);
                match who {
                    Who::Task(id) => self.begin_attempt(now, id, lease, index, grant),
                    Who::Request(_) => self.request_granted(lease, index, grant),
                }
            }
            // Its end is on the way, or waits for a commit.
            Some(Holder::Closing | Holder::Ended) => {}
            None => self.end_lease(lease, "nobody has it"),
        }
    }

    /// wconfd has not enough clean VMs as of this index: back to the same place in line.
    pub(super) fn grab_waits(&mut self, lease: LeaseUuid, index: u64) {
        let Some(Holder::Wanted(who)) = self.holders.get(&lease).copied() else { return };
        let Some(pool) = self.pool_of(who) else { return };
        if let Some(line) = self.lines.get_mut(&pool) {
            line.wait(lease, index);
        }
        self.stirred.insert(pool);
        match who {
            Who::Task(id) if self.tasks.get(&id).is_some_and(|entry| entry.stage == Stage::Asking) => {
                self.line_up(id);
            }
            Who::Request(_) => self.request_line_up(lease),
            Who::Task(_) => {}
        }
    }

    /// wconfd will never grant it: its uuid is over (`stale`), or the pool can't give it.
    pub(super) fn grab_refused(&mut self, now: Ts, lease: LeaseUuid, stale: bool, why: &str) {
        let Some(Holder::Wanted(who)) = self.holders.get(&lease).copied() else { return };
        if let Some(pool) = self.pool_of(who) {
            if let Some(line) = self.lines.get_mut(&pool) {
                line.refuse(lease);
            }
            self.stirred.insert(pool);
        }
        match who {
            Who::Task(id) if self.tasks.get(&id).is_some_and(|entry| entry.stage != Stage::Asking) => {}
            Who::Task(id) if stale => self.retry(now, id, format!("its lease ended before it began: {why}")),
            Who::Task(_) | Who::Request(_) => self.never(now, who, why),
        }
    }

    fn begin_attempt(&mut self, now: Ts, id: TaskId, lease: LeaseUuid, index: u64, grant: Grant) {
        let Some(entry) = self.tasks.get_mut(&id) else { return };
        let wanted = entry.stage == Stage::Asking && entry.task.current().is_some_and(|a| a.lease == lease);
        let Some(vm) = grant.vms.first().copied().filter(|_| wanted) else { return };
        let name = grant.names.into_iter().next().unwrap_or_default();
        let job = JobId(self.last_id + 1);
        entry.stage = Stage::Working;
        entry.granted_at = index;
        let task = entry.task_mut();
        task.start.get_or_insert(now);
        task.not_before = None;
        let Some(attempt) = task.attempts.last_mut() else { return };
        attempt.vm = Some(vm);
        attempt.slot_name = name;
        attempt.start = Some(now);
        attempt.job = Some(job);
        let at = AttemptRef { task: id, number: attempt.number };
        let (op, priority) = (run_op(at, lease, vm, &task.spec), task.spec.priority);
        self.dirty_tasks.insert(id);
        let (key, after) = self.free_turn_over(&vm, priority).unzip();
        let made = submit::prepare([op].into_iter().chain(after).collect()).map_err(|e| e.to_string());
        let origin = submit::Origin::attempt(at, key.clone());
        match made.and_then(|ops| self.add(now, ops, job, origin).map_err(|e| e.to_string())) {
            Ok(_) => {
                self.last_id = job.0;
                self.keys.extend(key.map(|key| (key, job)));
                self.store_later(job, id);
            }
            Err(why) => {
                if let Some(attempt) = self.tasks.get_mut(&id).and_then(|e| e.task_mut().attempts.last_mut())
                {
                    attempt.job = None;
                }
                self.task_hopeless(now, id, &format!("can't make its job: {why}"));
            }
        }
    }

    /// A report says where the attempt's work stands.
    pub(super) fn attempt_stage(&mut self, job: JobId, stage: TaskState) {
        let Some(at) = self.live.get(&job).and_then(|entry| entry.job.attempt) else { return };
        if !self.is_current(at, job) {
            return;
        }
        let Some(entry) = self.tasks.get_mut(&at.task) else { return };
        let forward = match stage {
            TaskState::Compiling => matches!(entry.task.state, TaskState::Pending | TaskState::Retrying),
            TaskState::Running => {
                matches!(entry.task.state, TaskState::Pending | TaskState::Retrying | TaskState::Compiling)
            }
            TaskState::Pending
            | TaskState::CompileFailed
            | TaskState::RunFailed
            | TaskState::Success
            | TaskState::Retrying
            | TaskState::Cancelled
            | TaskState::Unknown => false,
        };
        if forward {
            let task = entry.task_mut();
            task.state = stage;
            task.why = None;
            self.dirty_tasks.insert(at.task);
        }
    }

    fn is_current(&self, at: AttemptRef, job: JobId) -> bool {
        self.tasks.get(&at.task).is_some_and(|entry| {
            let current = entry.task.current().is_some_and(|a| a.number == at.number && a.job == Some(job));
            current && !entry.task.state.is_final()
        })
    }

    /// A report of an attempt's job that goes on: a result is stored with it, iff the attempt is current and the task
    /// not final (I6, I7). Its job ends the lease once that is committed.
    pub(super) fn attempt_reported(&mut self, now: Ts, id: JobId) {
        let Some(entry) = self.live.get_mut(&id) else { return };
        let Some(at) = entry.job.attempt else { return };
        let over = entry.job.ops.first().is_some_and(|op| op.status.is_final());
        if !over || turn_over::is_stored(&entry.job) {
            return;
        }
        let (found, lease) = (found(&entry.job), turn_over::lease(&entry.job));
        let current = self.is_current(at, id);
        match found {
            Found::Result(report) if current || !self.rules.current_attempt_only => {
                if let Some(entry) = self.live.get_mut(&id) {
                    turn_over::set_stored(entry.job_mut());
                }
                self.store_result(now, at.task, *report);
                lease.into_iter().for_each(|lease| self.close_lease(lease));
            }
            // Its process waits for a word that does not come. That of an attempt that counts no more is killed already.
            Found::Failure(_) if current => self.kill_attempt(now, id),
            Found::Result(_) | Found::Failure(_) => {}
        }
    }

    /// The job of an attempt is over: its result, unless it was stored before, is stored iff the attempt is current and
    /// the task not final (I6, I7), in the batch that ends the job. The lease ends after that commit.
    pub(super) fn attempt_over(&mut self, now: Ts, id: JobId) {
        let Some(entry) = self.live.get_mut(&id) else { return };
        let Some(at) = entry.job.attempt else { return };
        let (found, lease) = (found(&entry.job), turn_over::lease(&entry.job));
        let stored = turn_over::is_stored(&entry.job);
        turn_over::set_stored(entry.job_mut());
        let counts = self.is_current(at, id) || !self.rules.current_attempt_only;
        match found {
            _ if stored => {}
            Found::Result(report) if counts => self.store_result(now, at.task, *report),
            Found::Failure(why) if self.is_current(at, id) => self.retry(now, at.task, why),
            Found::Result(_) | Found::Failure(_) => {}
        }
        if let Some(lease) = lease {
            self.close_lease(lease);
            self.after.push(After::EndLease(lease, "its attempt is over"));
        }
    }

    fn store_result(&mut self, now: Ts, id: TaskId, report: RunReport) {
        let RunReport { state, why, result } = report;
        // It may quote what the user sent.
        let why = why.map(super::task::cut);
        let Some(entry) = self.tasks.get_mut(&id) else { return };
        let outcome =
            if state == TaskState::Success { AttemptOutcome::UserOk } else { AttemptOutcome::UserFail };
        let task = entry.task_mut();
        task.result = Some(result);
        if let Some(attempt) = task.attempts.last_mut() {
            attempt.outcome = Some(outcome);
            attempt.why.clone_from(&why);
            attempt.end = Some(now);
        }
        self.end_task(now, id, state, why);
    }

    /// Ends the job of an attempt that counts no more. A kill is always safe here: its VM goes with its lease.
    pub(super) fn kill_attempt(&mut self, now: Ts, id: JobId) {
        let Some(entry) = self.live.get_mut(&id) else { return };
        match entry.stage {
            Start::Idle => {}
            Start::Starting(start) | Start::Storing(start) => {
                self.out.actions.push(Action::Abandon(JobOwner { job: id, start }));
            }
            Start::Going(start) | Start::Running(start) => {
                entry.killed = true;
                let (owner, process) = (JobOwner { job: id, start }, entry.process.clone());
                return self.out.actions.push(Action::Kill { owner, process, ask: None });
            }
        }
        self.finish(now, id, Some(&Ending::Canceled));
    }

    /// The VM of a task is gone under it.
    pub(super) fn lease_lost(&mut self, now: Ts, id: TaskId, lease: LeaseUuid, why: &str) {
        let current = self.tasks.get(&id).and_then(|entry| entry.task.current());
        if current.is_some_and(|attempt| attempt.lease == lease) {
            self.retry(now, id, why.to_owned());
        }
    }

    /// Whether a live job still has its attempt, or is past it; others are killed when luxid starts.
    pub(super) fn has_attempt(&self, job: &Job) -> bool {
        job.class != Class::Attempt
            || turn_over::is_stored(job)
            || job.attempt.is_some_and(|at| self.is_current(at, job.id))
    }
}

fn run_op(
    at: AttemptRef,
    lease: LeaseUuid,
    vm: LeasedVm,
    spec: &gantry_model::task::TaskSpec,
) -> Map<String, Value> {
    let op = json!({
        OP_ID: OP_TASK_RUN,
        "task": at.task,
        "attempt": at.number,
        "lease": lease,
        "slot": vm.slot,
        "generation": vm.generation,
        "node": vm.node,
        "spec": spec,
        "priority": spec.priority,
    });
    match op {
        Value::Object(op) => op,
        _ => Map::new(),
    }
}

/// What an attempt's job that is over says.
fn found(job: &Job) -> Found {
    let Some(op) = job.ops.first() else { return Found::Failure("its job had no opcode".to_owned()) };
    if op.status != Status::Success {
        let text = match &op.result {
            Value::String(text) => text.clone(),
            other => gantry_model::error::GanetiError::from_value(other)
                .map_or_else(|| "its job failed".to_owned(), |error| error.to_string()),
        };
        return Found::Failure(text);
    }
    let legal = |state| matches!(state, TaskState::Success | TaskState::RunFailed | TaskState::CompileFailed);
    match serde_json::from_value::<RunReport>(op.result.clone()) {
        Ok(report) if legal(report.state) => Found::Result(Box::new(report)),
        Ok(report) => {
            Found::Failure(format!("its job reports {}, which is no result", report.state.as_str()))
        }
        Err(error) => Found::Failure(format!("the result of its job can't be read: {error}")),
    }
}
