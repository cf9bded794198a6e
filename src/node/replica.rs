//! This node's own copy of a key: reading it, minting a write, committing what changes it. Merging is
//! in `merge`.
//!
//! Each change reads, computes and commits under the key's lock, and holds it until the batch is
//! durable or has failed (correctness, section 2). So nothing is ever built on a batch whose fate
//! is open, and a failed one fails only the writes that were grouped with it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::time::Instant;

use super::hints::HintsOfBatch;
use super::imprint::{Change, Imprint};
use super::instruments::{MintedWrite, PlantedBug};
use super::locks::KeyGuard;
use super::vnodes::Retirement;
use super::{Node, Phase};
use crate::peer::messages::{Carried, Refusal};
use crate::protocol::causality::{Content, Context, DecodeError, Dot, Record, Summary};
use crate::protocol::cluster::StateStamp;
use crate::protocol::merkle::{LeafIndex, Shape};
use crate::protocol::operation::{Condition, EtagSet, Seen};
use crate::protocol::ring::token_of_bytes;
use crate::storage::schema::{path_of_record_key, record_key, tree_key_of};
use crate::storage::{
    Batch, BoxFuture, Cached, CommitError, EngineError, ReadError, Space, Syncing,
};
use crate::types::{KeyPath, NodeId, PurgeNumber, RequestId, VnodeId};

/// A key on this node.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) vnode: VnodeId,
    pub(super) path: KeyPath,
    key: Bytes,
}

impl Place {
    pub(super) fn new(vnode: VnodeId, path: KeyPath) -> Self {
        let key = record_key(vnode, &path);
        Self { vnode, path, key }
    }

    /// Where its record is stored, and what its lock goes by.
    pub(super) fn key(&self) -> &Bytes {
        &self.key
    }

    /// The path's bytes.
    pub(super) fn path_bytes(&self) -> &[u8] {
        path_of_record_key(&self.key)
    }

    /// Where it lies in its vnode's tree.
    pub(super) fn leaf(&self, shape: Shape) -> LeafIndex {
        shape.leaf_of(token_of_bytes(self.path_bytes()))
    }

    /// Where the digest of its record stands.
    pub(super) fn tree_key(&self, shape: Shape) -> Bytes {
        tree_key_of(self.leaf(shape).0, &self.key)
    }
}

/// A write as the minting replica takes it.
#[derive(Clone, Debug)]
pub(super) struct Mint {
    pub(super) content: Content,
    /// What the writer's token covers, nothing, or what its own read shows.
    pub(super) seen: Seen,
    /// The read at the write's level; `None` where that is this replica alone, or not needed.
    pub(super) read: Option<Summary>,
    pub(super) conditions: Vec<Condition>,
    /// Replicas that are known not to take it: it is kept for them.
    pub(super) absent: Vec<NodeId>,
    /// The state that its coordinator works with.
    pub(super) at: StateStamp,
    pub(super) deadline: Instant,
    pub(super) request_id: RequestId,
}

/// A minted write whose batch is on its way to the disk.
pub(super) struct Minted {
    /// The record with the new version.
    pub(super) record: Record,
    /// In its stored form.
    pub(super) stored: Carried,
    /// The new version.
    pub(super) dot: Dot,
    /// Versions that it replaced here.
    pub(super) replaced: Vec<Dot>,
    /// Replicas for which its batch keeps it.
    pub(super) absent: Vec<NodeId>,
    committed: Option<BoxFuture<'static, Result<(), CommitError>>>,
    is_stored_here: Arc<AtomicBool>,
}

impl Minted {
    /// Whether its batch has become durable.
    pub(super) fn is_stored_here(&self) -> bool {
        self.is_stored_here.load(Ordering::Relaxed)
    }

    /// Whether [`Minted::take_committed`] can still be called.
    pub(super) fn has_committed(&self) -> bool {
        self.committed.is_some()
    }

    /// Resolves when the batch is durable or failed; holds the key's lock until then. To be taken
    /// once.
    pub(super) fn take_committed(&mut self) -> BoxFuture<'static, Result<(), CommitError>> {
        let committed = self.committed.take().expect("a write waits for its own copy once");
        let is_stored_here = Arc::clone(&self.is_stored_here);
        Box::pin(async move {
            let outcome = committed.await;
            is_stored_here.store(outcome.is_ok(), Ordering::Relaxed);
            outcome
        })
    }
}

/// Whose dots a batch brings to this vnode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Carries {
    MintedDot,
    OthersDots,
}

/// A change of a record, ready to be committed.
pub(super) struct RecordChange {
    /// In its stored form.
    pub(super) record: Bytes,
    pub(super) change: Change,
    pub(super) carries: Carries,
    /// What changes in the same batch.
    pub(super) beside: HintsOfBatch,
}

/// Why a stored record could not be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// It is not what was written.
    Corrupt,
    /// It may be well: the store failed, or a newer release wrote it.
    Failed,
}

/// Why nothing was minted.
#[derive(Clone, Debug)]
pub(super) enum MintError {
    /// The conditions do not hold for what is there.
    Condition(Box<Summary>),
    /// It would leave too many versions; these are there.
    TooManySiblings(Box<Summary>),
    /// This replica can't.
    Refused(Refusal),
}

impl From<Refusal> for MintError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl Node {
    /// What is stored of a key, decoded; from memory where it can be had there. `None` where
    /// nothing is stored.
    pub(super) async fn load<T>(
        &self,
        place: &Place,
        decode: impl FnOnce(Bytes) -> Result<T, DecodeError>,
    ) -> Result<Option<T>, Unreadable> {
        let bytes = match self.store.get_cached(Space::Records, &place.key) {
            Ok(Cached::Hit(bytes)) => Ok(bytes),
            Ok(Cached::Miss) => self.store.get(Space::Records, place.key.clone()).await,
            Err(error) => Err(error),
        };
        let unreadable = |error: String, is_corrupt: bool| {
            tracing::error!(key = ?place.path, vnode = %place.vnode, error, "reading a record failed");
            if is_corrupt { Unreadable::Corrupt } else { Unreadable::Failed }
        };
        match bytes {
            Ok(bytes) => bytes.map(decode).transpose().map_err(|error| {
                let is_corrupt = !matches!(error, DecodeError::NewerFormat { .. });
                unreadable(error.to_string(), is_corrupt)
            }),
            Err(error) => {
                let is_corrupt = matches!(error, ReadError::Corrupt { .. });
                Err(unreadable(error.to_string(), is_corrupt))
            }
        }
    }

    /// Has what is stored of these keys in memory, so that reading them one by one is quick.
    pub(super) async fn warm(&self, vnode: VnodeId, paths: &[KeyPath]) {
        let places: Vec<Place> = paths.iter().map(|path| Place::new(vnode, path.clone())).collect();
        self.warm_places(places.iter()).await;
    }

    /// The same.
    pub(super) async fn warm_places(&self, places: impl Iterator<Item = &Place>) {
        let keys = places.map(|place| place.key.clone()).collect();
        self.store.warm(Space::Records, keys).await;
    }

    /// The record of a key for a read that counts, an absent one where nothing is stored; and the
    /// number under which it was read.
    pub(super) async fn record(
        self: &Arc<Self>,
        at: &StateStamp,
        place: &Place,
    ) -> Result<(Record, PurgeNumber), Refusal> {
        self.refuse_stale(at)?;
        let findings = self.refuse_incomplete(place)?;
        let purge = self.vnodes.purge_number(place.vnode);
        let loaded = self.load(place, Record::from_stored_bytes).await;
        self.refuse_if_found_since(findings)?;
        // The vnode may have been dropped while it was read.
        self.refuse_stale(at)?;
        let record = loaded.map(Option::unwrap_or_default);
        record.map(|record| (record, purge)).map_err(|why| self.unreadable(place, why))
    }

    /// What is stored of a key, to be sent; counts for nothing.
    pub(super) async fn carried(
        self: &Arc<Self>,
        place: &Place,
    ) -> Result<Option<Carried>, Refusal> {
        let purge = self.vnodes.purge_number(place.vnode);
        match self.load(place, |bytes| Summary::from_stored_bytes(&bytes).map(|_| bytes)).await {
            Ok(record) => Ok(record.map(|record| Carried { record, purge })),
            Err(why) => Err(self.unreadable(place, why)),
        }
    }

    /// What is there of a key, once every change of it that is under way has ended.
    pub(super) async fn carried_when_settled(
        self: &Arc<Self>,
        place: &Place,
    ) -> Result<Option<Carried>, Refusal> {
        drop(self.locks.lock(&place.key).await);
        self.carried(place).await
    }

    /// What is there of a key, once this vnode has gone on to a purge number.
    pub(super) async fn carried_after(
        self: &Arc<Self>,
        place: &Place,
        number: PurgeNumber,
    ) -> Result<Option<Carried>, Refusal> {
        self.meet_purge_number(place.vnode, number).await?;
        self.carried_when_settled(place).await
    }

    /// What kind of record is stored; `None` where it can't be read.
    pub(super) async fn imprint(&self, place: &Place) -> Option<Imprint> {
        let loaded = self.load(place, |bytes| Summary::from_stored_bytes(&bytes)).await;
        loaded.ok().map(|summary| Imprint::of(&summary.unwrap_or_default()))
    }

    /// The heads of a key's versions for a read that counts.
    pub(super) async fn summary(
        self: &Arc<Self>,
        at: &StateStamp,
        place: &Place,
    ) -> Result<Summary, Refusal> {
        self.refuse_stale(at)?;
        let findings = self.refuse_incomplete(place)?;
        let loaded = self.load(place, |bytes| Summary::from_stored_bytes(&bytes)).await;
        self.refuse_if_found_since(findings)?;
        self.refuse_stale(at)?;
        loaded.map(Option::unwrap_or_default).map_err(|why| self.unreadable(place, why))
    }

    /// The record of a key for people; counts for nothing.
    pub(super) async fn inspect(&self, place: &Place) -> Option<Record> {
        let loaded = self.load(place, Record::from_stored_bytes).await;
        loaded.ok().map(Option::unwrap_or_default)
    }

    /// Mints a write: under the lock, from the stored record, after a look at the deadline there.
    /// The batch is queued when this returns; the caller sends the record to the other replicas
    /// while it becomes durable.
    pub(super) async fn mint(
        self: &Arc<Self>,
        place: &Place,
        mint: Mint,
    ) -> Result<Minted, MintError> {
        let lock = self.locks.lock(&place.key);
        let guard = tokio::time::timeout_at(mint.deadline, lock).await;
        let guard = guard.map_err(|_| Refusal::TooLate)?;
        self.admit(&mint.at, &guard)?;
        self.refuse_writes()?;
        let purge = self.vnodes.purge_number(place.vnode);
        let (mut record, imprint) = self.record_to_change(place, &guard).await?;
        if self.quarantine.has(place) && mint.read.is_none() && mint.seen == Seen::OwnRead {
            // The write would have seen this copy alone; asked again, it reads elsewhere first.
            return Err(Refusal::Quarantined.into());
        }
        let before = Summary::from(&record);
        let seen = self.seen_at_mint(&before, &mint)?;
        // Not marked as incomplete for that: a token is a client's word, and without a secret it
        // can be made up. The next record that a peer sends shows what is true.
        self.look_for_lost_history(place, &record, &seen);
        let minter = self.vnodes.minter(place.vnode, &*self.store, &self.random).await;
        // No dot was minted under an actor that could not be kept.
        let minter =
            minter.map_err(|error| self.commit_failed(place.vnode, &error, Carries::OthersDots))?;
        if Instant::now() >= mint.deadline {
            return Err(Refusal::TooLate.into());
        }
        let replaced = record.dots_in(&seen);
        let is_put = !mint.content.is_tombstone();
        let stamp = self.next_stamp();
        let dot = record.update(&seen, mint.content, stamp, minter.actor, minter.floor);
        if is_put && record.versions().len() > self.settings.max_siblings {
            return Err(MintError::TooManySiblings(Box::new(before)));
        }
        let (bytes, digest) = record.to_stored_with_digest();
        let stored = Carried { record: bytes.clone(), purge };
        let write = RecordChange {
            record: bytes,
            change: Change { before: imprint, after: Imprint::with_digest(&record, digest) },
            carries: Carries::MintedDot,
            beside: self.hints_for_absent(place, &mint.absent).await,
        };
        let committed = Some(self.commit(place, write, guard)?);
        let path = place.path.clone();
        self.instruments.minted(|| MintedWrite { request_id: mint.request_id, path, dot, seen });
        let is_stored_here = Arc::default();
        Ok(Minted { record, stored, dot, replaced, absent: mint.absent, committed, is_stored_here })
    }

    /// Whether a read of this key may count. What comes back is for
    /// [`Node::refuse_if_found_since`].
    fn refuse_incomplete(&self, place: &Place) -> Result<u64, Refusal> {
        let findings = self.vnodes.findings();
        if self.instruments.has(PlantedBug::IncompleteCounts) {
            return Ok(findings);
        }
        if self.quarantine.has(place) {
            return Err(Refusal::Quarantined);
        }
        if self.vnodes.is_incomplete(place.vnode) { Err(Refusal::Incomplete) } else { Ok(findings) }
    }

    /// A record may have been dropped as corrupt while it was read: then its absence says nothing.
    fn refuse_if_found_since(&self, findings: u64) -> Result<(), Refusal> {
        let counts_anyway = self.instruments.has(PlantedBug::IncompleteCounts);
        if self.vnodes.findings() == findings || counts_anyway {
            Ok(())
        } else {
            Err(Refusal::Incomplete)
        }
    }

    /// Whether this node takes writes now.
    pub(super) fn refuse_writes(&self) -> Result<(), Refusal> {
        if !matches!(*self.phase.borrow(), Phase::Serving) {
            Err(Refusal::NotServing)
        } else if self.disk.is_full() {
            self.metrics.writes_refused_disk_full();
            Err(Refusal::DiskFull)
        } else {
            Ok(())
        }
    }

    /// The record that a change starts from, and what it has left beside itself. A corrupt one is
    /// put into quarantine here: it is never served nor built upon.
    pub(super) async fn record_to_change(
        self: &Arc<Self>,
        place: &Place,
        held: &KeyGuard,
    ) -> Result<(Record, Imprint), Refusal> {
        match self.load(place, Record::from_stored_with_digest).await {
            Ok(Some((record, digest))) => {
                let imprint = Imprint::with_digest(&record, digest);
                Ok((record, imprint))
            }
            Ok(None) => Ok((Record::absent(), Imprint::Absent)),
            Err(Unreadable::Failed) => Err(Refusal::StoreFailed),
            Err(Unreadable::Corrupt) => {
                self.note_corrupt(place.vnode);
                // Kept before the record is written over: a crash must not make it look complete.
                self.put_into_quarantine(place, held).await?;
                Ok((Record::absent(), Imprint::Absent))
            }
        }
    }

    /// What a write has seen, and whether its conditions hold, now that it is its turn.
    fn seen_at_mint(&self, here: &Summary, mint: &Mint) -> Result<Context, MintError> {
        let read = mint.read.as_ref().unwrap_or(here);
        if !mint.conditions.is_empty() {
            // What came here since that read counts as well: the narrower the race, the better.
            // That it can't be closed is documented.
            let mut now = read.clone();
            let _ = now.merge(here);
            check_conditions(&now, &mint.conditions)?;
        }
        Ok(match &mint.seen {
            Seen::Token(context) => context.clone(),
            Seen::Nothing => Context::empty(),
            Seen::OwnRead if mint.conditions.is_empty() => {
                let mut seen = read.context().clone();
                seen.join(here.context());
                seen
            }
            Seen::OwnRead => read.context().clone(),
        })
    }

    /// Queues a record's batch; a store that takes no more refuses it before anybody has seen a
    /// dot of it. The lock is held until its outcome is known, by a task of its own:
    /// whoever waits for the outcome may go away. If a minted batch's outcome is not known to be
    /// good, the actor is retired before the lock is released.
    pub(super) fn commit(
        self: &Arc<Self>,
        place: &Place,
        write: RecordChange,
        guard: KeyGuard,
    ) -> Result<BoxFuture<'static, Result<(), CommitError>>, Refusal> {
        let RecordChange { record, change, carries, beside } = write;
        let mut batch = Batch::default();
        batch.put(Space::Records, place.key.clone(), record);
        change.add_to(&mut batch, place, self.shape(), self.clock.wall_ms());
        batch.append(beside.batch.clone());
        let mut queued = self.store.commit(batch, Syncing::AsConfigured);
        let at_once = (&mut queued).now_or_never();
        if let Some(Err(error @ CommitError::NotApplied { .. })) = &at_once {
            return Err(self.commit_failed(place.vnode, error, Carries::OthersDots));
        }
        let (node, place) = (Arc::clone(self), place.clone());
        let applied = self.tasks.spawn(async move {
            let outcome = match at_once {
                Some(outcome) => outcome,
                None => queued.await,
            };
            match &outcome {
                Ok(()) => node.change_tree(&place, change),
                Err(error) => {
                    node.commit_failed(place.vnode, error, carries);
                    node.settle(&place, change).await;
                }
            }
            drop((guard, beside));
            outcome
        });
        Ok(Box::pin(async move {
            let died = |error| CommitError::Unknown { cause: EngineError::new(&error) };
            applied.await.unwrap_or_else(|error| Err(died(error)))
        }))
    }

    /// Puts another record in the place of one. Under the key's lock; says whether that was done.
    pub(super) async fn replace(
        self: &Arc<Self>,
        place: &Place,
        before: Imprint,
        record: &Record,
        guard: KeyGuard,
    ) -> bool {
        let (bytes, digest) = record.to_stored_with_digest();
        let write = RecordChange {
            record: bytes,
            change: Change { before, after: Imprint::with_digest(record, digest) },
            carries: Carries::OthersDots,
            beside: HintsOfBatch::default(),
        };
        match self.commit(place, write, guard) {
            Ok(committed) => committed.await.is_ok(),
            Err(_) => false,
        }
    }

    /// A batch failed or its outcome is unknown: a dot that was minted in it may be lost here and
    /// live elsewhere.
    pub(super) fn commit_failed(
        &self,
        vnode: VnodeId,
        error: &CommitError,
        carries: Carries,
    ) -> Refusal {
        tracing::error!(%vnode, %error, "a batch failed");
        self.metrics.alarm("failed-batch");
        self.hints.doubt();
        if error.may_be_applied() {
            self.disk.suspect();
        }
        let is_kept = self.instruments.has(PlantedBug::ActorKeptAfterFailedBatch);
        if carries == Carries::MintedDot && !is_kept {
            self.retire(vnode, Retirement::FailedBatch);
        }
        Refusal::StoreFailed
    }

    /// Retires a vnode's actor in memory. The run can no longer end as a clean one, so that a
    /// restart retires it too.
    pub(super) fn retire(&self, vnode: VnodeId, why: Retirement) {
        self.is_tainted.store(true, Ordering::SeqCst);
        if self.vnodes.retire(vnode) {
            tracing::warn!(%vnode, reason = why.name(), "an actor was retired");
            self.metrics.actor_retired(why.name());
        }
    }

    /// Whether somebody knows more of this vnode's own writes than the vnode does: it has lost
    /// history, or was lied to, and mints no more under that actor (correctness, section 2,
    /// retirement 5).
    pub(super) fn look_for_lost_history(
        &self,
        place: &Place,
        here: &Record,
        there: &Context,
    ) -> bool {
        let current = self.vnodes.current(place.vnode);
        let is_lost = current.is_some_and(|m| here.lacks_history_of(m.actor, m.floor, there));
        if is_lost {
            tracing::error!(key = ?place.path, vnode = %place.vnode, "this vnode has lost history");
            self.metrics.alarm("lost-history");
            self.retire(place.vnode, Retirement::LostHistory);
        }
        is_lost
    }

    /// What to answer to a read that met an unreadable record.
    fn unreadable(self: &Arc<Self>, place: &Place, why: Unreadable) -> Refusal {
        match why {
            Unreadable::Failed => {
                self.metrics.alarm("read-failed");
                Refusal::StoreFailed
            }
            Unreadable::Corrupt => {
                self.note_corrupt(place.vnode);
                self.vnodes.note_finding();
                let (node, place) = (Arc::clone(self), place.clone());
                self.tasks.spawn(async move { node.drop_if_corrupt(&place).await });
                Refusal::Quarantined
            }
        }
    }

    /// Puts a record that can't be read into quarantine.
    pub(super) async fn drop_if_corrupt(self: &Arc<Self>, place: &Place) {
        let guard = self.locks.lock(&place.key).await;
        if self.load(place, Record::from_stored_bytes).await != Err(Unreadable::Corrupt) {
            return;
        }
        if let Err(refusal) = self.put_into_quarantine(place, &guard).await {
            tracing::error!(key = ?place.path, %refusal, "a corrupt record could not be dropped");
        }
    }

    /// Whether the record of a key is damaged.
    pub(super) async fn is_corrupt(&self, place: &Place) -> bool {
        self.load(place, Record::from_stored_bytes).await == Err(Unreadable::Corrupt)
    }

    /// A stored record can't be what was written: the actor is retired (correctness, section 2,
    /// retirement 4).
    pub(super) fn note_corrupt(&self, vnode: VnodeId) {
        self.metrics.alarm("corrupt-record");
        self.retire(vnode, Retirement::CorruptRecord);
    }

    /// Keeps that a vnode may lack acknowledged data, if there is another replica to mend it from:
    /// alone, it has all that there is, and only the key that can't be read stays refused.
    pub(super) async fn mark_incomplete(&self, vnode: VnodeId) -> Result<(), Refusal> {
        if self.layout().is_some_and(|layout| layout.replicas_of(vnode).places() == 1) {
            return Ok(());
        }
        let marked = self.vnodes.mark_incomplete([vnode], &*self.store).await;
        self.mend.notify_one();
        marked.map_err(|error| {
            tracing::error!(%vnode, %error, "could not keep that the vnode is incomplete");
            Refusal::StoreFailed
        })
    }
}

/// Whether all conditions hold for a set of versions.
pub(super) fn check_conditions(
    versions: &Summary,
    conditions: &[Condition],
) -> Result<(), MintError> {
    let is_live = versions.has_live_value();
    let set = EtagSet(versions.etag_set());
    let holds = |condition: &Condition| match condition {
        Condition::NothingLive => !is_live,
        Condition::SomethingLive => is_live,
        Condition::SetIsOneOf(sets) => sets.contains(&set),
        Condition::SetIsNoneOf(sets) => !sets.contains(&set),
    };
    if conditions.iter().all(holds) {
        Ok(())
    } else {
        Err(MintError::Condition(Box::new(versions.clone())))
    }
}
