//! What is shown, and when: nothing before its commit (P1.5), no final state before the copy of the
//! configuration has what the job did (DESIGN §3).

use super::entry::Stage;
use super::event::{Action, Answer, Ask, Shown, Ticket};
use super::{Queue, rows};
use gantry_model::error::GanetiError;
use gantry_model::ids::{JobId, JobOwner, LeaseUuid, TaskId};
use gantry_model::job::{Class, Job, Status};
use gantry_model::lease::LeaseRequest;
use gantry_model::task::Task;
use std::sync::Arc;

/// What follows when the batch of a step is committed.
#[derive(Debug)]
pub(super) enum After {
    Job { rev: u64, job: Arc<Job> },
    Archived(Arc<Job>),
    Drained(bool),
    WatcherPause(Option<f64>),
    Reply(Ask, Result<Answer, GanetiError>),
    Go(JobOwner),
    Confirm { owner: JobOwner, number: u64, log_serial: u64 },
    Clean(JobOwner),
    ArchiveGone(JobId),
    Task { rev: u64, task: Arc<Task> },
    TaskGone(TaskId),
    Request { rev: u64, request: Arc<LeaseRequest> },
    RequestGone(LeaseUuid),
    Grab(LeaseUuid),
    EndLease(LeaseUuid, &'static str),
}

/// What a client may wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Topic {
    Job(JobId),
    Task(TaskId),
    Request(LeaseUuid),
}

impl Queue {
    /// Makes the step's batch, and ties to it what rests on it.
    pub(super) fn close_batch(&mut self) {
        let mut changes: Vec<_> = std::mem::take(&mut self.serials).into_values().collect();
        let mut follow = Vec::new();
        // Tasks before jobs: a batch may be cut when it is large, and a task with its result needs its job no more.
        for id in std::mem::take(&mut self.dirty_tasks) {
            let Some(entry) = self.tasks.get_mut(&id) else { continue };
            entry.rev += 1;
            changes.push(rows::task(entry.rev, &entry.task));
            follow.push(After::Task { rev: entry.rev, task: Arc::clone(&entry.task) });
        }
        for lease in std::mem::take(&mut self.dirty_requests) {
            let Some(entry) = self.requests.get_mut(&lease) else { continue };
            entry.rev += 1;
            changes.push(rows::object(super::kind::REQUEST, &lease, entry.rev, &*entry.request));
            follow.push(After::Request { rev: entry.rev, request: Arc::clone(&entry.request) });
        }
        changes.append(&mut self.changes);
        for id in std::mem::take(&mut self.dirty) {
            let Some(entry) = self.live.get_mut(&id) else { continue };
            entry.rev += 1;
            changes.push(rows::job(entry));
            follow.push(After::Job { rev: entry.rev, job: Arc::clone(&entry.job) });
        }
        follow.append(&mut self.after);
        if !changes.is_empty() {
            self.ticket.0 += 1;
            self.out.batch = Some((self.ticket, changes));
        }
        let ticket = self.ticket;
        for after in follow {
            if ticket <= self.committed || !self.must_wait(&after) {
                self.release(after);
            } else {
                self.pending.push_back((ticket, after));
            }
        }
    }

    fn must_wait(&self, after: &After) -> bool {
        match after {
            After::Job { .. }
            | After::Archived(_)
            | After::ArchiveGone(_)
            | After::Task { .. }
            | After::TaskGone(_)
            | After::Request { .. }
            | After::RequestGone(_)
            | After::Drained(_)
            | After::WatcherPause(_)
            | After::Reply(..) => self.rules.show_committed_only,
            After::Confirm { .. } => self.rules.confirm_after_stored,
            After::Grab(_) => self.rules.grab_after_stored,
            After::EndLease(..) => self.rules.end_lease_after_stored,
            After::Go(_) => self.rules.go_after_stored,
            After::Clean(_) => self.rules.clean_after_stored,
        }
    }

    pub(super) fn commit(&mut self, ticket: Ticket) {
        self.committed = self.committed.max(ticket);
        while self.pending.front().is_some_and(|(needs, _)| *needs <= ticket) {
            if let Some((_, after)) = self.pending.pop_front() {
                self.release(after);
            }
        }
    }

    fn release(&mut self, after: After) {
        match after {
            After::Job { rev, job } => self.show_job(rev, job),
            After::Archived(job) => {
                self.wake(Topic::Job(job.id));
                self.out.shown.push(Shown::Archived(job));
            }
            After::ArchiveGone(id) => self.out.shown.push(Shown::ArchiveGone(id)),
            After::Task { rev, task } => {
                let id = task.id;
                if let Some(entry) = self.tasks.get_mut(&id) {
                    entry.shown = Some(rev);
                    self.out.shown.push(Shown::Task { rev, task });
                    self.wake(Topic::Task(id));
                }
            }
            After::TaskGone(id) => {
                self.out.shown.push(Shown::TaskGone(id));
                self.wake(Topic::Task(id));
            }
            After::Request { rev, request } => {
                let lease = request.uuid;
                if let Some(entry) = self.requests.get_mut(&lease) {
                    entry.shown = Some(rev);
                    self.out.shown.push(Shown::Request { rev, request });
                    self.wake(Topic::Request(lease));
                }
            }
            After::RequestGone(lease) => {
                self.out.shown.push(Shown::RequestGone(lease));
                self.wake(Topic::Request(lease));
            }
            After::Grab(lease) => self.grab(lease),
            After::EndLease(lease, why) => self.end_lease(lease, why),
            After::Drained(flag) => self.out.shown.push(Shown::Drained(flag)),
            After::WatcherPause(until) => self.out.shown.push(Shown::WatcherPause(until)),
            After::Reply(ask, answer) => self.out.replies.push((ask, answer)),
            After::Go(owner) => self.go(owner),
            After::Confirm { owner, number, log_serial } => {
                self.out.actions.push(Action::Confirm { owner, number, log_serial });
            }
            After::Clean(owner) => {
                self.out.actions.push(Action::Clean(owner));
                self.out.actions.push(Action::OwnerLeft(owner));
            }
        }
    }

    fn show_job(&mut self, rev: u64, job: Arc<Job>) {
        let (id, status) = (job.id, job.status());
        if status.is_final() && job.seen_w > self.mirror {
            self.held.insert((job.seen_w, id), After::Job { rev, job });
            return;
        }
        let Some(entry) = self.live.get_mut(&id) else { return };
        entry.shown = Some((rev, status));
        let final_reconcile = status.is_final() && job.class == Class::Reconcile;
        let cancelers = if status.is_final() { std::mem::take(&mut entry.cancelers) } else { Vec::new() };
        self.out.shown.push(Shown::Job { rev, job });
        for ask in cancelers {
            self.out.replies.push((ask, Ok(cancel_ended(status))));
        }
        self.wake(Topic::Job(id));
        if final_reconcile {
            self.put_away(id);
        }
    }

    pub(super) fn mirror_at(&mut self, index: u64) {
        self.mirror = self.mirror.max(index);
        while let Some(first) = self.unseen.first_entry().filter(|first| first.key().0 <= index) {
            let ((_, lease), pool) = first.remove_entry();
            if let Some(line) = self.lines.get_mut(&pool) {
                line.show(lease);
            }
            self.stirred.insert(pool);
        }
        let later = self.held.split_off(&(self.mirror + 1, JobId(0)));
        for (_, after) in std::mem::replace(&mut self.held, later) {
            self.release(after);
        }
    }

    /// Answers at once when there is something new to see, else when there is.
    pub(super) fn wait(&mut self, ask: Ask, job: JobId, rev: u64) {
        let shown = self.live.get(&job).map(|entry| entry.shown.map(|(shown, _)| shown));
        self.wait_for(ask, Topic::Job(job), shown, rev);
    }

    /// `shown` is the revision clients see of the object, if there is such an object, if they see one.
    pub(super) fn wait_for(&mut self, ask: Ask, topic: Topic, shown: Option<Option<u64>>, rev: u64) {
        let Some(shown) = shown else { return self.reply(ask, Ok(Answer::Changed)) };
        if shown.is_some_and(|shown| shown != rev) {
            self.out.replies.push((ask, Ok(Answer::Changed)));
            return;
        }
        self.waiters.entry(topic).or_default().insert(ask);
        self.waiting_for.insert(ask, topic);
    }

    fn wake(&mut self, topic: Topic) {
        for ask in self.waiters.remove(&topic).unwrap_or_default() {
            self.waiting_for.remove(&ask);
            self.out.replies.push((ask, Ok(Answer::Changed)));
        }
    }

    pub(super) fn forget(&mut self, ask: Ask) {
        if let Some(topic) = self.waiting_for.remove(&ask)
            && let Some(waiters) = self.waiters.get_mut(&topic)
        {
            waiters.remove(&ask);
            if waiters.is_empty() {
                self.waiters.remove(&topic);
            }
        }
        for entry in self.live.values_mut().filter(|entry| !entry.cancelers.is_empty()) {
            entry.cancelers.retain(|other| *other != ask);
        }
    }

    /// `running` of this start is durable: say go, unless the start has gone by meanwhile.
    fn go(&mut self, owner: JobOwner) {
        let Some(entry) = self.live.get_mut(&owner.job) else { return };
        if entry.stage != Stage::Storing(owner.start) {
            return;
        }
        entry.stage = Stage::Going(owner.start);
        let (ops, next_serial) = super::start::go_ops(entry);
        self.out.actions.push(Action::Go { owner, ops, next_serial });
    }
}

/// What a client that asked to cancel hears when the job is over (`spec/jobs.md` §8).
pub(super) fn cancel_ended(status: Status) -> Answer {
    match status {
        Status::Canceled => Answer::Told(true, "Job successfully cancelled".to_owned()),
        Status::Queued
        | Status::Waiting
        | Status::Canceling
        | Status::Running
        | Status::Success
        | Status::Error => {
            let text = format!("Job exited before it could have been canceled, status {}", status.as_str());
            Answer::Told(false, text)
        }
    }
}
