//! Removes bodies that nothing names: no task that is kept, no image. Looked at rarely, since nobody waits for it.
//!
//! A body is older than its mention: it is sent before its task is submitted, and put there by a job before the result
//! that names it is stored. So one goes only when it was seen without a name for [`gantry_body::unnamed::UNNAMED_MS_MIN`], and when all attempts
//! have ended that ran when it was first seen. Both by what this luxid has seen: the wall clock may be years off.

use super::{Store, blocking};
use crate::core::mirror::Snapshot;
use crate::core::queue::bodies_of;
use crate::io::view::View;
use crate::io::wconfd::Config;
use gantry_body::temporary;
use gantry_body::unnamed::{Mark, Work};
use gantry_model::task::is_digest;
use gantry_rt::clock;
use gantry_store::{Batch, StoreError, Writer};
use std::collections::HashSet;
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::PoisonError;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Between two looks.
const PERIOD: Duration = Duration::from_secs(600);
/// Digests in one batch: some tens of KiB.
const DROPPED_MAX: usize = 1_000;

/// What a sweep removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Bodies.
    pub bodies: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Temporary files that a dead process left.
    pub leftovers: u64,
}

/// Files that nothing needs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unused {
    /// Digests of bodies.
    pub bodies: Vec<String>,
    /// Files that may be a dead process's.
    pub leftovers: Vec<PathBuf>,
    /// Attempts that ran when this was seen.
    work: Work,
}

/// Sweeps now and then until luxid stops. The copies hear what they may remove before this node removes it: what is
/// removed here alone would stay there for ever.
pub async fn run(store: Store, view: View, config: Config, writer: Writer, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(PERIOD) => {}
            () = stop.cancelled() => return,
        }
        let (from, view, config) = (store.clone(), view.clone(), config.snapshot());
        let unused = match blocking(move || unused(&from, &view, &config, clock::millis())).await {
            Ok(unused) => unused,
            Err(error) => {
                tracing::warn!(%error, "can't look through the body store");
                continue;
            }
        };
        let dropped = tokio::select! {
            dropped = tell_copies(&writer, &unused.bodies) => dropped,
            () = stop.cancelled() => return,
        };
        if let Err(why) = dropped {
            tracing::warn!(%why, "unused bodies stay until the copies can hear of it");
            continue;
        }
        let from = store.clone();
        match blocking(move || from.remove(&unused, clock::millis())).await {
            Ok(Swept { bodies: 0, leftovers: 0, .. }) => {}
            Ok(swept) => tracing::info!(swept.bodies, swept.bytes, swept.leftovers, "removed unused bodies"),
            Err(error) => tracing::warn!(%error, "can't remove unused bodies"),
        }
    }
}

/// Stores that nothing names these bodies any more; a copy removes them when it applies the rows.
async fn tell_copies(writer: &Writer, bodies: &[String]) -> Result<(), StoreError> {
    let digests: Vec<_> = bodies.iter().filter_map(|hex| gantry_store::digest(hex)).collect();
    for some in digests.chunks(DROPPED_MAX) {
        let batch = Batch { dropped: some.to_vec(), ..Batch::default() };
        let index = writer.append(batch)?;
        let mut progress = writer.progress();
        let done =
            progress.wait_for(|progress| progress.committed >= index || progress.failed.is_some()).await;
        if done.map_err(|_| StoreError::Stopped)?.committed < index {
            return Err(StoreError::Stopped);
        }
    }
    Ok(())
}

/// What may be removed at time `now` of a clock that does not step, in milliseconds.
pub(super) fn unused(store: &Store, view: &View, config: &Snapshot, now: u64) -> io::Result<Unused> {
    // Without a configuration it is not known which images there are.
    if config.cluster().is_err() {
        return Ok(Unused::default());
    }
    let mut named: HashSet<String> = config.images().iter().map(|(_, image)| image.digest.clone()).collect();
    let mut work = Work::default();
    for (_, task) in view.tasks() {
        named.extend(bodies_of(&task).map(str::to_owned));
        // Numbers of jobs rise. An attempt that has none yet has written nothing.
        if let Some(job) = task.current().and_then(|attempt| attempt.job) {
            work.oldest = Some(work.oldest.map_or(job.0, |oldest| oldest.min(job.0)));
            work.newest = work.newest.max(job.0);
        }
    }
    store.unused(&named, now, work)
}

impl Store {
    /// Bodies that have not been `named` for long enough, and what dead processes may have left. Blocks.
    ///
    /// # Errors
    /// What the system says.
    pub fn unused(&self, named: &HashSet<String>, now: u64, work: Work) -> io::Result<Unused> {
        let (mut unnamed, mut leftovers) = (Vec::new(), Vec::new());
        for dir in std::fs::read_dir(self.0.root.blob_dir())? {
            let dir = dir?.path();
            if !dir.is_dir() {
                continue;
            }
            for entry in std::fs::read_dir(&dir)? {
                let entry = entry?;
                let name = entry.file_name().to_string_lossy().into_owned();
                if is_digest(&name) {
                    if !named.contains(&name)
                        && let Some(facts) = gone(entry.metadata())?
                    {
                        unnamed.push((name, Mark::of(&facts)));
                    }
                } else if name.starts_with('.') && name.ends_with(".tmp") {
                    leftovers.push(entry.path());
                }
            }
        }
        let mut gate = self.0.gate.lock().unwrap_or_else(PoisonError::into_inner);
        gate.look(now, unnamed, work);
        Ok(Unused { bodies: gate.due(now, work), leftovers, work })
    }

    /// Removes what is unused, unless it was told of meanwhile. Blocks.
    ///
    /// # Errors
    /// What the system says; what was removed stays so.
    pub fn remove(&self, unused: &Unused, now: u64) -> io::Result<Swept> {
        let mut swept = Swept::default();
        for digest in &unused.bodies {
            if let Some(bytes) = self.remove_unnamed(digest, now, unused.work)? {
                swept.bodies += 1;
                swept.bytes += bytes;
            }
        }
        for path in &unused.leftovers {
            // Whoever still writes one holds its lock.
            swept.leftovers += u64::from(temporary::remove_dead(path)?);
        }
        Ok(swept)
    }

    /// Removes a body unless it was told of, or put there anew, since it was found due; its size.
    fn remove_unnamed(&self, digest: &str, now: u64, work: Work) -> io::Result<Option<u64>> {
        let mut gate = self.0.gate.lock().unwrap_or_else(PoisonError::into_inner);
        let path = self.0.root.blob(digest);
        let Some(facts) = gone(path.metadata())? else { return Ok(None) };
        if !gate.is_due(digest, Mark::of(&facts), now, work) {
            return Ok(None);
        }
        std::fs::remove_file(path)?;
        gate.forget(digest);
        Ok(Some(facts.len()))
    }
}

/// None when the file is gone.
fn gone<T>(facts: io::Result<T>) -> io::Result<Option<T>> {
    match facts {
        Ok(facts) => Ok(Some(facts)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
