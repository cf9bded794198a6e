//! Anti-entropy: two replicas compare their hash trees and exchange what differs, in both directions
//! (Dynamo, section 4.7; correctness, section 5).
//!
//! ```text
//! initiator                                  peer
//!   roots of all shared vnodes    ─────────▶   which differ              equal: one round trip
//!   branches of those             ─────────▶   which differ
//!   leaves of those               ─────────▶   which differ
//!   (key, digest) of those        ─────────▶   what it wants; records that differ or are missing
//!   merges; then the records that the peer wants  ─▶  merges; says what it has, if something else
//! ```
//!
//! Records are merged, each under its key's lock. Husks are not in the trees; a record that meets
//! one is answered with the husk.

mod parcel;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::future::join_all;
use tokio::time::Instant;

use super::calls::PeerFailure;
use super::layout::{Layout, Peer};
use super::merge::{Merged, Records};
use super::pace::Pace;
use super::replica::Place;
use super::{Node, Phase};
use crate::peer::messages::{Answer, KeysAnswer, KeysOfVnode, Refusal, Reply, Request};
use crate::protocol::cluster::StateStamp;
use crate::protocol::merkle::{Comparison, LeafIndex, compare, differing};
use crate::storage::Syncing;
use crate::types::{KeyPath, NodeId, VnodeId};
use parcel::{Leaf, Parcel};

/// How long one message may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// How soon a comparison that failed is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// How soon a comparison is tried again that would do the work of something under way.
const LATER: Duration = Duration::from_secs(1);

/// How many parcels are exchanged at once, and of how many vnodes each is at most; while clients are being
/// served, one of one.
const PARCELS_TOGETHER: usize = 4;
const VNODES_IN_A_PARCEL: usize = 8;

/// How many vnodes are compared in one message below the roots.
const VNODES_AT_ONCE: usize = 128;

/// How many keys are listed in one message; one leaf's are not divided.
const KEYS_AT_ONCE: usize = 4_096;

/// How many leaves are listed in one message.
const LEAVES_AT_ONCE: usize = 1_024;

/// The records of one message, in bytes; a single larger one goes alone.
const RECORD_BYTES: usize = 1 << 20;

/// Why a vnode was not brought to the same state on both sides.
type Failure = PeerFailure;

impl Node {
    /// Compares what is shared with each peer, as it is due, until the node stops.
    pub(super) fn spawn_anti_entropy(self: &Arc<Self>) {
        let node = Arc::clone(self);
        self.tasks.spawn_background(async move {
            let phase = node.phase();
            loop {
                let next = node.next_comparison();
                let wait = async {
                    tokio::select! {
                        biased;
                        () = node.repair.wake.notified() => {}
                        () = tokio::time::sleep_until(next) => {}
                    }
                };
                tokio::select! {
                    biased;
                    _ = phase.wait_for(|phase| phase.is_over()) => return,
                    () = wait => {}
                }
                node.tasks.track(node.compare_with_all()).await;
            }
        });
    }

    fn next_comparison(&self) -> Instant {
        let layout = self.layout().expect("only a serving node compares");
        let up = layout.others().filter(|peer| peer.is_up()).map(|peer| &peer.id);
        let idle = Instant::now() + self.settings.repair.interval;
        self.repair.next_due(up).unwrap_or(idle)
    }

    async fn compare_with_all(self: &Arc<Self>) {
        let layout = self.layout().expect("only a serving node compares");
        for vnode in self.trees.in_doubt() {
            if let Err(error) = self.remake_tree(vnode).await {
                tracing::error!(%vnode, %error, "a hash tree could not be made anew");
            }
        }
        for peer in layout.others().filter(|peer| peer.is_up() && self.repair.is_due(&peer.id)) {
            if *self.phase.borrow() != Phase::Serving {
                return;
            }
            let interval = self.settings.repair.interval;
            // Requests that come while this runs count: the plan is made before.
            self.repair.plan(&peer.id, Instant::now() + jittered(interval, self.random.u64()));
            if self.is_brought_hints(&peer.id) {
                self.repair.plan(&peer.id, Instant::now() + LATER);
                continue;
            }
            self.repair.set_comparing(Some(peer.id.clone()));
            let compared = self.compare_with(peer).await;
            self.repair.set_comparing(None);
            if let Err(why) = compared {
                tracing::debug!(peer = %peer.id, %why, "comparing hash trees failed");
                let is_later = why == PeerFailure::Refused(Refusal::Later);
                let soon = if is_later { LATER } else { RETRY_AFTER.min(interval) };
                self.repair.plan(&peer.id, Instant::now() + jittered(soon, self.random.u64()));
            }
        }
    }

    /// Whether a node that has just come back is being brought what is kept for it: that does most
    /// of what a comparison would do. Not for ever: hints may not get through.
    fn is_brought_hints(&self, node: &NodeId) -> bool {
        let interval = self.settings.repair.interval;
        self.hints.has_for(node) && self.repair.was_requested_within(node, interval)
    }

    /// Compares all shared vnodes with a peer's, and exchanges what differs.
    async fn compare_with(self: &Arc<Self>, peer: &Arc<Peer>) -> Result<(), Failure> {
        let layout = self.layout().expect("only a serving node compares");
        let shared = layout.shared_vnodes(&peer.id);
        if shared.is_empty() {
            return Ok(());
        }
        let begun = Instant::now();
        let roots = packed(&self.trees.roots(&shared));
        let mut exchange = Exchange::new(self, &layout, peer);
        exchange.moved.bytes += roots.len() as u64;
        let places = exchange.ask(Request::Roots(roots)).await?.pop().unwrap_or_default();
        let differ: Vec<VnodeId> =
            places.iter().filter_map(|place| shared.get(*place as usize)).copied().collect();
        let equal: Vec<VnodeId> =
            shared.iter().filter(|vnode| !differ.contains(vnode)).copied().collect();
        self.repair.proven(&peer.id, &equal, begun);
        let mut failure = None;
        for vnodes in differ.chunks(VNODES_AT_ONCE) {
            match exchange.vnodes(vnodes).await {
                Ok(done) => self.repair.proven(&peer.id, &done, begun),
                Err(error) => failure = Some(error),
            }
            if *self.phase.borrow() != Phase::Serving {
                break;
            }
        }
        let Moved { records, bytes } = exchange.moved;
        self.repair.moved(&peer.id, records, bytes);
        self.metrics.repaired(&peer.id, records, bytes);
        failure.map_or(Ok(()), Err)
    }

    /// Answers a peer that compares.
    pub(super) async fn answer_exchange(
        self: &Arc<Self>,
        at: &StateStamp,
        request: Request,
        from: &NodeId,
        deadline: Instant,
    ) -> Reply {
        match request {
            Request::Roots(theirs) => self.answer_roots(&theirs, from),
            Request::Branches(lists) => {
                let mine = |vnode| self.trees.with(vnode, self.shape(), |tree| tree.branches());
                let places = lists.iter().map(|(vnode, theirs)| {
                    self.owned(*vnode)?;
                    differing(&mine(*vnode), &unpacked(theirs)).ok_or(Refusal::Malformed)
                });
                Ok(Answer::Differing(places.collect::<Result<_, _>>()?))
            }
            Request::Leaves(lists) => {
                let places = lists.iter().map(|(vnode, branch, theirs)| {
                    self.owned(*vnode)?;
                    let mine = self.trees.with(*vnode, self.shape(), |tree| tree.leaves(*branch));
                    let mine = mine.ok_or(Refusal::Malformed)?;
                    differing(&mine, &unpacked(theirs)).ok_or(Refusal::Malformed)
                });
                Ok(Answer::Differing(places.collect::<Result<_, _>>()?))
            }
            Request::Keys(lists) => self.answer_keys(lists).await,
            Request::Deliver(parts) => self.answer_deliver(at, parts, from, deadline).await,
            Request::Push { vnode, records } => {
                self.answer_push(at, vnode, records, from, deadline).await
            }
            _ => Err(Refusal::Malformed),
        }
    }

    fn answer_roots(&self, theirs: &Bytes, from: &NodeId) -> Reply {
        let layout = self.layout().ok_or(Refusal::NotServing)?;
        // Of two that compare with one another at once, the one with the lesser name goes on.
        let is_doing_it = self.repair.is_comparing_with(from) && self.settings.id < *from;
        if is_doing_it || self.is_brought_hints(from) {
            return Err(Refusal::Later);
        }
        let shared = layout.shared_vnodes(from);
        let now = Instant::now();
        let mine = self.trees.roots(&shared);
        let places = differing(&mine, &unpacked(theirs)).ok_or(Refusal::Malformed)?;
        // A tree that is in doubt proves nothing.
        let is_proven = |(place, vnode): &(u32, &VnodeId)| {
            places.binary_search(place).is_err() && !self.trees.is_in_doubt(**vnode)
        };
        let equal: Vec<VnodeId> =
            (0..).zip(&shared).filter(is_proven).map(|(_, vnode)| *vnode).collect();
        self.repair.proven(from, &equal, now);
        Ok(Answer::Differing(vec![places]))
    }

    /// Refuses what is about a vnode of which this node has no replica.
    pub(super) fn owned(&self, vnode: VnodeId) -> Result<(), Refusal> {
        let layout = self.layout().ok_or(Refusal::NotServing)?;
        layout.has_role(vnode).then_some(()).ok_or(Refusal::NoReplica)
    }

    /// Says what has to be exchanged of the keys that a peer lists, and gives what it may lack, as much
    /// as fits into one answer.
    async fn answer_keys(self: &Arc<Self>, lists: Vec<KeysOfVnode>) -> Reply {
        let lists: Vec<Result<KeysOfVnode, Refusal>> =
            lists.into_iter().map(|list| self.owned(list.vnode).map(|()| list)).collect();
        let of_list = |list: &KeysOfVnode| -> Vec<Leaf> {
            list.leaves.iter().map(|leaf| (list.vnode, *leaf)).collect()
        };
        let leaves: Vec<Leaf> = lists.iter().flatten().flat_map(of_list).collect();
        let mut all = self.entries_of(&leaves, usize::MAX).await.ok().map(Vec::into_iter);
        let mut compared: Vec<Result<(VnodeId, Comparison), Refusal>> = Vec::new();
        for list in lists {
            let mine = match (&list, &mut all) {
                (Err(refusal), _) => Err(refusal.clone()),
                (Ok(list), Some(all)) => Ok(all.take(list.leaves.len()).collect()),
                // Some vnode can't be read: the others by themselves.
                (Ok(list), None) => {
                    let read = self.entries_of(&of_list(list), usize::MAX).await;
                    read.map_err(|_| Refusal::StoreFailed)
                }
            };
            compared.push(list.and_then(|list| {
                let mine: Vec<Vec<(KeyPath, u64)>> = mine?;
                Ok((list.vnode, compare(&mine.concat(), &list.entries)))
            }));
        }
        let given = compared.iter().flatten().flat_map(|(vnode, comparison)| {
            comparison.given.iter().map(|path| Place::new(*vnode, path.clone()))
        });
        let given: Vec<Place> = given.collect();
        self.warm_places(given.iter()).await;
        let mut bytes = 0;
        let mut answers = Vec::with_capacity(compared.len());
        for compared in compared {
            answers.push(match compared {
                Ok((vnode, comparison)) => Ok(self.give_some(vnode, comparison, &mut bytes).await),
                Err(refusal) => Err(refusal),
            });
        }
        Ok(Answer::Keys(answers))
    }

    /// What to answer of one vnode, beside so many bytes of others.
    async fn give_some(
        self: &Arc<Self>,
        vnode: VnodeId,
        comparison: Comparison,
        bytes: &mut usize,
    ) -> KeysAnswer {
        let mut answer = KeysAnswer::default();
        for path in comparison.given {
            if *bytes >= RECORD_BYTES {
                answer.has_more = true;
                break;
            }
            // Else it is gone or damaged since it was listed.
            if let Ok(Some(carried)) = self.carried(&Place::new(vnode, path.clone())).await {
                *bytes += carried.record.len();
                answer.records.push((path, carried));
            }
        }
        answer.has_more |= comparison.wanted.len() > KEYS_AT_ONCE;
        answer.wanted = comparison.wanted;
        answer.wanted.truncate(KEYS_AT_ONCE);
        answer
    }

    /// Merges a peer's records of several vnodes.
    async fn answer_deliver(
        self: &Arc<Self>,
        at: &StateStamp,
        parts: Vec<(VnodeId, Records)>,
        from: &NodeId,
        deadline: Instant,
    ) -> Reply {
        let vnodes: Vec<VnodeId> = parts.iter().map(|(vnode, _)| *vnode).collect();
        let owned = parts.into_iter().filter(|(vnode, _)| self.owned(*vnode).is_ok()).collect();
        let from = (from, Syncing::AsConfigured);
        let mut merged: BTreeMap<VnodeId, Merged> =
            self.merge_vnodes(at, owned, from, deadline).await.into_iter().collect();
        let answers = vnodes.into_iter().map(|vnode| {
            let merged = merged.remove(&vnode).ok_or(Refusal::NoReplica)?;
            merged.into_iter().map(|(_, merged)| merged).collect()
        });
        Ok(Answer::Delivered(answers.collect()))
    }

    pub(super) async fn answer_push(
        self: &Arc<Self>,
        at: &StateStamp,
        vnode: VnodeId,
        records: Records,
        from: &NodeId,
        deadline: Instant,
    ) -> Reply {
        self.owned(vnode)?;
        let from = (from, Syncing::AsConfigured);
        let merged = self.merge_all(at, vnode, records, from, deadline).await;
        let merged = merged.into_iter().map(|(_, merged)| merged);
        Ok(Answer::Pushed(merged.collect::<Result<_, _>>()?))
    }
}

/// One comparison with one peer.
struct Exchange<'a> {
    node: &'a Arc<Node>,
    at: StateStamp,
    peer: &'a Arc<Peer>,
    pace: Pace,
    moved: Moved,
}

/// What was moved.
#[derive(Clone, Copy, Debug, Default)]
struct Moved {
    records: u64,
    /// Hashes, keys and records.
    bytes: u64,
}

impl Moved {
    fn add(&mut self, other: Self) {
        self.records += other.records;
        self.bytes += other.bytes;
    }
}

impl<'a> Exchange<'a> {
    fn new(node: &'a Arc<Node>, layout: &Layout, peer: &'a Arc<Peer>) -> Self {
        let pace = Pace::new(node, node.settings.repair.max_bytes_per_second);
        Self { node, at: layout.stamp, peer, pace, moved: Moved::default() }
    }

    /// Asks which hashes differ.
    async fn ask(&self, request: Request) -> Result<Vec<Vec<u32>>, Failure> {
        match call(self.node, &self.at, self.peer, request).await? {
            Answer::Differing(places) => Ok(places),
            _ => Err(PeerFailure::WrongAnswer),
        }
    }

    /// Exchanges what differs of some vnodes; returns those that are done.
    async fn vnodes(&mut self, vnodes: &[VnodeId]) -> Result<Vec<VnodeId>, Failure> {
        let leaves = self.differing_leaves(vnodes).await?;
        let (equal, left): (Vec<_>, Vec<_>) =
            leaves.into_iter().partition(|(_, leaves)| leaves.is_empty());
        let mut left = VecDeque::from(left);
        // Whatever differed is the same by now.
        let mut done: Vec<VnodeId> = equal.into_iter().map(|(vnode, _)| vnode).collect();
        let mut failure = None;
        let (node, at, peer) = (self.node, self.at, self.peer);
        while !left.is_empty() {
            let is_quiet = !self.pace.are_clients_served();
            let (parcels, of_vnodes) =
                if is_quiet { (PARCELS_TOGETHER, VNODES_IN_A_PARCEL) } else { (1, 1) };
            let mut together = Vec::new();
            while together.len() < parcels && !left.is_empty() {
                let parcel = left.drain(..of_vnodes.min(left.len()));
                let leaves = parcel
                    .flat_map(|(vnode, leaves)| leaves.into_iter().map(move |leaf| (vnode, leaf)));
                together.push(Parcel::new(node, at, peer).exchange(leaves.collect()));
            }
            let mut bytes = 0;
            // All of them come to their ends before the rest: who rests in between holds others up.
            for delivered in join_all(together).await {
                match delivered {
                    Ok(delivered) => {
                        bytes += delivered.moved.bytes;
                        self.moved.add(delivered.moved);
                        done.extend(delivered.done);
                        failure = delivered.failure.or(failure);
                    }
                    Err(error @ PeerFailure::Transport(_)) => return Err(error),
                    Err(error) => failure = Some(error),
                }
            }
            self.pace.rest(bytes).await;
        }
        if let Some(why) = failure {
            tracing::debug!(peer = %self.peer.id, %why, "a vnode could not be brought together yet");
            if done.is_empty() {
                return Err(why);
            }
            // Not all: soon again.
            self.node.repair.plan(&self.peer.id, Instant::now() + RETRY_AFTER);
        }
        Ok(done)
    }

    async fn differing_leaves(
        &mut self,
        vnodes: &[VnodeId],
    ) -> Result<Vec<(VnodeId, Vec<LeafIndex>)>, Failure> {
        let (node, shape) = (self.node, self.node.shape());
        let branches = |vnode: &VnodeId| {
            (*vnode, packed(&node.trees.with(*vnode, shape, |tree| tree.branches())))
        };
        let branches: Vec<(VnodeId, Bytes)> = vnodes.iter().map(branches).collect();
        let bytes: u64 = branches.iter().map(|(_, hashes)| hashes.len() as u64).sum();
        let places = self.ask(Request::Branches(branches)).await?;
        if places.len() != vnodes.len() {
            return Err(PeerFailure::WrongAnswer);
        }
        self.moved.bytes += bytes;
        self.pace.rest(bytes).await;
        let mut asked = Vec::new();
        for (vnode, branches) in vnodes.iter().zip(places) {
            for branch in branches {
                let leaves = node.trees.with(*vnode, shape, |tree| tree.leaves(branch));
                asked.push((*vnode, branch, packed(&leaves.ok_or(PeerFailure::WrongAnswer)?)));
            }
        }
        let mut found: Vec<(VnodeId, Vec<LeafIndex>)> =
            vnodes.iter().map(|vnode| (*vnode, Vec::new())).collect();
        for part in asked.chunks(1_024) {
            let bytes: u64 = part.iter().map(|(_, _, hashes)| hashes.len() as u64).sum();
            let places = self.ask(Request::Leaves(part.to_vec())).await?;
            if places.len() != part.len() {
                return Err(PeerFailure::WrongAnswer);
            }
            self.moved.bytes += bytes;
            self.pace.rest(bytes).await;
            for ((vnode, branch, _), within) in part.iter().zip(places) {
                let leaves = node.trees.with(*vnode, shape, |tree| {
                    within.iter().map(|at| tree.leaf_index(*branch, *at)).collect::<Vec<_>>()
                });
                let all = found.iter_mut().find(|(other, _)| other == vnode);
                all.expect("asked for these vnodes").1.extend(leaves);
            }
        }
        Ok(found)
    }
}

/// Asks a peer, unless the node stops meanwhile.
async fn call(
    node: &Arc<Node>,
    at: &StateStamp,
    peer: &Arc<Peer>,
    request: Request,
) -> Result<Answer, Failure> {
    let phase = node.phase();
    tokio::select! {
        biased;
        _ = phase.wait_for(|phase| phase.is_over()) => {
            Err(PeerFailure::Refused(Refusal::NotServing))
        }
        answer = node.call(at, peer, request, Instant::now() + CALL_TIMEOUT, None) => answer,
    }
}

/// Hashes as they are sent.
fn packed(hashes: &[u64]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(8 * hashes.len());
    hashes.iter().for_each(|hash| bytes.put_u64(*hash));
    bytes.freeze()
}

/// The reverse of [`packed`]; bytes left over are dropped, and the lists then differ in length.
fn unpacked(bytes: &Bytes) -> Vec<u64> {
    bytes.chunks_exact(8).map(|mut hash| hash.get_u64()).collect()
}

/// About how much a key takes in a message.
fn path_bytes(path: &KeyPath) -> u64 {
    (path.bucket.as_str().len() + 1 + path.key.as_bytes().len()) as u64
}

/// Nine to eleven tenths of a time, so that nodes do not fall into step.
fn jittered(time: Duration, random: u64) -> Duration {
    time * (900 + (random % 201) as u32) / 1_000
}
