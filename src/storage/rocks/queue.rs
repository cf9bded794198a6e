//! The bounded queue between those who commit and the writer thread.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::storage::{Batch, CommitError, Refusal, Syncing};

/// What may wait. Beyond it commits are refused: they would only wait longer than their deadline.
const QUEUE_BATCHES: usize = 65_536;
const QUEUE_BYTES: usize = 64 << 20;

/// What is written, and fsynced, at once. A single larger batch is written alone.
const GROUP_BATCHES: usize = 1_024;
const GROUP_BYTES: usize = 4 << 20;

/// A batch that waits for the writer.
pub(super) struct Waiting {
    pub(super) batch: Batch,
    pub(super) syncing: Syncing,
    pub(super) done: oneshot::Sender<Written>,
}

/// What became of a batch.
pub(super) struct Written {
    pub(super) outcome: Result<(), CommitError>,
    /// Back to where it was made: memory that another thread gives back is dear to the allocator.
    pub(super) _batch: Batch,
}

#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Waiting>,
    bytes: usize,
    closed: bool,
    /// The writer sleeps; nobody else needs to be woken.
    idle: bool,
    refused: u64,
}

/// How much waits now, and how much was ever refused.
pub(super) struct Fill {
    pub(super) batches: u64,
    pub(super) bytes: u64,
    pub(super) refused: u64,
}

impl Queue {
    /// Queues a batch, behind all that were queued before.
    pub(super) fn push(&self, waiting: Waiting) -> Result<(), Refusal> {
        let mut state = self.lock();
        if state.closed {
            return Err(Refusal::Closed);
        }
        let bytes = waiting.batch.bytes();
        // A batch beyond the bound is taken by an empty queue: else it could never be written.
        let full = state.waiting.len() >= QUEUE_BATCHES || state.bytes + bytes > QUEUE_BYTES;
        if full && !state.waiting.is_empty() {
            state.refused += 1;
            return Err(Refusal::QueueFull);
        }
        state.bytes += bytes;
        state.waiting.push_back(waiting);
        if state.idle {
            self.changed.notify_one();
        }
        Ok(())
    }

    /// Moves all that waits, up to the bounds of a group, into `group`. Waits until there is
    /// something; `false`: the queue is closed and drained.
    pub(super) fn pop_group(&self, group: &mut Vec<Waiting>) -> bool {
        let mut state = self.lock();
        while state.waiting.is_empty() {
            if state.closed {
                return false;
            }
            state.idle = true;
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle = false;
        }
        let mut group_bytes = 0;
        while let Some(next) = state.waiting.front() {
            let bytes = next.batch.bytes();
            let full = group.len() == GROUP_BATCHES || group_bytes + bytes > GROUP_BYTES;
            if full && !group.is_empty() {
                break;
            }
            group_bytes += bytes;
            group.extend(state.waiting.pop_front());
        }
        state.bytes -= group_bytes;
        true
    }

    /// Refuses everything from now on; what waits is still written.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// Closes, and drops what waits: the writer is gone. Dropped senders tell whoever awaits.
    pub(super) fn abandon(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.waiting.clear();
        state.bytes = 0;
    }

    pub(super) fn fill(&self) -> Fill {
        let state = self.lock();
        Fill {
            batches: state.waiting.len() as u64,
            bytes: state.bytes as u64,
            refused: state.refused,
        }
    }

    /// Nothing panics under the lock half way through a change.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Space;

    fn waiting(bytes: usize) -> Waiting {
        let mut batch = Batch::new();
        batch.put(Space::Records, "k", vec![0; bytes]);
        Waiting { batch, syncing: Syncing::AsConfigured, done: oneshot::channel().0 }
    }

    fn group_sizes(queue: &Queue) -> Vec<usize> {
        let mut sizes = Vec::new();
        let mut group = Vec::new();
        while queue.pop_group(&mut group) {
            sizes.push(group.len());
            group.clear();
        }
        sizes
    }

    #[test]
    fn a_full_queue_refuses_and_counts_it() {
        let queue = Queue::default();
        assert_eq!(queue.push(waiting(QUEUE_BYTES)), Ok(()), "alone, any size is taken");
        assert_eq!(queue.push(waiting(1)), Err(Refusal::QueueFull));
        let fill = queue.fill();
        assert_eq!((fill.batches, fill.refused), (1, 1));
        assert!(queue.pop_group(&mut Vec::new()));
        assert_eq!(queue.fill().bytes, 0);
        assert_eq!(queue.push(waiting(1)), Ok(()));
    }

    #[test]
    fn groups_are_bounded_in_number_and_bytes() {
        let queue = Queue::default();
        for _ in 0..=GROUP_BATCHES {
            queue.push(waiting(1)).expect("room");
        }
        for bytes in [GROUP_BYTES / 2, GROUP_BYTES, 1] {
            queue.push(waiting(bytes)).expect("room");
        }
        queue.close();
        assert_eq!(group_sizes(&queue), [GROUP_BATCHES, 2, 1, 1]);
        assert_eq!(queue.push(waiting(1)), Err(Refusal::Closed));
    }
}
