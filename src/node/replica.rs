//! This node's own copy of a key: reading it, minting a write, merging a record into it.
//!
//! Each change reads, computes and commits under the key's lock, and holds it until the batch is
//! durable or has failed (correctness, section 2). So nothing is ever built on a batch whose fate
//! is open, and a failed one fails only the writes that were grouped with it.

use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;

use super::locks::KeyGuard;
use super::vnodes::Retirement;
use super::{Node, Phase};
use crate::peer::messages::Refusal;
use crate::protocol::causality::{Content, Context, DecodeError, Dot, Record, Summary};
use crate::protocol::operation::{Condition, EtagSet, Seen};
use crate::storage::schema::record_key;
use crate::storage::{Batch, BoxFuture, Cached, CommitError, ReadError, Space, Syncing};
use crate::types::{KeyPath, NodeId, VnodeId};

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
    pub(super) deadline: Instant,
}

/// A minted write whose batch is on its way to the disk.
pub(super) struct Minted {
    /// The record with the new version.
    pub(super) record: Record,
    /// In its stored form.
    pub(super) stored: Bytes,
    /// The new version.
    pub(super) dot: Dot,
    /// Versions that it replaced here.
    pub(super) replaced: Vec<Dot>,
    committed: Option<BoxFuture<'static, Result<(), CommitError>>>,
}

impl Minted {
    /// Resolves when the batch is durable or failed; holds the key's lock until then. To be taken
    /// once.
    pub(super) fn take_committed(&mut self) -> BoxFuture<'static, Result<(), CommitError>> {
        self.committed.take().expect("a write waits for its own copy once")
    }
}

/// Why nothing was minted.
#[derive(Clone, Debug)]
pub(super) enum MintError {
    /// The conditions do not hold for what is there.
    Condition(Summary),
    /// It would leave too many versions; these are there.
    TooManySiblings(Summary),
    /// This replica can't.
    Refused(Refusal),
}

impl From<Refusal> for MintError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl Node {
    /// The stored bytes of a key; from memory where it can be had there.
    pub(super) async fn stored(&self, place: &Place) -> Result<Option<Bytes>, Refusal> {
        let read = match self.store.get_cached(Space::Records, &place.key) {
            Ok(Cached::Hit(bytes)) => return Ok(bytes),
            Ok(Cached::Miss) => self.store.get(Space::Records, place.key.clone()).await,
            Err(error) => Err(error),
        };
        read.map_err(|error| self.read_failed(place, &error))
    }

    /// The record of a key for a read that counts; an absent one where nothing is stored.
    pub(super) async fn record(self: &Arc<Self>, place: &Place) -> Result<Record, Refusal> {
        self.refuse_incomplete(place.vnode)?;
        match self.stored(place).await? {
            None => Ok(Record::absent()),
            Some(bytes) => {
                let record = Record::from_stored_bytes(bytes);
                record.map_err(|error| self.record_is_corrupt(place, error))
            }
        }
    }

    /// The heads of a key's versions for a read that counts.
    pub(super) async fn summary(self: &Arc<Self>, place: &Place) -> Result<Summary, Refusal> {
        self.refuse_incomplete(place.vnode)?;
        match self.stored(place).await? {
            None => Ok(Summary::absent()),
            Some(bytes) => {
                let summary = Summary::from_stored_bytes(&bytes);
                summary.map_err(|error| self.record_is_corrupt(place, error))
            }
        }
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
        self.refuse_writes()?;
        let mut record = self.record_to_change(place, &guard).await?;
        let before = Summary::from(&record);
        let seen = self.seen_at_mint(&before, &mint)?;
        self.look_for_lost_history(place, &record, &seen);
        let minter = self.vnodes.minter(place.vnode, &*self.store, &self.random).await;
        let minter = minter.map_err(|error| self.commit_failed(place.vnode, &error))?;
        if Instant::now() >= mint.deadline {
            return Err(Refusal::TooLate.into());
        }
        let replaced = record.dots_in(&seen);
        let is_put = !mint.content.is_tombstone();
        let stamp = self.next_stamp();
        let dot = record.update(&seen, mint.content, stamp, minter.actor, minter.floor);
        if is_put && record.versions().len() > self.settings.max_siblings {
            return Err(MintError::TooManySiblings(before));
        }
        let stored = record.to_stored_bytes();
        let committed = Some(self.commit(place, stored.clone(), guard));
        Ok(Minted { record, stored, dot, replaced, committed })
    }

    /// Merges another replica's record into this node's; durable when it returns.
    pub(super) async fn merge(
        self: &Arc<Self>,
        place: &Place,
        stored: Bytes,
        from: &NodeId,
        deadline: Instant,
    ) -> Result<(), Refusal> {
        let incoming = Record::from_stored_bytes(stored.clone()).map_err(|_| Refusal::Malformed)?;
        let guard = tokio::time::timeout_at(deadline, self.locks.lock(&place.key)).await;
        let guard = guard.map_err(|_| Refusal::TooLate)?;
        self.refuse_writes()?;
        let mut record = self.record_to_change(place, &guard).await?;
        self.observe(&incoming, from);
        if self.look_for_lost_history(place, &record, incoming.context()) {
            self.mark_incomplete(place.vnode).await?;
        }
        let is_absent = record.is_absent();
        let merge = record.merge(&incoming);
        for dot in &merge.alarms {
            tracing::error!(key = ?place.path, %dot, "one dot with two values: the greater checksum is kept");
            self.metrics.alarm("one-dot-two-values");
        }
        if !merge.changed {
            return Ok(());
        }
        let bytes = if is_absent { stored } else { record.to_stored_bytes() };
        let committed = self.commit(place, bytes, guard).await;
        committed.map_err(|_| Refusal::StoreFailed)
    }

    /// Whether a read of this vnode may count.
    fn refuse_incomplete(&self, vnode: VnodeId) -> Result<(), Refusal> {
        if self.vnodes.is_incomplete(vnode) { Err(Refusal::Incomplete) } else { Ok(()) }
    }

    /// Whether this node takes writes now.
    fn refuse_writes(&self) -> Result<(), Refusal> {
        if !matches!(*self.phase.borrow(), Phase::Serving) {
            Err(Refusal::NotServing)
        } else if self.disk.is_full() {
            self.metrics.writes_refused_disk_full();
            Err(Refusal::DiskFull)
        } else {
            Ok(())
        }
    }

    /// The record that a change starts from. A corrupt one is dropped here: it is never served nor
    /// built upon, and its vnode counts towards no R until it was mended.
    async fn record_to_change(
        self: &Arc<Self>,
        place: &Place,
        _held: &KeyGuard,
    ) -> Result<Record, Refusal> {
        let Some(bytes) = self.stored(place).await? else { return Ok(Record::absent()) };
        match Record::from_stored_bytes(bytes) {
            Ok(record) => Ok(record),
            Err(error @ DecodeError::NewerFormat { .. }) => {
                tracing::error!(key = ?place.path, %error, "a record of a newer release");
                Err(Refusal::StoreFailed)
            }
            Err(error) => {
                // Kept before the record is written over: a crash must not make it look complete.
                self.note_corrupt(place, error);
                self.mark_incomplete(place.vnode).await?;
                Ok(Record::absent())
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

    /// Queues a record's batch. What comes back holds the lock until the outcome is known; a batch
    /// whose outcome is not known to be good retires the actor first.
    fn commit(
        self: &Arc<Self>,
        place: &Place,
        stored: Bytes,
        guard: KeyGuard,
    ) -> BoxFuture<'static, Result<(), CommitError>> {
        let mut batch = Batch::default();
        batch.put(Space::Records, place.key.clone(), stored);
        let queued = self.store.commit(batch, Syncing::AsConfigured);
        let (node, vnode) = (Arc::clone(self), place.vnode);
        Box::pin(async move {
            let outcome = queued.await;
            if let Err(error) = &outcome {
                node.commit_failed(vnode, error);
            }
            drop(guard);
            outcome
        })
    }

    /// A batch failed or its outcome is unknown: whoever minted may have lost a dot of it.
    fn commit_failed(&self, vnode: VnodeId, error: &CommitError) -> Refusal {
        tracing::error!(%vnode, %error, "a batch failed");
        self.retire(vnode, Retirement::FailedBatch);
        Refusal::StoreFailed
    }

    /// Retires a vnode's actor in memory. The run can no longer end as a clean one, so that a
    /// restart retires it too.
    fn retire(&self, vnode: VnodeId, why: Retirement) {
        self.is_tainted.store(true, std::sync::atomic::Ordering::SeqCst);
        if self.vnodes.retire(vnode) {
            tracing::warn!(%vnode, reason = why.name(), "an actor was retired");
            self.metrics.actor_retired(why.name());
        }
    }

    /// Whether somebody knows more of this vnode's own writes than the vnode does: it has lost
    /// history, or was lied to, and mints no more under that actor (correctness, section 2,
    /// retirement 5).
    fn look_for_lost_history(&self, place: &Place, here: &Record, there: &Context) -> bool {
        let current = self.vnodes.current(place.vnode);
        let is_lost = current.is_some_and(|m| here.lacks_history_of(m.actor, m.floor, there));
        if is_lost {
            tracing::error!(key = ?place.path, vnode = %place.vnode, "this vnode has lost history");
            self.metrics.alarm("lost-history");
            self.retire(place.vnode, Retirement::LostHistory);
        }
        is_lost
    }

    /// A stored record fails its checksum: the actor is retired and the vnode counts towards no R
    /// until it was mended.
    fn record_is_corrupt(self: &Arc<Self>, place: &Place, error: DecodeError) -> Refusal {
        self.note_corrupt(place, error);
        let (node, vnode) = (Arc::clone(self), place.vnode);
        // A failure is logged there; the record stays what it is, and is found again.
        self.tasks.spawn(async move { drop(node.mark_incomplete(vnode).await) });
        Refusal::Incomplete
    }

    fn note_corrupt(&self, place: &Place, error: DecodeError) {
        tracing::error!(key = ?place.path, vnode = %place.vnode, %error, "a stored record is corrupt");
        self.metrics.alarm("corrupt-record");
        self.retire(place.vnode, Retirement::CorruptRecord);
    }

    async fn mark_incomplete(&self, vnode: VnodeId) -> Result<(), Refusal> {
        let marked = self.vnodes.set_incomplete([vnode], true, &*self.store).await;
        self.mend.notify_one();
        marked.map_err(|error| {
            tracing::error!(%vnode, %error, "could not keep that the vnode is incomplete");
            Refusal::StoreFailed
        })
    }

    fn read_failed(&self, place: &Place, error: &ReadError) -> Refusal {
        tracing::error!(key = ?place.path, %error, "reading failed");
        self.metrics.alarm("read-failed");
        Refusal::StoreFailed
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
        Condition::SetIsOneOf(sets) => is_live && sets.contains(&set),
        Condition::SetIsNoneOf(sets) => !is_live || !sets.contains(&set),
    };
    if conditions.iter().all(holds) { Ok(()) } else { Err(MintError::Condition(versions.clone())) }
}
