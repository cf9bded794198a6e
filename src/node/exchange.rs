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

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::future::join_all;
use tokio::time::Instant;

use super::calls::PeerFailure;
use super::layout::{Layout, Peer};
use super::pace::Pace;
use super::replica::Place;
use super::{Node, Phase};
use crate::peer::messages::{Answer, Carried, KeysAnswer, Refusal, Reply, Request};
use crate::protocol::cluster::StateStamp;
use crate::protocol::merkle::{LeafIndex, compare, differing};
use crate::storage::Syncing;
use crate::types::{KeyPath, NodeId, VnodeId};

/// How long one message may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// How soon a comparison that failed is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// How soon a comparison is tried again that would do the work of something under way.
const LATER: Duration = Duration::from_secs(1);

/// How many vnodes are exchanged at once; while clients are being served, one.
const VNODES_TOGETHER: usize = 16;

/// How many vnodes are compared in one message below the roots.
const VNODES_AT_ONCE: usize = 32;

/// How many keys are listed in one message; one leaf's are not divided.
const KEYS_AT_ONCE: usize = 4_096;

/// How many leaves of a vnode are listed in one message.
const LEAVES_AT_ONCE: usize = 1_024;

/// The records of one message, in bytes; a single larger one goes alone.
const RECORD_BYTES: usize = 1 << 20;

/// How often the same leaves are exchanged before the next round has to go on.
const ROUNDS: u32 = 256;

/// Why a vnode was not brought to the same state on both sides.
type Failure = PeerFailure;

/// For each record that was merged, what is there then, if it is something else than what came.
type Merged = Vec<(KeyPath, Result<Option<Carried>, Refusal>)>;

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
            Request::Keys { vnode, leaves, entries } => {
                self.answer_keys(vnode, &leaves, &entries).await
            }
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

    async fn answer_keys(
        self: &Arc<Self>,
        vnode: VnodeId,
        leaves: &[LeafIndex],
        theirs: &[(KeyPath, u64)],
    ) -> Reply {
        self.owned(vnode)?;
        let mine = self.entries_of(vnode, leaves, usize::MAX).await;
        let (_, mine) = mine.map_err(|_| Refusal::StoreFailed)?;
        let comparison = compare(&mine, theirs);
        self.warm(vnode, &comparison.given).await;
        let mut answer = KeysAnswer::default();
        let mut bytes = 0;
        for path in comparison.given {
            if bytes >= RECORD_BYTES {
                answer.has_more = true;
                break;
            }
            // Else it is gone or damaged since it was listed.
            if let Ok(Some(carried)) = self.carried(&Place::new(vnode, path.clone())).await {
                bytes += carried.record.len();
                answer.records.push((path, carried));
            }
        }
        answer.has_more |= comparison.wanted.len() > KEYS_AT_ONCE;
        answer.wanted = comparison.wanted;
        answer.wanted.truncate(KEYS_AT_ONCE);
        Ok(Answer::Keys(answer))
    }

    pub(super) async fn answer_push(
        self: &Arc<Self>,
        at: &StateStamp,
        vnode: VnodeId,
        records: Vec<(KeyPath, Carried)>,
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

/// The exchange of one vnode with a peer.
struct Pairing<'a> {
    node: &'a Arc<Node>,
    at: StateStamp,
    peer: &'a Arc<Peer>,
    vnode: VnodeId,
    moved: Moved,
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
        let mut done = Vec::new();
        let mut failure = None;
        let mut left = leaves.as_slice();
        while !left.is_empty() {
            let most = if self.pace.are_clients_served() { 1 } else { VNODES_TOGETHER };
            let (together, rest) = left.split_at(most.min(left.len()));
            left = rest;
            let pairings = together.iter().map(|(vnode, leaves)| {
                let moved = Moved::default();
                let (node, at, peer) = (self.node, self.at, self.peer);
                Pairing { node, at, peer, vnode: *vnode, moved }.run(leaves)
            });
            let mut bytes = 0;
            for (vnode, moved, outcome) in join_all(pairings).await {
                bytes += moved.bytes;
                self.moved.add(moved);
                match outcome {
                    Ok(()) => done.push(vnode),
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

impl Pairing<'_> {
    /// Exchanges what differs in some leaves.
    async fn run(mut self, leaves: &[LeafIndex]) -> (VnodeId, Moved, Result<(), Failure>) {
        let outcome = self.leaves(leaves).await;
        (self.vnode, self.moved, outcome)
    }

    async fn leaves(&mut self, leaves: &[LeafIndex]) -> Result<(), Failure> {
        let mut left = leaves;
        while !left.is_empty() {
            let most = &left[..left.len().min(LEAVES_AT_ONCE)];
            let (count, entries) = self.entries(most, KEYS_AT_ONCE).await?;
            let (group, rest) = left.split_at(count);
            left = rest;
            self.group(group, entries).await?;
        }
        Ok(())
    }

    async fn entries(
        &self,
        leaves: &[LeafIndex],
        enough: usize,
    ) -> Result<(usize, Vec<(KeyPath, u64)>), Failure> {
        let entries = self.node.entries_of(self.vnode, leaves, enough).await;
        entries.map_err(|_| PeerFailure::Refused(Refusal::StoreFailed))
    }

    /// Exchanges what differs in leaves that are listed in one message, until all was.
    async fn group(
        &mut self,
        leaves: &[LeafIndex],
        mut entries: Vec<(KeyPath, u64)>,
    ) -> Result<(), Failure> {
        for _ in 0..ROUNDS {
            self.moved.bytes += entries.iter().map(|(path, _)| path_bytes(path) + 8).sum::<u64>();
            let request = Request::Keys { vnode: self.vnode, leaves: leaves.to_vec(), entries };
            let answer = match call(self.node, &self.at, self.peer, request).await? {
                Answer::Keys(answer) => answer,
                _ => return Err(PeerFailure::WrongAnswer),
            };
            let has_more = answer.has_more;
            self.exchange(answer).await?;
            if !has_more {
                return Ok(());
            }
            entries = self.entries(leaves, usize::MAX).await?.1;
        }
        Err(PeerFailure::WrongAnswer)
    }

    /// Takes what the peer gives and gives what it wants.
    async fn exchange(&mut self, answer: KeysAnswer) -> Result<(), Failure> {
        let deadline = Instant::now() + CALL_TIMEOUT;
        let mut failure = None;
        self.moved.records += answer.records.len() as u64;
        self.moved.bytes += answer.records.iter().map(|(_, c)| c.record.len() as u64).sum::<u64>();
        let merged = self.merge(answer.records, deadline).await;
        let mut wanted: BTreeSet<KeyPath> = answer.wanted.into_iter().collect();
        for (path, merged) in merged {
            match merged {
                // It came to something else here than what the peer has.
                Ok(Some(_)) => drop(wanted.insert(path)),
                Ok(None) => {}
                Err(refusal) => failure = Some(PeerFailure::Refused(refusal)),
            }
        }
        let (mut batch, mut size) = (Vec::new(), 0);
        let wanted: Vec<KeyPath> = wanted.into_iter().collect();
        self.node.warm(self.vnode, &wanted).await;
        for path in wanted {
            let carried = self.node.carried(&Place::new(self.vnode, path.clone())).await;
            let Ok(Some(carried)) = carried else { continue };
            size += carried.record.len();
            batch.push((path, carried));
            if size >= RECORD_BYTES {
                self.push(std::mem::take(&mut batch)).await?;
                size = 0;
            }
        }
        self.push(batch).await?;
        failure.map_or(Ok(()), Err)
    }

    async fn merge(&self, records: Vec<(KeyPath, Carried)>, deadline: Instant) -> Merged {
        let from = (&self.peer.id, Syncing::AsConfigured);
        self.node.merge_all(&self.at, self.vnode, records, from, deadline).await
    }

    /// Sends records, and takes what they have met there.
    async fn push(&mut self, mut batch: Vec<(KeyPath, Carried)>) -> Result<(), Failure> {
        if batch.is_empty() {
            return Ok(());
        }
        self.moved.records += batch.len() as u64;
        self.moved.bytes +=
            batch.iter().map(|(path, c)| path_bytes(path) + c.record.len() as u64).sum::<u64>();
        for _ in 0..3 {
            let paths: Vec<KeyPath> = batch.iter().map(|(path, _)| path.clone()).collect();
            let request = Request::Push { vnode: self.vnode, records: batch };
            match call(self.node, &self.at, self.peer, request).await {
                Ok(Answer::Pushed(met)) => {
                    let met = paths.into_iter().zip(met);
                    let met = met.filter_map(|(path, met)| Some((path, met?))).collect();
                    let deadline = Instant::now() + CALL_TIMEOUT;
                    let merged = self.merge(met, deadline).await;
                    let failed = merged.into_iter().find_map(|(_, merged)| merged.err());
                    return failed.map_or(Ok(()), |why| Err(PeerFailure::Refused(why)));
                }
                Ok(_) => return Err(PeerFailure::WrongAnswer),
                // Purged meanwhile: what is read again is what there is.
                Err(PeerFailure::Refused(Refusal::StalePurge(number))) => {
                    let met = self.node.meet_purge_number(self.vnode, number).await;
                    met.map_err(PeerFailure::Refused)?;
                    batch = Vec::new();
                    for path in paths {
                        let carried =
                            self.node.carried(&Place::new(self.vnode, path.clone())).await;
                        if let Ok(Some(carried)) = carried {
                            batch.push((path, carried));
                        }
                    }
                }
                Err(failure) => return Err(failure),
            }
        }
        Err(PeerFailure::Refused(Refusal::TooLate))
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
