//! The queue after a start of luxid, from what is committed (P4.7).

use super::entry::{Entry, Stage};
use super::event::{Action, Effects, Shown};
use super::{Me, Queue, Rules, kind, rows, start};
use gantry_model::ids::JobId;
use gantry_model::job::Phase;
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
        now: Ts,
        rows: impl IntoIterator<Item = StoredRow<'a>>,
    ) -> Result<(Self, Effects), LoadError> {
        let mut queue = Self::empty(me, rules);
        for row in rows {
            queue.load_row(row).map_err(|source| LoadError {
                kind: row.kind.to_owned(),
                key: row.key.to_owned(),
                source,
            })?;
        }
        // A batch that archives may be cut in two: what is in the archive is no longer live.
        let archive = &queue.archive;
        queue.live.retain(|id, _| !archive.contains_key(id));
        for id in queue.live.keys().copied().collect::<Vec<_>>() {
            queue.load_job(now, id);
        }
        let effects = queue.step(now, []);
        Ok((queue, effects))
    }

    fn load_row(&mut self, row: StoredRow<'_>) -> serde_json::Result<()> {
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
                self.out.shown.push(Shown::Archived(Arc::new(job)));
            }
            (kind::SERIAL, _) => {
                self.last_id = self.last_id.max(serde_json::from_slice(row.body)?);
                self.serial_rev = row.rev;
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
        match entry.job.phase {
            Phase::Ended => {}
            Phase::Queued => self.enqueue(id),
            Phase::Running { start } => {
                let owner = gantry_model::ids::JobOwner { job: id, start };
                entry.stage = Stage::Running(start);
                let process = entry.process.clone();
                self.adopt(id);
                if start.epoch == self.me.epoch {
                    self.out.actions.push(Action::Adopt { owner, process });
                } else {
                    self.out.actions.push(Action::Kill { owner, process, ask: None });
                    self.out.actions.push(Action::OwnerGone(owner));
                    self.finish(now, id, Some(&start::death(owner)));
                }
            }
        }
    }
}
