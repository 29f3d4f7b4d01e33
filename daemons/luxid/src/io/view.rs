//! What clients see: jobs and settings as committed. Changed by the queue's task only, read by all; nobody holds
//! it longer than it takes to copy a pointer.

use crate::core::queue::{STATUSES, Shown};
use gantry_model::ids::JobId;
use gantry_model::job::Job;
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// The jobs and settings that clients see. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct View(Arc<RwLock<Seen>>);

#[derive(Debug, Default)]
struct Seen {
    live: BTreeMap<JobId, (u64, Arc<Job>)>,
    /// As JSON: there are many, and they are looked at seldom.
    archive: BTreeMap<JobId, Box<[u8]>>,
    drained: bool,
    watcher_pause: Option<f64>,
}

impl View {
    fn read(&self) -> RwLockReadGuard<'_, Seen> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Seen> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what the queue shows.
    pub fn apply(&self, shown: Vec<Shown>) {
        if shown.is_empty() {
            return;
        }
        let mut seen = self.write();
        for change in shown {
            match change {
                Shown::Job { rev, job } => drop(seen.live.insert(job.id, (rev, job))),
                Shown::Archived(job) => {
                    seen.live.remove(&job.id);
                    let text =
                        serde_json::to_vec(&*job).expect("a job has a JSON form: its maps have text keys");
                    seen.archive.insert(job.id, text.into());
                }
                Shown::Drained(flag) => seen.drained = flag,
                Shown::WatcherPause(until) => seen.watcher_pause = until,
            }
        }
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

fn parse(text: &[u8]) -> Option<Arc<Job>> {
    match serde_json::from_slice(text) {
        Ok(job) => Some(Arc::new(job)),
        Err(error) => {
            tracing::error!(%error, "an archived job can't be read");
            None
        }
    }
}
