//! What nobody waits for is stored with the next batch that there is anyway, and has one of its own only when none comes
//! for a while: each batch is a flush. How long a while is, by a clock that nobody sets, is the shell's to know: it is told
//! whether anything waits, and says [`super::Event::NoBatch`].
//!
//! * A new job of an attempt and what the attempt says of it. Its start needs no commit (P4.1), and `running` is stored
//!   before it is told to go (P4.2): with that row these go. A luxid that dies before has the attempt with its lease
//!   uuid, and the same grant makes another job (P1.13).
//! * The last word of an attempt's job whose result is stored: its process waits for the answer.

use super::Queue;
use gantry_model::ids::{JobId, TaskId};
use gantry_model::job::{Outcome, Report};
use gantry_model::time::Ts;
use std::collections::BTreeMap;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Unhurried {
    /// New jobs of attempts, with their tasks.
    jobs: BTreeMap<JobId, TaskId>,
    /// Last words.
    reports: Vec<Report>,
}

impl Queue {
    /// Whether anything waits for a batch. If none comes for a while, [`super::Event::NoBatch`] is wanted.
    #[must_use]
    pub fn waits_for_batch(&self) -> bool {
        !self.unhurried.jobs.is_empty() || !self.unhurried.reports.is_empty()
    }

    /// A job that was just made, and its task, need no batch of their own.
    pub(super) fn store_later(&mut self, job: JobId, task: TaskId) {
        self.dirty.remove(&job);
        self.dirty_tasks.remove(&task);
        self.unhurried.jobs.insert(job, task);
    }

    /// Somebody is told of this job: it is stored before the answer goes out.
    pub(super) fn store_told(&mut self, id: JobId) {
        self.store_jobs(|_, job, _| job == id);
    }

    /// Whether nobody but the job itself waits for this report to be stored.
    pub(super) fn is_unhurried(&self, report: &Report) -> bool {
        report.outcome == Outcome::Ended
            && self.current(report.owner).is_some()
            && self.may_turn_over(report.owner.job)
    }

    pub(super) fn keep_report(&mut self, report: Report) {
        self.unhurried.reports.push(report);
    }

    /// Whether there are last words that no batch came for yet.
    #[cfg(test)]
    pub(super) fn keeps_reports(&self) -> bool {
        !self.unhurried.reports.is_empty()
    }

    /// Takes in the last words that were kept.
    pub(super) fn hear_kept(&mut self, now: Ts) {
        for report in std::mem::take(&mut self.unhurried.reports) {
            self.reported(now, &report);
        }
    }

    /// No batch came.
    pub(super) fn no_batch(&mut self, now: Ts) {
        self.store_jobs(|_, _, _| true);
        self.hear_kept(now);
    }

    /// Puts what waits into the batch of this step, if there is one.
    pub(super) fn join_batch(&mut self, now: Ts) {
        // The row of a task never names a job that is not stored: its number would be given out again after a crash.
        self.store_jobs(|queue, job, task| queue.dirty.contains(&job) || queue.dirty_tasks.contains(&task));
        let batch = !self.dirty.is_empty()
            || !self.dirty_tasks.is_empty()
            || !self.dirty_requests.is_empty()
            || !self.serials.is_empty()
            || !self.changes.is_empty();
        if batch {
            self.hear_kept(now);
        }
    }

    /// Has those of the new jobs stored that `wanted` names, with their tasks and the number of the last job.
    fn store_jobs(&mut self, wanted: impl Fn(&Self, JobId, TaskId) -> bool) {
        let jobs = self.unhurried.jobs.iter().map(|(job, task)| (*job, *task));
        let jobs: Vec<_> = jobs.filter(|(job, task)| wanted(self, *job, *task)).collect();
        for (job, task) in &jobs {
            self.unhurried.jobs.remove(job);
            self.dirty.insert(*job);
            self.dirty_tasks.insert(*task);
        }
        if !jobs.is_empty() {
            self.give_out(JobId(self.last_id));
        }
    }
}
