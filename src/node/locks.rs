//! The one lock of each key: every change of a record reads, computes and applies under it
//! (correctness, section 2, "One lock").
//!
//! Keys share a fixed number of locks, so that memory stays bounded. That is safe because no task
//! ever holds two of them.

use std::sync::Arc;

use tokio::sync::{Mutex, OwnedMutexGuard};
use xxhash_rust::xxh3::xxh3_64;

/// A power of two: 64 writers at once meet on one lock by chance once in about 130 writes.
const STRIPES: usize = 8_192;

/// All locks of a node.
#[derive(Debug)]
pub(super) struct KeyLocks {
    stripes: Box<[Arc<Mutex<()>>]>,
}

/// Held while a record is changed.
#[derive(Debug)]
pub(super) struct KeyGuard {
    _guard: OwnedMutexGuard<()>,
}

impl KeyLocks {
    pub(super) fn new() -> Self {
        Self { stripes: (0..STRIPES).map(|_| Arc::default()).collect() }
    }

    /// Waits for a key's turn; first come, first served. The key is the stored one.
    pub(super) async fn lock(&self, record_key: &[u8]) -> KeyGuard {
        let stripe = xxh3_64(record_key) as usize % STRIPES;
        KeyGuard { _guard: Arc::clone(&self.stripes[stripe]).lock_owned().await }
    }
}
