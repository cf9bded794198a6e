//! Which keys have a record on its way to other replicas: such a key is not purged (correctness,
//! section 6, "Strip"). In whichever vnode that would be: a write that was minted in one may go on in
//! another, once its bucket has another n.

use std::sync::{Arc, Mutex, PoisonError};

use foldhash::HashMap;

use super::replica::Place;
use crate::types::KeyPath;

/// See the module's head.
#[derive(Debug, Default)]
pub(super) struct Sending {
    keys: Arc<Mutex<HashMap<KeyPath, u32>>>,
}

/// Held while a key's record is being sent.
#[derive(Debug)]
pub(super) struct SendGuard {
    keys: Arc<Mutex<HashMap<KeyPath, u32>>>,
    path: KeyPath,
}

impl Sending {
    /// A key's record is being sent until the guard is dropped.
    pub(super) fn begin(&self, place: &Place) -> SendGuard {
        let path = place.path.clone();
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        *keys.entry(path.clone()).or_default() += 1;
        drop(keys);
        SendGuard { keys: Arc::clone(&self.keys), path }
    }

    /// Whether a key's record is being sent.
    pub(super) fn has(&self, place: &Place) -> bool {
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        keys.contains_key(&place.path)
    }
}

impl Drop for SendGuard {
    fn drop(&mut self) {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = keys.get_mut(&self.path) {
            *count -= 1;
            if *count == 0 {
                keys.remove(&self.path);
            }
        }
    }
}
