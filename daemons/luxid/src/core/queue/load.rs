//! The queue after a start of luxid, from what is committed (P4.7).

use super::entry::{Entry, Stage as Start};
use super::event::{Action, Effects, Shown};
use super::line::Who;
use super::request::{REQUEST_KEPT_S, RequestEntry, idle_at};
use super::task::{Stage, TaskEntry};
use super::{Holder, Ids, Me, Queue, Rules, Timer, kind, rows, start};
use gantry_model::ids::{JobId, TaskId};
use gantry_model::job::{Class, Phase};
use gantry_model::lease::{LeaseRequest, RequestState};
use gantry_model::task::Task;
use gantry_model::time::Ts;
use std::sync::Arc;

/// A committed object of queue.data.
#[derive(Debug, Clone, Copy)]
pub struct StoredRow<'a> {
    /// Its kind.
    pub kind: &'a str,
    /// Its key.
    pub key: &'a str,
    /// Its revision.
    pub rev: u64,
    /// JSON.
    pub body: &'a [u8],
}

/// An object that is not what its kind says. luxid does not start with it.
#[derive(Debug, thiserror::Error)]
#[error("can't read object {kind}/{key} of queue.data")]
pub struct LoadError {
    kind: String,
    key: String,
    #[source]
    source: serde_json::Error,
}

impl Queue {
    /// The queue as it was committed: queued jobs are in line, running ones of this epoch are to be adopted, those
    /// of an older epoch end (P4.10). Nothing starts before [`super::Event::Open`].
    ///
    /// # Errors
    /// When a row can't be read.
    pub fn load<'a>(
        me: Me,
        rules: Rules,
        ids: Box<dyn Ids>,
        now: Ts,
        rows: impl IntoIterator<Item = StoredRow<'a>>,
    ) -> Result<(Self, Effects), LoadError> {
        let mut queue = Self::empty(me, rules, ids);
        for row in rows {
            queue.load_row(now, row).map_err(|source| LoadError {
                kind: row.kind.to_owned(),
                key: row.key.to_owned(),
                source,
            })?;
        }
        // A batch that archives may be cut in two: what is in the archive is no longer live.
        let archive = &queue.archive;
        queue.live.retain(|id, _| !archive.contains_key(id));
        for id in queue.tasks.keys().copied().collect::<Vec<_>>() {
            queue.load_task(now, id);
        }
        for id in queue.live.keys().copied().collect::<Vec<_>>() {
            queue.load_job(now, id);
        }
        queue.drop_final_tasks();
        queue.drop_old_requests();
        queue.drop_archived();
        let effects = queue.step(now, []);
        Ok((queue, effects))
    }

    fn load_row(&mut self, now: Ts, row: StoredRow<'_>) -> serde_json::Result<()> {
        match (row.kind, row.key) {
            (kind::JOB, _) => {
                let (job, process) = rows::read_job(row.body)?;
                self.last_id = self.last_id.max(job.id.0);
                self.live.insert(job.id, Entry::new(job, row.rev, process));
            }
            (kind::ARCHIVE, _) => {
                let (job, _) = rows::read_job(row.body)?;
                self.last_id = self.last_id.max(job.id.0);
                self.archive.insert(job.id, job.status());
                self.note_archived(&job);
                self.out.shown.push(Shown::Archived(Arc::new(job)));
            }
            (kind::SERIAL, "task") => {
                self.last_task = self.last_task.max(serde_json::from_slice(row.body)?);
                self.task_serial_rev = row.rev;
            }
            (kind::SERIAL, _) => {
                self.last_id = self.last_id.max(serde_json::from_slice(row.body)?);
                self.serial_rev = row.rev;
            }
            (kind::TASK, _) => {
                let task: Task = serde_json::from_slice(row.body)?;
                self.last_task = self.last_task.max(task.id.0);
                self.tasks.insert(task.id, TaskEntry::new(task, row.rev));
            }
            (kind::REQUEST, _) => {
                let request: LeaseRequest = serde_json::from_slice(row.body)?;
                let due = match request.state {
                    RequestState::Over => Ts(now.0 + REQUEST_KEPT_S, now.1),
                    RequestState::Waiting | RequestState::Granted => idle_at(now),
                };
                let mut entry = RequestEntry::new(request, row.rev, due);
                entry.shown = Some(row.rev);
                self.out.shown.push(Shown::Request { rev: row.rev, request: Arc::clone(&entry.request) });
                self.keep_request(entry);
            }
            (kind::SETTING, key) => {
                self.setting_rev = self.setting_rev.max(row.rev);
                if key == "drained" {
                    self.drained = serde_json::from_slice(row.body)?;
                    self.out.shown.push(Shown::Drained(self.drained));
                } else if key == "watcher_pause" {
                    self.out.shown.push(Shown::WatcherPause(serde_json::from_slice(row.body)?));
                }
            }
            // Kinds of newer programs are theirs.
            (_, _) => {}
        }
        Ok(())
    }

    fn load_job(&mut self, now: Ts, id: JobId) {
        let Some(entry) = self.live.get_mut(&id) else { return };
        entry.shown = Some((entry.rev, entry.job.status()));
        self.out.shown.push(Shown::Job { rev: entry.rev, job: Arc::clone(&entry.job) });
        let class = entry.job.class;
        self.lanes.of_mut(class).live += 1;
        if entry.job.phase != Phase::Ended {
            let keys: Vec<String> = super::keyed::keys(&entry.job).map(str::to_owned).collect();
            self.keys.extend(keys.into_iter().map(|key| (key, id)));
        }
        let Some(entry) = self.live.get_mut(&id) else { return };
        if super::turn_over::is_stored(&entry.job)
            && let Some(lease) = super::turn_over::lease(&entry.job)
        {
            self.holders.insert(lease, Holder::Closing);
        }
        match entry.job.phase {
            Phase::Ended if class == Class::Ganeti => {}
            Phase::Ended => self.put_away(id),
            Phase::Queued => self.enqueue(id),
            Phase::Running { start } => {
                let owner = gantry_model::ids::JobOwner { job: id, start };
                entry.stage = Start::Running(start);
                let process = entry.process.clone();
                self.adopt(id);
                if start.epoch == self.me.epoch {
                    self.out.actions.push(Action::Adopt { owner, process, class });
                } else {
                    self.out.actions.push(Action::Kill { owner, process, ask: None });
                    self.out.actions.push(Action::OwnerGone(owner));
                    self.finish(now, id, Some(&start::death(owner)));
                }
            }
        }
        if self.live.get(&id).is_some_and(|entry| !self.has_attempt(&entry.job)) {
            self.kill_attempt(now, id);
        }
    }

    /// Where a task stands follows from its row and from its job.
    fn load_task(&mut self, now: Ts, id: TaskId) {
        let Some(entry) = self.tasks.get_mut(&id) else { return };
        entry.shown = Some(entry.rev);
        self.out.shown.push(Shown::Task { rev: entry.rev, task: Arc::clone(&entry.task) });
        if let Some(key) = &entry.task.spec.key {
            self.task_keys.insert(key.clone(), id);
        }
        if entry.task.state.is_final() {
            entry.stage = Stage::Over;
            self.final_tasks.add(entry.task.end.unwrap_or(now), &entry.task);
            return;
        }
        self.spec_bytes += entry.bytes;
        let Some((lease, job)) = entry.task.current().map(|attempt| (attempt.lease, attempt.job)) else {
            return self.load_waiting(now, id);
        };
        self.holders.insert(lease, Holder::Wanted(Who::Task(id)));
        match job {
            Some(job) if self.live.contains_key(&job) => entry.stage = Stage::Working,
            Some(job) if self.archive.contains_key(&job) => {
                self.retry(now, id, "its job ended and left no result".to_owned());
            }
            // The job was not stored with it: the same grant makes another.
            Some(_) => {
                if let Some(attempt) = entry.task_mut().attempts.last_mut() {
                    attempt.job = None;
                }
                self.line_up(id);
            }
            None => self.line_up(id),
        }
    }

    /// A pause is never longer than it may be, whatever the clock did.
    fn load_waiting(&mut self, now: Ts, id: TaskId) {
        let Some(entry) = self.tasks.get_mut(&id) else { return };
        let longest = Ts(now.0 + super::task::BACKOFF_MS.1 / 1000, now.1);
        match entry.task.not_before.filter(|due| *due > now).map(|due| due.min(longest)) {
            Some(due) => {
                entry.stage = Stage::Later(due);
                self.timers.insert((due, Timer::Task(id)));
            }
            None => self.line_up(id),
        }
    }
}
