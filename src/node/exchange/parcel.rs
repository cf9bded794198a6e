//! The leaves in which two replicas differ, several vnodes' in the same messages: where few keys of each
//! vnode differ, what a message, a wake-up and an fsync cost is shared by all of them.
//!
//! Each vnode comes to its own end: one that can't be brought together holds up no other.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use tokio::time::Instant;

use super::{
    CALL_TIMEOUT, Failure, KEYS_AT_ONCE, LEAVES_AT_ONCE, Moved, RECORD_BYTES, call, path_bytes,
};
use crate::node::Node;
use crate::node::calls::PeerFailure;
use crate::node::layout::Peer;
use crate::node::merge::Records;
use crate::node::replica::Place;
use crate::peer::messages::{Answer, Carried, KeysAnswer, KeysOfVnode, Refusal, Request};
use crate::protocol::cluster::StateStamp;
use crate::protocol::merkle::LeafIndex;
use crate::storage::Syncing;
use crate::types::{KeyPath, PurgeNumber, VnodeId};

/// How many messages there are about the leaves of one vnode, beyond the first ones, before the next
/// comparison has to go on. It bounds what a wrong peer can ask for.
const ROUNDS: usize = 256;

/// How often records are sent that a purge overtakes.
const PUSHES: u32 = 3;

/// One leaf of one vnode.
pub(super) type Leaf = (VnodeId, LeafIndex);

/// See the module's head.
pub(super) struct Parcel<'a> {
    node: &'a Arc<Node>,
    at: StateStamp,
    peer: &'a Arc<Peer>,
    moved: Moved,
    /// Why these vnodes were not brought together.
    failed: BTreeMap<VnodeId, Failure>,
    /// Those of which the peer takes no records.
    refused: BTreeSet<VnodeId>,
}

/// What became of a parcel.
pub(super) struct Delivered {
    pub(super) moved: Moved,
    pub(super) done: Vec<VnodeId>,
    /// Why others could not be brought together.
    pub(super) failure: Option<Failure>,
}

impl<'a> Parcel<'a> {
    pub(super) fn new(node: &'a Arc<Node>, at: StateStamp, peer: &'a Arc<Peer>) -> Self {
        let (failed, refused) = (BTreeMap::new(), BTreeSet::new());
        Self { node, at, peer, moved: Moved::default(), failed, refused }
    }

    /// Exchanges what differs in these leaves, those of one vnode beside one another.
    ///
    /// # Errors
    /// The peer can't be asked.
    pub(super) async fn exchange(mut self, leaves: Vec<Leaf>) -> Result<Delivered, Failure> {
        let vnodes: BTreeSet<VnodeId> = leaves.iter().map(|(vnode, _)| *vnode).collect();
        let mut left = VecDeque::from(leaves);
        let mut rounds = 0;
        while !left.is_empty() {
            let most = left.len().min(LEAVES_AT_ONCE);
            let (count, lists) = self.list(&left.make_contiguous()[..most]).await;
            left.drain(..count);
            let again = self.bring_together(lists).await?;
            rounds += usize::from(!again.is_empty());
            if rounds <= ROUNDS * vnodes.len() {
                left.extend(again);
            } else {
                again.iter().for_each(|(vnode, _)| self.fail(*vnode, PeerFailure::WrongAnswer));
            }
        }
        let is_done = |vnode: &VnodeId| !self.failed.contains_key(vnode);
        let done = vnodes.into_iter().filter(is_done).collect();
        Ok(Delivered { moved: self.moved, done, failure: self.failed.into_values().next() })
    }

    /// This node's keys in the first of some leaves, until there are enough; and in how many of the
    /// leaves that is.
    async fn list(&mut self, leaves: &[Leaf]) -> (usize, Vec<KeysOfVnode>) {
        let first = leaves[0].0;
        let of_first = leaves.iter().take_while(|(vnode, _)| *vnode == first).count();
        let mut read = self.node.entries_of(leaves, KEYS_AT_ONCE).await;
        if read.is_err() && of_first < leaves.len() {
            // Some vnode can't be read: the others by themselves.
            read = self.node.entries_of(&leaves[..of_first], KEYS_AT_ONCE).await;
        }
        let Ok(read) = read else {
            self.fail(first, PeerFailure::Refused(Refusal::StoreFailed));
            return (of_first, Vec::new());
        };
        let mut lists: Vec<KeysOfVnode> = Vec::new();
        let count = read.len();
        for ((vnode, leaf), entries) in leaves.iter().zip(read) {
            match lists.last_mut() {
                Some(list) if list.vnode == *vnode => {
                    list.leaves.push(*leaf);
                    list.entries.extend(entries);
                }
                _ => lists.push(KeysOfVnode { vnode: *vnode, leaves: vec![*leaf], entries }),
            }
        }
        (count, lists)
    }

    /// Exchanges what differs in leaves that are listed in one message; returns those in which more
    /// does, the ones first of which nothing fitted into the answer.
    async fn bring_together(
        &mut self,
        mut lists: Vec<KeysOfVnode>,
    ) -> Result<VecDeque<Leaf>, Failure> {
        lists.retain(|list| !self.failed.contains_key(&list.vnode));
        if lists.is_empty() {
            return Ok(VecDeque::new());
        }
        let entries = lists.iter().flat_map(|list| &list.entries);
        self.moved.bytes += entries.map(|(path, _)| path_bytes(path) + 8).sum::<u64>();
        let asked: Vec<(VnodeId, Vec<LeafIndex>)> =
            lists.iter().map(|list| (list.vnode, list.leaves.clone())).collect();
        let answers = match call(self.node, &self.at, self.peer, Request::Keys(lists)).await? {
            Answer::Keys(answers) if answers.len() == asked.len() => answers,
            _ => return Err(PeerFailure::WrongAnswer),
        };
        let (mut parts, mut again) = (Vec::new(), VecDeque::new());
        for ((vnode, leaves), answer) in asked.into_iter().zip(answers) {
            match answer {
                Ok(answer) => {
                    let more = leaves.into_iter().map(|leaf| (vnode, leaf));
                    match (answer.has_more, answer.records.is_empty()) {
                        (false, _) => {}
                        (true, false) => again.extend(more),
                        (true, true) => more.rev().for_each(|leaf| again.push_front(leaf)),
                    }
                    parts.push((vnode, answer));
                }
                Err(refusal) => self.fail(vnode, PeerFailure::Refused(refusal)),
            }
        }
        self.take_and_give(parts).await?;
        Ok(again)
    }

    fn fail(&mut self, vnode: VnodeId, why: Failure) {
        self.failed.entry(vnode).or_insert(why);
    }

    /// Takes what the peer gives and gives what it wants.
    async fn take_and_give(&mut self, parts: Vec<(VnodeId, KeysAnswer)>) -> Result<(), Failure> {
        let (mut given, mut wanted) = (Vec::new(), BTreeSet::new());
        for (vnode, answer) in parts {
            self.moved.records += answer.records.len() as u64;
            self.moved.bytes +=
                answer.records.iter().map(|(_, c)| c.record.len() as u64).sum::<u64>();
            wanted.extend(answer.wanted.into_iter().map(|path| (vnode, path)));
            given.push((vnode, answer.records));
        }
        for (vnode, path) in self.merge(given).await {
            // It came to something else here than what the peer has.
            wanted.insert((vnode, path));
        }
        let places: Vec<Place> =
            wanted.into_iter().map(|(vnode, path)| Place::new(vnode, path)).collect();
        self.node.warm_places(places.iter()).await;
        let (mut batch, mut size) = (BTreeMap::<VnodeId, Records>::new(), 0);
        for place in places {
            let carried = match self.node.carried(&place).await {
                Ok(Some(carried)) => carried,
                // Gone, or damaged here: what there is comes from others.
                Ok(None) | Err(Refusal::Quarantined) => continue,
                Err(refusal) => {
                    self.fail(place.vnode, PeerFailure::Refused(refusal));
                    continue;
                }
            };
            size += carried.record.len();
            batch.entry(place.vnode).or_default().push((place.path, carried));
            if size >= RECORD_BYTES {
                self.give(std::mem::take(&mut batch)).await?;
                size = 0;
            }
        }
        self.give(batch).await
    }

    /// Merges records; the keys that came to something else here than what came.
    async fn merge(&mut self, records: Vec<(VnodeId, Records)>) -> Vec<(VnodeId, KeyPath)> {
        let deadline = Instant::now() + CALL_TIMEOUT;
        let from = (&self.peer.id, Syncing::AsConfigured);
        let mut differing = Vec::new();
        for (vnode, merged) in self.node.merge_vnodes(&self.at, records, from, deadline).await {
            for (path, merged) in merged {
                match merged {
                    Ok(Some(_)) => differing.push((vnode, path)),
                    Ok(None) => {}
                    Err(refusal) => self.fail(vnode, PeerFailure::Refused(refusal)),
                }
            }
        }
        differing
    }

    /// Sends records, and takes what they have met there.
    async fn give(&mut self, mut batch: BTreeMap<VnodeId, Records>) -> Result<(), Failure> {
        batch.retain(|vnode, _| !self.refused.contains(vnode));
        let records = batch.values().flatten();
        let bytes = records.map(|(path, c)| path_bytes(path) + c.record.len() as u64);
        self.moved.bytes += bytes.sum::<u64>();
        self.moved.records += batch.values().map(|records| records.len() as u64).sum::<u64>();
        for _ in 0..PUSHES {
            if batch.is_empty() {
                return Ok(());
            }
            let sent: Vec<(VnodeId, Vec<KeyPath>)> = batch
                .iter()
                .map(|(vnode, records)| (*vnode, records.iter().map(|(p, _)| p.clone()).collect()))
                .collect();
            let request = Request::Deliver(std::mem::take(&mut batch).into_iter().collect());
            let answers = match call(self.node, &self.at, self.peer, request).await? {
                Answer::Delivered(answers) if answers.len() == sent.len() => answers,
                _ => return Err(PeerFailure::WrongAnswer),
            };
            let mut met = Vec::new();
            for ((vnode, paths), answer) in sent.into_iter().zip(answers) {
                match answer {
                    Ok(answer) => met.push((vnode, different(paths, answer))),
                    // Purged meanwhile: what is read again is what there is.
                    Err(Refusal::StalePurge(number)) => {
                        let again = self.read_again(vnode, paths, number).await;
                        batch.extend(again.map(|again| (vnode, again)));
                    }
                    Err(refusal) => {
                        self.refused.insert(vnode);
                        self.fail(vnode, PeerFailure::Refused(refusal));
                    }
                }
            }
            self.merge(met).await;
        }
        batch.keys().for_each(|vnode| {
            self.failed.entry(*vnode).or_insert(PeerFailure::Refused(Refusal::TooLate));
        });
        Ok(())
    }

    /// What there is of some keys, once this node has gone on to a purge number.
    async fn read_again(
        &mut self,
        vnode: VnodeId,
        paths: Vec<KeyPath>,
        number: PurgeNumber,
    ) -> Option<Records> {
        if let Err(refusal) = self.node.meet_purge_number(vnode, number).await {
            self.fail(vnode, PeerFailure::Refused(refusal));
            return None;
        }
        let mut again = Records::new();
        for path in paths {
            if let Ok(Some(carried)) = self.node.carried(&Place::new(vnode, path.clone())).await {
                again.push((path, carried));
            }
        }
        Some(again)
    }
}

/// The records that were met in place of those that were sent.
fn different(paths: Vec<KeyPath>, met: Vec<Option<Carried>>) -> Records {
    paths.into_iter().zip(met).filter_map(|(path, met)| Some((path, met?))).collect()
}
