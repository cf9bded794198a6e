//! Keys whose record was damaged (correctness, section 8): the record is dropped, and the key counts
//! towards no R here until another replica's record of it was taken in. Where no replica has one, it
//! stays so: what was lost is said, until an operator accepts it.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::time::Instant;

use super::Node;
use super::directory::{Directory, DirectoryError};
use super::imprint::{Change, Imprint};
use super::layout::Peer;
use super::locks::KeyGuard;
use super::mend::PAGE_TIMEOUT;
use super::replica::Place;
use crate::peer::messages::{Answer, Carried, Refusal, Reply, Request};
use crate::protocol::cluster::StateStamp;
use crate::storage::schema::{parse_record_key, vnode_range};
use crate::storage::{Batch, Space, Syncing, frame};
use crate::types::{KeyPath, ReplicationFactor, VnodeId};

/// The format of an entry, which holds nothing.
const FORMAT: u8 = 1;

/// See the module's head.
#[derive(Debug, Default)]
pub(super) struct Quarantine {
    keys: Mutex<BTreeSet<Bytes>>,
}

impl Quarantine {
    /// Reads what is persisted.
    pub(super) async fn load(directory: Directory<'_>) -> Result<Self, DirectoryError> {
        let entries = directory.all(Space::Quarantine).await?;
        let keys = entries.into_iter().map(|(key, _)| key).collect();
        Ok(Self { keys: Mutex::new(keys) })
    }

    /// Whether a key is in it.
    pub(super) fn has(&self, place: &Place) -> bool {
        let keys = self.lock();
        !keys.is_empty() && keys.contains(place.key())
    }

    /// How many keys are in it.
    pub(super) fn count(&self) -> usize {
        self.lock().len()
    }

    /// Whether any key of a vnode is in it.
    pub(super) fn has_any_of(&self, vnode: VnodeId) -> bool {
        self.places().iter().any(|place| place.vnode == vnode)
    }

    /// A vnode was dropped.
    pub(super) fn forget(&self, vnode: VnodeId) {
        let range = vnode_range(vnode);
        self.lock().retain(|key| !range.contains(key));
    }

    /// A key's record was dropped.
    pub(super) fn forget_key(&self, place: &Place) {
        self.lock().remove(place.key());
    }

    fn places(&self) -> Vec<Place> {
        let places = |key: &Bytes| {
            let (vnode, path) = parse_record_key(key).ok()?;
            Some(Place::new(vnode, path))
        };
        self.lock().iter().filter_map(places).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<Bytes>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Node {
    /// Drops a damaged record, and keeps that it was there; fsynced.
    pub(super) async fn put_into_quarantine(
        self: &Arc<Self>,
        place: &Place,
        _held: &KeyGuard,
    ) -> Result<(), Refusal> {
        // In memory first: what is read from now on does not count.
        self.quarantine.lock().insert(place.key().clone());
        self.vnodes.note_finding();
        let failed = |error: String| {
            tracing::error!(key = ?place.path, error, "could not keep that a record is damaged");
            Refusal::StoreFailed
        };
        let before =
            self.imprint_in_indexes(place).await.map_err(|error| failed(error.to_string()))?;
        let change = Change { before, after: Imprint::Absent };
        let mut batch = Batch::default();
        batch.delete(Space::Records, place.key().clone());
        change.add_to(&mut batch, place, self.shape(), self.clock.wall_ms());
        batch.put(Space::Quarantine, place.key().clone(), frame::encode(FORMAT, &()));
        match self.store.commit(batch, Syncing::Always).await {
            Ok(()) => self.change_tree(place, change),
            Err(error) => {
                self.settle(place, change).await;
                return Err(failed(error.to_string()));
            }
        }
        self.metrics.quarantined_keys(self.quarantine.count());
        self.mend.notify_one();
        Ok(())
    }

    /// Tries to mend every key in quarantine; how many are left.
    pub(super) async fn mend_quarantined(self: &Arc<Self>) -> usize {
        for place in self.quarantine.places() {
            match self.mend_key(&place).await {
                Ok(true) => {
                    tracing::info!(key = ?place.path, "a damaged record was replaced by another replica's")
                }
                Ok(false) => {
                    tracing::error!(key = ?place.path, "no replica has an undamaged record of this key; see `starling cluster repair --accept-loss`")
                }
                Err(why) => {
                    tracing::warn!(key = ?place.path, %why, "a damaged record can't be replaced yet")
                }
            }
        }
        self.metrics.quarantined_keys(self.quarantine.count());
        self.quarantine.count()
    }

    /// Takes in what every other replica holds of a key; whether one held something.
    async fn mend_key(self: &Arc<Self>, place: &Place) -> anyhow::Result<bool> {
        let layout = self.layout().expect("only a serving node mends");
        let set = layout.replicas_of(place.vnode);
        let mut found = false;
        let others = set.indices().filter(|replica| !set.is_here(*replica));
        for replica in others.filter(|replica| !set.peer(*replica).is_gone()) {
            let peer = set.peer(replica);
            if let Some(carried) = self.take(&set.at, peer, place).await? {
                let deadline = Instant::now() + PAGE_TIMEOUT;
                let (node, place) = (Arc::clone(self), place.clone());
                let (at, from) = (set.at, peer.id.clone());
                let merging =
                    async move { node.merge(&at, &place, carried, &from, deadline).await };
                self.tasks.in_foreground(merging).await?;
                found = true;
            }
        }
        if found {
            self.release(place).await?;
        }
        Ok(found)
    }

    async fn take(
        self: &Arc<Self>,
        at: &StateStamp,
        peer: &Arc<Peer>,
        place: &Place,
    ) -> anyhow::Result<Option<Carried>> {
        let request = Request::Take { path: place.path.clone(), table: place.vnode.table };
        match self.call(at, peer, request, Instant::now() + PAGE_TIMEOUT, None).await? {
            Answer::Taken(carried) => Ok(carried),
            _ => anyhow::bail!("{} answered what was not asked for", peer.id),
        }
    }

    /// Hands out what is held of a key, complete or not.
    pub(super) async fn answer_take(
        self: &Arc<Self>,
        path: KeyPath,
        table: ReplicationFactor,
    ) -> Reply {
        let place = self.place(path, table)?;
        match self.carried(&place).await {
            Ok(carried) => Ok(Answer::Taken(carried)),
            // Damaged here too: nothing can be had.
            Err(Refusal::Quarantined) => Ok(Answer::Taken(None)),
            Err(refusal) => Err(refusal),
        }
    }

    /// Gives up the keys whose only copies are damaged, and the hints that are; how many.
    pub(super) async fn accept_loss(self: &Arc<Self>) -> Result<u64, Refusal> {
        let mut released = 0;
        for place in self.quarantine.places() {
            if !self.release(&place).await? {
                // What was written since is damaged too.
                self.drop_if_corrupt(&place).await;
                if !self.release(&place).await? {
                    return Err(Refusal::StoreFailed);
                }
            }
            tracing::warn!(key = ?place.path, "the loss of this key's damaged record was accepted");
            released += 1;
        }
        self.metrics.quarantined_keys(self.quarantine.count());
        Ok(released + self.drop_damaged_hints().await?)
    }

    /// Lets a key count again; false: not yet, its record is damaged anew.
    async fn release(self: &Arc<Self>, place: &Place) -> Result<bool, Refusal> {
        let _guard = self.locks.lock(place.key()).await;
        if self.is_corrupt(place).await {
            return Ok(false);
        }
        let mut batch = Batch::default();
        batch.delete(Space::Quarantine, place.key().clone());
        self.store.commit(batch, Syncing::Always).await.map_err(|_| Refusal::StoreFailed)?;
        self.quarantine.lock().remove(place.key());
        Ok(true)
    }
}
