//! Removes bodies that nothing names: no task that is kept, no image. Looked at rarely, since nobody waits for it.
//!
//! A body is older than its mention: it is sent before its task is submitted, and put there by a job before the result
//! that names it is stored. So young bodies are left, and so are those no older than the oldest attempt that still runs.

use super::{Store, blocking, now};
use crate::core::mirror::Snapshot;
use crate::core::queue::bodies_of;
use crate::io::view::View;
use crate::io::wconfd::Config;
use gantry_model::task::is_digest;
use gantry_store::{Batch, StoreError, Writer};
use std::collections::HashSet;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::time::{Duration, SystemTime};
use tokio_util::sync::CancellationToken;

/// Between two looks.
const PERIOD: Duration = Duration::from_secs(600);
/// No younger body is removed: time to submit the task whose input was sent.
pub const AGE_MIN: Duration = Duration::from_secs(3_600);

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
    /// Temporary files.
    pub leftovers: Vec<PathBuf>,
    /// A file that was told of since then is kept after all.
    before: Option<SystemTime>,
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
        let unused = match blocking(move || unused(&from, &view, &config)).await {
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
        match blocking(move || from.remove(&unused)).await {
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

pub(super) fn unused(store: &Store, view: &View, config: &Snapshot) -> io::Result<Unused> {
    // Without a configuration it is not known which images there are.
    if config.cluster().is_err() {
        return Ok(Unused::default());
    }
    let mut before = now() - AGE_MIN;
    let mut named: HashSet<String> = config.images().iter().map(|(_, image)| image.digest.clone()).collect();
    for (_, task) in view.tasks() {
        named.extend(bodies_of(&task).map(str::to_owned));
        if let Some(start) = task.current().and_then(|attempt| attempt.start) {
            before = before.min(SystemTime::UNIX_EPOCH + Duration::from_secs(start.0));
        }
    }
    store.unused(&named, before)
}

impl Store {
    /// Bodies that are not `named` and were last told of before `before`, and what dead processes left. Blocks.
    ///
    /// # Errors
    /// What the system says.
    pub fn unused(&self, named: &HashSet<String>, before: SystemTime) -> io::Result<Unused> {
        let mut unused = Unused { before: Some(before), ..Unused::default() };
        for dir in std::fs::read_dir(self.0.root.blob_dir())? {
            let dir = dir?.path();
            if !dir.is_dir() {
                continue;
            }
            for entry in std::fs::read_dir(&dir)? {
                let entry = entry?;
                let name = entry.file_name().to_string_lossy().into_owned();
                let young = || Ok(entry.metadata()?.modified()? >= before);
                if is_digest(&name) {
                    if !named.contains(&name) && !gone(young())?.unwrap_or(true) {
                        unused.bodies.push(name);
                    }
                } else if name.starts_with('.') && name.ends_with(".tmp") {
                    unused.leftovers.push(entry.path());
                }
            }
        }
        Ok(unused)
    }

    /// Removes what is unused, unless it was told of meanwhile. Blocks.
    ///
    /// # Errors
    /// What the system says; what was removed stays so.
    pub fn remove(&self, unused: &Unused) -> io::Result<Swept> {
        let mut swept = Swept::default();
        let Some(before) = unused.before else { return Ok(swept) };
        for digest in &unused.bodies {
            if let Some(bytes) = self.remove_old(&self.0.root.blob(digest), before)? {
                swept.bodies += 1;
                swept.bytes += bytes;
            }
        }
        for path in &unused.leftovers {
            if let Some(bytes) = self.remove_old(path, before)? {
                swept.leftovers += 1;
                swept.bytes += bytes;
            }
        }
        Ok(swept)
    }

    /// Removes a file unless it is young or gone; its size.
    fn remove_old(&self, path: &Path, before: SystemTime) -> io::Result<Option<u64>> {
        let _gate = self.0.gate.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(facts) = gone(path.metadata())? else { return Ok(None) };
        if facts.modified()? >= before {
            return Ok(None);
        }
        std::fs::remove_file(path)?;
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
