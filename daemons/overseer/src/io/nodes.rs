//! Asks luxid how nodes are, on a connection of its own: a query that waits for a dead node must not hold up the rest.

use crate::core::away::Away;
use crate::io::luxi::Luxi;
use crate::io::shell::News;
use crate::io::submit;
use gantry_model::root::Root;
use gantry_rt::clock;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::sync::mpsc::Sender;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Pause after a look that failed: luxid is away for a moment.
const FAILED: Duration = Duration::from_secs(1);
/// Least time between two looks: each asks every node.
const SPACING: Duration = Duration::from_millis(250);

/// Looks every `period`, and when `wanted`, until the daemon stops.
pub async fn run(
    root: Root,
    (period, lost_s): (Duration, u64),
    wanted: Arc<Notify>,
    news: Sender<News>,
    stop: CancellationToken,
) {
    tokio::select! {
        () = keep(&root, (period, lost_s), &wanted, &news) => {}
        () = stop.cancelled() => {}
    }
}

/// Ends only when the shell has.
async fn keep(root: &Root, (period, lost_s): (Duration, u64), wanted: &Notify, news: &Sender<News>) {
    let mut luxi = Luxi::new(root);
    let mut away = Away::default();
    loop {
        match submit::nodes(&mut luxi).await {
            Ok(mut nodes) => {
                let back = away.look(clock::millis(), &mut nodes, lost_s);
                if news.send(News::Nodes { nodes, back }).await.is_err() {
                    return;
                }
                tokio::time::sleep(SPACING).await;
                // Whether told or not: time to look.
                let _ = timeout(period, wanted.notified()).await;
            }
            Err(error) => {
                tracing::debug!(%error, "nodes cannot be looked at");
                tokio::time::sleep(FAILED).await;
            }
        }
    }
}
