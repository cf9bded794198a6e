//! Going on to the next state of the cluster (correctness, section 7, rules 2, 3, 6, 7 and 15).
//!
//! ```text
//! a message of a later epoch ─▶ its sender tells the state ─┐
//! a peer refuses as stale    ─▶ its state is asked for     ─┼─▶ adopt
//! gossip of a later epoch    ─▶ its state is asked for     ─┤
//! a proposal is decided here ───────────────────────────────┘
//!
//! adopt    persist
//!          ─▶ close the gate: changes that were admitted are done, none is let in
//!          ─▶ work out the roles: drop what is nobody's, empty what is to be taken in
//!          ─▶ work with the new layout ─▶ open the gate
//! ```
//!
//! While nodes go on one after the other, requests that need two of them wait, and while the gate is
//! closed all writes through this node. So what is to be dropped is known in memory. Records are only in
//! vnodes that the layout before gave this node a part in, and a former holder is taken off the list when
//! it has dropped; what else there may be, after a disk went back in time or holders were given up as
//! dead, is in the trees and the counts of deleted keys. A start looks through the disk.
//!
//! A change of a record is admitted with its epoch while its key's lock, and so the gate, is held:
//! there is no moment between the check and the commit.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::calls::Outgoing;
use super::directory::Directory;
use super::imprint::leaf_of;
use super::instruments::PlantedBug;
use super::layout::{Layout, LayoutError};
use super::locks::KeyGuard;
use super::taken_in::{self, TakenIn};
use super::vnodes::Retirement;
use super::watched::Watched;
use super::{Node, Phase};
use crate::peer::PeerAddress;
use crate::peer::messages::{Answer, Refusal, Reply, Request};
use crate::protocol::cluster::register::Acceptor;
use crate::protocol::cluster::{ClusterState, Former, Standing, StateStamp};
use crate::protocol::merkle::Shape;
use crate::storage::schema::{
    MetaKey, bucket_range, parse_record_key, tree_key, vnode_key, vnode_range,
};
use crate::storage::{Batch, CommitError, KeyRange, ReadError, ScanLimit, Space, Syncing};
use crate::types::{Bucket, PartitionCount, VnodeId};

/// How soon work of an epoch that could not be ended is tried again.
const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// The first of many.
const ONE: ScanLimit = ScanLimit { entries: 1, bytes: 1 };

/// How much is read at once of what an earlier layout may have left.
const LEFT_OVER: ScanLimit = ScanLimit { entries: 4_096, bytes: 4 << 20 };

/// See the module's head.
#[derive(Debug)]
pub(super) struct Epochs {
    /// One state after the other.
    adopting: tokio::sync::Mutex<()>,
    /// This node's part in deciding the next one; read from disk when it is first needed.
    pub(super) acceptor: tokio::sync::Mutex<Option<Acceptor>>,
    /// A state that was told to a node which is in no layout yet.
    offered: Mutex<Option<ClusterState>>,
    /// Such a state was told.
    pub(super) is_offered: Notify,
    /// The present one.
    pub(super) present: Watched<Option<StateStamp>>,
}

/// Why a state was not adopted.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    #[error("another state is known for the same epoch")]
    Forked,
    #[error("it is of another cluster")]
    Foreign,
    #[error("{0}")]
    Layout(#[from] LayoutError),
    #[error("{0}")]
    Write(#[from] CommitError),
    #[error("{0}")]
    Read(#[from] ReadError),
    #[error("the work on it was cut off; see the log")]
    CutOff,
}

impl Epochs {
    pub(super) fn new() -> Self {
        Self {
            adopting: tokio::sync::Mutex::default(),
            acceptor: tokio::sync::Mutex::default(),
            offered: Mutex::default(),
            is_offered: Notify::new(),
            present: Watched::new(None),
        }
    }

    /// What was told to a node in no layout, newest first.
    pub(super) fn take_offered(&self) -> Option<ClusterState> {
        self.offered.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn offer(&self, state: ClusterState) {
        let mut offered = self.offered.lock().unwrap_or_else(PoisonError::into_inner);
        let version = |state: &ClusterState| (state.recovery, state.epoch);
        if offered.as_ref().is_none_or(|known| version(known) < version(&state)) {
            *offered = Some(state);
            self.is_offered.notify_one();
        }
    }
}

impl Node {
    /// Whether a change that belongs to the epoch `at` may be made; under the key's lock.
    pub(super) fn admit(&self, at: &StateStamp, _held: &KeyGuard) -> Result<(), Refusal> {
        if self.instruments.has(PlantedBug::EpochCheckedBeforeCommit) {
            return Ok(());
        }
        self.refuse_stale(at)
    }

    /// Whether this node works with exactly this state.
    pub(super) fn refuse_stale(&self, at: &StateStamp) -> Result<(), Refusal> {
        let layout = self.layout().ok_or(Refusal::NotServing)?;
        if layout.stamp == *at { Ok(()) } else { Err(Refusal::StaleEpoch) }
    }

    /// Whether this node has gone on from an epoch.
    pub(super) fn is_past(&self, at: &StateStamp) -> bool {
        self.refuse_stale(at) == Err(Refusal::StaleEpoch)
    }

    /// Goes on to a state, if it is later than the present one. It is the decided one of its epoch.
    /// Runs to its end even if nobody waits for it: what is dropped on disk must be forgotten.
    pub(super) async fn adopt(self: &Arc<Self>, state: ClusterState) -> Result<(), AdoptError> {
        let node = Arc::clone(self);
        let adopted = self.tasks.spawn(async move { node.go_on_to(state).await });
        adopted.await.unwrap_or(Err(AdoptError::CutOff))
    }

    async fn go_on_to(self: &Arc<Self>, state: ClusterState) -> Result<(), AdoptError> {
        let _one_at_a_time = self.epochs.adopting.lock().await;
        let present = self.layout().expect("only a node in a layout goes on to the next");
        let stamp = state.stamp();
        match present.stamp.standing_of(&stamp) {
            Standing::Ahead => {}
            Standing::Same | Standing::Behind => return Ok(()),
            Standing::Foreign => return Err(AdoptError::Foreign),
            Standing::Forked => {
                self.metrics.alarm("forked-state");
                return Err(AdoptError::Forked);
            }
        }
        if self.phase.borrow().is_over() {
            return Ok(());
        }
        let identity = &self.opened.identity;
        // First of all, so that after a restart too a node that is no longer listed serves nothing.
        let kept = Directory::new(&*self.store).adopt(&state).await;
        kept.inspect_err(|_| self.disk.suspect())?;
        let layout = Layout::new(state, &identity.node, identity.incarnation, Some(&present));
        let layout = match layout {
            Ok(layout) => Arc::new(layout),
            Err(error) => {
                self.refuse(&error.to_string());
                return Err(error.into());
            }
        };
        let found = match self.trees.are_loaded() {
            true => BTreeSet::new(),
            false => self.find_unkept(&layout).await?,
        };
        let gate = self.locks.close_gate().await;
        self.work_out_roles(&layout, found, Some(&present)).await?;
        self.set_layout(Arc::clone(&layout));
        drop(gate);
        tracing::info!(
            epoch = %stamp.epoch,
            transition = layout.state.transition.as_ref().map(|t| t.phase.name()),
            "went on to the next cluster state"
        );
        self.hints.wake();
        self.mend.notify_one();
        self.repair.go_on(&present, &layout);
        Ok(())
    }

    /// Works with a layout from now on.
    pub(super) fn set_layout(&self, layout: Arc<Layout>) {
        let stamp = Some(layout.stamp);
        self.instruments.adopted(&layout.stamp);
        self.layout.store(Some(layout));
        self.epochs.present.change(|present| std::mem::replace(present, stamp) != stamp);
    }

    /// Takes a state that a peer tells.
    pub(super) async fn answer_learn(self: &Arc<Self>, state: ClusterState) -> Reply {
        if self.layout().is_none() {
            self.epochs.offer(state);
            return Err(Refusal::NotServing);
        }
        match self.adopt(state).await {
            Ok(()) => Ok(Answer::Learnt),
            Err(AdoptError::Forked) => Err(Refusal::Forked),
            Err(AdoptError::Foreign) => Err(Refusal::OtherCluster),
            Err(AdoptError::Layout(_)) => Err(Refusal::NotServing),
            Err(error) => {
                tracing::error!(%error, "a cluster state could not be adopted");
                Err(Refusal::StoreFailed)
            }
        }
    }

    /// Asks whoever answers at an address for its state, and goes on to it.
    pub(super) async fn learn_from(self: &Arc<Self>, address: &PeerAddress, deadline: Instant) {
        let asked = self.call_address(address, Outgoing::control(Request::State, deadline)).await;
        if let Ok(Answer::State(state)) = asked
            && let Err(error) = self.adopt(*state).await
        {
            tracing::error!(%address, %error, "a peer's cluster state could not be adopted");
        }
    }

    /// Somebody gossips that there is a later state.
    pub(super) fn hear_of(self: &Arc<Self>, stamp: &StateStamp, address: &str) {
        let Some(layout) = self.layout() else { return };
        match layout.stamp.standing_of(stamp) {
            Standing::Ahead => {}
            Standing::Forked => return self.metrics.alarm("forked-state"),
            _ => return,
        }
        let Ok(address) = PeerAddress::new(address) else { return };
        let node = Arc::clone(self);
        let at = layout.stamp;
        self.tasks.spawn_untracked(async move {
            let deadline = Instant::now() + super::greeting::GREET_TIMEOUT;
            if !node.is_past(&at) && *node.phase.borrow() == Phase::Serving {
                node.learn_from(&address, deadline).await;
            }
        });
    }

    /// Does something in the background in each epoch, again and again while it says that there is
    /// more to do, until the node stops.
    pub(super) fn spawn_in_each_epoch<F>(self: &Arc<Self>, work: fn(Arc<Self>) -> F)
    where
        F: Future<Output = bool> + Send + 'static,
    {
        let node = Arc::clone(self);
        self.tasks.spawn_background(async move {
            let phase = node.phase();
            let epochs = node.epochs.present.clone();
            loop {
                let seen = *epochs.borrow();
                let has_more = node.tasks.track(work(Arc::clone(&node))).await;
                let changed = epochs.wait_for(|present| *present != seen);
                let wait = async {
                    match has_more {
                        true => drop(tokio::time::timeout(AGAIN_AFTER, changed).await),
                        false => changed.await,
                    }
                };
                tokio::select! {
                    biased;
                    _ = phase.wait_for(|phase| phase.is_over()) => return,
                    () = wait => {}
                }
            }
        });
    }

    /// Makes what is on disk fit this node's roles in a state: drops vnodes that are nobody's any
    /// more, and empties those that are to be taken in, unless that has begun before. While the gate
    /// is closed, or before the node serves.
    ///
    /// What may have to be dropped is known without looking through the disk: the vnodes of the layout
    /// `before`, those of which anything is in memory, and until the trees are loaded those that
    /// [`Node::find_unkept`] has found.
    pub(super) async fn work_out_roles(
        &self,
        layout: &Layout,
        found: BTreeSet<VnodeId>,
        before: Option<&Layout>,
    ) -> Result<(), AdoptError> {
        let own: BTreeSet<VnodeId> = layout.own_vnodes().into_iter().collect();
        let next: BTreeSet<VnodeId> = layout.next_vnodes().into_iter().collect();
        let transition = layout.state.transition_id();
        let kept = self.kept_vnodes(layout);
        let mut dropped = found;
        dropped.extend(self.vnodes.known());
        dropped.extend(self.trees.known());
        let mut held_before: BTreeSet<VnodeId> = BTreeSet::new();
        held_before.extend(before.into_iter().flat_map(Layout::own_vnodes));
        held_before.extend(before.into_iter().flat_map(Layout::next_vnodes));
        for vnode in held_before.difference(&kept) {
            if !dropped.contains(vnode) && self.holds_records(*vnode).await? {
                dropped.insert(*vnode);
            }
        }
        dropped.retain(|vnode| !kept.contains(vnode));
        let mut batch = Batch::default();
        dropped.iter().for_each(|vnode| self.add_drop(&mut batch, *vnode));
        for (vnode, _) in self.take_ins.all().filter(|(_, taken)| Some(taken.by) != transition) {
            batch.delete(Space::Meta, MetaKey::TakeIn(vnode));
        }
        let comes: Vec<Bucket> = layout.state.moved_buckets_now();
        let takes_buckets = |vnode: &VnodeId| {
            comes.iter().any(|bucket| layout.state.next_factor_of(bucket) == vnode.table)
        };
        let is_fresh = |vnode: &VnodeId| {
            let is_taken_in = !own.contains(vnode) || takes_buckets(vnode);
            is_taken_in && self.take_ins.begun_by(*vnode) != transition
        };
        let fresh: Vec<(VnodeId, TakenIn)> = transition
            .into_iter()
            .flat_map(|id| next.iter().map(move |vnode| (*vnode, TakenIn::new(id))))
            .filter(|(vnode, _)| is_fresh(vnode))
            .collect();
        let mut emptied = BTreeSet::new();
        for (vnode, taken) in &fresh {
            taken_in::put(&mut batch, *vnode, taken);
            for bucket in comes.iter().filter(|_| own.contains(vnode)) {
                if layout.state.next_factor_of(bucket) == vnode.table {
                    let partitions = layout.state.partitions;
                    if self.empty_of(&mut batch, *vnode, bucket, partitions).await? {
                        emptied.insert(*vnode);
                    }
                }
            }
        }
        if !batch.is_empty() {
            self.commit_drops(batch, &dropped).await?;
        }
        for vnode in emptied {
            self.trees.count_deleted_anew(vnode, &*self.store).await?;
        }
        self.take_ins.keep(transition);
        for (vnode, taken) in fresh {
            let is_resumed = kept.contains(&vnode) && !own.contains(&vnode);
            match is_resumed {
                true => self.take_ins.set(vnode, taken),
                false => self.take_ins.begin_empty(vnode, taken),
            }
        }
        Ok(())
    }

    /// Adds to a batch that a vnode holds nothing of a bucket any more: what an earlier layout may
    /// have left there, on a disk that went back in time. While the gate is closed.
    async fn empty_of(
        &self,
        batch: &mut Batch,
        vnode: VnodeId,
        bucket: &Bucket,
        partitions: PartitionCount,
    ) -> Result<bool, ReadError> {
        let mut range = bucket_range(vnode, bucket);
        let mut has_emptied = false;
        loop {
            let page = self.store.scan(Space::Records, range.clone(), LEFT_OVER).await?;
            for (key, _) in &page.entries {
                let Ok((_, path)) = parse_record_key(key) else { continue };
                let leaf = leaf_of(Shape::of(partitions), &path);
                batch.delete(Space::Records, key.clone());
                batch.delete(Space::Deletes, key.clone());
                batch.delete(Space::Quarantine, key.clone());
                batch.delete(Space::Trees, tree_key(vnode, leaf.0, &path));
                self.trees.doubt(vnode);
                has_emptied = true;
            }
            match page.next {
                Some(next) => range = range.resume_at(next),
                None => return Ok(has_emptied),
            }
        }
    }

    /// Drops vnodes for good, actors and data in one batch. While the gate is closed.
    pub(super) async fn drop_vnodes(&self, vnodes: &[VnodeId]) -> Result<(), AdoptError> {
        let mut batch = Batch::default();
        vnodes.iter().for_each(|vnode| self.add_drop(&mut batch, *vnode));
        Ok(self.commit_drops(batch, vnodes).await?)
    }

    /// Commits a batch that drops vnodes, and forgets them. If they may be gone although it failed,
    /// what is known of them in memory counts no longer: the vnodes may be held again before their
    /// drop is tried once more.
    async fn commit_drops<'a>(
        &self,
        batch: Batch,
        vnodes: impl IntoIterator<Item = &'a VnodeId>,
    ) -> Result<(), CommitError> {
        let vnodes = vnodes.into_iter();
        match self.store.commit(batch, Syncing::Always).await {
            Ok(()) => vnodes.for_each(|vnode| self.forget(*vnode)),
            Err(error) => {
                self.disk.suspect();
                if error.may_be_applied() {
                    vnodes.for_each(|vnode| {
                        self.trees.doubt(*vnode);
                        // It is known from now on, so that its drop is tried again.
                        self.retire(*vnode, Retirement::FailedBatch);
                    });
                }
                return Err(error);
            }
        }
        Ok(())
    }

    /// Adds to a batch that a vnode is gone, its actor with its data.
    fn add_drop(&self, batch: &mut Batch, vnode: VnodeId) {
        let prefix = vnode_key(vnode);
        for space in [Space::Records, Space::Trees, Space::Deletes, Space::Quarantine] {
            batch.delete_prefix(space, prefix.clone());
        }
        if !self.instruments.has(PlantedBug::ActorKeptOnReacquisition) {
            batch.delete(Space::Vnodes, prefix);
        }
        batch.delete(Space::Meta, MetaKey::TakeIn(vnode));
    }

    /// A vnode is gone from disk: nothing of it stays in memory.
    fn forget(&self, vnode: VnodeId) {
        tracing::debug!(%vnode, "dropped a vnode");
        if !self.instruments.has(PlantedBug::ActorKeptOnReacquisition) {
            self.vnodes.forget(vnode);
        }
        self.quarantine.forget(vnode);
        self.trees.forget(vnode);
    }

    /// The vnodes whose data stays here in a layout: those that are held, that are being taken in, or
    /// that others have yet to be brought.
    fn kept_vnodes(&self, layout: &Layout) -> BTreeSet<VnodeId> {
        let me = layout.this();
        let transition = layout.state.transition_id();
        let resumed = layout.state.transition.as_ref().map_or(&[][..], |t| &t.resumed[..]);
        let is_of_me = |former: &&Former| {
            former.node == me.id && former.incarnation == me.incarnation && former.bucket.is_none()
        };
        let has = |list: &[Former], vnode: VnodeId| {
            list.iter().filter(is_of_me).any(|former| former.has(vnode))
        };
        let is_being_taken_in =
            |vnode: &VnodeId| self.take_ins.begun_by(*vnode) == transition || has(resumed, *vnode);
        let mut kept: BTreeSet<VnodeId> = layout.own_vnodes().into_iter().collect();
        kept.extend(layout.next_vnodes().into_iter().filter(is_being_taken_in));
        let former = layout.state.former.iter().filter(is_of_me);
        kept.extend(former.flat_map(|former| {
            let vnode = |partition: &_| VnodeId { table: former.table, partition: *partition };
            former.partitions.iter().map(vnode)
        }));
        kept
    }

    /// The vnodes of which records are stored here and whose data does not stay in a layout.
    pub(super) async fn find_unkept(
        &self,
        layout: &Layout,
    ) -> Result<BTreeSet<VnodeId>, AdoptError> {
        let kept = self.kept_vnodes(layout);
        let mut found = BTreeSet::new();
        let mut range = KeyRange::all();
        loop {
            let page = self.store.scan(Space::Records, range.clone(), ONE).await?;
            let Some((key, _)) = page.entries.first() else { return Ok(found) };
            let Ok((vnode, _)) = parse_record_key(key) else {
                match page.next {
                    Some(next) => range = range.resume_at(next),
                    None => return Ok(found),
                }
                continue;
            };
            if !kept.contains(&vnode) {
                found.insert(vnode);
            }
            range = range.resume_at(behind(end_of_run(&kept, vnode)));
        }
    }

    /// Whether any record of a vnode is stored here.
    pub(super) async fn holds_records(&self, vnode: VnodeId) -> Result<bool, ReadError> {
        let page = self.store.scan(Space::Records, vnode_range(vnode), ONE).await?;
        Ok(!page.entries.is_empty())
    }
}

/// The last of the vnodes from this one on that are all in a set, one partition after the other; this
/// one where it is not in it.
fn end_of_run(set: &BTreeSet<VnodeId>, first: VnodeId) -> VnodeId {
    let run = set.range(first..).zip(first.partition.get()..).take_while(|(vnode, partition)| {
        vnode.table == first.table && vnode.partition.get() == *partition
    });
    run.last().map_or(first, |(vnode, _)| *vnode)
}

/// The first key behind all of a vnode's.
fn behind(vnode: VnodeId) -> bytes::Bytes {
    vnode_range(vnode).end.expect("a vnode's range has an end")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::end_of_run;
    use crate::types::{PartitionId, ReplicationFactor, VnodeId};

    fn vnode(n: u8, partition: u32) -> VnodeId {
        let table = ReplicationFactor::new(n).expect("a factor");
        VnodeId { table, partition: PartitionId::new(partition) }
    }

    #[test]
    fn a_run_ends_before_the_first_vnode_that_is_not_in_the_set() {
        let set: BTreeSet<VnodeId> = [(3, 0), (3, 1), (3, 2), (3, 5), (5, 3), (5, 6)]
            .map(|(n, partition)| vnode(n, partition))
            .into();
        for (first, last) in [
            (vnode(3, 0), vnode(3, 2)),
            (vnode(3, 1), vnode(3, 2)),
            (vnode(3, 5), vnode(3, 5)),
            (vnode(5, 3), vnode(5, 3)),
            // Not in it.
            (vnode(1, 4), vnode(1, 4)),
            (vnode(3, 4), vnode(3, 4)),
            (vnode(5, 7), vnode(5, 7)),
        ] {
            assert_eq!(end_of_run(&set, first), last, "{first}");
        }
    }
}
