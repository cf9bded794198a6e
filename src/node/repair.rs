//! What is known of how far replicas agree: for each vnode and peer, when the two were last proven to
//! hold the same (correctness, section 5). The oldest of those proofs is the *repair debt*.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::layout::{Layout, Peer};
use super::view::PairView;
use crate::types::{NodeId, VnodeId};

/// See the module's head.
#[derive(Debug)]
pub(super) struct Repair {
    pairs: Mutex<BTreeMap<NodeId, Pair>>,
    /// With whom this node compares now.
    comparing: Mutex<Option<NodeId>>,
    /// A pair has become due.
    pub(super) wake: Notify,
    /// What was never proven counts from here.
    begun: Instant,
}

#[derive(Debug, Default)]
struct Pair {
    /// When the two are to be compared next; `None`: now.
    due: Option<Instant>,
    /// When it was last asked to be compared at once.
    requested: Option<Instant>,
    proofs: BTreeMap<VnodeId, Instant>,
    records_repaired: u64,
    bytes_moved: u64,
}

impl Repair {
    pub(super) fn new() -> Self {
        Self {
            pairs: Mutex::default(),
            comparing: Mutex::default(),
            wake: Notify::new(),
            begun: Instant::now(),
        }
    }

    /// All vnodes shared with a node, or with every one, are to be compared now.
    pub(super) fn request(&self, node: Option<&NodeId>) {
        let mut pairs = self.lock();
        match node {
            Some(node) => {
                let pair = pairs.entry(node.clone()).or_default();
                (pair.due, pair.requested) = (None, Some(Instant::now()));
            }
            None => pairs.values_mut().for_each(|pair| pair.due = None),
        }
        drop(pairs);
        self.wake.notify_one();
    }

    /// Whether the two are to be compared now.
    pub(super) fn is_due(&self, node: &NodeId) -> bool {
        self.lock().get(node).and_then(|pair| pair.due).is_none_or(|due| due <= Instant::now())
    }

    /// Whether it was asked for no longer ago than this that a node is compared at once.
    pub(super) fn was_requested_within(&self, node: &NodeId, time: Duration) -> bool {
        let requested = self.lock().get(node).and_then(|pair| pair.requested);
        requested.is_some_and(|requested| requested.elapsed() < time)
    }

    /// With whom this node compares from now on.
    pub(super) fn set_comparing(&self, node: Option<NodeId>) {
        *self.comparing.lock().unwrap_or_else(PoisonError::into_inner) = node;
    }

    /// Whether this node compares with that one now.
    pub(super) fn is_comparing_with(&self, node: &NodeId) -> bool {
        let comparing = self.comparing.lock().unwrap_or_else(PoisonError::into_inner);
        comparing.as_ref() == Some(node)
    }

    /// Plans the next comparison.
    pub(super) fn plan(&self, node: &NodeId, due: Instant) {
        self.lock().entry(node.clone()).or_default().due = Some(due);
    }

    /// When the first of these is due.
    pub(super) fn next_due<'a>(&self, peers: impl Iterator<Item = &'a NodeId>) -> Option<Instant> {
        let pairs = self.lock();
        let due = |node| pairs.get(node).and_then(|pair| pair.due).unwrap_or_else(Instant::now);
        peers.map(due).min()
    }

    /// Both held the same of these vnodes at that moment, or have exchanged all that differed then.
    pub(super) fn proven(&self, node: &NodeId, vnodes: &[VnodeId], at: Instant) {
        let mut pairs = self.lock();
        let proofs = &mut pairs.entry(node.clone()).or_default().proofs;
        for vnode in vnodes {
            let proof = proofs.entry(*vnode).or_insert(at);
            *proof = at.max(*proof);
        }
    }

    /// The layout has changed: what is no longer shared needs no proof, and what is shared from now
    /// on is proven from now on.
    pub(super) fn go_on(&self, before: &Layout, after: &Layout) {
        let now = Instant::now();
        for peer in after.others() {
            let shared = after.shared_vnodes(&peer.id);
            let known: BTreeSet<VnodeId> = before.shared_vnodes(&peer.id).into_iter().collect();
            let mut pairs = self.lock();
            let proofs = &mut pairs.entry(peer.id.clone()).or_default().proofs;
            proofs.retain(|vnode, _| shared.binary_search(vnode).is_ok());
            for vnode in shared.iter().filter(|vnode| !known.contains(vnode)) {
                proofs.entry(*vnode).or_insert(now);
            }
        }
        self.lock().retain(|node, _| after.peer(node).is_some());
        self.wake.notify_one();
    }

    /// Something was moved.
    pub(super) fn moved(&self, node: &NodeId, records: u64, bytes: u64) {
        let mut pairs = self.lock();
        let pair = pairs.entry(node.clone()).or_default();
        pair.records_repaired += records;
        pair.bytes_moved += bytes;
    }

    /// The age of the oldest proof among all vnodes that are shared with others.
    pub(super) fn debt(&self, layout: &Layout) -> Duration {
        let debts = layout.others().filter_map(|peer| self.oldest_proof(layout, peer));
        debts.map(|(_, age)| age).max().unwrap_or_default()
    }

    /// Figures for people.
    pub(super) fn pairs(&self, layout: &Layout) -> Vec<PairView> {
        let view = |peer: &std::sync::Arc<Peer>| {
            let (vnodes, age) = self.oldest_proof(layout, peer)?;
            let pairs = self.lock();
            let pair = pairs.get(&peer.id);
            Some(PairView {
                node: peer.id.clone(),
                vnodes,
                oldest_proof_seconds: age.as_secs_f64(),
                records_repaired: pair.map_or(0, |pair| pair.records_repaired),
                bytes_moved: pair.map_or(0, |pair| pair.bytes_moved),
            })
        };
        layout.others().filter_map(view).collect()
    }

    /// How many vnodes are shared with a peer, and the age of the oldest proof; `None`: none are.
    fn oldest_proof(&self, layout: &Layout, peer: &Peer) -> Option<(usize, Duration)> {
        let shared = layout.shared_vnodes(&peer.id);
        let pairs = self.lock();
        let proofs = pairs.get(&peer.id).map(|pair| &pair.proofs);
        let proof = |vnode| proofs.and_then(|proofs| proofs.get(vnode)).copied();
        let oldest = shared.iter().map(|vnode| proof(vnode).unwrap_or(self.begun)).min()?;
        Some((shared.len(), oldest.elapsed()))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Pair>> {
        self.pairs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
