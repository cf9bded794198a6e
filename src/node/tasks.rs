//! The tasks of a node, all of them in its [`Process`].

use std::future::Future;

use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::process::Process;

/// Spawns the work of a node, and waits for what a stop has to wait for.
#[derive(Debug)]
pub(super) struct Tasks {
    process: Process,
    tracker: TaskTracker,
}

impl Tasks {
    pub(super) fn new(process: Process) -> Self {
        Self { process, tracker: TaskTracker::new() }
    }

    /// Begins work that a stop waits for.
    pub(super) fn spawn<F>(&self, work: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        if self.process.is_simulated() {
            self.tracker.spawn(self.process.run(work))
        } else {
            self.tracker.spawn(work)
        }
    }

    /// Begins work that ends by itself when the node stops, and that a stop does not wait for.
    pub(super) fn spawn_untracked<F>(&self, work: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        if self.process.is_simulated() {
            tokio::spawn(self.process.run(work));
        } else {
            tokio::spawn(work);
        }
    }

    /// Work of another task that a stop waits for.
    pub(super) async fn track<F: Future>(&self, work: F) -> F::Output {
        self.tracker.track_future(work).await
    }

    /// Whoever holds this is waited for.
    pub(super) fn token(&self) -> TaskTrackerToken {
        self.tracker.token()
    }

    /// How many a stop would wait for now.
    #[cfg(any(test, feature = "sim"))]
    pub(super) fn count(&self) -> usize {
        self.tracker.len()
    }

    /// From now on [`Tasks::wait`] can end.
    pub(super) fn close(&self) {
        self.tracker.close();
    }

    /// Waits until all tracked work is done.
    pub(super) async fn wait(&self) {
        self.tracker.wait().await;
    }
}
