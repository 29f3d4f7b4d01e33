//! The job queue: which jobs there are, which may start, how far each start got, and what is shown of it.
//!
//! It owns the states of jobs (`spec/jobs.md` §3), their order (§6) and the rules by which a start begins and
//! ends (P4). It owns no process, no clock and no file: [`Queue::step`] takes what happened and returns
//! what shall happen. Its promise: **what is not committed is not shown**, and a job is told to go at most once.
//!
//! ```text
//!            Spawn            Ready             commit, Go          report / outcome
//!   queued ────────▶ starting ─────▶ storing ───────────────▶ going ─────────▶ running ──▶ ended
//!     ▲                │ process gone   │ process gone          │ nothing sent   │ dead, never began
//!     └────────────────┴────────────────┴───────────────────────┴────────────────┘
//! ```
//! In queue.data a job is `queued`, `running S` (from *storing* on) or `ended`; the rest is in memory only.

mod archive;
mod attempt;
mod cancel;
mod entry;
mod event;
mod final_tasks;
mod keyed;
mod lane;
mod line;
mod load;
mod merge;
mod news;
mod request;
mod rows;
pub use rows::bodies_of;
mod rules;
mod schedule;
mod show;
mod start;
mod submit;
mod task;
#[cfg(test)]
mod tests;
mod timers;
mod turn_over;
mod unhurried;

pub use archive::ARCHIVED_OWN_MAX;
pub use attempt::{Grant, OP_TASK_RUN};
pub use event::{
    Action, Answer, Ask, Change, Counts, Effects, Event, KillResult, Process, Request, STATUSES, Shown,
    Stock, Ticket,
};
use final_tasks::FinalTasks;
pub use final_tasks::{FINAL_BODY_BYTES_MAX, FINAL_BYTES_MAX, FINAL_TASKS_MAX};
pub use keyed::{KEY_BYTES_MAX, KEYS_MAX, KeyedJob};
pub use lane::{RECONCILE_PER_NODE, RECONCILE_RUNNING_MAX};
pub use load::{LoadError, StoredRow};
pub use news::{LeaseSeen, News};
pub use request::{REQUEST_KEPT_S, REQUESTS_MAX, REQUESTS_OVER_MAX};
pub use rules::Rules;
pub use submit::{NewJob, SubmitError, prepare};
pub use task::{BACKOFF_MS, SPEC_BYTES_MAX, SPECS_BYTES_MAX};

use entry::Entry;
use gantry_model::error::GanetiError;
use gantry_model::ids::{JobId, JobOwner, StartNo};
use gantry_model::ids::{LeaseUuid, TaskId};
use gantry_model::job::Class;
use gantry_model::job::Status;
use gantry_model::time::Ts;
use lane::Lanes;
use line::Line;
use news::Holder;
use request::RequestEntry;
use schedule::Bucket;
use show::{After, Topic};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use task::TaskEntry;

/// Kinds of objects in queue.data.
pub mod kind {
    /// A live job; key: its id; body: `gantry_model::job::Job` and `process`.
    pub const JOB: &str = "job";
    /// The same in the archive.
    pub const ARCHIVE: &str = "archive";
    /// The last job id given out; key `job`; body: a number.
    pub const SERIAL: &str = "serial";
    /// Settings of the queue; keys `drained` (boolean) and `watcher_pause` (seconds since 1970 or null).
    pub const SETTING: &str = "setting";
    /// A task; key: its id; body: `gantry_model::task::Task`. Its last id is kept under [`SERIAL`], key `task`.
    pub const TASK: &str = "task";
    /// A request for a lease; key: the lease's uuid; body: `gantry_model::lease::LeaseRequest`.
    pub const REQUEST: &str = "request";
}

/// Most jobs that are not archived (DESIGN §4): each is in memory and in every answer without a filter.
pub const LIVE_JOBS_MAX: usize = 5000;
/// How long a process may take to say ready, in milliseconds (`spec/jobs.md` §7).
pub const READY_MS: u64 = 30_000;
/// After that many failed starts in a row a job ends in error, so that a missing or broken job program is
/// told to its user instead of being tried for ever.
pub const STARTS_FAILED_MAX: u32 = 8;
/// How many jobs run at once until the cluster's setting is known.
pub const RUNNING_DEFAULT: usize = 20;

/// Who this luxid is: what makes its start numbers new (P4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Me {
    /// Epoch of the master.
    pub epoch: u64,
    /// This run in that epoch, drawn by the store.
    pub run: u64,
}

/// Where the uuids of leases come from.
pub trait Ids: Send + std::fmt::Debug {
    /// Sixteen bytes nobody had before.
    fn fresh(&mut self) -> [u8; 16];
}

/// What happens when its time comes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    /// A task that failed gets in line again.
    Task(TaskId),
    /// A request is withdrawn, or forgotten.
    Request(LeaseUuid),
    /// A line that was told to wait asks again.
    Pool(String),
}

/// The queue. See the module.
#[derive(Debug)]
pub struct Queue {
    rules: Rules,
    me: Me,
    /// Starts of this run so far.
    starts: u64,
    deaths: u64,
    last_id: u64,
    serial_rev: u64,
    drained: bool,
    setting_rev: u64,
    open: bool,
    live: BTreeMap<JobId, Entry>,
    archive: BTreeMap<JobId, Status>,
    /// The jobs of each class that may start, and how many run.
    lanes: Lanes,
    /// Archived jobs of luxid's own classes.
    archived_attempts: BTreeSet<JobId>,
    archived_reconciles: BTreeSet<JobId>,
    /// Key → the live job that has it (I10).
    keys: BTreeMap<String, JobId>,
    ids: Box<dyn Ids>,
    tasks: BTreeMap<TaskId, TaskEntry>,
    /// Those that are final, by their end.
    final_tasks: FinalTasks,
    /// Key → task (C1).
    task_keys: BTreeMap<String, TaskId>,
    last_task: u64,
    task_serial_rev: u64,
    /// JSON bytes of the specifications of tasks that are not final.
    spec_bytes: usize,
    requests: BTreeMap<LeaseUuid, RequestEntry>,
    /// Those that are over, by when they are removed.
    requests_over: BTreeSet<(Ts, LeaseUuid)>,
    /// Every lease that wconfd may know, and what it is to luxid.
    holders: BTreeMap<LeaseUuid, Holder>,
    /// Leases that wconfd is to end and has not confirmed.
    ending: BTreeSet<LeaseUuid>,
    /// Pool → who waits for its VMs.
    lines: BTreeMap<String, Line>,
    /// Grants that the copy of the configuration does not show yet, by their index of W; and their pools.
    unseen: BTreeMap<(u64, LeaseUuid), String>,
    /// Lines to look at in this step.
    stirred: BTreeSet<String>,
    timers: BTreeSet<(Ts, Timer)>,
    /// The wall clock at the last step.
    looked: Ts,
    /// Job → the queued jobs that wait for its end.
    dependents: BTreeMap<JobId, BTreeSet<JobId>>,
    /// Rate-limit buckets with running jobs.
    buckets: BTreeMap<Bucket, usize>,
    ticket: Ticket,
    committed: Ticket,
    mirror: u64,
    pending: VecDeque<(Ticket, After)>,
    /// Final states that wait for the copy of the configuration, by the W index they need.
    held: BTreeMap<(u64, JobId), After>,
    waiters: BTreeMap<Topic, BTreeSet<Ask>>,
    waiting_for: BTreeMap<Ask, Topic>,
    /// Jobs changed in this step.
    dirty: BTreeSet<JobId>,
    /// Tasks changed in this step.
    dirty_tasks: BTreeSet<TaskId>,
    /// Requests changed in this step.
    dirty_requests: BTreeSet<LeaseUuid>,
    /// Numbers given out in this step.
    serials: BTreeMap<&'static str, Change>,
    /// What is stored with the next batch.
    unhurried: unhurried::Unhurried,
    /// Other changes of this step.
    changes: Vec<Change>,
    /// What follows when this step's batch is committed.
    after: Vec<After>,
    out: Effects,
}

impl Queue {
    fn empty(me: Me, rules: Rules, ids: Box<dyn Ids>) -> Self {
        Self {
            rules,
            me,
            starts: 0,
            deaths: 0,
            last_id: 0,
            serial_rev: 0,
            drained: false,
            setting_rev: 0,
            open: false,
            live: BTreeMap::new(),
            archive: BTreeMap::new(),
            lanes: Lanes::new(),
            archived_attempts: BTreeSet::new(),
            archived_reconciles: BTreeSet::new(),
            keys: BTreeMap::new(),
            ids,
            tasks: BTreeMap::new(),
            final_tasks: FinalTasks::default(),
            task_keys: BTreeMap::new(),
            last_task: 0,
            task_serial_rev: 0,
            spec_bytes: 0,
            requests: BTreeMap::new(),
            requests_over: BTreeSet::new(),
            holders: BTreeMap::new(),
            ending: BTreeSet::new(),
            lines: BTreeMap::new(),
            unseen: BTreeMap::new(),
            stirred: BTreeSet::new(),
            timers: BTreeSet::new(),
            looked: Ts::default(),
            dirty_tasks: BTreeSet::new(),
            dirty_requests: BTreeSet::new(),
            serials: BTreeMap::new(),
            dependents: BTreeMap::new(),
            buckets: BTreeMap::new(),
            ticket: Ticket(0),
            committed: Ticket(0),
            mirror: 0,
            pending: VecDeque::new(),
            held: BTreeMap::new(),
            waiters: BTreeMap::new(),
            waiting_for: BTreeMap::new(),
            dirty: BTreeSet::new(),
            unhurried: unhurried::Unhurried::default(),
            changes: Vec::new(),
            after: Vec::new(),
            out: Effects::default(),
        }
    }

    /// Takes in what happened, in order, and says what follows. Several events make one batch.
    pub fn step(&mut self, now: Ts, events: impl IntoIterator<Item = Event>) -> Effects {
        self.look_at_clock(now);
        for event in events {
            self.take(now, event);
        }
        self.fire(now);
        self.serve_lines(now);
        self.schedule(now);
        self.join_batch(now);
        self.close_batch();
        let out = std::mem::take(&mut self.out);
        #[cfg(any(test, debug_assertions))]
        self.check();
        out
    }

    fn take(&mut self, now: Ts, event: Event) {
        match event {
            Event::Asked(ask, request) => self.asked(now, ask, request),
            Event::Forget(ask) => self.forget(ask),
            Event::Ready(owner, process) => self.ready(owner, process),
            Event::StartFailed(owner, why) => self.start_failed(now, owner, &why),
            Event::Reported(report) if self.is_unhurried(&report) => self.keep_report(*report),
            Event::Reported(report) => self.reported(now, &report),
            Event::Dead(owner, spool) => {
                // What it said before comes first.
                self.hear_kept(now);
                self.dead(now, owner, spool.as_deref());
            }
            Event::Killed(ask, owner, how) => self.killed(ask, owner, how),
            Event::Committed(ticket) => self.commit(ticket),
            Event::MirrorAt(index) => self.mirror_at(index),
            Event::MaxRunning(jobs) => self.lanes.of_mut(Class::Ganeti).max = jobs,
            Event::VmNodes(nodes) => {
                let jobs = nodes.max(1).saturating_mul(RECONCILE_PER_NODE).min(RECONCILE_RUNNING_MAX);
                self.lanes.of_mut(Class::Reconcile).max = jobs;
            }
            Event::Granted { lease, index, grant } => self.granted(now, lease, index, grant),
            Event::GrabWaits { lease, index } => self.grab_waits(lease, index),
            Event::GrabRefused { lease, stale, why } => self.grab_refused(now, lease, stale, &why),
            Event::LeaseReturned { lease, index } => self.lease_returned(lease, index),
            Event::LeaseEnded(lease) => self.lease_ended(now, lease),
            Event::News(news) => self.news(now, *news),
            Event::Tick => {}
            Event::NoBatch => self.no_batch(now),
            Event::Open => {
                self.open = true;
                self.stirred.extend(self.lines.keys().cloned());
            }
        }
    }

    fn asked(&mut self, now: Ts, ask: Ask, request: Request) {
        match request {
            Request::Submit { job, into_drained } => self.submit(now, ask, job, into_drained),
            Request::SubmitMany(jobs) => self.submit_many(now, ask, jobs),
            Request::Cancel { job, kill } => self.cancel(now, ask, job, kill),
            Request::SetPriority { job, priority } => self.set_priority(ask, job, priority),
            Request::Archive(job) => self.archive_one(ask, job),
            Request::ArchiveOld { before, after } => self.archive_old(ask, before, after),
            Request::SetDrained(flag) => self.set_drained(ask, flag),
            Request::SetWatcherPause(until) => self.set_watcher_pause(ask, until),
            Request::Wait { job, rev } => self.wait(ask, job, rev),
            Request::SubmitTask { spec, refusal } => self.submit_task(now, ask, *spec, refusal),
            Request::RerunTasks(tasks) => self.rerun_tasks(now, ask, tasks),
            Request::CancelTask(task) => self.cancel_task(now, ask, task),
            Request::WaitTask { task, rev } => self.wait_task(ask, task, rev),
            Request::RequestLease(request) => self.request_lease(now, ask, *request),
            Request::WaitLease { lease, rev } => self.wait_request(now, ask, lease, rev),
            Request::ReleaseLease(lease) => self.release_lease(now, ask, lease),
            Request::SubmitKeyed(jobs) => self.submit_keyed(now, ask, jobs),
        }
    }

    /// Bodies of final tasks may take so many bytes, and [`FINAL_BODY_BYTES_MAX`] at most: beyond it the oldest tasks go.
    pub fn bound_bodies(&mut self, bytes: u64) {
        self.final_tasks.bound_bodies(bytes);
    }

    /// The running (job, start)s: what wconfd is told first on a connection (P4.7).
    #[must_use]
    pub fn owners(&self) -> Vec<JobOwner> {
        self.live.values().filter_map(|entry| entry.job.owner()).collect()
    }

    /// Numbers for the metrics.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts {
            starts: self.starts,
            deaths: self.deaths,
            running: self.lanes.running() as u64,
            ready: self.lanes.ready() as u64,
            live: self.live.len() as u64,
            tasks: (self.tasks.len() - self.final_tasks.len()) as u64,
            requests: (self.requests.len() - self.requests_over.len()) as u64,
            ending: self.ending.len() as u64,
        }
    }

    fn next_start(&mut self) -> StartNo {
        self.starts += 1;
        StartNo { epoch: self.me.epoch, run: self.me.run, counter: self.starts }
    }

    fn reply(&mut self, ask: Ask, answer: Result<Answer, GanetiError>) {
        self.after.push(After::Reply(ask, answer));
    }

    fn told(&mut self, ask: Ask, done: bool, text: String) {
        self.reply(ask, Ok(Answer::Told(done, text)));
    }

    /// The entry whose current start this is. Everything that a start says goes through here (P4.4, P4.6).
    fn current(&self, owner: JobOwner) -> Option<&Entry> {
        let entry = self.live.get(&owner.job)?;
        let current = entry.start() == Some(owner.start);
        (current || !self.rules.current_start_only).then_some(entry)
    }

    /// Asserts what must hold between steps.
    #[cfg(any(test, debug_assertions))]
    fn check(&self) {
        let with_process = self.live.values().filter(|e| e.start().is_some()).count();
        if self.rules == Rules::ALL {
            assert_eq!(with_process, self.lanes.running(), "the count of running jobs is off");
        }
        let live: usize = lane::CLASSES.into_iter().map(|class| self.lanes.of(class).live).sum();
        assert_eq!(live, self.live.len(), "the count of live jobs is off");
        assert!(self.dirty.is_empty() && self.after.is_empty(), "a step left work undone");
        assert!(self.dirty_tasks.is_empty() && self.changes.is_empty(), "a step left tasks unstored");
        let ready = lane::CLASSES.into_iter().flat_map(|class| &self.lanes.of(class).ready);
        for (_, id) in ready {
            let entry = self.live.get(id).expect("a job in the ready list is live");
            assert!(entry.is_queued() && entry.waits_for.is_empty(), "job {id} is not ready to start");
        }
    }
}
