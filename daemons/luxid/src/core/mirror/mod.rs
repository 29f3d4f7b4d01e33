//! The typed read-only copy of the configuration, fed by wconfd's watch stream
//! ([`gantry_proto::wconfd::Watch`]). Queries are answered from it alone (DESIGN §3).
//!
//! One task owns the [`Mirror`], applies what the stream sends and publishes [`Mirror::snapshot`] after each
//! item. Readers keep a [`Snapshot`] as long as they like: it never changes, and neither side waits for
//! the other. A change costs O(log n) whatever the number of readers.
//!
//! Until the whole state has come ([`WatchItem::Loaded`]) the previous snapshot stays in place, so that
//! a reconnect shows the last known state, never half of the new one.

mod counts;
mod map;
mod snapshot;
mod table;
mod touched;

#[cfg(test)]
mod tests;

pub use counts::PoolCounts;
pub use map::Map;
pub use snapshot::{InstanceRow, InstanceSet, ObjectError, Snapshot};
pub use table::{Place, Table};
pub use touched::{ObjectChange, Touched};

use gantry_proto::wconfd::{WatchChange, WatchItem, WatchRequest};
use std::sync::Arc;

/// What the stream sent and can't be followed. The mirror is unchanged; the stream must be opened anew.
#[derive(Debug, thiserror::Error)]
pub enum MirrorError {
    /// A part of a whole state, without its beginning.
    #[error("{0} without a reset before it")]
    NoReset(&'static str),
    /// A batch before the whole state it follows.
    #[error("batch {0} while the whole state is still being sent")]
    Early(u64),
    /// An object this program can't read.
    #[error(transparent)]
    Object(#[from] ObjectError),
}

/// The copy and how far it got.
#[derive(Default)]
pub struct Mirror {
    current: Arc<Snapshot>,
    loading: Option<Snapshot>,
}

impl Mirror {
    /// A copy that has nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What readers see: the last whole committed state. O(1).
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.current)
    }

    /// What to ask the stream for after a (re)connect.
    #[must_use]
    pub fn request(&self) -> WatchRequest {
        match self.current.history() {
            Some(history) => WatchRequest { from: self.current.index(), history: Some(history) },
            None => WatchRequest { from: 0, history: None },
        }
    }

    /// Takes one item of the stream, all of it or nothing. Batches at or below the own index are repeats and
    /// change nothing. What readers see differently from now on is answered.
    ///
    /// # Errors
    /// [`MirrorError`]; the copy is as before.
    pub fn apply(&mut self, item: &WatchItem) -> Result<Touched, MirrorError> {
        match item {
            WatchItem::Reset { index, history } => self.loading = Some(Snapshot::empty(*index, *history)),
            WatchItem::Chunk(changes) => {
                let loading = self.loading.as_mut().ok_or(MirrorError::NoReset("a chunk"))?;
                // Readers see nothing of it before it is whole, and then all is new.
                let mut unseen = Touched::default();
                changes.iter().try_for_each(|change| loading.change(change, &mut unseen))?;
            }
            WatchItem::Loaded => {
                let loaded = self.loading.take().ok_or(MirrorError::NoReset("the end of a state"))?;
                self.current = Arc::new(loaded);
                return Ok(Touched { all: true, ..Touched::default() });
            }
            WatchItem::Batch { index, .. } if self.loading.is_some() => {
                return Err(MirrorError::Early(*index));
            }
            WatchItem::Batch { index, changes } => return self.batch(*index, changes),
        }
        Ok(Touched::default())
    }

    /// Forgets a whole state that was only half sent when the stream broke.
    pub fn disconnected(&mut self) {
        self.loading = None;
    }

    fn batch(&mut self, index: u64, changes: &[WatchChange]) -> Result<Touched, MirrorError> {
        let mut touched = Touched::default();
        if index <= self.current.index() {
            return Ok(touched);
        }
        let mut next = Snapshot::clone(&self.current);
        changes.iter().try_for_each(|change| next.change(change, &mut touched))?;
        next.reached(index);
        self.current = Arc::new(next);
        Ok(touched)
    }
}
