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

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, OwnedRwLockReadGuard, RwLock};
use tokio::time::Instant;

use super::Node;
use super::calls::PeerFailure;
use super::instruments::PlantedBug;
use super::layout::Peer;
use super::pace::Pace;
use super::replica::Place;
use super::view::HintsView;
use crate::peer::messages::{Answer, Carried, Refusal, Reply, Request};
use crate::protocol::causality::{Dot, Record};
use crate::storage::schema::{hint_key, hints_for, hints_for_vnode, parse_hint_key};
use crate::storage::{Batch, KeyRange, ReadError, ScanLimit, Space, Store, Syncing, frame};
use crate::types::{KeyPath, NodeId, PurgeNumber, VnodeId};

/// The format of [`Hint`].
const HINT_FORMAT: u8 = 1;

/// How many hints are read at once.
const PAGE: ScanLimit = ScanLimit { entries: 512, bytes: 4 << 20 };

/// How many are on their way at once.
const CONCURRENT: usize = 64;

/// How many are brought between two rests while clients are being served.
const BESIDE_CLIENTS: usize = 16;

/// How long a target has to take one.
const REPLAY_TIMEOUT: Duration = Duration::from_secs(5);

/// How often it is looked whether a target is back, and which hints are too old.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// For whom a hint is: a replica, or any of the key's.
pub(super) type Target = Option<NodeId>;

/// A hint as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Hint {
    /// `None`: the record that this node holds itself.
    record: Option<Bytes>,
    /// An answer to a client has counted it.
    is_counted: bool,
    /// By this node's wall clock, in ms since 1970.
    since_ms: u64,
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
    is_in_doubt: AtomicBool,
    /// A target may be back.
    wake: Notify,
    /// Shared by those who write a hint; alone by whoever has to know that none is being written.
    writing: Arc<RwLock<()>>,
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

    async fn count_all(&self, store: &dyn Store) -> Result<(), ReadError> {
        let _alone = self.writing.write().await;
        let counted = Self::default();
        let mut range = KeyRange::all();
        loop {
            let page = store.scan(Space::Hints, range.clone(), PAGE).await?;
            for (key, value) in &page.entries {
                if let (Ok((target, ..)), Ok(hint)) = (parse_hint_key(key), decode(value)) {
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

    /// Whether something is kept for a node.
    pub(super) fn has_for(&self, node: &NodeId) -> bool {
        self.lock().get(&Some(node.clone())).is_some_and(|kept| kept.count > 0)
    }

    /// Bytes of all hints.
    fn bytes(&self) -> u64 {
        self.lock().values().map(|kept| kept.bytes).sum()
    }

    /// For whom something is kept.
    fn targets(&self) -> Vec<Target> {
        self.lock().iter().filter(|(_, kept)| kept.count > 0).map(|(t, _)| t.clone()).collect()
    }

    fn add(&self, target: &Target, bytes: u64, since_ms: u64) {
        let mut kept = self.lock();
        let kept = kept.entry(target.clone()).or_default();
        kept.oldest_ms = if kept.count == 0 { since_ms } else { kept.oldest_ms.min(since_ms) };
        kept.count += 1;
        kept.bytes += bytes;
    }

    fn remove(&self, target: &Target, bytes: u64) {
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

fn decode(value: &[u8]) -> Result<Hint, frame::FrameError> {
    frame::decode(value, HINT_FORMAT)
}

/// What became of a hint that was to be brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Replayed {
    /// The target has it; the hint is gone, or stands for something newer.
    Brought,
    /// It is of no use any more.
    Pointless,
    /// The target did not take it.
    Failed,
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
            match self.store.get(Space::Hints, key.clone()).await {
                Ok(Some(_)) => {}
                _ if self.hints.bytes() + bytes > self.settings.hints.max_bytes => {
                    self.drop_hint(target);
                    continue;
                }
                _ => self.hints.add(&Some(target.clone()), bytes, since_ms),
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
    fn drop_hint(&self, target: &NodeId) {
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
        if set.local.is_some() || !set.peers.iter().any(|peer| peer.id == target) {
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
        let _writing = self.hints.writing.read().await;
        self.adopt_purge_number(place.vnode, carried.purge).await?;
        let key = hint_key(target.as_ref(), place.vnode, &place.path);
        let stored = self.store.get(Space::Hints, key.clone()).await;
        let before = stored.map_err(|_| Refusal::StoreFailed)?;
        let mut since_ms = self.clock.wall_ms();
        if let Some(hint) = before.as_ref().and_then(|value| decode(value).ok()) {
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
        let targets = set.peers.iter().map(|peer| Some(peer.id.clone())).chain([None]);
        let mut merged = Record::absent();
        for target in targets {
            let key = hint_key(target.as_ref(), set.vnode, path);
            let stored = self.store.get(Space::Hints, key).await;
            let Some(value) = stored.map_err(|_| Refusal::StoreFailed)? else { continue };
            let hint = decode(&value).map_err(|_| Refusal::StoreFailed)?;
            let record = hint.record.map(Record::from_stored_bytes).transpose();
            let record = record.map_err(|_| Refusal::StoreFailed)?.unwrap_or_default();
            let _ = merged.merge(&record);
        }
        Ok((merged, purge))
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

    /// Whether no hint is kept here for any key of a partition.
    pub(super) async fn has_no_hints(&self, vnode: VnodeId) -> Result<bool, ReadError> {
        let limit = ScanLimit { entries: 1, bytes: 1 };
        // Those that were admitted before are written by then.
        drop(self.hints.writing.write().await);
        // Not by the counts: one that is being written is not in them yet.
        let layout = self.layout().expect("hints are of a layout");
        let named = layout.peers.iter().map(|peer| Some(peer.id.clone()));
        for target in named.chain([None]) {
            let range = hints_for_vnode(target.as_ref(), vnode);
            if !self.store.scan(Space::Hints, range, limit).await?.entries.is_empty() {
                return Ok(false);
            }
        }
        Ok(true)
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

    /// Brings hints to their targets as they come back, until the node stops.
    pub(super) fn spawn_handoff(self: &Arc<Self>) {
        let node = Arc::clone(self);
        self.tasks.spawn_untracked(async move {
            let phase = node.phase();
            loop {
                let wait = tokio::time::timeout(LOOK_EVERY, node.hints.wake.notified());
                tokio::select! {
                    biased;
                    _ = phase.wait_for(|phase| phase.is_over()) => return,
                    _ = wait => {}
                }
                node.tasks.track(node.hand_off()).await;
            }
        });
    }

    async fn hand_off(self: &Arc<Self>) {
        if self.hints.is_in_doubt.swap(false, Ordering::Relaxed)
            && let Err(error) = self.hints.count_all(&*self.store).await
        {
            tracing::error!(%error, "hints can't be read");
            self.hints.doubt();
        }
        for target in self.hints.targets() {
            if self.phase.borrow().is_over() {
                return;
            }
            if let Err(error) = self.replay(&target).await {
                tracing::error!(%error, "hints can't be read");
            }
        }
    }

    /// Brings all hints of one target, as far as it takes them; and drops those that are too old.
    async fn replay(self: &Arc<Self>, target: &Target) -> Result<(), ReadError> {
        let layout = self.layout().expect("hints are of a layout");
        let is_up = match target {
            Some(id) => layout.peer(id).is_some_and(|peer| peer.is_up()),
            None => true,
        };
        let mut pace = Pace::new(self, self.settings.hints.max_bytes_per_second);
        let mut range = hints_for(target.as_ref());
        loop {
            let page = self.store.scan(Space::Hints, range.clone(), PAGE).await?;
            let bytes = page.entries.iter().map(|(key, value)| (key.len() + value.len()) as u64);
            let bytes = bytes.sum();
            if !is_up || !self.replay_page(&page.entries, bytes, &mut pace).await {
                self.drop_old_hints(page.entries).await;
                if is_up {
                    return Ok(());
                }
                pace.rest(bytes).await;
            }
            match page.next {
                Some(next) if !self.phase.borrow().is_over() => range = range.resume_at(next),
                _ => return Ok(()),
            }
        }
    }

    /// Whether all of a page went.
    async fn replay_page(
        self: &Arc<Self>,
        mut entries: &[(Bytes, Bytes)],
        bytes: u64,
        pace: &mut Pace,
    ) -> bool {
        let each = bytes / entries.len().max(1) as u64;
        while !entries.is_empty() {
            let most = if pace.are_clients_served() { BESIDE_CLIENTS } else { entries.len() };
            let (piece, rest) = entries.split_at(most.min(entries.len()));
            entries = rest;
            if !self.replay_piece(piece).await {
                return false;
            }
            pace.rest(each * piece.len() as u64).await;
        }
        true
    }

    /// Whether all of a piece went.
    async fn replay_piece(self: &Arc<Self>, entries: &[(Bytes, Bytes)]) -> bool {
        let replays = entries.iter().cloned().map(|(key, value)| {
            let node = Arc::clone(self);
            async move { node.replay_hint(key, value).await }
        });
        let mut replays = futures_util::stream::iter(replays).buffered(CONCURRENT);
        while let Some(replayed) = replays.next().await {
            match replayed {
                Replayed::Brought => self.metrics.hint_replayed(),
                Replayed::Pointless => {}
                Replayed::Failed => return false,
            }
        }
        true
    }

    async fn replay_hint(self: Arc<Self>, key: Bytes, value: Bytes) -> Replayed {
        let (Ok((target, vnode, path)), Ok(hint)) = (parse_hint_key(&key), decode(&value)) else {
            tracing::error!(key = %key.escape_ascii(), "a hint is damaged");
            self.metrics.alarm("corrupt-hint");
            return Replayed::Pointless;
        };
        let place = Place::new(vnode, path);
        let layout = self.layout().expect("hints are of a layout");
        let set = layout.replicas_of(vnode);
        let takers: Vec<Arc<Peer>> = match &target {
            Some(id) => set.peers.iter().filter(|peer| peer.id == *id).cloned().collect(),
            None => set.peers.iter().filter(|peer| peer.is_up()).cloned().collect(),
        };
        for peer in takers {
            let brought = match &hint.record {
                Some(record) => {
                    self.bring_kept(&peer, &place, record, (&target, &key, &value)).await
                }
                None => self.bring_own(&peer, &place, (&target, &key, &value)).await,
            };
            if brought != Replayed::Failed {
                return brought;
            }
        }
        Replayed::Failed
    }

    /// Brings a record that is kept with its hint.
    async fn bring_kept(
        self: &Arc<Self>,
        peer: &Arc<Peer>,
        place: &Place,
        record: &Bytes,
        hint: (&Target, &Bytes, &Bytes),
    ) -> Replayed {
        // Once more, if the target knows of a purge that this node had not heard of. No record of
        // this partition can have been purged by it: this node has not confirmed that it keeps no
        // hint.
        for _ in 0..3 {
            let purge = self.vnodes.purge_number(place.vnode);
            let carried = Carried { record: record.clone(), purge };
            match self.bring(peer, place, carried).await {
                Ok(()) => return self.remove_hint(place, hint, |node, key| {
                    let node = Arc::clone(node);
                    let (key, value) = (key.clone(), hint.2.clone());
                    Box::pin(async move {
                        matches!(node.store.get(Space::Hints, key).await, Ok(Some(now)) if now == value)
                    })
                }).await,
                Err(PeerFailure::Refused(Refusal::StalePurge(number))) => {
                    if self.adopt_purge_number(place.vnode, number).await.is_err() {
                        return Replayed::Failed;
                    }
                }
                Err(_) => return Replayed::Failed,
            }
        }
        Replayed::Failed
    }

    /// Brings what this node, a replica itself, holds of a key.
    async fn bring_own(
        self: &Arc<Self>,
        peer: &Arc<Peer>,
        place: &Place,
        hint: (&Target, &Bytes, &Bytes),
    ) -> Replayed {
        for _ in 0..3 {
            let carried = match self.carried_when_settled(place).await {
                Ok(Some(carried)) => carried,
                // Purged, or damaged here: what there is comes from others.
                Ok(None) | Err(Refusal::Quarantined) => {
                    self.remove_hint(place, hint, |_, _| Box::pin(std::future::ready(true))).await;
                    return Replayed::Pointless;
                }
                Err(_) => return Replayed::Failed,
            };
            match self.bring(peer, place, carried.clone()).await {
                Ok(()) => return self.remove_hint(place, hint, |node, _| {
                    let (node, place, sent) = (Arc::clone(node), place.clone(), carried.record.clone());
                    Box::pin(async move {
                        let now = node.carried(&place).await;
                        matches!(now, Ok(now) if now.as_ref().is_none_or(|now| now.record == sent))
                    })
                }).await,
                Err(PeerFailure::Refused(Refusal::StalePurge(number))) => {
                    if self.meet_purge_number(place.vnode, number).await.is_err() {
                        return Replayed::Failed;
                    }
                }
                Err(_) => return Replayed::Failed,
            }
        }
        Replayed::Failed
    }

    async fn bring(
        self: &Arc<Self>,
        peer: &Arc<Peer>,
        place: &Place,
        record: Carried,
    ) -> Result<(), PeerFailure> {
        let request = Request::Merge { path: place.path.clone(), record, answers: false };
        match self.call(peer, request, Instant::now() + REPLAY_TIMEOUT, None).await? {
            Answer::Merged(_) => Ok(()),
            _ => Err(PeerFailure::WrongAnswer),
        }
    }

    /// Removes a hint under its key's lock, if that says that nothing newer is kept by it.
    async fn remove_hint(
        self: &Arc<Self>,
        place: &Place,
        (target, key, value): (&Target, &Bytes, &Bytes),
        is_done: impl FnOnce(&Arc<Self>, &Bytes) -> crate::storage::BoxFuture<'static, bool>,
    ) -> Replayed {
        let _guard = self.locks.lock(place.key()).await;
        if !is_done(self, key).await {
            return Replayed::Brought;
        }
        let _writing = self.hints.writing.read().await;
        let mut batch = Batch::default();
        batch.delete(Space::Hints, key.clone());
        match self.store.commit(batch, Syncing::AsConfigured).await {
            Ok(()) => {
                self.hints.remove(target, (key.len() + value.len()) as u64);
                Replayed::Brought
            }
            // It is brought once more, which changes nothing.
            Err(_) => {
                self.hints.doubt();
                Replayed::Failed
            }
        }
    }

    /// Drops hints that are too old. Never one that was counted.
    async fn drop_old_hints(self: &Arc<Self>, entries: Vec<(Bytes, Bytes)>) {
        let max_age_ms = self.settings.hints.max_age.as_millis() as u64;
        let now_ms = self.clock.wall_ms();
        for (key, value) in entries {
            let (Ok((target, vnode, path)), Ok(hint)) = (parse_hint_key(&key), decode(&value))
            else {
                continue;
            };
            let may_go = !hint.is_counted || self.instruments.has(PlantedBug::CountedHintDropped);
            if !may_go || now_ms.saturating_sub(hint.since_ms) <= max_age_ms {
                continue;
            }
            let place = Place::new(vnode, path);
            let is_same = |node: &Arc<Self>,
                           key: &Bytes|
             -> crate::storage::BoxFuture<'static, bool> {
                let (node, key, value) = (Arc::clone(node), key.clone(), value.clone());
                Box::pin(async move {
                    matches!(node.store.get(Space::Hints, key).await, Ok(Some(now)) if now == value)
                })
            };
            self.remove_hint(&place, (&target, &key, &value), is_same).await;
            if let Some(target) = &target {
                self.drop_hint(target);
            }
        }
    }
}
