//! Cancel, kill and priority (`spec/jobs.md` §8).

use super::Queue;
use super::entry::{Ending, Stage};
use super::event::{Action, Answer, Ask, KillResult};
use gantry_model::ids::{JobId, JobOwner};
use gantry_model::job::Status;
use gantry_model::time::Ts;

impl Queue {
    /// A job that was not told to go ends here and now; one that waits for locks is asked, and the answer
    /// comes when it is over; one at work is told, and the caller is told that.
    pub(super) fn cancel(&mut self, now: Ts, ask: Ask, id: JobId, kill: bool) {
        let Some(entry) = self.live.get_mut(&id).filter(|entry| !entry.is_over()) else {
            return self.told(ask, false, not_found(id));
        };
        let start = match entry.stage {
            Stage::Idle => return self.cancel_queued(now, ask, id),
            Stage::Starting(start) | Stage::Storing(start) => {
                self.out.actions.push(Action::Abandon(JobOwner { job: id, start }));
                return self.cancel_queued(now, ask, id);
            }
            Stage::Going(start) | Stage::Running(start) => start,
        };
        let owner = JobOwner { job: id, start };
        if kill {
            entry.killed = true;
            let process = entry.process.clone();
            return self.out.actions.push(Action::Kill { owner, process, ask: Some(ask) });
        }
        self.out.actions.push(Action::Cancel(owner));
        match entry.job.status() {
            Status::Queued | Status::Waiting | Status::Canceling => entry.cancelers.push(ask),
            Status::Running | Status::Canceled | Status::Success | Status::Error => {
                let text = "Job no longer waiting, can't cancel (informed it anyway)";
                self.told(ask, false, text.to_owned());
            }
        }
    }

    fn cancel_queued(&mut self, now: Ts, ask: Ask, id: JobId) {
        self.finish(now, id, Some(&Ending::Canceled));
        self.told(ask, true, format!("Dequeued job {id}"));
    }

    pub(super) fn killed(&mut self, ask: Ask, owner: JobOwner, how: KillResult) {
        let text = match how {
            KillResult::Sent => "SIGKILL send to the process".to_owned(),
            KillResult::AlreadyDead => format!("Job {} has been already dead", owner.job),
        };
        self.told(ask, true, text);
    }

    pub(super) fn set_priority(&mut self, ask: Ask, id: JobId, priority: i32) {
        let Some(entry) = self.live.get(&id).filter(|entry| !entry.is_over()) else {
            return self.told(ask, false, not_found(id));
        };
        let told_to_go = match entry.stage {
            Stage::Idle | Stage::Starting(_) | Stage::Storing(_) => None,
            Stage::Going(start) | Stage::Running(start) => Some(JobOwner { job: id, start }),
        };
        if let Some(owner) = told_to_go {
            let pid = entry.job.process_id.unwrap_or(0);
            self.out.actions.push(Action::SetPriority(owner, priority));
            return self.told(ask, true, format!("Job {id} with pid {pid} signaled"));
        }
        let (old, class) = ((entry.job.priority(), id), entry.job.class);
        let in_line = self.lanes.of_mut(class).ready.remove(&old);
        let Some(entry) = self.live.get_mut(&id) else { return };
        for op in entry.job_mut().ops.iter_mut().filter(|op| !op.status.is_final()) {
            op.priority = priority;
        }
        if in_line {
            self.lanes.of_mut(class).ready.insert((priority, id));
        }
        self.dirty.insert(id);
        let text = format!("Priorities of pending opcodes for job {id} have been changed to {priority}");
        self.reply(ask, Ok(Answer::Told(true, text)));
    }
}

fn not_found(id: JobId) -> String {
    format!("Job {id} not found in queue")
}
