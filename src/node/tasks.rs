//! The tasks of a node, all of them in its [`Process`].
//!
//! Repair and streams are *background* work: it runs on threads of its own, which the system lets run
//! when no other wants to, so that neither a long list nor a large page is in a client's way. What
//! others wait for while it is done (a commit that holds keys' locks, a closed gate) is spawned, and so
//! runs on the other threads.

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

    /// Begins work that a stop waits for; in the foreground, whoever begins it.
    pub(super) fn spawn<F>(&self, work: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        match self.process.threads() {
            Some(threads) => self.tracker.spawn_on(work, &threads.foreground),
            None if self.process.is_simulated() => self.tracker.spawn(self.process.run(work)),
            None => self.tracker.spawn(work),
        }
    }

    /// Begins work that ends by itself when the node stops, and that a stop does not wait for.
    pub(super) fn spawn_untracked<F>(&self, work: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        match self.process.threads() {
            Some(threads) => drop(threads.foreground.spawn(work)),
            None if self.process.is_simulated() => drop(tokio::spawn(self.process.run(work))),
            None => drop(tokio::spawn(work)),
        }
    }

    /// The same in the background.
    pub(super) fn spawn_background<F>(&self, work: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        match self.process.threads() {
            Some(threads) => drop(threads.background.spawn(work)),
            None => self.spawn_untracked(work),
        }
    }

    /// Does something in the background; once begun, it runs to its end.
    pub(super) async fn in_background<F>(&self, work: F) -> F::Output
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        match self.process.threads() {
            Some(threads) => done(threads.background.spawn(work)).await,
            None => work.await,
        }
    }

    /// Does a part of background work that others wait for in the foreground; once begun, it runs to
    /// its end, and a stop waits for it.
    pub(super) async fn in_foreground<F>(&self, work: F) -> F::Output
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        match self.process.threads() {
            Some(_) => done(self.spawn(work)).await,
            None => work.await,
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

/// What a task came to; its panic goes on here.
async fn done<T>(task: JoinHandle<T>) -> T {
    match task.await {
        Ok(output) => output,
        Err(died) => match died.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Nothing aborts tasks: the process ends.
            Err(_) => std::future::pending().await,
        },
    }
}
