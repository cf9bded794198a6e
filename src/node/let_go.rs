//! Letting go of what this node held in an earlier layout (correctness, section 7, rules 15 and 16).
//!
//! A former holder takes no writes. It brings each present replica what that one lacks, drops the
//! vnode, actor and data in one batch, and says so when it is asked; until then nothing of the
//! partition is purged.
//!
//! A vnode whose root all present replicas have too has nothing to be brought; it has not for the rest
//! of the epoch, as nothing changes here. So all roots are compared at once before clients' writes make
//! them differ: then vnodes are listed, one by one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Node;
use super::calls::PeerFailure;
use super::give::RECORD_BYTES;
use super::imprint::{Change, Imprint};
use super::instruments::PlantedBug;
use super::layout::{Layout, Peer};
use super::pace::Pace;
use super::replica::Place;
use crate::peer::messages::{Answer, Carried, Refusal, Request};
use crate::protocol::cluster::StateStamp;
use crate::storage::schema::{bucket_range, parse_record_key, vnode_range};
use crate::storage::{Batch, KeyRange, ReadError, ScanLimit, Space, Syncing};
use crate::types::{Bucket, KeyPath, NodeId, PurgeNumber, VnodeId};

/// How often records are sent again because of a purge number.
const TRIES: u32 = 3;

/// How many vnodes are dropped in one batch: what was brought before another epoch came, and was not
/// dropped, is compared once more.
const DROPPED_TOGETHER: usize = 64;

/// How many roots are compared in one message.
const ROOTS_AT_ONCE: usize = 512;

/// How much is read at once.
const PAGE: ScanLimit = ScanLimit { entries: 4_096, bytes: 1 << 20 };

impl Node {
    /// Lets go of what this node held before, until it stops.
    pub(super) fn spawn_letting_go(self: &Arc<Self>) {
        self.spawn_in_each_epoch(Self::let_go_of_all);
    }

    /// Lets go of what can be; whether something is left.
    async fn let_go_of_all(self: Arc<Self>) -> bool {
        let layout = self.layout().expect("only a serving node lets go");
        let former = former_of_this(&layout);
        if former.is_empty() {
            return false;
        }
        if self.is_slow_to_let_go() {
            return true;
        }
        // At once: from now on the others' copies may be lost, and what is listed takes long.
        let everywhere = self.held_by_all(&layout, &former).await;
        for group in everywhere.chunks(DROPPED_TOGETHER) {
            if !self.drop_in_foreground(&layout, group.to_vec()).await {
                return true;
            }
        }
        let mut open = false;
        for group in former.chunks(DROPPED_TOGETHER) {
            let mut brought = Vec::new();
            for (vnode, bucket) in group {
                if self.phase.borrow().is_over() || self.is_past(&layout.stamp) {
                    return true;
                }
                let let_go = match bucket {
                    None => {
                        self.bring_vnode(&layout, *vnode).await.map(|held| brought.extend(held))
                    }
                    Some(bucket) => self.let_go_of_bucket(&layout, *vnode, bucket).await,
                };
                if let Err(why) = let_go {
                    tracing::debug!(%vnode, %why, "a vnode can't be dropped yet");
                    open = true;
                }
            }
            if !self.drop_in_foreground(&layout, brought).await {
                return true;
            }
        }
        if !open {
            self.transitions.have_let_go(layout.stamp);
        }
        open
    }

    /// Drops vnodes for good; whether that was done.
    async fn drop_in_foreground(self: &Arc<Self>, layout: &Layout, vnodes: Vec<VnodeId>) -> bool {
        let (node, at) = (Arc::clone(self), layout.stamp);
        let dropping = async move { node.drop_for_good(&at, &vnodes).await };
        let dropped = self.tasks.in_foreground(dropping).await;
        // Else another epoch has come, or the disk fails, which is looked at by itself.
        dropped
            .inspect_err(|error| {
                tracing::warn!(%error, "what was held before is not dropped for good yet");
            })
            .is_ok()
    }

    /// Drops vnodes whose records are where they belong. What is reported as dropped must not come
    /// back with a crash.
    async fn drop_for_good(&self, at: &StateStamp, vnodes: &[VnodeId]) -> anyhow::Result<()> {
        if !vnodes.is_empty() {
            let _gate = self.locks.close_gate().await;
            self.refuse_stale(at)?;
            self.drop_vnodes(vnodes).await?;
            tracing::info!(vnodes = vnodes.len(), "dropped what was held before");
        }
        let synced = self.store.sync().await;
        Ok(synced.inspect_err(|_| self.disk.suspect())?)
    }

    /// Former holders bring what new replicas lack: soon after the transition that would hide some of
    /// the bugs that a simulation plants.
    fn is_slow_to_let_go(&self) -> bool {
        let is_hidden = self.instruments.has(PlantedBug::FinishWithoutAllPasses)
            || self.instruments.has(PlantedBug::ShrinkWithoutTakeIn);
        is_hidden && !self.random.u64().is_multiple_of(40)
    }

    /// The vnodes of which this node still holds something, and every present replica all of that, by
    /// their roots. A node that can't be asked has none of them.
    async fn held_by_all(
        self: &Arc<Self>,
        layout: &Arc<Layout>,
        former: &[(VnodeId, Option<Bucket>)],
    ) -> Vec<VnodeId> {
        // What a bucket has left in a vnode has to be brought to another one.
        if layout.state.former.iter().any(|former| former.bucket.is_some()) {
            return Vec::new();
        }
        let mut everywhere = BTreeSet::new();
        let mut by_peer: BTreeMap<NodeId, Vec<(VnodeId, u64)>> = BTreeMap::new();
        for (vnode, _) in former {
            let Some(root) = self.trees.known_root(*vnode) else { continue };
            if !matches!(self.holds_nothing(*vnode, None).await, Ok(false)) {
                continue;
            }
            for peer in layout.present_holders(*vnode) {
                everywhere.insert(*vnode);
                by_peer.entry(peer.id.clone()).or_default().push((*vnode, root));
            }
        }
        for (id, roots) in &by_peer {
            for roots in roots.chunks(ROOTS_AT_ONCE) {
                let same = match layout.peer(id) {
                    Some(peer) => self.same_roots(layout, peer, roots.to_vec()).await.ok(),
                    None => None,
                };
                for (place, (vnode, _)) in roots.iter().enumerate() {
                    if same.as_ref().is_none_or(|same| same[place].is_none()) {
                        everywhere.remove(vnode);
                    }
                }
            }
        }
        everywhere.into_iter().collect()
    }

    /// Brings others what they lack of a vnode; the vnode, where this node still has anything of it.
    async fn bring_vnode(
        self: &Arc<Self>,
        layout: &Arc<Layout>,
        vnode: VnodeId,
    ) -> anyhow::Result<Option<VnodeId>> {
        if self.holds_nothing(vnode, None).await? {
            return Ok(None);
        }
        self.bring_what_is_lacking(layout, vnode, None).await?;
        Ok(Some(vnode))
    }

    /// Brings others what they lack of a bucket in a vnode, and drops it.
    async fn let_go_of_bucket(
        self: &Arc<Self>,
        layout: &Arc<Layout>,
        vnode: VnodeId,
        bucket: &Bucket,
    ) -> anyhow::Result<()> {
        if self.holds_nothing(vnode, Some(bucket)).await? {
            return Ok(());
        }
        self.bring_what_is_lacking(layout, vnode, Some(bucket)).await?;
        // What it minted for these keys is forgotten here: should they come back, it must not be minted
        // again.
        if !self.instruments.has(PlantedBug::ActorKeptOnReacquisition) {
            self.vnodes.retire_for_good(vnode, &*self.store).await?;
        }
        let mut range = bucket_range(vnode, bucket);
        loop {
            let page = self.store.scan(Space::Records, range.clone(), PAGE).await?;
            for (key, _) in &page.entries {
                if let Ok((_, path)) = parse_record_key(key) {
                    self.drop_one(layout, &Place::new(vnode, path)).await?;
                }
            }
            match page.next {
                Some(next) => range = range.resume_at(next),
                None => return Ok(()),
            }
        }
    }

    /// Drops a record that belongs to no vnode of this node and that nobody waits for: left by an
    /// earlier layout on a disk that went back in time. Says whether it is one.
    pub(super) async fn drop_if_left_over(self: &Arc<Self>, place: &Place) -> bool {
        let Some(layout) = self.layout().filter(|layout| is_left_over(layout, place)) else {
            return false;
        };
        match self.drop_one(&layout, place).await {
            Ok(()) => {
                tracing::warn!(key = ?place.path, vnode = %place.vnode, "dropped what an earlier layout had left")
            }
            Err(error) => {
                tracing::error!(key = ?place.path, %error, "what an earlier layout had left can't be dropped")
            }
        }
        true
    }

    /// Drops one record of a bucket that went to another table.
    async fn drop_one(self: &Arc<Self>, layout: &Arc<Layout>, place: &Place) -> anyhow::Result<()> {
        let (node, layout, place) = (Arc::clone(self), Arc::clone(layout), place.clone());
        let dropping = async move { node.drop_record(&layout, &place).await };
        self.tasks.in_foreground(dropping).await
    }

    /// The same under the key's lock.
    async fn drop_record(
        self: &Arc<Self>,
        layout: &Arc<Layout>,
        place: &Place,
    ) -> anyhow::Result<()> {
        let guard = self.locks.lock(place.key()).await;
        self.admit(&layout.stamp, &guard)?;
        let before = self.imprint_in_indexes(place).await?;
        let change = Change { before, after: Imprint::Absent };
        let mut batch = Batch::default();
        batch.delete(Space::Records, place.key().clone());
        batch.delete(Space::Quarantine, place.key().clone());
        change.add_to(&mut batch, place, self.shape(), self.clock.wall_ms());
        match self.store.commit(batch, Syncing::AsConfigured).await {
            Ok(()) => self.change_tree(place, change),
            Err(error) => {
                self.disk.suspect();
                self.settle(place, change).await;
                return Err(error.into());
            }
        }
        self.quarantine.forget_key(place);
        Ok(())
    }

    /// Brings every present replica of what is held here whatever it lacks.
    async fn bring_what_is_lacking(
        self: &Arc<Self>,
        layout: &Arc<Layout>,
        vnode: VnodeId,
        bucket: Option<&Bucket>,
    ) -> anyhow::Result<()> {
        let mut pace = Pace::new(self, self.settings.streaming.max_bytes_per_second);
        let mut after = None;
        loop {
            let (entries, next) = self.digests_after(vnode, after).await?;
            let mut by_vnode: BTreeMap<VnodeId, Vec<(KeyPath, u64)>> = BTreeMap::new();
            for (path, digest) in entries {
                if bucket.is_none_or(|bucket| path.bucket == *bucket) {
                    let to = layout.state.vnode_of(&path);
                    by_vnode.entry(to).or_default().push((path, digest));
                }
            }
            let mut bytes = 0;
            for (to, entries) in by_vnode {
                for peer in layout.present_holders(to) {
                    bytes += self.bring_to(layout, (vnode, to), &entries, &peer).await?;
                }
            }
            pace.rest(bytes).await;
            match next {
                Some(next) => after = Some(next),
                None => return Ok(()),
            }
        }
    }

    async fn bring_to(
        self: &Arc<Self>,
        layout: &Arc<Layout>,
        (from, to): (VnodeId, VnodeId),
        entries: &[(KeyPath, u64)],
        peer: &Arc<Peer>,
    ) -> anyhow::Result<u64> {
        let request = Request::Lacks { vnode: to, entries: entries.to_vec() };
        let Answer::Lacks(lacking) = self.ask_holder(layout, peer, request).await? else {
            return Err(PeerFailure::WrongAnswer.into());
        };
        let (mut records, mut size, mut bytes) = (Vec::new(), 0, entries.len() as u64 * 32);
        for path in lacking {
            let carried = match self.carried(&Place::new(from, path.clone())).await {
                Ok(Some(carried)) => carried,
                // Gone, or damaged here: what there is comes from others.
                Ok(None) | Err(Refusal::Quarantined) => continue,
                // It may be well, and the only copy.
                Err(refusal) => return Err(PeerFailure::Refused(refusal).into()),
            };
            size += carried.record.len();
            records.push((path, carried));
            if size >= RECORD_BYTES {
                bytes += size as u64;
                size = 0;
                self.push_to(layout, (to, to != from), std::mem::take(&mut records), peer).await?;
            }
        }
        self.push_to(layout, (to, to != from), records, peer).await?;
        Ok(bytes + size as u64)
    }

    async fn push_to(
        self: &Arc<Self>,
        layout: &Arc<Layout>,
        (vnode, is_elsewhere): (VnodeId, bool),
        mut records: Vec<(KeyPath, Carried)>,
        peer: &Arc<Peer>,
    ) -> anyhow::Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        // Numbers are of one vnode: the other one's is heard from the replica.
        let own = |carried: &mut Carried| {
            if is_elsewhere {
                carried.purge = PurgeNumber::default();
            }
        };
        records.iter_mut().for_each(|(_, carried)| own(carried));
        for _ in 0..TRIES {
            let request = Request::Push { vnode, records: records.clone() };
            match self.ask_holder(layout, peer, request).await {
                Ok(Answer::Pushed(_)) => return Ok(()),
                Ok(_) => return Err(PeerFailure::WrongAnswer.into()),
                // Nothing is purged while this node holds it: what was read is still what there is.
                Err(PeerFailure::Refused(Refusal::StalePurge(number))) => {
                    records.iter_mut().for_each(|(_, carried)| carried.purge = number);
                }
                Err(failure) => return Err(failure.into()),
            }
        }
        Err(PeerFailure::Refused(Refusal::TooLate).into())
    }

    /// Whether this node holds nothing any more of what it held before.
    pub(super) fn has_let_go(&self, layout: &Layout) -> bool {
        former_of_this(layout).is_empty() || self.transitions.has_let_go(&layout.stamp)
    }

    async fn holds_nothing(
        &self,
        vnode: VnodeId,
        bucket: Option<&Bucket>,
    ) -> Result<bool, ReadError> {
        let one = ScanLimit { entries: 1, bytes: 1 };
        let range: KeyRange = match bucket {
            Some(bucket) => bucket_range(vnode, bucket),
            None => vnode_range(vnode),
        };
        let has_meta = bucket.is_none() && self.vnodes.knows(vnode);
        Ok(!has_meta && self.store.scan(Space::Records, range, one).await?.entries.is_empty())
    }
}

/// Whether a record is in a vnode that is not, will not be and was not its key's.
pub(super) fn is_left_over(layout: &Layout, place: &Place) -> bool {
    let state = &layout.state;
    let is_placed = state.vnode_of(&place.path) == place.vnode
        || state.next_vnode_of(&place.path) == place.vnode;
    !is_placed && !is_to_be_dropped(layout, place)
}

/// Whether a record is one of those that this node held before and has yet to drop.
pub(super) fn is_to_be_dropped(layout: &Layout, place: &Place) -> bool {
    former_of_this(layout).iter().any(|(vnode, bucket)| {
        *vnode == place.vnode && bucket.as_ref().is_none_or(|b| *b == place.path.bucket)
    })
}

/// What this node held before, one vnode after the other.
fn former_of_this(layout: &Layout) -> Vec<(VnodeId, Option<Bucket>)> {
    let me = layout.this();
    let former = layout.state.former.iter();
    let mine = former.filter(|f| f.node == me.id && f.incarnation == me.incarnation);
    let is_whole = |vnode: VnodeId| mine.clone().any(|f| f.bucket.is_none() && f.has(vnode));
    let all = mine.clone().flat_map(|former| {
        former.partitions.iter().map(|partition| {
            let vnode = VnodeId { table: former.table, partition: *partition };
            (vnode, former.bucket.clone())
        })
    });
    // A bucket goes with the vnode that it is in.
    all.filter(|(vnode, bucket)| bucket.is_none() || !is_whole(*vnode)).collect()
}
