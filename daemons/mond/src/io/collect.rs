//! A task for each collector: looks at its interval, never longer than its time, and puts what it found on the board.

use crate::core::board::{Board, Look};
use crate::core::catalogue::{Index, specs};
use crate::core::settings::Settings;
use crate::io::sources::Sources;
use gantry_rt::{Daemon, clock};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How long a look may take: less than the shortest interval anybody uses, and a thousand times what one takes.
pub const LOOK: Duration = Duration::from_secs(4);

/// Starts the tasks.
pub fn spawn(
    daemon: &Daemon,
    sources: &Arc<Sources>,
    board: &Arc<Mutex<Board>>,
    settings: &watch::Receiver<Settings>,
) {
    for index in 0..specs().len() {
        let task = run(index, Arc::clone(sources), Arc::clone(board), settings.clone(), daemon.stop.clone());
        daemon.tasks.spawn("collector", task);
    }
}

/// One collector, for ever.
pub async fn run(
    index: Index,
    sources: Arc<Sources>,
    board: Arc<Mutex<Board>>,
    mut settings: watch::Receiver<Settings>,
    stop: CancellationToken,
) {
    let spec = specs()[index];
    while !stop.is_cancelled() {
        let setting = settings.borrow_and_update().get(index);
        let begun = tokio::time::Instant::now();
        if setting.active || spec.stateful {
            let look = tokio::select! {
                look = look(index, &sources) => look,
                () = stop.cancelled() => return,
            };
            if let Err(why) = &look.found {
                tracing::debug!(collector = spec.name, why, "no report");
            }
            board.lock().unwrap_or_else(PoisonError::into_inner).put(index, look);
        }
        tokio::select! {
            () = tokio::time::sleep_until(begun + setting.interval()) => {}
            changed = settings.changed() => if changed.is_err() { stop.cancelled().await },
            () = stop.cancelled() => {}
        }
    }
}

async fn look(index: Index, sources: &Arc<Sources>) -> Look {
    let begun = tokio::time::Instant::now();
    let found = match tokio::time::timeout(LOOK, Arc::clone(sources).look(index)).await {
        Ok(found) => found,
        Err(_) => Err(format!("it did not end within {} s", LOOK.as_secs())),
    };
    Look { at: clock::millis(), epoch: clock::now().epoch(), took_s: begun.elapsed().as_secs_f64(), found }
}
