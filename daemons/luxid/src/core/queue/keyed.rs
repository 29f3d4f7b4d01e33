//! Keyed jobs of the reconcilers: at most one live job has a key (I10), so that asking twice is asking once.

use super::event::{Answer, Ask};
use super::submit::{NewJob, Origin};
use super::{LIVE_JOBS_MAX, Queue};
use gantry_model::error::{Ecode, GanetiError};
use gantry_model::ids::JobId;
use gantry_model::job::{Class, Job};
use gantry_model::time::Ts;
use std::collections::BTreeSet;

/// Most keys of one job: a list of slots has up to 16, and a key each.
pub const KEYS_MAX: usize = 64;
/// Longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 255;

/// A job and the keys it is to have.
#[derive(Debug, Clone)]
pub struct KeyedJob {
    /// Its keys.
    pub keys: Vec<String>,
    /// The job.
    pub job: NewJob,
}

impl KeyedJob {
    fn refusal(&self) -> Option<GanetiError> {
        let good = |key: &String| {
            (1..=KEY_BYTES_MAX).contains(&key.len())
                && !key.contains(|c: char| c.is_whitespace() || c.is_control())
        };
        let bad = self.keys.is_empty() || self.keys.len() > KEYS_MAX || !self.keys.iter().all(good);
        let text =
            format!("a keyed job needs 1 to {KEYS_MAX} keys of 1 to {KEY_BYTES_MAX} bytes without blanks");
        bad.then(|| GanetiError::prereq(text, Ecode::WrongInput))
    }
}

/// The keys of a job.
pub(super) fn keys(job: &Job) -> impl Iterator<Item = &str> {
    job.key.as_deref().unwrap_or_default().split_ascii_whitespace()
}

impl Queue {
    /// Also into a drained queue: reconcilers are not users, and what they clean up would stay.
    pub(super) fn submit_keyed(&mut self, now: Ts, ask: Ask, jobs: Vec<KeyedJob>) {
        let answers = jobs.into_iter().map(|job| self.take_keyed(now, job)).collect();
        self.reply(ask, Ok(Answer::KeyedSubmitted(answers)));
    }

    fn take_keyed(&mut self, now: Ts, job: KeyedJob) -> Result<(JobId, bool), GanetiError> {
        if let Some(refusal) = job.refusal() {
            return Err(refusal);
        }
        if let Some(id) = job.keys.iter().find_map(|key| self.keys.get(key)).copied() {
            self.store_told(id);
            return Ok((id, false));
        }
        if self.lanes.of(Class::Reconcile).live >= LIVE_JOBS_MAX {
            return Err(GanetiError { class: "JobQueueFull".to_owned(), args: Vec::new() });
        }
        let id = JobId(self.last_id + 1);
        let keys: BTreeSet<String> = job.keys.into_iter().collect();
        let key = keys.iter().map(String::as_str).collect::<Vec<_>>().join(" ");
        self.add(now, job.job, id, Origin::keyed(key))?;
        self.give_out(id);
        self.keys.extend(keys.into_iter().map(|key| (key, id)));
        Ok((id, true))
    }

    /// The job is over: its keys are free.
    pub(super) fn free_keys(&mut self, id: JobId) {
        let Some(entry) = self.live.get(&id) else { return };
        for key in keys(&entry.job) {
            if self.keys.get(key) == Some(&id) {
                self.keys.remove(key);
            }
        }
    }
}
