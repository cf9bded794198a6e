//! The one lock of each key: every change of a record reads, computes and applies under it
//! (correctness, section 2, "One lock").
//!
//! Keys share a fixed number of locks, so that memory stays bounded. That is safe because a task
//! holds one of them, or takes several in their one order.
//!
//! Who holds a key's lock also holds the *gate* open. To go on to another epoch a node closes it: it
//! waits for the changes that were admitted before, and lets none in until its roles are worked out
//! (correctness, section 7, rule 3).

use std::collections::BTreeSet;
use std::sync::Arc;

use smallvec::{SmallVec, smallvec};
use tokio::sync::{Mutex, OwnedMutexGuard, OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};
use xxhash_rust::xxh3::xxh3_64;

/// A power of two: 64 writers at once meet on one lock by chance once in about 130 writes.
const STRIPES: usize = 8_192;

/// All locks of a node.
#[derive(Debug)]
pub(super) struct KeyLocks {
    stripes: Box<[Arc<Mutex<()>>]>,
    gate: Arc<RwLock<()>>,
}

/// Held while a record is changed.
#[derive(Debug)]
pub(super) struct KeyGuard {
    _guards: SmallVec<[OwnedMutexGuard<()>; 1]>,
    _gate: OwnedRwLockReadGuard<()>,
}

/// Held while no record changes.
#[derive(Debug)]
pub(super) struct ClosedGate {
    _gate: OwnedRwLockWriteGuard<()>,
}

impl KeyLocks {
    pub(super) fn new() -> Self {
        Self { stripes: (0..STRIPES).map(|_| Arc::default()).collect(), gate: Arc::default() }
    }

    /// Waits for a key's turn; first come, first served. The key is the stored one.
    pub(super) async fn lock(&self, record_key: &[u8]) -> KeyGuard {
        let guard = Arc::clone(&self.stripes[stripe_of(record_key)]).lock_owned().await;
        KeyGuard { _guards: smallvec![guard], _gate: self.open_gate().await }
    }

    /// Waits for the turn of many keys at once.
    pub(super) async fn lock_all<'a>(
        &self,
        record_keys: impl Iterator<Item = &'a [u8]>,
    ) -> KeyGuard {
        let stripes: BTreeSet<usize> = record_keys.map(stripe_of).collect();
        let mut guards = SmallVec::with_capacity(stripes.len());
        for stripe in stripes {
            guards.push(Arc::clone(&self.stripes[stripe]).lock_owned().await);
        }
        // Taken once: with one in hand, whoever closes the gate is waited for by the next.
        KeyGuard { _guards: guards, _gate: self.open_gate().await }
    }

    /// Waits until no record is being changed, and lets none be until this is dropped.
    pub(super) async fn close_gate(&self) -> ClosedGate {
        ClosedGate { _gate: Arc::clone(&self.gate).write_owned().await }
    }

    async fn open_gate(&self) -> OwnedRwLockReadGuard<()> {
        Arc::clone(&self.gate).read_owned().await
    }
}

fn stripe_of(record_key: &[u8]) -> usize {
    xxh3_64(record_key) as usize % STRIPES
}
