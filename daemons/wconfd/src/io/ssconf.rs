//! Computes the ssconf values after changes, away from the owner of the state.

use super::mailbox::Handle;
use super::owner::Owner;
use crate::core::ssconf;
use gantry_store::Index;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Pause after each computation: a burst of changes is distributed as one.
const PAUSE: Duration = Duration::from_millis(100);

/// A set of values, and the index they were computed at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Values {
    /// Index of W.
    pub index: Index,
    /// (key, content).
    pub values: Vec<(String, String)>,
}

/// Follows changes; sends a new set only when a value differs from the last set.
pub async fn follow(
    handle: Handle,
    mut news: watch::Receiver<u64>,
    values: watch::Sender<Arc<Values>>,
    stop: CancellationToken,
) {
    loop {
        news.borrow_and_update();
        let Ok((index, snapshot)) = handle.ask(Owner::snapshot).await else { return };
        let now = ssconf::of(&snapshot);
        drop(snapshot);
        values.send_if_modified(|last| {
            let changed = last.values != now;
            if changed {
                *last = Arc::new(Values { index, values: now });
            }
            changed
        });
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(PAUSE) => {}
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = news.changed() => if changed.is_err() { return },
        }
    }
}
