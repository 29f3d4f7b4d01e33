//! How a start begins and ends (P4): ready, go, outcome, death.

use super::entry::{Ending, Entry, REASON_DEATH, REASON_START, Stage};
use super::event::{Action, Process};
use super::merge;
use super::show::After;
use super::{Queue, entry};
use gantry_model::error::GanetiError;
use gantry_model::ids::JobOwner;
use gantry_model::job::{Outcome, PRECEDING_FAILED, Phase, Report, Status};
use gantry_model::opcode::restore;
use gantry_model::time::Ts;
use gantry_proto::job::GoOp;
use serde_json::{Value, json};

impl Queue {
    /// The process of a start listens. `running` is stored before it is told to go (P4.2).
    pub(super) fn ready(&mut self, owner: JobOwner, process: Process) {
        let Some(entry) = self.live.get_mut(&owner.job) else {
            return self.out.actions.push(Action::Abandon(owner));
        };
        if entry.stage != Stage::Starting(owner.start) {
            if entry.start() != Some(owner.start) {
                self.out.actions.push(Action::Abandon(owner));
            }
            return;
        }
        entry.stage = Stage::Storing(owner.start);
        let pid = process.pid;
        entry.process = Some(process);
        let job = entry.job_mut();
        job.phase = Phase::Running { start: owner.start };
        job.process_id = Some(pid);
        self.dirty.insert(owner.job);
        self.after.push(After::Go(owner));
    }

    /// Nothing was sent to the process, and it is gone, or leaves when it hears that nobody waits for it: the job is queued again (P4.6).
    pub(super) fn start_failed(&mut self, now: Ts, owner: JobOwner, why: &str) {
        let Some(entry) = self.live.get(&owner.job) else { return };
        let current = match entry.stage {
            Stage::Starting(s) | Stage::Storing(s) | Stage::Going(s) => s == owner.start,
            Stage::Idle | Stage::Running(_) => false,
        };
        if !current {
            return;
        }
        if entry.killed {
            self.died(now, owner);
        } else if entry.gave_up() {
            let text = format!("can't start the process of job {}: {why}", owner.job);
            self.finish(now, owner.job, Some(&Ending::Lost(REASON_START, text)));
        } else {
            self.requeue(owner.job);
        }
    }

    /// A report over the connection to the job (P4.4).
    pub(super) fn reported(&mut self, now: Ts, report: &Report) {
        let owner = report.owner;
        let Some(entry) = self.current(owner) else { return self.reported_late(report) };
        if entry.is_over() && self.rules.current_start_only || report.number <= entry.report {
            return;
        }
        match report.outcome {
            // Only a spool file says so, and only of a job that heard no go.
            Outcome::NeverBegan => {}
            Outcome::Underway => self.take_report(now, report),
            Outcome::Ended => {
                self.take_report(now, report);
                self.end_reported(now, report);
            }
        }
    }

    /// An outcome said again, of a job that is over: it is answered alike, so that the process leaves (P4.4).
    fn reported_late(&mut self, report: &Report) {
        let Report { owner, number, outcome, .. } = report;
        let live = self.live.get(&owner.job);
        // One that is not known any more was archived, and perhaps removed since.
        let over = live.map_or(owner.job.0 <= self.last_id, Entry::is_over);
        if over && *outcome == Outcome::Ended {
            let log_serial = live.map_or(0, |entry| merge::last_serial(&entry.job));
            self.after.push(After::Confirm { owner: *owner, number: *number, log_serial });
        }
    }

    fn take_report(&mut self, now: Ts, report: &Report) {
        let owner = report.owner;
        let Some(entry) = self.live.get_mut(&owner.job) else { return };
        entry.report = report.number;
        entry.failed_starts = 0;
        if let Some(start) = entry.start() {
            entry.stage = Stage::Running(start);
        }
        let log_serial = merge::take(entry, report, now);
        if let Some(stage) = report.stage {
            self.attempt_stage(owner.job, stage);
        }
        if report.outcome == Outcome::Underway {
            self.attempt_reported(now, owner.job);
        }
        let goes_on = self.may_turn_over(owner.job);
        let Some(entry) = self.live.get_mut(&owner.job) else { return };
        self.dirty.insert(owner.job);
        if log_serial.is_some() || report.outcome == Outcome::Ended || goes_on {
            let log_serial = log_serial.unwrap_or_else(|| merge::last_serial(&entry.job));
            self.after.push(After::Confirm { owner, number: report.number, log_serial });
        }
    }

    fn end_reported(&mut self, now: Ts, report: &Report) {
        let why = GanetiError::exec("the job's process ended without finishing this opcode");
        self.finish(now, report.owner.job, Some(&Ending::Failed(why)));
        self.after.push(After::Clean(report.owner));
    }

    /// The process is gone: its spool file says what became of the job (P4.6).
    pub(super) fn dead(&mut self, now: Ts, owner: JobOwner, spool: Option<&Report>) {
        let Some(entry) = self.current(owner) else {
            return self.out.actions.push(Action::Discard(owner));
        };
        let stage = entry.stage;
        self.out.actions.push(Action::OwnerGone(owner));
        let spool = spool.filter(|s| s.owner == owner || !self.rules.current_start_only);
        match spool.map(|s| (s, s.outcome)) {
            Some((report, Outcome::Ended)) => {
                self.take_report(now, report);
                self.end_reported(now, report);
            }
            Some((_, Outcome::NeverBegan)) => self.never_began(now, owner),
            Some((report, Outcome::Underway)) => {
                self.take_report(now, report);
                self.died(now, owner);
            }
            None => match stage {
                Stage::Starting(_) | Stage::Storing(_) => self.never_began(now, owner),
                Stage::Idle | Stage::Going(_) | Stage::Running(_) => self.died(now, owner),
            },
        }
    }

    fn never_began(&mut self, now: Ts, owner: JobOwner) {
        let entry = self.live.get(&owner.job);
        if entry.is_some_and(|entry| entry.killed) {
            self.died(now, owner);
        } else if entry.is_some_and(Entry::gave_up) {
            let text = format!("the process of job {} left before it was told to go", owner.job);
            self.finish(now, owner.job, Some(&Ending::Lost(REASON_START, text)));
        } else {
            self.requeue(owner.job);
        }
        self.after.push(After::Clean(owner));
    }

    /// The job ends for the death of its process.
    fn died(&mut self, now: Ts, owner: JobOwner) {
        self.deaths += 1;
        let cancelled = self.live.get(&owner.job).is_some_and(|entry| !self.has_attempt(&entry.job));
        let ending = if cancelled { Ending::Canceled } else { death(owner) };
        self.finish(now, owner.job, Some(&ending));
        self.after.push(After::Clean(owner));
    }
}

/// How a job ends whose process died (`spec/jobs.md` §7).
pub(super) fn death(owner: JobOwner) -> Ending {
    Ending::Lost(REASON_DEATH, format!("detected death of job {}", owner.job))
}

/// What the job is told to do: its opcodes with their secrets. From the opcode on that must not run because
/// of a dependency, they are sent as ended already.
pub(super) fn go_ops(entry: &Entry) -> (Vec<GoOp>, u64) {
    let mut ops: Vec<GoOp> = Vec::with_capacity(entry.job.ops.len());
    for (index, op) in entry.job.ops.iter().enumerate() {
        let mut input = op.input.clone();
        if let Some(secrets) = entry.secrets.get(index) {
            restore(&mut input, secrets);
        }
        let (status, result) = match &entry.stop_at {
            Some((at, ending)) if index >= *at && !op.status.is_final() => stopped(ending, index == *at),
            Some(_) | None => (op.status, op.result.clone()),
        };
        ops.push(GoOp { input, priority: op.priority, status, result });
    }
    (ops, merge::last_serial(&entry.job) + 1)
}

fn stopped(ending: &entry::Ending, first: bool) -> (Status, Value) {
    match ending {
        Ending::Canceled => (Status::Canceled, json!(gantry_model::job::CANCELED_RESULT)),
        Ending::Failed(why) if first => (Status::Error, why.to_value()),
        Ending::Failed(_) => (Status::Error, GanetiError::exec(PRECEDING_FAILED).to_value()),
        Ending::Lost(_, text) => (Status::Error, json!(text)),
    }
}
