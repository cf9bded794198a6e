//! Passing over old replicas, so that a vnode lacks nothing that one of them has (correctness, section 7,
//! rule 12).
//!
//! ```text
//! roots     of many vnodes in one message: equal ones show that nothing is lacking
//! digests   of the others, page by page: what is missing here or differs is fetched and merged
//! husks     are in no tree: all that there are
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Node;
use super::calls::PeerFailure;
use super::instruments::PlantedBug;
use super::layout::{Layout, Peer};
use super::pace::Pace;
use super::replica::Place;
use super::take_in::Job;
use super::taken_in::{Passed, TakenIn};
use crate::peer::messages::{Answer, Carried, Request};
use crate::protocol::cluster::{TransitionId, TransitionPhase};
use crate::types::{KeyPath, NodeId, ReplicationFactor, VnodeId};

/// How many vnodes' roots are compared in one message.
const ROOTS_AT_ONCE: usize = 64;

impl Node {
    /// Passes over whatever is equal on both sides: nearly everything, where the bulk is there. What fails
    /// here is tried, vnode by vnode, once more.
    pub(super) async fn pass_over_equal(self: &Arc<Self>, layout: &Arc<Layout>, jobs: &[Job]) {
        let Some(transition) = &layout.state.transition else { return };
        let by = layout.state.transition_id().expect("there is one");
        if transition.phase != TransitionPhase::Switch {
            return;
        }
        let mut by_peer: BTreeMap<NodeId, Vec<(VnodeId, Passed)>> = BTreeMap::new();
        for job in jobs {
            let taken = self.take_ins.get(job.vnode, by);
            for (table, peer) in self.passes_of(layout, job) {
                let passed = Passed::over(table, &peer);
                if !taken.passed.contains(&passed) {
                    by_peer.entry(peer.id.clone()).or_default().push((job.vnode, passed));
                }
            }
        }
        let mut pace = self.pace_of_taking_in();
        for (id, passes) in &by_peer {
            for passes in passes.chunks(ROOTS_AT_ONCE) {
                if let Err(why) = self.pass_over_equal_of(layout, (id, by), passes).await {
                    tracing::debug!(peer = %id, %why, "roots can't be compared yet");
                    break;
                }
                pace.rest(passes.len() as u64 * 32).await;
            }
        }
    }

    /// The same for some vnodes and one of their holders.
    async fn pass_over_equal_of(
        self: &Arc<Self>,
        layout: &Arc<Layout>,
        (id, by): (&NodeId, TransitionId),
        passes: &[(VnodeId, Passed)],
    ) -> anyhow::Result<()> {
        let Some(peer) = layout.peer(id) else { return Ok(()) };
        let root = |(vnode, passed): &(VnodeId, Passed)| {
            let source = VnodeId { table: passed.table, ..*vnode };
            Some(((*vnode, passed.clone()), (source, self.trees.known_root(*vnode)?)))
        };
        let (asked, roots): (Vec<_>, Vec<_>) = passes.iter().filter_map(root).unzip();
        let same = self.same_roots(layout, peer, roots).await?;
        let mut taken_in: BTreeMap<VnodeId, TakenIn> = BTreeMap::new();
        for ((vnode, passed), same) in asked.into_iter().zip(same) {
            let Some(same) = same.filter(|same| !same.may_have_husks) else { continue };
            if passed.table == vnode.table {
                self.vnodes.take_purge(vnode, same.purge, same.promised, &*self.store).await?;
            }
            let taken = taken_in.entry(vnode).or_insert_with(|| self.take_ins.get(vnode, by));
            taken.passed.insert(passed);
        }
        self.keep_taken(layout, taken_in).await
    }

    /// Passes over all old replicas of one vnode that were not passed over yet.
    pub(super) async fn pass_over_all(
        self: &Arc<Self>,
        layout: &Arc<Layout>,
        job: &Job,
        by: TransitionId,
    ) -> anyhow::Result<()> {
        let mut failure = None;
        let mut taken = self.take_ins.get(job.vnode, by);
        let passed_before = taken.passed.len();
        for (table, peer) in self.passes_of(layout, job) {
            let passed = Passed::over(table, &peer);
            if taken.passed.contains(&passed) {
                continue;
            }
            match self.pass_over(layout, job.vnode, table, &peer).await {
                Ok(()) => drop(taken.passed.insert(passed)),
                Err(why) => failure = Some(why.context(peer.id.to_string())),
            }
        }
        // One fsync for all of them.
        if taken.passed.len() > passed_before {
            self.keep_taken(layout, [(job.vnode, taken)].into()).await?;
        }
        failure.map_or(Ok(()), Err)
    }

    /// What a vnode has to be passed over for: old replicas, and of which table.
    fn passes_of(&self, layout: &Layout, job: &Job) -> Vec<(ReplicationFactor, Arc<Peer>)> {
        let of_table = |table: &ReplicationFactor| {
            let holders = self.old_holders(layout, job.vnode, *table).into_iter();
            let table = *table;
            holders.map(move |peer| (table, peer))
        };
        job.from.iter().flat_map(of_table).collect()
    }

    /// The old replicas of a table that a vnode has to be taken in from.
    pub(super) fn old_holders(
        &self,
        layout: &Layout,
        vnode: VnodeId,
        table: ReplicationFactor,
    ) -> Vec<Arc<Peer>> {
        let mut holders = layout.present_holders(VnodeId { table, ..vnode });
        let is_me = |peer: &Arc<Peer>| Arc::ptr_eq(peer, layout.this());
        if table == vnode.table {
            holders.retain(|peer| !is_me(peer));
        } else if table > vnode.table
            && holders.iter().any(is_me)
            && self.instruments.has(PlantedBug::ShrinkWithoutTakeIn)
        {
            holders.retain(is_me);
        }
        holders
    }

    /// Fetches whatever an old replica has and this node has not, or has otherwise. Whoever answers for it
    /// has waited for all changes that it had admitted in earlier epochs, and each of those has changed its
    /// hash tree: with equal roots there is nothing to fetch.
    pub(super) async fn pass_over(
        self: &Arc<Self>,
        layout: &Arc<Layout>,
        vnode: VnodeId,
        table: ReplicationFactor,
        peer: &Arc<Peer>,
    ) -> anyhow::Result<()> {
        let source = VnodeId { table, ..vnode };
        let mut pace = self.pace_of_taking_in();
        let mut after: Option<KeyPath> = None;
        let mut root = self.trees.known_root(vnode);
        loop {
            let (to, root) = (vnode.table, root.take());
            let request = Request::Digests { vnode: source, to, after, root };
            let Answer::Digests(page) = self.ask_holder(layout, peer, request).await? else {
                return Err(PeerFailure::WrongAnswer.into());
            };
            if table == vnode.table {
                self.vnodes.take_purge(vnode, page.purge, page.promised, &*self.store).await?;
            }
            let listed = page.entries.len() as u64 * 32;
            let missing = self.lacking(vnode, page.entries).await?;
            pace.rest(listed).await;
            self.fetch(layout, (source, vnode), missing, peer, &mut pace).await?;
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        let mut after: Option<KeyPath> = None;
        loop {
            let request = Request::Husks { vnode: source, to: vnode.table, after };
            let Answer::Page(page) = self.ask_holder(layout, peer, request).await? else {
                return Err(PeerFailure::WrongAnswer.into());
            };
            let (husks, next) = page.carried();
            self.take_records(layout, vnode, husks, peer, &mut pace).await?;
            match next {
                Some(next) => after = Some(next),
                None => return Ok(()),
            }
        }
    }

    async fn fetch(
        self: &Arc<Self>,
        layout: &Arc<Layout>,
        (source, vnode): (VnodeId, VnodeId),
        mut missing: Vec<KeyPath>,
        peer: &Arc<Peer>,
        pace: &mut Pace,
    ) -> anyhow::Result<()> {
        while !missing.is_empty() {
            let request = Request::Fetch { vnode: source, paths: missing.clone() };
            let Answer::Fetched { records } = self.ask_holder(layout, peer, request).await? else {
                return Err(PeerFailure::WrongAnswer.into());
            };
            if records.is_empty() {
                return Err(PeerFailure::WrongAnswer.into());
            }
            let rest = missing.split_off(records.len().min(missing.len()));
            let records = missing.into_iter().zip(records);
            let records: Vec<(KeyPath, Carried)> =
                records.filter_map(|(path, record)| Some((path, record?))).collect();
            self.take_records(layout, vnode, records, peer, pace).await?;
            missing = rest;
        }
        Ok(())
    }

    /// The nodes whose replicas have yet to be passed over for a vnode.
    pub(super) fn open_passes(
        &self,
        layout: &Layout,
        job: &Job,
        taken: &TakenIn,
    ) -> Vec<Arc<Peer>> {
        if self.instruments.has(PlantedBug::FinishWithoutAllPasses) {
            return Vec::new();
        }
        let is_open = |(table, peer): &(ReplicationFactor, Arc<Peer>)| {
            !taken.passed.contains(&Passed::over(*table, peer))
        };
        self.passes_of(layout, job).into_iter().filter(is_open).map(|(_, peer)| peer).collect()
    }

    /// The keys of a list that a vnode lacks here, or has otherwise.
    pub(super) async fn lacking(
        self: &Arc<Self>,
        vnode: VnodeId,
        entries: Vec<(KeyPath, u64)>,
    ) -> Result<Vec<KeyPath>, crate::storage::ReadError> {
        let places: Vec<Place> =
            entries.iter().map(|(path, _)| Place::new(vnode, path.clone())).collect();
        let held = self.stored_digests(&places).await?;
        let is_other =
            |((_, digest), held): &(&(KeyPath, u64), Option<u64>)| *held != Some(*digest);
        let lacking = entries.iter().zip(held).filter(is_other);
        Ok(lacking.map(|((path, _), _)| path.clone()).collect())
    }
}
