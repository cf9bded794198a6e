//! Merging what other replicas have into this node's own copies: one record, or many of one vnode in
//! one batch; and which of them may come in at all (correctness, section 2 "One lock", section 6
//! "Fence", section 7 rule 18).

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join_all;
use tokio::time::Instant;

use super::Node;
use super::hints::HintsOfBatch;
use super::imprint::{Change, Imprint};
use super::instruments::PlantedBug;
use super::layout::Layout;
use super::locks::KeyGuard;
use super::replica::{Carries, Place, RecordChange};
use super::vnodes::{PurgeStanding, Retirement};
use crate::peer::messages::{Carried, Refusal};
use crate::protocol::causality::{Merge, Record};
use crate::protocol::cluster::StateStamp;
use crate::storage::{Batch, Space, Syncing};
use crate::types::{KeyPath, NodeId, PurgeNumber, VnodeId};

/// Records of one vnode, as they are sent.
pub(super) type Records = Vec<(KeyPath, Carried)>;

/// For each record that was merged, what is there then, if it is something else than what came.
pub(super) type Merged = Vec<(KeyPath, Result<Option<Carried>, Refusal>)>;

impl Node {
    /// Merges another replica's record into this node's; durable when it returns. Returns what is
    /// there then, if it is something else than what came.
    pub(super) async fn merge(
        self: &Arc<Self>,
        at: &StateStamp,
        place: &Place,
        carried: Carried,
        from: &NodeId,
        deadline: Instant,
    ) -> Result<Option<Carried>, Refusal> {
        let too_early = match self.instruments.has(PlantedBug::MergeOutsideTheLock) {
            true => self.load(place, Record::from_stored_bytes).await.ok().flatten(),
            false => None,
        };
        if self.instruments.has(PlantedBug::EpochCheckedBeforeCommit) {
            // What a slow disk does: the check was long before.
            let ms = if self.random.u64().is_multiple_of(3) { 3_000 } else { 0 };
            tokio::time::sleep(std::time::Duration::from_millis(ms)).await;
        }
        let guard = tokio::time::timeout_at(deadline, self.locks.lock(place.key())).await;
        let guard = guard.map_err(|_| Refusal::TooLate)?;
        self.admit(at, &guard)?;
        self.refuse_writes()?;
        let merged = self.merge_into(place, carried, from, (&guard, too_early)).await?;
        let (differing, Some((record, change))) = merged else {
            if self.is_taken_in(place.vnode, &place.path) {
                self.sync_what_is_taken_in(place.vnode).await?;
            }
            return Ok(merged.0);
        };
        let write = RecordChange {
            record,
            change,
            carries: Carries::OthersDots,
            beside: HintsOfBatch::default(),
        };
        let committed = self.commit(place, write, guard)?.await;
        committed.map_err(|_| Refusal::StoreFailed)?;
        Ok(differing)
    }

    /// Where a merge has changed nothing: what is there has to be durable before that is said, and
    /// what was taken in a moment ago may not be.
    async fn sync_what_is_taken_in(&self, vnode: VnodeId) -> Result<(), Refusal> {
        let synced = self.store.commit(Batch::default(), Syncing::AsConfigured).await;
        synced.map_err(|error| self.commit_failed(vnode, &error, Carries::OthersDots))
    }

    /// Whether a key may have been taken in a moment ago, without an fsync of its own.
    fn is_taken_in(&self, vnode: VnodeId, path: &KeyPath) -> bool {
        let is_so = |layout: Arc<Layout>| layout.is_incoming(vnode) || layout.is_moving(path);
        self.layout().is_some_and(is_so)
    }

    /// Refuses a key that does not belong to a vnode, now or after the running transition.
    fn refuse_misplaced(&self, place: &Place) -> Result<(), Refusal> {
        if self.instruments.has(PlantedBug::EpochCheckedBeforeCommit) {
            return Ok(());
        }
        let layout = self.layout().ok_or(Refusal::NotServing)?;
        let state = &layout.state;
        let is_there = state.vnode_of(&place.path) == place.vnode
            || state.next_vnode_of(&place.path) == place.vnode;
        if is_there && layout.has_role(place.vnode) { Ok(()) } else { Err(Refusal::NoReplica) }
    }

    /// Takes notice of the number under which a key's record was read elsewhere. While the key goes
    /// from one vnode to another, numbers of the two don't compare; nothing is purged then, and the
    /// epoch tells what is old.
    async fn meet_number_of(
        self: &Arc<Self>,
        place: &Place,
        number: PurgeNumber,
    ) -> Result<(), Refusal> {
        let layout = self.layout().ok_or(Refusal::NotServing)?;
        if layout.is_moving(&place.path) {
            return Ok(());
        }
        self.meet_purge_number(place.vnode, number).await
    }

    /// Takes notice of the number under which something was read elsewhere (correctness, section 6,
    /// "Fence").
    pub(super) async fn meet_purge_number(
        self: &Arc<Self>,
        vnode: VnodeId,
        number: PurgeNumber,
    ) -> Result<(), Refusal> {
        match self.vnodes.purge_standing(vnode, number) {
            PurgeStanding::Current => return Ok(()),
            PurgeStanding::Stale if self.instruments.has(PlantedBug::PurgeWithoutFence) => {
                return Ok(());
            }
            PurgeStanding::Stale => {
                return Err(Refusal::StalePurge(self.vnodes.purge_number(vnode)));
            }
            PurgeStanding::Ahead => {}
            // It was asked for no promise yet.
            PurgeStanding::Unpromised
                if self.layout().is_some_and(|layout| layout.is_incoming(vnode)) => {}
            PurgeStanding::Unpromised => {
                tracing::error!(%vnode, %number, "a purge number that was never promised here: this vnode has lost state");
                self.metrics.alarm("lost-history");
                self.retire(vnode, Retirement::LostHistory);
                // What is being mended is known to have lost something.
                if !self.vnodes.is_incomplete(vnode) {
                    self.mark_incomplete(vnode).await?;
                }
            }
        }
        self.vnodes.enter_purge(vnode, number, &*self.store).await.map_err(|error| {
            tracing::error!(%vnode, %error, "a purge number could not be kept");
            Refusal::StoreFailed
        })
    }

    /// Merges many records of one vnode, in one batch; what changes is durable when it returns, unless
    /// that may be later.
    pub(super) async fn merge_all(
        self: &Arc<Self>,
        at: &StateStamp,
        vnode: VnodeId,
        records: Records,
        from: (&NodeId, Syncing),
        deadline: Instant,
    ) -> Merged {
        let merged = self.merge_vnodes(at, vec![(vnode, records)], from, deadline).await;
        merged.into_iter().flat_map(|(_, merged)| merged).collect()
    }

    /// The same for several vnodes at once.
    pub(super) async fn merge_vnodes(
        self: &Arc<Self>,
        at: &StateStamp,
        records: Vec<(VnodeId, Records)>,
        (from, syncing): (&NodeId, Syncing),
        deadline: Instant,
    ) -> Vec<(VnodeId, Merged)> {
        let place = |vnode, (path, carried)| (Place::new(vnode, path), carried);
        let placed: Vec<(VnodeId, Vec<(Place, Carried)>)> = records
            .into_iter()
            .map(|(vnode, records)| (vnode, records.into_iter().map(|r| place(vnode, r)).collect()))
            .collect();
        // Not yet under the locks: what is read from the disk here, clients need not wait for.
        let places = placed.iter().flat_map(|(_, places)| places).map(|(place, _)| place);
        self.warm_places(places).await;
        let (node, at, from) = (Arc::clone(self), *at, from.clone());
        self.tasks
            .in_foreground(async move {
                join_all(placed.into_iter().map(|(vnode, places)| {
                    let merging = node.merge_places(&at, vnode, places, (&from, syncing), deadline);
                    async move { (vnode, merging.await) }
                }))
                .await
            })
            .await
    }

    /// The same under the keys' locks, for which clients may wait: in the foreground.
    async fn merge_places(
        self: &Arc<Self>,
        at: &StateStamp,
        vnode: VnodeId,
        places: Vec<(Place, Carried)>,
        (from, syncing): (&NodeId, Syncing),
        deadline: Instant,
    ) -> Merged {
        let lock = self.locks.lock_all(places.iter().map(|(place, _)| &place.key()[..]));
        let guard = match tokio::time::timeout_at(deadline, lock).await {
            Ok(guard) => guard,
            Err(_) => return refuse_all(places, &Refusal::TooLate),
        };
        if let Err(refusal) = self.admit(at, &guard).and_then(|()| self.refuse_writes()) {
            return refuse_all(places, &refusal);
        }
        let mut merged = Vec::with_capacity(places.len());
        let mut batch = Batch::default();
        let mut changes = Vec::new();
        let mut done: BTreeSet<Bytes> = BTreeSet::new();
        for (place, carried) in places {
            // A key that comes twice is merged into what is there after the batch: not here.
            if !done.insert(place.key().clone()) {
                merged.push((place.path, Err(Refusal::TooLate)));
                continue;
            }
            match self.merge_into(&place, carried, from, (&guard, None)).await {
                Ok((differing, change)) => {
                    if let Some((record, change)) = change {
                        batch.put(Space::Records, place.key().clone(), record);
                        change.add_to(&mut batch, &place, self.shape(), self.clock.wall_ms());
                        changes.push((place.clone(), change));
                    }
                    merged.push((place.path, Ok(differing)));
                }
                Err(refusal) => merged.push((place.path, Err(refusal))),
            }
        }
        if batch.is_empty() {
            let may_be_unsynced = syncing != Syncing::Later
                && merged.iter().any(|(path, _)| self.is_taken_in(vnode, path));
            if !may_be_unsynced {
                return merged;
            }
            return match self.sync_what_is_taken_in(vnode).await {
                Ok(()) => merged,
                Err(refusal) => {
                    merged.into_iter().map(|(path, _)| (path, Err(refusal.clone()))).collect()
                }
            };
        }
        match self.commit_all(vnode, (batch, syncing), changes, guard).await {
            Ok(()) => merged,
            Err(refusal) => {
                let failed = |merged: Result<_, _>| merged.and(Err(refusal.clone()));
                merged.into_iter().map(|(path, merged)| (path, failed(merged))).collect()
            }
        }
    }

    /// What a record comes to when another one is merged into it: what differs from that one, and
    /// the change, if there is one. Under the key's lock.
    async fn merge_into(
        self: &Arc<Self>,
        place: &Place,
        carried: Carried,
        from: &NodeId,
        (held, too_early): (&KeyGuard, Option<Record>),
    ) -> Result<(Option<Carried>, Option<(Bytes, Change)>), Refusal> {
        let Carried { record: stored, purge } = carried;
        let incoming = Record::from_stored_with_digest(stored.clone());
        let (incoming, their_digest) = incoming.map_err(|_| Refusal::Malformed)?;
        self.refuse_misplaced(place)?;
        self.meet_number_of(place, purge).await?;
        let (stored_here, imprint) = self.record_to_change(place, held).await?;
        let mut record = too_early.unwrap_or(stored_here);
        self.observe(&incoming, from);
        if self.look_for_lost_history(place, &record, incoming.context()) {
            self.mark_incomplete(place.vnode).await?;
        }
        let is_absent = record.is_absent();
        let merge = self.merge_records(&mut record, &incoming);
        self.alarm_about(place, &merge);
        let purge = self.vnodes.purge_number(place.vnode);
        let differs = !is_absent && record != incoming;
        let (bytes, digest) =
            if differs { record.to_stored_with_digest() } else { (stored, their_digest) };
        let differing = differs.then(|| Carried { record: bytes.clone(), purge });
        let change = Change { before: imprint, after: Imprint::with_digest(&record, digest) };
        Ok((differing, merge.changed.then_some((bytes, change))))
    }

    /// Commits the changes of many records; runs to its end even if nobody waits for it.
    async fn commit_all(
        self: &Arc<Self>,
        vnode: VnodeId,
        (batch, syncing): (Batch, Syncing),
        changes: Vec<(Place, Change)>,
        guard: KeyGuard,
    ) -> Result<(), Refusal> {
        let queued = self.store.commit(batch, syncing);
        let node = Arc::clone(self);
        let applied = self.tasks.spawn(async move {
            let outcome = queued.await;
            for (place, change) in &changes {
                match &outcome {
                    Ok(()) => node.change_tree(place, *change),
                    Err(_) => node.settle(place, *change).await,
                }
            }
            drop(guard);
            outcome.map_err(|error| node.commit_failed(vnode, &error, Carries::OthersDots))
        });
        applied.await.unwrap_or(Err(Refusal::StoreFailed))
    }

    fn alarm_about(&self, place: &Place, merge: &Merge) {
        for dot in &merge.alarms {
            tracing::error!(key = ?place.path, %dot, "one dot with two values: the greater checksum is kept");
            self.metrics.alarm("one-dot-two-values");
        }
    }

    fn merge_records(&self, mine: &mut Record, theirs: &Record) -> Merge {
        let newest = |record: &Record| record.heads().map(|head| head.stamp).max();
        if self.instruments.has(PlantedBug::WallClockMerge) {
            let changed = newest(mine) < newest(theirs);
            if changed {
                mine.clone_from(theirs);
            }
            return Merge { changed, ..Merge::default() };
        }
        mine.merge(theirs)
    }
}

fn refuse_all(places: Vec<(Place, Carried)>, refusal: &Refusal) -> Merged {
    places.into_iter().map(|(place, _)| (place.path, Err(refusal.clone()))).collect()
}
