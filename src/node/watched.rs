//! A value that tasks wait for to change.
//!
//! As `tokio::sync::watch`, but those that wait are woken in the order in which they began to: that
//! one wakes them in an order that it draws at random, and a simulation could not repeat a run.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use tokio::sync::Notify;

/// See the module's head. Clones are the same value.
#[derive(Debug)]
pub struct Watched<T> {
    shared: Arc<Shared<T>>,
}

#[derive(Debug)]
struct Shared<T> {
    value: RwLock<T>,
    changed: Notify,
}

impl<T> Clone for Watched<T> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<T> Watched<T> {
    /// One that holds this.
    pub(super) fn new(value: T) -> Self {
        Self { shared: Arc::new(Shared { value: RwLock::new(value), changed: Notify::new() }) }
    }

    /// What it holds. Not to be kept: it cannot change meanwhile.
    pub fn borrow(&self) -> RwLockReadGuard<'_, T> {
        self.shared.value.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes it; wakes those that wait, if the change says that it was one.
    pub(super) fn change(&self, change: impl FnOnce(&mut T) -> bool) {
        let mut value = self.shared.value.write().unwrap_or_else(PoisonError::into_inner);
        let is_changed = change(&mut value);
        drop(value);
        if is_changed {
            self.shared.changed.notify_waiters();
        }
    }

    /// Waits until it is as asked for; at once if it is.
    pub async fn wait_for(&self, mut is_it: impl FnMut(&T) -> bool) {
        loop {
            // Counts from here on, so that no change between the look and the wait is missed.
            let changed = self.shared.changed.notified();
            if is_it(&self.borrow()) {
                return;
            }
            changed.await;
        }
    }
}
