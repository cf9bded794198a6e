//! Hinted handoff: writes that a replica did not take are kept for it, and brought to it when it is
//! back (Dynamo, section 4.6; correctness, section 4).
//!
//! ```text
//! a replica keeps        (target, key)           replays the record that it holds itself by then
//! a fallback keeps       (target, key), record   counted in the answer; dropped for nothing
//! `any`, no replica up   (any, key), record      the same; goes when one replica has it
//! ```
//!
//! A hint is written and removed under the lock of its key, so a hint for a newer write is not
//! removed with the older one that was brought.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, OwnedRwLockReadGuard, RwLock};
use tokio::time::Instant;

use super::Node;
use super::instruments::PlantedBug;
use super::layout::ReplicaSet;
use super::replica::Place;
use super::view::HintsView;
use crate::peer::messages::{Answer, Carried, Refusal, Reply};
use crate::protocol::causality::{Dot, Record};
use crate::storage::schema::{hint_key, hints_for_vnode, parse_hint_key};
use crate::storage::{
    Batch, EngineError, KeyRange, ReadError, ScanLimit, Space, Store, Syncing, frame,
};
use crate::types::{KeyPath, NodeId, PurgeNumber, ReplicationFactor, VnodeId};

/// The format of [`Hint`].
const HINT_FORMAT: u8 = 1;

/// How many hints are read at once.
pub(super) const PAGE: ScanLimit = ScanLimit { entries: 512, bytes: 4 << 20 };

/// For whom a hint is: a replica, or any of the key's.
pub(super) type Target = Option<NodeId>;

/// A hint as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hint {
    /// `None`: the record that this node holds itself.
    pub(super) record: Option<Bytes>,
    /// An answer to a client has counted it.
    pub(super) is_counted: bool,
    /// By this node's wall clock, in ms since 1970.
    pub(super) since_ms: u64,
}

/// Figures of one target's hints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Kept {
    count: u64,
    bytes: u64,
    oldest_ms: u64,
}

/// See the module's head.
#[derive(Debug, Default)]
pub(super) struct Hints {
    kept: Mutex<BTreeMap<Target, Kept>>,
    /// A batch with a hint has failed: whether it is there is to be looked at.
    pub(super) is_in_doubt: AtomicBool,
    /// A target may be back.
    pub(super) wake: Notify,
    /// Under which purge number kept records of a vnode were last told to others, by this run.
    told: Mutex<BTreeMap<VnodeId, PurgeNumber>>,
    /// Shared by those who write a hint; alone by whoever has to know that none is being written.
    pub(super) writing: Arc<RwLock<()>>,
}

/// The part of a batch that keeps a write for others; held until its outcome is known, so that
/// nobody counts hints while some are on their way to the disk.
#[derive(Debug, Default)]
pub(super) struct HintsOfBatch {
    pub(super) batch: Batch,
    _writing: Option<OwnedRwLockReadGuard<()>>,
}

impl Hints {
    /// Counts what is stored.
    pub(super) async fn load(store: &dyn Store) -> Result<Self, ReadError> {
        let hints = Self::default();
        hints.count_all(store).await?;
        Ok(hints)
    }

    pub(super) async fn count_all(&self, store: &dyn Store) -> Result<(), ReadError> {
        let _alone = self.writing.write().await;
        let counted = Self::default();
        let mut range = KeyRange::all();
        loop {
            let page = store.scan(Space::Hints, range.clone(), PAGE).await?;
            for (key, value) in &page.entries {
                if let (Ok((target, ..)), Ok(hint)) = (parse_hint_key(key), Hint::decode(value)) {
                    counted.add(&target, (key.len() + value.len()) as u64, hint.since_ms);
                }
            }
            match page.next {
                Some(next) => range = range.resume_at(next),
                None => break,
            }
        }
        *self.lock() = std::mem::take(&mut *counted.lock());
        Ok(())
    }

    /// A batch that may have held a hint has failed.
    pub(super) fn doubt(&self) {
        self.is_in_doubt.store(true, Ordering::Relaxed);
    }

    /// A node is back: what is kept for it may go.
    pub(super) fn wake(&self) {
        self.wake.notify_one();
    }

    /// A kept record is about to be told to others under a purge number.
    pub(super) fn note_told(&self, vnode: VnodeId, number: PurgeNumber) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let last = told.entry(vnode).or_default();
        *last = number.max(*last);
    }

    /// The last such number.
    pub(super) fn told_under(&self, vnode: VnodeId) -> PurgeNumber {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.get(&vnode).copied().unwrap_or_default()
    }

    /// Whether something is kept for a node.
    pub(super) fn has_for(&self, node: &NodeId) -> bool {
        self.lock().get(&Some(node.clone())).is_some_and(|kept| kept.count > 0)
    }

    /// Bytes of all hints.
    fn bytes(&self) -> u64 {
        self.lock().values().map(|kept| kept.bytes).sum()
    }

    /// For whom something is kept.
    pub(super) fn targets(&self) -> Vec<Target> {
        self.lock().iter().filter(|(_, kept)| kept.count > 0).map(|(t, _)| t.clone()).collect()
    }

    fn add(&self, target: &Target, bytes: u64, since_ms: u64) {
        let mut kept = self.lock();
        let kept = kept.entry(target.clone()).or_default();
        kept.oldest_ms = if kept.count == 0 { since_ms } else { kept.oldest_ms.min(since_ms) };
        kept.count += 1;
        kept.bytes += bytes;
    }

    pub(super) fn remove(&self, target: &Target, bytes: u64) {
        let mut all = self.lock();
        let Some(kept) = all.get_mut(target) else { return };
        kept.count = kept.count.saturating_sub(1);
        kept.bytes = kept.bytes.saturating_sub(bytes);
        if kept.count == 0 {
            all.remove(target);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Target, Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The record that is kept with a stored hint, if there is one: for a simulation to look at.
#[cfg(any(test, feature = "sim"))]
pub fn record_of_hint(value: &[u8]) -> Option<Bytes> {
    Hint::decode(value).ok()?.record
}

impl Hint {
    /// Reads a hint.
    pub(super) fn decode(value: &[u8]) -> Result<Self, frame::FrameError> {
        frame::decode(value, HINT_FORMAT)
    }
}

/// Whether an entry of `Space::Hints` is not what was written. One of a newer release is.
fn is_damaged(key: &[u8], value: &[u8]) -> bool {
    use frame::FrameError::{Checksum, Malformed};
    parse_hint_key(key).is_err() || matches!(Hint::decode(value), Err(Checksum | Malformed))
}

impl Node {
    /// The part of a write's batch that keeps it for replicas that are known not to take it. Under
    /// the key's lock.
    pub(super) async fn hints_for_absent(&self, place: &Place, absent: &[NodeId]) -> HintsOfBatch {
        if absent.is_empty() || self.instruments.has(PlantedBug::SkippedHint) {
            return HintsOfBatch::default();
        }
        let mut batch = Batch::default();
        let writing = Arc::clone(&self.hints.writing).read_owned().await;
        for target in absent {
            let key = hint_key(Some(target), place.vnode, &place.path);
            let since_ms = self.clock.wall_ms();
            let hint = Hint { record: None, is_counted: false, since_ms };
            let value = frame::encode(HINT_FORMAT, &hint);
            let bytes = (key.len() + value.len()) as u64;
            let there = self.store.get(Space::Hints, key.clone()).await;
            match there.map(|there| there.map(|there| (Hint::decode(&there), there))) {
                // What was kept for an answer stays; with it goes what this node holds then.
                Ok(Some((Ok(Hint { record: Some(_), .. }), there))) => {
                    batch.put(Space::Hints, key, there);
                    continue;
                }
                Ok(Some((Ok(_), _))) => {}
                // What is there may have been kept for an answer.
                Ok(Some((Err(_), _))) | Err(_) => {
                    self.drop_hint(target);
                    continue;
                }
                Ok(None) if self.hints.bytes() + bytes > self.settings.hints.max_bytes => {
                    self.drop_hint(target);
                    continue;
                }
                Ok(None) => self.hints.add(&Some(target.clone()), bytes, since_ms),
            }
            batch.put(Space::Hints, key, value);
        }
        HintsOfBatch { batch, _writing: Some(writing) }
    }

    /// Keeps a write for replicas that did not take it after all. Says whether that was done.
    pub(super) async fn keep_for(self: &Arc<Self>, place: &Place, targets: &[NodeId]) -> bool {
        let _guard = self.locks.lock(place.key()).await;
        let hints = self.hints_for_absent(place, targets).await;
        if hints.batch.is_empty() {
            return self.instruments.has(PlantedBug::SkippedHint);
        }
        let kept = self.store.commit(hints.batch.clone(), Syncing::AsConfigured).await;
        if let Err(error) = &kept {
            tracing::warn!(key = ?place.path, %error, "a write could not be kept for a replica");
            self.hints.doubt();
            targets.iter().for_each(|target| self.drop_hint(target));
        }
        kept.is_ok()
    }

    /// A replica did not take a write, and it is kept for it: for a simulation to look at.
    pub(super) fn note_untaken(&self, targets: &[NodeId], path: &KeyPath, dot: Dot) {
        for target in targets {
            self.instruments.untaken(target, path, dot);
        }
    }

    /// A hint is not kept: anti-entropy has to do it, soon.
    pub(super) fn drop_hint(&self, target: &NodeId) {
        self.metrics.hint_dropped();
        self.repair.request(Some(target));
    }

    /// Keeps a record for a replica that can't be reached; counted in an answer to a client.
    pub(super) async fn answer_hint(
        self: &Arc<Self>,
        target: NodeId,
        path: KeyPath,
        carried: Carried,
        deadline: Instant,
    ) -> Reply {
        let layout = self.layout().ok_or(Refusal::NotServing)?;
        let set = layout.replica_set(&path);
        let is_here = set.indices().any(|replica| set.is_here(replica));
        if is_here || !set.peers.iter().any(|peer| peer.id == target) {
            return Err(Refusal::NoReplica);
        }
        let place = Place::new(set.vnode, path);
        self.keep_record(&place, Some(target), carried, deadline).await?;
        Ok(Answer::Kept)
    }

    /// Keeps a record as a counted hint; durable when it returns.
    pub(super) async fn keep_record(
        self: &Arc<Self>,
        place: &Place,
        target: Target,
        carried: Carried,
        deadline: Instant,
    ) -> Result<(), Refusal> {
        let mut record =
            Record::from_stored_bytes(carried.record).map_err(|_| Refusal::Malformed)?;
        let guard = tokio::time::timeout_at(deadline, self.locks.lock(place.key())).await;
        let _guard = guard.map_err(|_| Refusal::TooLate)?;
        self.refuse_writes()?;
        // Who has said that it keeps none is let go at any moment.
        if self.layout().is_none_or(|layout| layout.is_going()) {
            return Err(Refusal::HintsFull);
        }
        let _writing = self.hints.writing.read().await;
        self.adopt_purge_number(place.vnode, carried.purge).await?;
        let key = hint_key(target.as_ref(), place.vnode, &place.path);
        let stored = self.store.get(Space::Hints, key.clone()).await;
        let before = stored.map_err(|_| Refusal::StoreFailed)?;
        let mut since_ms = self.clock.wall_ms();
        let there = before.as_ref().map(|value| Hint::decode(value)).transpose();
        // One that is damaged stays until its loss is accepted.
        if let Some(hint) = there.map_err(|_| Refusal::StoreFailed)? {
            since_ms = since_ms.min(hint.since_ms);
            let kept = hint.record.map(Record::from_stored_bytes).transpose();
            let kept = kept.map_err(|_| Refusal::StoreFailed)?.unwrap_or_default();
            let _ = record.merge(&kept);
        }
        let hint = Hint { record: Some(record.to_stored_bytes()), is_counted: true, since_ms };
        let value = frame::encode(HINT_FORMAT, &hint);
        let bytes = (key.len() + value.len()) as u64;
        if self.hints.bytes() + bytes > self.settings.hints.max_bytes {
            return Err(Refusal::HintsFull);
        }
        let mut batch = Batch::default();
        batch.put(Space::Hints, key.clone(), value);
        self.store.commit(batch, Syncing::AsConfigured).await.map_err(|_| Refusal::StoreFailed)?;
        if let Some(before) = before {
            self.hints.remove(&target, (key.len() + before.len()) as u64);
        }
        self.hints.add(&target, bytes, since_ms);
        self.metrics.hint_kept();
        Ok(())
    }

    /// A node that is no replica takes notice of a purge number: what is older it refuses.
    pub(super) async fn adopt_purge_number(
        &self,
        vnode: VnodeId,
        number: PurgeNumber,
    ) -> Result<(), Refusal> {
        let mine = self.vnodes.purge_number(vnode);
        if number < mine && !self.instruments.has(PlantedBug::PurgeWithoutFence) {
            return Err(Refusal::StalePurge(mine));
        }
        let entered = self.vnodes.enter_purge(vnode, number, &*self.store).await;
        entered.map_err(|_| Refusal::StoreFailed)
    }

    /// What is kept of a key for replicas that can't be reached, merged.
    pub(super) async fn hinted_record(
        self: &Arc<Self>,
        path: &KeyPath,
    ) -> Result<(Record, PurgeNumber), Refusal> {
        let layout = self.layout().ok_or(Refusal::NotServing)?;
        let set = layout.replica_set(path);
        let purge = self.vnodes.purge_number(set.vnode);
        let kept = self.kept_record(&set, path).await?;
        if kept.is_absent() {
            return Ok((kept, purge));
        }
        // Whoever asks whether any is kept, and is told that none is, asks for this after that.
        self.hints.note_told(set.vnode, purge);
        Ok((self.kept_record(&set, path).await?, purge))
    }

    async fn kept_record(&self, set: &ReplicaSet, path: &KeyPath) -> Result<Record, Refusal> {
        let targets = set.peers.iter().map(|peer| Some(peer.id.clone())).chain([None]);
        let mut merged = Record::absent();
        for target in targets {
            let key = hint_key(target.as_ref(), set.vnode, path);
            let stored = self.store.get(Space::Hints, key).await;
            let Some(value) = stored.map_err(|_| Refusal::StoreFailed)? else { continue };
            let hint = Hint::decode(&value).map_err(|_| Refusal::StoreFailed)?;
            let record = hint.record.map(Record::from_stored_bytes).transpose();
            let record = record.map_err(|_| Refusal::StoreFailed)?.unwrap_or_default();
            let _ = merged.merge(&record);
        }
        Ok(merged)
    }

    /// Drops the hints that can't be read: nobody can be brought what they kept. How many.
    pub(super) async fn drop_damaged_hints(&self) -> Result<u64, Refusal> {
        let mut dropped = 0;
        let mut range = KeyRange::all();
        loop {
            let page = self.store.scan(Space::Hints, range.clone(), PAGE).await;
            let page = page.map_err(|_| Refusal::StoreFailed)?;
            for (key, value) in &page.entries {
                if is_damaged(key, value) && self.drop_if_damaged(key).await? {
                    dropped += 1;
                }
            }
            match page.next {
                Some(next) => range = range.resume_at(next),
                None => return Ok(dropped),
            }
        }
    }

    /// Drops a hint if it still can't be read, under its key's lock where that is known.
    async fn drop_if_damaged(&self, key: &Bytes) -> Result<bool, Refusal> {
        let (target, place) = match parse_hint_key(key) {
            Ok((target, vnode, path)) => (target, Some(Place::new(vnode, path))),
            Err(_) => (None, None),
        };
        let _guard = match &place {
            Some(place) => Some(self.locks.lock(place.key()).await),
            None => None,
        };
        let stored = self.store.get(Space::Hints, key.clone()).await;
        if !stored.map_err(|_| Refusal::StoreFailed)?.is_some_and(|value| is_damaged(key, &value)) {
            return Ok(false);
        }
        let path = place.map(|place| place.path);
        tracing::warn!(key = ?path, "the loss of a damaged hint was accepted");
        let mut batch = Batch::default();
        batch.delete(Space::Hints, key.clone());
        // It was counted only if it could be read at the start.
        self.hints.doubt();
        self.store.commit(batch, Syncing::Always).await.map_err(|_| Refusal::StoreFailed)?;
        match target {
            Some(target) => self.drop_hint(&target),
            None => self.repair.request(None),
        }
        Ok(true)
    }

    /// How many hints are kept here for a key's replica.
    pub(super) async fn hints_of_key(
        &self,
        target: &NodeId,
        vnode: VnodeId,
        path: &KeyPath,
    ) -> u64 {
        let key = hint_key(Some(target), vnode, path);
        u64::from(matches!(self.store.get(Space::Hints, key).await, Ok(Some(_))))
    }

    /// Whether anything is kept here for anybody, by a look at the disk.
    pub(super) async fn keeps_hints(&self) -> bool {
        let one = ScanLimit { entries: 1, bytes: 1 };
        let found = self.store.scan(Space::Hints, KeyRange::all(), one).await;
        found.map_or(true, |page| !page.entries.is_empty())
    }

    /// Whether no hint is kept here for any key of a partition.
    pub(super) async fn has_no_hints(&self, vnode: VnodeId) -> Result<bool, ReadError> {
        // Those that were admitted before are written by then.
        drop(self.hints.writing.write().await);
        if self.keeps_hints().await && self.has_some_hint(vnode).await? {
            return Ok(false);
        }
        // Those that were removed before this look must not be there again after a power cut. After
        // it: one that was removed in between would be in neither.
        let synced = self.store.sync().await.inspect_err(|_| self.disk.suspect());
        synced.map_err(|error| ReadError::Io {
            space: Space::Hints,
            cause: EngineError::new(&error),
        })?;
        Ok(true)
    }

    /// Whether a look at the disk finds a hint for some key of a partition.
    async fn has_some_hint(&self, vnode: VnodeId) -> Result<bool, ReadError> {
        let limit = ScanLimit { entries: 1, bytes: 1 };
        // Not by the counts: one that is being written is not in them yet.
        let layout = self.layout().expect("hints are of a layout");
        let named = layout.peers.iter().map(|peer| Some(peer.id.clone()));
        let targets: BTreeSet<Target> = named.chain(self.hints.targets()).chain([None]).collect();
        for target in targets {
            // A bucket's n may have changed since: such a hint is under the vnode that it had then.
            for table in ReplicationFactor::all() {
                let range = hints_for_vnode(target.as_ref(), VnodeId { table, ..vnode });
                if !self.store.scan(Space::Hints, range, limit).await?.entries.is_empty() {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Figures for people.
    pub(super) fn hints_view(&self) -> Vec<HintsView> {
        let now_ms = self.clock.wall_ms();
        let view = |(target, kept): (&Target, &Kept)| HintsView {
            target: target.as_ref().map_or_else(|| "any".into(), |node| node.to_string()),
            count: kept.count,
            bytes: kept.bytes,
            oldest_seconds: now_ms.saturating_sub(kept.oldest_ms) / 1_000,
        };
        self.hints.lock().iter().map(view).collect()
    }
}
