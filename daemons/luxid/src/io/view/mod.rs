//! What clients see: jobs, tasks, lease requests and settings as committed. Changed by the queue's task only, read by
//! all; nobody holds it longer than it takes to copy a pointer.

mod waiting;

use crate::core::mirror::ObjectChange;
use crate::core::queue::{STATUSES, Shown, kind};
use crate::io::grabs::Grabs;
use gantry_model::ids::{JobId, LeaseUuid, TaskId};
use gantry_model::job::Job;
use gantry_model::lease::LeaseRequest;
use gantry_model::task::Task;
use gantry_rt::clock;
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio::sync::broadcast;
use waiting::Waiting;

/// Changes that a reader of [`View::changes`] may be behind before it is told that it lost some.
const CHANGES_MAX: usize = 4096;

/// What clients see. Clones share it.
#[derive(Debug, Clone)]
pub struct View {
    seen: Arc<RwLock<Seen>>,
    changes: broadcast::Sender<ObjectChange>,
    grabs: Grabs,
}

impl Default for View {
    fn default() -> Self {
        Self { seen: Arc::default(), changes: broadcast::Sender::new(CHANGES_MAX), grabs: Grabs::default() }
    }
}

#[derive(Debug, Default)]
struct Seen {
    live: BTreeMap<JobId, (u64, Arc<Job>)>,
    /// As JSON: there are many, and they are looked at seldom.
    archive: BTreeMap<JobId, Box<[u8]>>,
    drained: bool,
    watcher_pause: Option<f64>,
    tasks: BTreeMap<TaskId, (u64, Arc<Task>)>,
    requests: BTreeMap<LeaseUuid, (u64, Arc<LeaseRequest>)>,
    waiting: Waiting,
}

impl View {
    fn read(&self) -> RwLockReadGuard<'_, Seen> {
        self.seen.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Seen> {
        self.seen.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what the queue shows.
    pub fn apply(&self, shown: Vec<Shown>) {
        if shown.is_empty() {
            return;
        }
        let mut seen = self.write();
        let mut moved = Vec::with_capacity(shown.len());
        for change in shown {
            if let Shown::Stock(pool, None) = &change {
                // A new one of that name begins anew.
                self.grabs.answered(pool, None);
            }
            moved.extend(seen.take(change));
        }
        drop(seen);
        for change in moved {
            // Fails when nobody listens.
            let _ = self.changes.send(change);
        }
    }

    /// What changes from now on: (kind of queue.data, key, state word; empty when the object is gone). Told after it can
    /// be seen. Who falls behind is told so, and should look at everything anew.
    #[must_use]
    pub fn changes(&self) -> broadcast::Receiver<ObjectChange> {
        self.changes.subscribe()
    }

    /// A live or archived job, and its revision (0 for archived ones).
    #[must_use]
    pub fn job(&self, id: JobId) -> Option<(u64, Arc<Job>)> {
        let seen = self.read();
        if let Some((rev, job)) = seen.live.get(&id) {
            return Some((*rev, Arc::clone(job)));
        }
        seen.archive.get(&id).and_then(|text| parse(text)).map(|job| (0, job))
    }

    /// All live jobs, ascending.
    #[must_use]
    pub fn live(&self) -> Vec<Arc<Job>> {
        self.read().live.values().map(|(_, job)| Arc::clone(job)).collect()
    }

    /// All live and archived jobs, ascending.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Job>> {
        let archived: Vec<Box<[u8]>> = self.read().archive.values().cloned().collect();
        let mut jobs: Vec<_> = archived.iter().filter_map(|text| parse(text)).collect();
        jobs.extend(self.live());
        jobs.sort_by_key(|job| job.id);
        jobs.dedup_by_key(|job| job.id);
        jobs
    }

    /// Whether the queue is drained.
    #[must_use]
    pub fn drained(&self) -> bool {
        self.read().drained
    }

    /// Until when the watcher pauses, in seconds since 1970.
    #[must_use]
    pub fn watcher_pause(&self) -> Option<f64> {
        self.read().watcher_pause
    }

    /// How many live jobs have each of [`STATUSES`].
    #[must_use]
    pub fn by_status(&self) -> [i64; STATUSES.len()] {
        let mut counts = [0; STATUSES.len()];
        for (_, job) in self.read().live.values() {
            if let Some(at) = STATUSES.iter().position(|status| *status == job.status()) {
                counts[at] += 1;
            }
        }
        counts
    }
}

impl View {
    /// All tasks with their revisions, ascending by id.
    #[must_use]
    pub fn tasks(&self) -> Vec<(u64, Arc<Task>)> {
        self.read().tasks.values().map(|(rev, task)| (*rev, Arc::clone(task))).collect()
    }

    /// A task and its revision.
    #[must_use]
    pub fn task(&self, id: TaskId) -> Option<(u64, Arc<Task>)> {
        self.read().tasks.get(&id).map(|(rev, task)| (*rev, Arc::clone(task)))
    }

    /// All lease requests, those over and not yet forgotten among them, by uuid.
    #[must_use]
    pub fn requests(&self) -> Vec<Arc<LeaseRequest>> {
        self.read().requests.values().map(|(_, request)| Arc::clone(request)).collect()
    }

    /// A lease request and its revision.
    #[must_use]
    pub fn request(&self, lease: LeaseUuid) -> Option<(u64, Arc<LeaseRequest>)> {
        self.read().requests.get(&lease).map(|(rev, request)| (*rev, Arc::clone(request)))
    }

    /// What wconfd is asked about leases and answers, to be kept by whoever asks it.
    #[must_use]
    pub fn grabs(&self) -> &Grabs {
        &self.grabs
    }

    /// Why a task waits, in words; empty when it does not.
    #[must_use]
    pub fn why_waiting(&self, id: TaskId) -> String {
        let seen = self.read();
        let why = seen.tasks.get(&id).map(|(_, task)| seen.waiting.why_task(task, &self.grabs, clock::now()));
        why.unwrap_or_default()
    }

    /// Why a lease request waits, in words; empty when it does not.
    #[must_use]
    pub fn why_request_waits(&self, lease: LeaseUuid) -> String {
        let seen = self.read();
        let why =
            seen.requests.get(&lease).map(|(_, request)| seen.waiting.why_request(request, &self.grabs));
        why.unwrap_or_default()
    }

    /// How many tasks and lease requests wait for VMs of a pool.
    #[must_use]
    pub fn waiting(&self, pool: &str) -> usize {
        self.read().waiting.length(pool)
    }

    /// Why the newest attempt to fill a pool left slots missing, in words.
    #[must_use]
    pub fn why_short(&self, pool: &str) -> Option<String> {
        self.read().waiting.short(pool).map(str::to_owned)
    }
}

impl Seen {
    /// Takes one change in; what watchers are told of it.
    fn take(&mut self, change: Shown) -> Option<ObjectChange> {
        match change {
            Shown::Job { rev, job } => {
                let moved = moved(kind::JOB, job.id, job.status().as_str());
                self.live.insert(job.id, (rev, job));
                Some(moved)
            }
            Shown::Archived(job) => {
                self.live.remove(&job.id);
                self.waiting.job(&job);
                let text = serde_json::to_vec(&*job).expect("a job has a JSON form: its maps have text keys");
                self.archive.insert(job.id, text.into());
                Some(moved(kind::JOB, job.id, job.status().as_str()))
            }
            Shown::ArchiveGone(id) => {
                self.archive.remove(&id);
                None
            }
            Shown::Drained(flag) => {
                self.drained = flag;
                None
            }
            Shown::WatcherPause(until) => {
                self.watcher_pause = until;
                None
            }
            Shown::Task { rev, task } => {
                self.waiting.task(&task);
                let moved = moved(kind::TASK, task.id, task.state.as_str());
                self.tasks.insert(task.id, (rev, task));
                Some(moved)
            }
            Shown::TaskGone(id) => {
                let (_, task) = self.tasks.remove(&id)?;
                self.waiting.task_gone(&task);
                Some(moved(kind::TASK, id, ""))
            }
            Shown::Request { rev, request } => {
                self.waiting.request(&request);
                let moved = moved(kind::REQUEST, request.uuid, request.state.as_str());
                self.requests.insert(request.uuid, (rev, request));
                Some(moved)
            }
            Shown::RequestGone(lease) => {
                self.requests.remove(&lease);
                Some(moved(kind::REQUEST, lease, ""))
            }
            Shown::Stock(pool, stock) => {
                self.waiting.stock(pool, stock);
                None
            }
        }
    }
}

fn moved(kind: &str, key: impl std::fmt::Display, state: &'static str) -> ObjectChange {
    ObjectChange { kind: kind.to_owned(), key: key.to_string(), state }
}

fn parse(text: &[u8]) -> Option<Arc<Job>> {
    match serde_json::from_slice(text) {
        Ok(job) => Some(Arc::new(job)),
        Err(error) => {
            tracing::error!(%error, "an archived job can't be read");
            None
        }
    }
}
