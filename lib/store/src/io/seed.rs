//! Loading many objects at once, for benchmarks: through the log, like any batch.

use super::start::{StartOptions, start};
use crate::core::row::{Batch, Change, Index};
use crate::error::StoreError;
use std::path::Path;

/// Starts the log, appends `changes` in batches of `per_batch`, waits for each batch, stops the log. Returns
/// the last index. Blocks; durable when it returns.
///
/// # Errors
/// The log cannot be started or written. Batches before the failed one stay.
pub fn seed(
    dir: &Path,
    opts: StartOptions,
    changes: impl IntoIterator<Item = Change>,
    per_batch: usize,
) -> Result<Index, StoreError> {
    let started = start(dir, opts)?;
    let mut last = started.committed;
    let mut changes = changes.into_iter().peekable();
    while changes.peek().is_some() {
        let batch = Batch::of(changes.by_ref().take(per_batch.max(1)).collect());
        last = started.writer.append(batch)?;
        started.writer.wait(last)?;
    }
    started.writer.stop();
    Ok(last)
}
