//! Putting finished jobs away (`spec/jobs.md` §8). Only what clients see as final can be archived.

use super::event::{Answer, Ask};
use super::show::After;
use super::{Queue, rows};
use gantry_model::ids::JobId;
use gantry_model::job::{Class, Job};
use gantry_model::time::Ts;
use std::ops::Bound;
use std::sync::Arc;

/// Most jobs that one [`super::Request::ArchiveOld`] puts away: each rewrites a row, and others wait meanwhile.
const ARCHIVED_AT_ONCE_MAX: usize = 100;
/// Most jobs that one of them looks at.
const LOOKED_AT_ONCE_MAX: usize = 1000;

/// Archived jobs that are kept of attempts, and as many of reconcilers: tasks and slots have their history, and there
/// is a job for every use of a VM. Users' jobs are kept as before.
pub const ARCHIVED_OWN_MAX: usize = 1_000;

impl Queue {
    pub(super) fn archive_one(&mut self, ask: Ask, id: JobId) {
        let done = self.may_archive(id, None);
        if done {
            self.put_away(id);
        }
        self.reply(ask, Ok(Answer::Archived(done)));
    }

    pub(super) fn archive_old(&mut self, ask: Ask, before: Option<Ts>, after: JobId) {
        let from = (Bound::Excluded(after), Bound::Unbounded);
        let looked: Vec<JobId> = self.live.range(from).map(|(id, _)| *id).take(LOOKED_AT_ONCE_MAX).collect();
        let mut archived = 0;
        let mut last = after;
        for id in looked {
            if archived == ARCHIVED_AT_ONCE_MAX {
                break;
            }
            last = id;
            if self.may_archive(id, before) {
                self.put_away(id);
                archived += 1;
            }
        }
        let left = self.live.range((Bound::Excluded(last), Bound::Unbounded)).count() as u64;
        let next = (left > 0).then_some(last);
        self.reply(ask, Ok(Answer::ArchivedOld { archived: archived as u64, next, left }));
    }

    /// Makes room for a new job when the queue is full: the oldest finished jobs are put away, as `ArchiveJob` would.
    /// Nobody else does that while no watcher runs, and finished jobs must not stop new ones.
    pub(super) fn make_room(&mut self) {
        let finished = self.live.keys().copied().filter(|id| self.may_archive(*id, None));
        let oldest: Vec<JobId> = finished.take(ARCHIVED_AT_ONCE_MAX).collect();
        for id in oldest {
            self.put_away(id);
        }
    }

    fn may_archive(&self, id: JobId, before: Option<Ts>) -> bool {
        let Some(entry) = self.live.get(&id) else { return false };
        let job = &entry.job;
        let ended = job.end_timestamp.or(job.start_timestamp).unwrap_or(job.received_timestamp);
        entry.is_over()
            && entry.shown.is_some_and(|(_, status)| status.is_final())
            && before.is_none_or(|before| ended < before)
    }

    pub(super) fn put_away(&mut self, id: JobId) {
        let Some(mut entry) = self.live.remove(&id) else { return };
        for ask in std::mem::take(&mut entry.cancelers) {
            self.reply(ask, Ok(super::show::cancel_ended(entry.job.status())));
        }
        self.dirty.remove(&id);
        self.lanes.of_mut(entry.job.class).live -= 1;
        self.note_archived(&entry.job);
        entry.job_mut().archived = true;
        self.archive.insert(id, entry.job.status());
        self.changes.extend(rows::archive(&entry.job, entry.rev + 1));
        self.after.push(After::Archived(Arc::clone(&entry.job)));
        self.drop_archived();
    }

    /// Counts an archived job, if it is one of ours.
    pub(super) fn note_archived(&mut self, job: &Job) {
        match job.class {
            Class::Ganeti => {}
            Class::Attempt => drop(self.archived_attempts.insert(job.id)),
            Class::Reconcile => drop(self.archived_reconciles.insert(job.id)),
        }
    }

    /// Removes the oldest archived jobs of luxid's own classes beyond what is kept.
    pub(super) fn drop_archived(&mut self) {
        for ours in [&mut self.archived_attempts, &mut self.archived_reconciles] {
            while ours.len() > ARCHIVED_OWN_MAX {
                let Some(id) = ours.pop_first() else { break };
                self.archive.remove(&id);
                self.changes.push(rows::remove(super::kind::ARCHIVE, &id, 0));
                self.after.push(After::ArchiveGone(id));
            }
        }
    }
}
