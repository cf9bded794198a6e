//! Which forwarded writes this node was asked for of late, so that one which comes twice is not
//! minted twice (correctness, section 2, "Who mints").
//!
//! A connection delivers a request at most once, and nobody sends one twice to the same replica; so
//! this is a second line, and its memory is bounded.

use std::collections::{HashSet, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::types::OperationId;

/// How long an operation is remembered; no request may take longer.
const REMEMBERED_FOR: Duration = Duration::from_secs(70);

/// How many are remembered at most; the oldest are forgotten first.
const MOST: usize = 65_536;

/// See the module's head.
#[derive(Debug, Default)]
pub(super) struct Forwarded {
    recent: Mutex<Recent>,
}

#[derive(Debug, Default)]
struct Recent {
    known: HashSet<OperationId>,
    by_age: VecDeque<(Instant, OperationId)>,
}

impl Forwarded {
    /// Whether an operation comes for the first time, as far as is remembered.
    pub(super) fn is_first(&self, operation: OperationId) -> bool {
        let now = Instant::now();
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.forget(now);
        let is_first = recent.known.insert(operation);
        if is_first {
            recent.by_age.push_back((now, operation));
        }
        is_first
    }
}

impl Recent {
    fn forget(&mut self, now: Instant) {
        while let Some((at, operation)) = self.by_age.front().copied() {
            if now - at < REMEMBERED_FOR && self.by_age.len() < MOST {
                return;
            }
            self.by_age.pop_front();
            self.known.remove(&operation);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_operation_is_known_for_a_while_and_memory_is_bounded() {
        let forwarded = Forwarded::default();
        let operation = OperationId::new(1);
        assert!(forwarded.is_first(operation));
        assert!(!forwarded.is_first(operation));
        tokio::time::advance(REMEMBERED_FOR).await;
        assert!(forwarded.is_first(operation));
        (2..MOST as u128 * 2).for_each(|i| assert!(forwarded.is_first(OperationId::new(i))));
        assert_eq!(forwarded.recent.lock().expect("not poisoned").known.len(), MOST);
    }
}
