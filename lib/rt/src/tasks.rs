//! Named tasks. One that fails or panics stops the daemon.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What a task may end with: nothing, or a result.
pub trait Ended {
    /// The same as a result.
    ///
    /// # Errors
    /// What the task failed with.
    fn ended(self) -> anyhow::Result<()>;
}

impl Ended for () {
    fn ended(self) -> anyhow::Result<()> {
        Ok(())
    }
}

impl<E: Into<anyhow::Error>> Ended for Result<(), E> {
    fn ended(self) -> anyhow::Result<()> {
        self.map_err(Into::into)
    }
}

/// The tasks of a daemon. Clones share them.
#[derive(Debug, Clone)]
pub struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
    failed: Arc<AtomicBool>,
}

impl Tasks {
    /// No tasks yet. One that fails will cancel `stop`.
    #[must_use]
    pub fn new(stop: CancellationToken) -> Self {
        Self { tracker: TaskTracker::new(), stop, failed: Arc::default() }
    }

    /// Starts a task. It should watch the daemon's `stop` and end soon after it; what has not ended after
    /// [`crate::JOIN_MS`] is dropped with the process.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn spawn<F>(&self, name: &'static str, task: F)
    where
        F: Future + Send + 'static,
        F::Output: Ended,
    {
        let watch = Watch { name, tasks: self.clone(), done: false };
        self.tracker.spawn(async move {
            let mut watch = watch;
            let ended = task.await.ended();
            watch.done = true;
            if let Err(error) = ended {
                tracing::error!(task = name, error = format!("{error:#}"), "task failed");
                watch.tasks.fail();
            }
        });
    }

    /// Whether a task failed.
    #[must_use]
    pub fn failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    fn fail(&self) {
        self.failed.store(true, Ordering::Relaxed);
        self.stop.cancel();
    }

    /// Waits until all tasks have ended; false if that takes longer than `limit`.
    pub async fn join(&self, limit: Duration) -> bool {
        self.tracker.close();
        tokio::time::timeout(limit, self.tracker.wait()).await.is_ok()
    }
}

/// Notices a task that panics.
struct Watch {
    name: &'static str,
    tasks: Tasks,
    done: bool,
}

impl Drop for Watch {
    fn drop(&mut self) {
        if !self.done && std::thread::panicking() {
            tracing::error!(task = self.name, "task panicked");
            self.tasks.fail();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tasks() -> (Tasks, CancellationToken) {
        let stop = CancellationToken::new();
        (Tasks::new(stop.clone()), stop)
    }

    #[tokio::test]
    async fn a_failing_task_stops_the_daemon() {
        let (tasks, stop) = tasks();
        tasks.spawn("fine", async {});
        tasks.spawn("bad", async { anyhow::bail!("no") });
        stop.cancelled().await;
        assert!(tasks.failed());
        assert!(tasks.join(Duration::from_secs(10)).await);
    }

    #[tokio::test]
    async fn a_panicking_task_stops_the_daemon() {
        let (tasks, stop) = tasks();
        tasks.spawn("bad", async { assert_eq!(1, 2, "a bug") });
        stop.cancelled().await;
        assert!(tasks.failed());
    }

    #[tokio::test]
    async fn a_task_that_hangs_is_not_waited_for() {
        let (tasks, _stop) = tasks();
        tasks.spawn("hangs", std::future::pending::<()>());
        assert!(!tasks.join(Duration::from_millis(10)).await);
        assert!(!tasks.failed());
    }
}
