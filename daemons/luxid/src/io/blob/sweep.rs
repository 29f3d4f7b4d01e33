//! Removes bodies that nothing names: no task that is kept, no image. Looked at rarely, since nobody waits for it.
//!
//! A body is older than its mention: it is sent before its task is submitted, and put there by a job before the result
//! that names it is stored. So young bodies are left, and so are those no older than the oldest attempt that still runs.

use super::{Store, blocking, now};
use crate::core::mirror::Snapshot;
use crate::io::view::View;
use crate::io::wconfd::Config;
use gantry_model::task::{Task, is_digest};
use std::collections::HashSet;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::PoisonError;
use std::time::{Duration, SystemTime};
use tokio_util::sync::CancellationToken;

/// Between two looks.
const PERIOD: Duration = Duration::from_secs(600);
/// No younger body is removed: time to submit the task whose input was sent.
pub const AGE_MIN: Duration = Duration::from_secs(3_600);

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

/// Sweeps now and then until luxid stops.
pub async fn run(store: Store, view: View, config: Config, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(PERIOD) => {}
            () = stop.cancelled() => return,
        }
        let (store, view, config) = (store.clone(), view.clone(), config.snapshot());
        match blocking(move || sweep(&store, &view, &config)).await {
            Ok(Swept { bodies: 0, leftovers: 0, .. }) => {}
            Ok(swept) => tracing::info!(swept.bodies, swept.bytes, swept.leftovers, "removed unused bodies"),
            Err(error) => tracing::warn!(%error, "can't look through the body store"),
        }
    }
}

pub(super) fn sweep(store: &Store, view: &View, config: &Snapshot) -> io::Result<Swept> {
    // Without a configuration it is not known which images there are.
    if config.cluster().is_err() {
        return Ok(Swept::default());
    }
    let mut before = now() - AGE_MIN;
    let mut named: HashSet<String> = config.images().iter().map(|(_, image)| image.digest.clone()).collect();
    for (_, task) in view.tasks() {
        named.extend(names(&task).map(str::to_owned));
        if let Some(start) = task.current().and_then(|attempt| attempt.start) {
            before = before.min(SystemTime::UNIX_EPOCH + Duration::from_secs(start.0));
        }
    }
    store.sweep(&named, before)
}

/// The bodies that a task names.
fn names(task: &Task) -> impl Iterator<Item = &str> {
    let input = task.spec.input.iter().map(|body| body.digest.as_str());
    let result = task.result.iter();
    let archive = result.clone().filter_map(|r| r.archive.as_ref()).map(|body| body.digest.as_str());
    let steps = result.flat_map(|r| &r.steps);
    let outputs = steps.flat_map(|step| [&step.out, &step.err]).filter_map(|o| o.digest.as_deref());
    input.chain(archive).chain(outputs)
}

impl Store {
    /// Removes bodies that are not `named` and were last told of before `before`. Blocks.
    ///
    /// # Errors
    /// What the system says; what was removed stays so.
    pub fn sweep(&self, named: &HashSet<String>, before: SystemTime) -> io::Result<Swept> {
        let mut swept = Swept::default();
        for dir in std::fs::read_dir(self.0.root.blob_dir())? {
            let dir = dir?.path();
            if !dir.is_dir() {
                continue;
            }
            for entry in std::fs::read_dir(&dir)? {
                let entry = entry?;
                let name = entry.file_name().to_string_lossy().into_owned();
                let body = is_digest(&name);
                let leftover = name.starts_with('.') && name.ends_with(".tmp");
                if (!body && !leftover) || named.contains(&name) {
                    continue;
                }
                if let Some(bytes) = self.remove_old(&entry.path(), before)? {
                    swept.bodies += u64::from(body);
                    swept.leftovers += u64::from(leftover);
                    swept.bytes += bytes;
                }
            }
        }
        Ok(swept)
    }

    /// Removes a file unless it is young or gone; its size.
    fn remove_old(&self, path: &Path, before: SystemTime) -> io::Result<Option<u64>> {
        let _gate = self.0.gate.lock().unwrap_or_else(PoisonError::into_inner);
        let facts = match path.metadata() {
            Ok(facts) => facts,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        if facts.modified()? >= before {
            return Ok(None);
        }
        std::fs::remove_file(path)?;
        Ok(Some(facts.len()))
    }
}
