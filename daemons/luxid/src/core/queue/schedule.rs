//! Which job starts next (`spec/jobs.md` §6): dependencies, order, ad-hoc rate limits, slots.

use super::Queue;
use super::entry::{Ending, Entry, Stage};
use super::event::Action;
use super::lane::CLASSES;
use gantry_model::error::GanetiError;
use gantry_model::ids::{JobId, JobOwner};
use gantry_model::job::{Class, Job, Status};
use gantry_model::time::Ts;
use serde_json::Value;
use std::collections::BTreeSet;
use std::ops::Bound;

/// How a reason text asks for a rate limit: `rate-limit:N:NAME`.
const RATE_LIMIT: &str = "rate-limit:";

/// A rate limit: at most `limit` jobs with the same limit and name run at once.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Bucket {
    limit: usize,
    name: String,
}

/// The rate limits that a job's reason trails name.
pub(super) fn buckets(job: &Job) -> BTreeSet<Bucket> {
    let trails = job.ops.iter().filter_map(|op| op.input.get("reason")?.as_array());
    let texts = trails.flatten().filter_map(|entry| entry.get(1)?.as_str());
    texts.filter_map(bucket).collect()
}

fn bucket(text: &str) -> Option<Bucket> {
    let (limit, name) = text.strip_prefix(RATE_LIMIT)?.split_once(':')?;
    let limit = limit.parse().ok().filter(|n| *n >= 1)?;
    Some(Bucket { limit, name: name.to_owned() })
}

/// A dependency: the job, and the final states it may have (none named: any).
struct Dependency {
    job: JobId,
    wanted: Vec<String>,
}

fn dependencies(input: &serde_json::Map<String, Value>) -> Vec<Dependency> {
    let entries = input.get("depends").and_then(Value::as_array).into_iter().flatten();
    entries
        .filter_map(|entry| {
            let wanted = entry.get(1).and_then(Value::as_array).into_iter().flatten();
            Some(Dependency {
                job: JobId(entry.get(0)?.as_u64()?),
                wanted: wanted.filter_map(Value::as_str).map(str::to_owned).collect(),
            })
        })
        .collect()
}

/// Whether a queued job may start as far as more than its dependencies and its place in line are concerned.
#[derive(Debug, PartialEq, Eq)]
enum Gate {
    Open,
    /// It stays queued; later ones may pass it.
    Closed,
}

impl Queue {
    /// Puts a queued job in line, or lets it wait for its dependencies.
    pub(super) fn enqueue(&mut self, id: JobId) {
        let Some(entry) = self.live.get(&id) else { return };
        let all = entry.job.ops.iter().flat_map(|op| dependencies(&op.input)).map(|d| d.job);
        let waits: BTreeSet<JobId> =
            all.filter(|on| self.live.get(on).is_some_and(|other| !other.is_over())).collect();
        for on in &waits {
            self.dependents.entry(*on).or_default().insert(id);
        }
        let Some(entry) = self.live.get_mut(&id) else { return };
        entry.waits_for = waits;
        if entry.waits_for.is_empty() {
            self.lanes.of_mut(entry.job.class).ready.insert((entry.job.priority(), id));
        }
    }

    /// Takes a queued job out of line.
    pub(super) fn dequeue(&mut self, id: JobId) {
        let Some(entry) = self.live.get_mut(&id) else { return };
        self.lanes.of_mut(entry.job.class).ready.remove(&(entry.job.priority(), id));
        for on in std::mem::take(&mut entry.waits_for) {
            if let Some(others) = self.dependents.get_mut(&on) {
                others.remove(&id);
            }
        }
    }

    /// Job `id` is over: those that waited only for it get in line.
    pub(super) fn free_dependents(&mut self, id: JobId) {
        for other in self.dependents.remove(&id).unwrap_or_default() {
            let Some(entry) = self.live.get_mut(&other) else { continue };
            entry.waits_for.remove(&id);
            if entry.waits_for.is_empty() && entry.is_queued() {
                self.lanes.of_mut(entry.job.class).ready.insert((entry.job.priority(), other));
            }
        }
    }

    /// Starts what may start.
    pub(super) fn schedule(&mut self, now: Ts) {
        if !self.open {
            return;
        }
        // A job that ends here without a process may set others free, so look again until nothing does.
        while CLASSES.into_iter().any(|class| self.schedule_once(now, class)) {}
    }

    /// Goes through the line of a class once; true when a job ended on the way.
    fn schedule_once(&mut self, now: Ts, class: Class) -> bool {
        let mut ended = false;
        let mut at = Bound::Unbounded;
        while self.lanes.of(class).running < self.lanes.of(class).max {
            let next = self.lanes.of(class).ready.range((at, Bound::Unbounded)).next().copied();
            let Some(next) = next else { return ended };
            at = Bound::Excluded(next);
            if self.gate(next.1) == Gate::Open {
                ended |= !self.start_or_end(now, next.1);
            }
        }
        false
    }

    /// Rate limits. The filter rules of the configuration join here: PAUSE and RATE_LIMIT close the gate.
    fn gate(&self, id: JobId) -> Gate {
        let full = |bucket: &Bucket| self.buckets.get(bucket).is_some_and(|n| *n >= bucket.limit);
        match self.live.get(&id) {
            Some(entry) if !entry.buckets.iter().any(full) => Gate::Open,
            Some(_) | None => Gate::Closed,
        }
    }

    /// Starts a job; false when it ended instead, for its dependencies or lost secrets.
    fn start_or_end(&mut self, now: Ts, id: JobId) -> bool {
        let stop_at = self.stop_at(id);
        let Some(entry) = self.live.get_mut(&id) else { return true };
        let first = entry.job.ops.iter().position(|op| !op.status.is_final());
        match stop_at {
            Some((index, ending)) if first == Some(index) => {
                self.finish(now, id, Some(&ending));
                return false;
            }
            stop_at => entry.stop_at = stop_at,
        }
        self.dequeue(id);
        let start = self.next_start();
        let Some(entry) = self.live.get_mut(&id) else { return true };
        entry.stage = Stage::Starting(start);
        entry.report = 0;
        let owner = JobOwner { job: id, start };
        let (failed, class) = (entry.failed_starts, entry.job.class);
        self.out.actions.push(Action::Spawn { owner, failed, class });
        self.occupy(id);
        true
    }

    /// The first opcode that must not run, and how the job ends there.
    fn stop_at(&self, id: JobId) -> Option<(usize, Ending)> {
        let entry = self.live.get(&id)?;
        if entry.lost_secrets() {
            let index = entry.job.ops.iter().position(|op| !op.status.is_final())?;
            return Some((index, Ending::Failed(GanetiError::exec(super::entry::SECRETS_LOST))));
        }
        let open = entry.job.ops.iter().enumerate().filter(|(_, op)| !op.status.is_final());
        for (index, op) in open {
            for dependency in dependencies(&op.input) {
                if let Some(ending) = self.unmet(&dependency) {
                    return Some((index, ending));
                }
            }
        }
        None
    }

    fn unmet(&self, dependency: &Dependency) -> Option<Ending> {
        let id = dependency.job;
        let live = self.live.get(&id).map(|entry| entry.job.status());
        let Some(found) = live.or_else(|| self.archive.get(&id).copied()) else {
            let text = format!("job {id}, on which this job depends, was not found");
            return Some(Ending::Failed(GanetiError::exec(text)));
        };
        if dependency.wanted.is_empty() && found != Status::Canceled
            || dependency.wanted.iter().any(|word| word == found.as_str())
        {
            return None;
        }
        if found == Status::Canceled {
            return Some(Ending::Canceled);
        }
        let wanted = dependency.wanted.join(", ");
        let text =
            format!("job {id}, on which this job depends, ended as {}; wanted is {wanted}", found.as_str());
        Some(Ending::Failed(GanetiError::exec(text)))
    }

    fn occupy(&mut self, id: JobId) {
        let Some(entry) = self.live.get(&id) else { return };
        self.lanes.of_mut(entry.job.class).running += 1;
        for bucket in entry.buckets.clone() {
            *self.buckets.entry(bucket).or_default() += 1;
        }
    }

    /// Counts an adopted job as running.
    pub(super) fn adopt(&mut self, id: JobId) {
        self.occupy(id);
    }

    /// The start of `id` is over: its slot is free.
    pub(super) fn vacate(&mut self, id: JobId) {
        let Some(entry) = self.live.get_mut(&id) else { return };
        if entry.stage == Stage::Idle {
            return;
        }
        entry.stage = Stage::Idle;
        let lane = self.lanes.of_mut(entry.job.class);
        lane.running = lane.running.saturating_sub(1);
        for bucket in &entry.buckets {
            if let Some(count) = self.buckets.get_mut(bucket) {
                *count -= 1;
                if *count == 0 {
                    self.buckets.remove(bucket);
                }
            }
        }
    }

    /// Ends a job: its unfinished opcodes as `ending` says, then the job itself.
    pub(super) fn finish(&mut self, now: Ts, id: JobId, ending: Option<&Ending>) {
        self.dequeue(id);
        self.vacate(id);
        let Some(entry) = self.live.get_mut(&id) else { return };
        entry.secrets = Vec::new();
        entry.process = None;
        entry.stop_at = None;
        let job = entry.job_mut();
        if let Some(ending) = ending {
            super::entry::end_ops(job, ending, now);
        }
        job.phase = gantry_model::job::Phase::Ended;
        job.end_timestamp = Some(now);
        let class = job.class;
        self.dirty.insert(id);
        self.free_dependents(id);
        match class {
            Class::Ganeti => {}
            // The task has what became of it: the job itself goes out of the way in the same batch.
            Class::Attempt => {
                self.free_keys(id);
                self.attempt_over(now, id);
                self.put_away(id);
            }
            // Put away once it is shown as final.
            Class::Reconcile => self.free_keys(id),
        }
    }

    /// Puts a job whose start never began back in line.
    pub(super) fn requeue(&mut self, id: JobId) {
        self.vacate(id);
        let Some(entry) = self.live.get_mut(&id) else { return };
        entry.process = None;
        entry.stop_at = None;
        entry.failed_starts += 1;
        if entry.job.phase != gantry_model::job::Phase::Queued {
            let job = entry.job_mut();
            job.phase = gantry_model::job::Phase::Queued;
            job.process_id = None;
            self.dirty.insert(id);
        }
        self.enqueue(id);
    }
}

impl Entry {
    /// Whether it failed to start too often.
    pub(super) fn gave_up(&self) -> bool {
        self.failed_starts + 1 >= super::STARTS_FAILED_MAX
    }
}
