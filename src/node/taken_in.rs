//! How far vnodes are taken in: on disk, so that a crash does not begin it anew, and in memory, with
//! what is shown of it (correctness, section 7, rules 12 and 17).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::directory::DirectoryError;
use super::layout::Peer;
use crate::protocol::cluster::TransitionId;
use crate::storage::schema::MetaKey;
use crate::storage::{Batch, KeyRange, ScanLimit, Space, Store, frame};
use crate::types::{DataIncarnation, NodeId, ReplicationFactor, VnodeId};

/// The format of a [`TakenIn`].
const FORMAT: u8 = 2;
/// One that did not say of which recovery it was: such a vnode is taken in anew.
const FORMAT_WITHOUT_RECOVERY: u8 = 1;

/// How far a vnode is taken in, as it is persisted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TakenIn {
    /// By which transition.
    pub(super) by: TransitionId,
    /// The bulk is there.
    pub(super) has_bulk: bool,
    /// The old replicas that were passed over.
    pub(super) passed: BTreeSet<Passed>,
}

/// An old replica: of which table, on which node and disk.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Passed {
    pub(super) table: ReplicationFactor,
    pub(super) node: NodeId,
    pub(super) incarnation: DataIncarnation,
}

impl Passed {
    /// A node's replica in a table.
    pub(super) fn over(table: ReplicationFactor, peer: &Peer) -> Self {
        Self { table, node: peer.id.clone(), incarnation: peer.incarnation }
    }
}

impl TakenIn {
    /// Nothing is there yet.
    pub(super) const fn new(by: TransitionId) -> Self {
        Self { by, has_bulk: false, passed: BTreeSet::new() }
    }
}

/// Adds to a batch how far a vnode is taken in.
pub(super) fn put(batch: &mut Batch, vnode: VnodeId, taken: &TakenIn) {
    batch.put(Space::Meta, MetaKey::TakeIn(vnode), frame::encode(FORMAT, taken));
}

/// See the module's head.
#[derive(Debug, Default)]
pub(super) struct TakeIns {
    vnodes: Mutex<BTreeMap<VnodeId, TakenIn>>,
    /// Those of which nothing was fetched yet. Not on disk: what was begun by an earlier process may be
    /// there or not.
    untouched: Mutex<BTreeSet<VnodeId>>,
    /// Why vnodes could not be taken in when that was last tried.
    failures: Mutex<BTreeMap<VnodeId, String>>,
    /// Whether clients were served while the last ones were taken in.
    pub(super) beside_clients: AtomicBool,
    bytes: AtomicU64,
    /// When the running transition's first byte came, for the rate.
    since: Mutex<Option<Instant>>,
}

impl TakeIns {
    /// Reads what is persisted.
    pub(super) async fn load(store: &dyn Store) -> Result<Self, DirectoryError> {
        let take_ins = Self::default();
        let mut range: KeyRange = MetaKey::take_ins();
        let limit = ScanLimit { entries: 1_024, bytes: 1 << 20 };
        loop {
            let page = store.scan(Space::Meta, range.clone(), limit).await?;
            for (key, value) in &page.entries {
                if value.first() == Some(&FORMAT_WITHOUT_RECOVERY) {
                    continue;
                }
                if let Some(MetaKey::TakeIn(vnode)) = MetaKey::from_bytes(key) {
                    take_ins.set(vnode, frame::decode(value, FORMAT)?);
                }
            }
            match page.next {
                Some(next) => range = range.resume_at(next),
                None => return Ok(take_ins),
            }
        }
    }

    /// Which transition began to take a vnode in.
    pub(super) fn begun_by(&self, vnode: VnodeId) -> Option<TransitionId> {
        self.lock().get(&vnode).map(|taken| taken.by)
    }

    /// All of them.
    pub(super) fn all(&self) -> impl Iterator<Item = (VnodeId, TakenIn)> + use<> {
        self.lock().clone().into_iter()
    }

    /// Forgets those of other transitions.
    pub(super) fn keep(&self, by: Option<TransitionId>) {
        let mut vnodes = self.lock();
        let before = vnodes.len();
        vnodes.retain(|_, taken| Some(taken.by) == by);
        self.untouched().retain(|vnode| vnodes.contains_key(vnode));
        if vnodes.len() < before || by.is_none() {
            self.failures.lock().unwrap_or_else(PoisonError::into_inner).clear();
            self.bytes.store(0, Ordering::Relaxed);
            *self.since.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }

    /// A vnode is to be taken in, and holds nothing yet of what is to come.
    pub(super) fn begin_empty(&self, vnode: VnodeId, taken: TakenIn) {
        self.set(vnode, taken);
        self.untouched().insert(vnode);
    }

    /// Whether nothing of a vnode was fetched before; from now on something was.
    pub(super) fn touch(&self, vnode: VnodeId) -> bool {
        self.untouched().remove(&vnode)
    }

    /// How far a vnode is.
    pub(super) fn set(&self, vnode: VnodeId, taken: TakenIn) {
        self.lock().insert(vnode, taken);
    }

    pub(super) fn get(&self, vnode: VnodeId, by: TransitionId) -> TakenIn {
        let known = self.lock().get(&vnode).filter(|taken| taken.by == by).cloned();
        known.unwrap_or_else(|| TakenIn::new(by))
    }

    /// Keeps why a vnode could not be taken in; `None`: it was.
    pub(super) fn failed(&self, vnode: VnodeId, why: Option<String>) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        match why {
            Some(why) => drop(failures.insert(vnode, why)),
            None => drop(failures.remove(&vnode)),
        }
    }

    /// Why it does not go on, each reason once.
    pub(super) fn failures(&self) -> BTreeSet<String> {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.values().cloned().collect()
    }

    pub(super) fn moved(&self, bytes: u64) {
        let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        since.get_or_insert_with(Instant::now);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn rate(&self) -> u64 {
        let since = *self.since.lock().unwrap_or_else(PoisonError::into_inner);
        let seconds = since.map_or(0.0, |since| since.elapsed().as_secs_f64());
        if seconds < 0.1 { 0 } else { (self.bytes() as f64 / seconds) as u64 }
    }

    /// How many bytes the running transition has brought.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    fn untouched(&self) -> MutexGuard<'_, BTreeSet<VnodeId>> {
        self.untouched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<VnodeId, TakenIn>> {
        self.vnodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{Durability, MemoryStore, Syncing};
    use crate::types::{Epoch, PartitionId, RecoveryNumber};

    fn id(recovery: u64) -> TransitionId {
        TransitionId { recovery: RecoveryNumber::new(recovery), begun: Epoch::new(14) }
    }

    /// After a recovery by a node that was behind, an epoch begins a second transition: what the first one
    /// has passed over lacks what was written between them.
    #[tokio::test]
    async fn what_another_recovery_took_in_counts_no_more() {
        let vnode = VnodeId {
            table: ReplicationFactor::new(3).expect("valid"),
            partition: PartitionId::new(1),
        };
        let store = MemoryStore::new(Durability::Sync);
        let mut batch = Batch::default();
        put(&mut batch, vnode, &TakenIn { has_bulk: true, ..TakenIn::new(id(0)) });
        let older = VnodeId { partition: PartitionId::new(2), ..vnode };
        batch.put(Space::Meta, MetaKey::TakeIn(older), frame::encode(1, &(14_u64, true)));
        store.commit(batch, Syncing::Always).await.expect("a store in memory");
        let take_ins = TakeIns::load(&store).await.expect("it reads");
        assert!(take_ins.get(vnode, id(0)).has_bulk);
        assert!(!take_ins.get(vnode, id(1)).has_bulk);
        assert_eq!(take_ins.begun_by(older), None, "of a format that does not say");
        take_ins.keep(Some(id(1)));
        assert_eq!(take_ins.begun_by(vnode), None);
    }
}
