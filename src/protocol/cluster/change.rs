//! From one cluster state to the next: what an operator asks for becomes a transition, and a
//! transition goes through its phases (correctness, section 7, rules 10 to 16).
//!
//! ```text
//!            prepare                  switch                   finish
//! settled ───────────▶ preparing ───────────▶ switching ───────────────▶ settled, with former
//!    ▲                     │                      │                      holders ──drops──▶ settled
//!    └─────── abort ───────┴──────── abort ───────┘
//! ```
//!
//! Every function here derives the state of the next epoch from the present one and decides nothing
//! else: whether a phase may end is for the node to find out, and which next state there is, for
//! the register.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::bucket::BucketProperties;
use super::state::{
    ClusterNode, ClusterState, Former, Role, Transition, TransitionId, TransitionPhase, find,
};
use crate::protocol::ring::{Member, Table};
use crate::types::{
    Bucket, DataIncarnation, LayoutVersion, NodeId, PartitionId, ReplicationFactor, Weight, Zone,
};

/// What an operator asks for; all of it in one transition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Nodes to take in.
    pub join: Vec<Joiner>,
    /// Nodes to send away.
    pub leave: BTreeSet<NodeId>,
    /// Nodes to send away, each with the one that takes its exact place.
    pub replace: BTreeMap<NodeId, Joiner>,
    /// Nodes whose process will never run again.
    pub dead: BTreeSet<NodeId>,
    /// Other shares.
    pub weight: BTreeMap<NodeId, Weight>,
    /// Other places.
    pub zone: BTreeMap<NodeId, Zone>,
    /// Other properties of buckets; `None`: the defaults again.
    pub buckets: BTreeMap<Bucket, Option<BucketProperties>>,
    /// Partitions with too few surviving holders are given up.
    pub accept_loss: bool,
}

/// A node that is not in the cluster yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joiner {
    /// Its name.
    pub id: NodeId,
    /// Its data directory, which is empty.
    pub incarnation: DataIncarnation,
    /// `host:port` of its peer port.
    pub peer: String,
    /// Where it stands.
    pub zone: Zone,
    /// Its share.
    pub weight: Weight,
}

/// Why a change can't be made. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// One at a time.
    #[error(
        "a transition is running; wait for its end (see GET /v1/cluster), or abort it with POST \
         /v1/cluster/abort"
    )]
    TransitionRunning,
    /// There is nothing to abort or to go on with.
    #[error("no transition is running")]
    NoTransition,
    /// Former holders have yet to drop what this would move back.
    #[error(
        "what bucket {0} held under its earlier n is still being dropped; try again when \
         waiting_for in GET /v1/cluster is empty"
    )]
    StillDropping(Bucket),
    /// Some of the former holders of a table that would come back have yet to drop what they hold.
    #[error(
        "what was held with n = {0} is still being dropped; try again when waiting_for in GET \
         /v1/cluster is empty"
    )]
    StillDroppingTable(ReplicationFactor),
    /// A name that the cluster does not have.
    #[error("the cluster has no node {0}")]
    UnknownNode(NodeId),
    /// A name that it has.
    #[error(
        "{0} is in the cluster already; if its disk was lost, replace it by itself: \"replace\": \
         {{\"{0}\": \"{0}\"}}"
    )]
    AlreadyThere(NodeId),
    /// Twice, or in two roles.
    #[error("{0} is named more than once")]
    NamedTwice(NodeId),
    /// It would leave nobody.
    #[error("no node with a weight would be left")]
    NobodyLeft,
    /// It asks for nothing.
    #[error("nothing would change")]
    Nothing,
    /// It was made for another state.
    #[error("the cluster state has changed meanwhile; look at it and ask again if it still fits")]
    EpochChanged,
    /// Too few holders survive.
    #[error(
        "{partitions} partitions would keep fewer than half of their replicas (the first is \
         {first}): acknowledged writes may be lost. Bring the nodes back, or say \"accept_loss\": \
         true"
    )]
    MayLose {
        /// How many.
        partitions: usize,
        /// One of them.
        first: PartitionId,
    },
}

impl ClusterState {
    /// The next epoch, with nothing changed yet.
    fn next(&self) -> Self {
        Self { epoch: self.epoch.next(), ..self.clone() }
    }

    /// The state in which a change has begun. A change that moves nothing and names no node is
    /// done with it.
    ///
    /// # Errors
    /// [`ChangeError`].
    pub fn begun(&self, change: &Change) -> Result<Self, ChangeError> {
        if change.names_only_buckets() && !self.moves_a_bucket(change) {
            return self.with_buckets(change);
        }
        if self.transition.is_some() {
            return Err(ChangeError::TransitionRunning);
        }
        let dead = self.dead_after(change)?;
        let nodes = self.nodes_after(change, &dead)?;
        self.refuse_loss(&dead, change.accept_loss)?;
        let buckets = self.buckets_after(change)?;
        let renamed = change.replace.iter().map(|(old, new)| (old.clone(), new.id.clone()));
        let tables = self.tables_after(&nodes, &buckets, &renamed.collect());
        let mut next = self.next();
        let mut leaving = BTreeSet::new();
        for node in next.nodes.iter_mut().filter(|node| node.role == Role::Member) {
            let stays = find(&nodes, &node.id).is_some_and(|n| n.incarnation == node.incarnation);
            if !stays {
                node.role = Role::Leaving;
                leaving.insert(node.id.clone());
            }
        }
        // A dead node drops nothing any more, and nobody waits for it.
        next.former.retain(|former| !dead.contains(&former.node));
        if let Some(factor) = self.still_dropped_of(&tables, &next.former) {
            return Err(ChangeError::StillDroppingTable(factor));
        }
        let resumed = resumed(&mut next.former, &tables, &nodes);
        next.transition = Some(Box::new(Transition {
            begun: next.epoch,
            phase: TransitionPhase::Prepare,
            nodes,
            tables,
            buckets,
            dead,
            leaving,
            resumed,
        }));
        Ok(next)
    }

    /// The bulk has been taken in: reads use both sets.
    ///
    /// # Errors
    /// [`ChangeError::NoTransition`] unless one is in its first phase.
    pub fn switched(&self) -> Result<Self, ChangeError> {
        let mut next = self.next();
        match &mut next.transition {
            Some(transition) if transition.phase == TransitionPhase::Prepare => {
                transition.phase = TransitionPhase::Switch;
                Ok(next)
            }
            _ => Err(ChangeError::NoTransition),
        }
    }

    /// All passes are done: the new sets alone.
    ///
    /// # Errors
    /// [`ChangeError::NoTransition`] unless one is in its second phase.
    pub fn finished(&self) -> Result<Self, ChangeError> {
        let mut next = self.next();
        let transition = match next.transition.take() {
            Some(transition) if transition.phase == TransitionPhase::Switch => transition,
            _ => return Err(ChangeError::NoTransition),
        };
        next.former = merged(next.former, self.left_behind(&transition));
        let left_within = self.left_within(&next.former, &transition);
        next.former = merged(next.former, left_within);
        let waits = |node: &ClusterNode| {
            node.role != Role::Lost
                && !transition.dead.contains(&node.id)
                && find(&transition.nodes, &node.id).is_none()
        };
        // Who leaves is listed until it has dropped what it held.
        let leaving = self.nodes.iter().filter(|node| waits(node)).cloned();
        let leaving = leaving.map(|node| ClusterNode { role: Role::Leaving, ..node });
        let mut nodes: Vec<ClusterNode> = leaving.chain(transition.nodes.iter().cloned()).collect();
        nodes.sort_by(|a, b| a.id.cmp(&b.id));
        next.nodes = nodes;
        next.tables = transition.tables;
        next.buckets = transition.buckets;
        next.layout_version = LayoutVersion::new(self.layout_version.get() + 1);
        Ok(next)
    }

    /// Back to the old sets alone, if it is still this transition that runs.
    ///
    /// # Errors
    /// [`ChangeError::NoTransition`].
    pub fn aborted_if(&self, asked: Option<TransitionId>) -> Result<Self, ChangeError> {
        match self.transition_id() == asked {
            true => self.aborted(),
            false => Err(ChangeError::NoTransition),
        }
    }

    /// Back to the old sets alone.
    ///
    /// # Errors
    /// [`ChangeError::NoTransition`].
    pub fn aborted(&self) -> Result<Self, ChangeError> {
        let mut next = self.next();
        let Some(transition) = next.transition.take() else {
            return Err(ChangeError::NoTransition);
        };
        next.former = merged(next.former, self.brought_in_vain(&transition));
        next.former = merged(next.former, self.brought_to_resumed(&transition));
        next.former = merged(next.former, transition.resumed);
        for node in next.nodes.iter_mut().filter(|node| transition.leaving.contains(&node.id)) {
            node.role = Role::Member;
        }
        Ok(next)
    }

    /// Former holders have dropped what they held, and nodes that left have nothing more to do.
    ///
    /// # Errors
    /// [`ChangeError::Nothing`].
    pub fn released(
        &self,
        dropped: &BTreeSet<NodeId>,
        gone: &BTreeSet<NodeId>,
    ) -> Result<Self, ChangeError> {
        let mut next = self.next();
        next.former.retain(|former| !dropped.contains(&former.node));
        let may_go = |node: &ClusterNode| {
            node.role == Role::Leaving
                && self.transition.is_none()
                && gone.contains(&node.id)
                && !next.former.iter().any(|former| former.node == node.id)
        };
        next.nodes.retain(|node| !may_go(node));
        let is_same = next.former.len() == self.former.len() && next.nodes == self.nodes;
        if is_same { Err(ChangeError::Nothing) } else { Ok(next) }
    }

    /// The state in which a cluster goes on after a majority of its voters was lost for good:
    /// nobody but the survivors decides, and what was under way is given up (rule 9).
    pub fn recovered(&self, lost: &BTreeSet<NodeId>) -> Self {
        let settled = match self.aborted() {
            Ok(aborted) => aborted,
            Err(_) => self.next(),
        };
        let mut next = Self { recovery: self.recovery.next(), ..settled };
        for node in next.nodes.iter_mut().filter(|node| lost.contains(&node.id)) {
            node.role = Role::Lost;
        }
        next.former.retain(|former| !lost.contains(&former.node));
        next
    }

    /// Everybody whose process will never run again, the lost of a forced recovery among them.
    fn dead_after(&self, change: &Change) -> Result<BTreeSet<NodeId>, ChangeError> {
        for id in &change.dead {
            self.node(id).ok_or_else(|| ChangeError::UnknownNode(id.clone()))?;
        }
        let lost = self.nodes.iter().filter(|node| node.role == Role::Lost);
        let mut dead: BTreeSet<NodeId> = lost.map(|node| node.id.clone()).collect();
        dead.extend(change.dead.iter().cloned());
        // Whoever is replaced by itself came back with another disk.
        dead.extend(
            change.replace.iter().filter(|(old, new)| **old == new.id).map(|r| r.0.clone()),
        );
        Ok(dead)
    }

    /// The nodes after a change, in the order of their ids.
    fn nodes_after(
        &self,
        change: &Change,
        dead: &BTreeSet<NodeId>,
    ) -> Result<Vec<ClusterNode>, ChangeError> {
        let mut named = BTreeSet::new();
        let going = change.leave.iter().chain(change.replace.keys());
        for id in going.chain(change.weight.keys()).chain(change.zone.keys()) {
            self.node(id).ok_or_else(|| ChangeError::UnknownNode(id.clone()))?;
        }
        for id in change.leave.iter().chain(change.replace.keys()) {
            if !named.insert(id.clone()) {
                return Err(ChangeError::NamedTwice(id.clone()));
            }
        }
        let stays = |node: &&ClusterNode| {
            node.role == Role::Member && !named.contains(&node.id) && !dead.contains(&node.id)
        };
        let mut nodes: BTreeMap<NodeId, ClusterNode> =
            self.nodes.iter().filter(stays).map(|node| (node.id.clone(), node.clone())).collect();
        let mut joiners = change.join.clone();
        for (old, new) in &change.replace {
            let old = self.node(old).expect("looked for above");
            // It takes the very place.
            let place = Joiner { zone: old.zone.clone(), weight: old.weight, ..new.clone() };
            joiners.push(place);
        }
        for joiner in joiners {
            let is_itself = change.replace.get(&joiner.id).is_some_and(|new| new.id == joiner.id);
            if self.node(&joiner.id).is_some() && !is_itself {
                return Err(ChangeError::AlreadyThere(joiner.id));
            }
            let Joiner { id, incarnation, peer, zone, weight } = joiner;
            let node =
                ClusterNode { id: id.clone(), incarnation, peer, zone, weight, role: Role::Member };
            if nodes.insert(id.clone(), node).is_some() {
                return Err(ChangeError::NamedTwice(id));
            }
        }
        for (id, weight) in &change.weight {
            nodes.get_mut(id).ok_or_else(|| ChangeError::UnknownNode(id.clone()))?.weight = *weight;
        }
        for (id, zone) in &change.zone {
            let node = nodes.get_mut(id).ok_or_else(|| ChangeError::UnknownNode(id.clone()))?;
            node.zone = zone.clone();
        }
        if nodes.values().all(|node| node.weight == Weight::ZERO) {
            return Err(ChangeError::NobodyLeft);
        }
        let nodes: Vec<ClusterNode> = nodes.into_values().collect();
        let is_settled = self.nodes.iter().all(|node| node.role != Role::Lost);
        let present = self.nodes.iter().filter(|node| node.role == Role::Member);
        if is_settled
            && change.dead.is_empty()
            && nodes.iter().eq(present)
            && !self.moves_a_bucket(change)
        {
            return Err(ChangeError::Nothing);
        }
        Ok(nodes)
    }

    /// Refuses to go on with partitions of which too few holders survive.
    fn refuse_loss(&self, dead: &BTreeSet<NodeId>, is_accepted: bool) -> Result<(), ChangeError> {
        if dead.is_empty() || is_accepted {
            return Ok(());
        }
        let is_at_risk = |table: &&Table, partition: &PartitionId| {
            let row = table.replicas(*partition);
            let size = row.len();
            let alive = row.filter(|id| !dead.contains(*id)).count();
            alive < size.div_ceil(2)
        };
        let at_risk: BTreeSet<PartitionId> = self
            .tables
            .iter()
            .flat_map(|table| table.partitions().iter().filter(move |p| is_at_risk(&table, p)))
            .collect();
        match at_risk.first() {
            Some(first) => Err(ChangeError::MayLose { partitions: at_risk.len(), first: *first }),
            None => Ok(()),
        }
    }

    fn tables_after(
        &self,
        nodes: &[ClusterNode],
        buckets: &BTreeMap<Bucket, BucketProperties>,
        renamed: &BTreeMap<NodeId, NodeId>,
    ) -> Vec<Table> {
        let members: Vec<Member> = nodes.iter().map(ClusterNode::member).collect();
        let own = buckets.values().filter_map(|bucket| bucket.n);
        let factors: BTreeSet<ReplicationFactor> = own.chain([self.replication_factor]).collect();
        let compute = |factor: ReplicationFactor| {
            let before = self.table(factor).unwrap_or_else(|| self.main_table()).renamed(renamed);
            Table::compute(Some(&before), &members, factor, self.partitions)
        };
        factors.into_iter().map(compute).collect()
    }

    /// A table that would come back while some of its former holders still have what they held, under
    /// purge numbers of which the others know nothing any more.
    fn still_dropped_of(&self, tables: &[Table], former: &[Former]) -> Option<ReplicationFactor> {
        let mut comes = tables.iter().map(Table::factor).filter(|n| self.table(*n).is_none());
        comes.find(|n| former.iter().any(|former| former.table == *n))
    }

    fn buckets_after(
        &self,
        change: &Change,
    ) -> Result<BTreeMap<Bucket, BucketProperties>, ChangeError> {
        let mut buckets = self.buckets.clone();
        for (bucket, properties) in &change.buckets {
            if self.former.iter().any(|former| former.bucket.as_ref() == Some(bucket)) {
                return Err(ChangeError::StillDropping(bucket.clone()));
            }
            match properties {
                Some(properties) => drop(buckets.insert(bucket.clone(), properties.clone())),
                None => drop(buckets.remove(bucket)),
            }
        }
        Ok(buckets)
    }

    fn moves_a_bucket(&self, change: &Change) -> bool {
        change.buckets.iter().any(|(bucket, properties)| {
            let n = properties.as_ref().and_then(|own| own.n).unwrap_or(self.replication_factor);
            n != self.factor_of(bucket)
        })
    }

    /// Other properties of buckets that move nothing: done with this one epoch, also beside a
    /// transition.
    fn with_buckets(&self, change: &Change) -> Result<Self, ChangeError> {
        let mut next = self.next();
        for (bucket, properties) in &change.buckets {
            put_bucket(&mut next.buckets, bucket, properties.clone());
            if let Some(transition) = &mut next.transition {
                let n = transition.buckets.get(bucket).and_then(|own| own.n);
                let properties = properties.clone().map(|own| BucketProperties { n, ..own });
                let kept = n.map(|_| BucketProperties { n, ..BucketProperties::default() });
                put_bucket(&mut transition.buckets, bucket, properties.or(kept));
            }
        }
        if next.buckets == self.buckets { Err(ChangeError::Nothing) } else { Ok(next) }
    }

    /// What nodes hold now and will not hold after a transition.
    fn left_behind(&self, transition: &Transition) -> Vec<Former> {
        let moved = self.moved_buckets(transition);
        let mut left: BTreeMap<(NodeId, ReplicationFactor, Option<Bucket>), Former> =
            BTreeMap::new();
        for table in &self.tables {
            let factor = table.factor();
            for partition in self.partitions.iter() {
                for id in table.replicas(partition) {
                    let Some(node) = self.node(id).filter(|node| self.may_live(node)) else {
                        continue;
                    };
                    let keeps = transition
                        .node(id)
                        .is_some_and(|after| after.incarnation == node.incarnation)
                        && transition
                            .table(factor)
                            .is_some_and(|table| table.contains(partition, id));
                    let buckets: Vec<Option<Bucket>> = if keeps {
                        let left = moved.iter().filter(|(_, from)| *from == factor);
                        left.map(|(bucket, _)| Some(bucket.clone())).collect()
                    } else {
                        vec![None]
                    };
                    for bucket in buckets {
                        let key = (id.clone(), factor, bucket.clone());
                        let former = left.entry(key).or_insert_with(|| Former {
                            node: id.clone(),
                            incarnation: node.incarnation,
                            table: factor,
                            bucket,
                            partitions: Vec::new(),
                        });
                        former.partitions.push(partition);
                    }
                }
            }
        }
        left.into_values().collect()
    }

    /// What buckets that go to another table leave in vnodes that wait to be dropped whole, or did
    /// until this transition. The vnode may be assigned again before it is dropped, for other buckets:
    /// then it keeps its data, and what is left in it has to be dropped by itself. While nobody knows
    /// of that, the bucket's keys would be purged elsewhere, and come back from there.
    fn left_within(&self, former: &[Former], transition: &Transition) -> Vec<Former> {
        let moved = self.moved_buckets(transition);
        let of_bucket = |vnodes: &Former, bucket: &Bucket| Former {
            bucket: Some(bucket.clone()),
            ..vnodes.clone()
        };
        let whole = former.iter().chain(&transition.resumed).filter(|f| f.bucket.is_none());
        let left = whole.flat_map(|vnodes| {
            let leave = moved.iter().filter(|(_, from)| *from == vnodes.table);
            leave.map(move |(bucket, _)| of_bucket(vnodes, bucket))
        });
        left.collect()
    }

    /// What an aborted transition has brought to vnodes that stay: buckets that were to come from
    /// other tables.
    fn brought_in_vain(&self, transition: &Transition) -> Vec<Former> {
        let mut brought = Vec::new();
        for (bucket, from) in self.moved_buckets(transition) {
            let to = self.next_factor_of(&bucket);
            let (Some(present), Some(next)) = (self.table(to), transition.table(to)) else {
                continue;
            };
            debug_assert_ne!(from, to, "it was to move");
            for node in self.nodes.iter().filter(|node| self.may_live(node)) {
                let stays = transition.node(&node.id);
                if stays.is_none_or(|after| after.incarnation != node.incarnation) {
                    continue;
                }
                let is_in_both = |p: &PartitionId| present.contains(*p, &node.id);
                let partitions: Vec<PartitionId> =
                    next.vnodes_of(&node.id).filter(is_in_both).collect();
                if !partitions.is_empty() {
                    brought.push(Former {
                        node: node.id.clone(),
                        incarnation: node.incarnation,
                        table: to,
                        bucket: Some(bucket.clone()),
                        partitions,
                    });
                }
            }
        }
        brought
    }

    /// The same in vnodes that wait to be dropped whole once more: they may be assigned again before.
    fn brought_to_resumed(&self, transition: &Transition) -> Vec<Former> {
        let moved = self.moved_buckets(transition);
        let brought = transition.resumed.iter().flat_map(|vnodes| {
            let comes =
                moved.iter().filter(|(bucket, _)| self.next_factor_of(bucket) == vnodes.table);
            comes.map(|(bucket, _)| Former { bucket: Some(bucket.clone()), ..vnodes.clone() })
        });
        brought.collect()
    }

    /// Whether the running transition asks a node of its new sets to take something in: the others are
    /// not waited for (rule 13).
    pub fn takes_in(&self, node: &ClusterNode) -> bool {
        let Some(transition) = &self.transition else { return false };
        let stays = self.node(&node.id).is_some_and(|now| now.incarnation == node.incarnation);
        let comes: BTreeSet<ReplicationFactor> =
            self.moved_buckets_now().iter().map(|bucket| self.next_factor_of(bucket)).collect();
        transition.tables.iter().any(|table| {
            let present = self.table(table.factor());
            table.vnodes_of(&node.id).any(|partition| {
                let holds = stays && present.is_some_and(|old| old.contains(partition, &node.id));
                let size = |table: &Table| table.replica_count(partition);
                let shrinks = present.is_some_and(|old| size(table) < size(old));
                !holds || shrinks || comes.contains(&table.factor())
            })
        })
    }

    /// The buckets that go to another table in the running transition.
    pub fn moved_buckets_now(&self) -> Vec<Bucket> {
        let Some(transition) = &self.transition else { return Vec::new() };
        self.moved_buckets(transition).into_iter().map(|(bucket, _)| bucket).collect()
    }

    /// The buckets that go to another table, each with the one that they leave.
    pub fn moved_buckets(&self, transition: &Transition) -> Vec<(Bucket, ReplicationFactor)> {
        let named: BTreeSet<&Bucket> =
            self.buckets.keys().chain(transition.buckets.keys()).collect();
        let after = |bucket: &Bucket| {
            let own = transition.buckets.get(bucket).and_then(|own| own.n);
            own.unwrap_or(self.replication_factor)
        };
        let moved = named.into_iter().filter(|bucket| self.factor_of(bucket) != after(bucket));
        moved.map(|bucket| (bucket.clone(), self.factor_of(bucket))).collect()
    }
}

impl Change {
    fn names_only_buckets(&self) -> bool {
        let Self { join, leave, replace, dead, weight, zone, buckets: _, accept_loss: _ } = self;
        join.is_empty()
            && leave.is_empty()
            && replace.is_empty()
            && dead.is_empty()
            && weight.is_empty()
            && zone.is_empty()
            && !self.buckets.is_empty()
    }
}

fn put_bucket(
    buckets: &mut BTreeMap<Bucket, BucketProperties>,
    bucket: &Bucket,
    properties: Option<BucketProperties>,
) {
    match properties {
        Some(properties) => drop(buckets.insert(bucket.clone(), properties)),
        None => drop(buckets.remove(bucket)),
    }
}

/// Takes out of `former` what is to be held again, and returns it.
fn resumed(former: &mut Vec<Former>, tables: &[Table], nodes: &[ClusterNode]) -> Vec<Former> {
    let mut resumed = Vec::new();
    for entry in former.iter_mut().filter(|entry| entry.bucket.is_none()) {
        let Some(table) = tables.iter().find(|table| table.factor() == entry.table) else {
            continue;
        };
        if find(nodes, &entry.node).is_none_or(|node| node.incarnation != entry.incarnation) {
            continue;
        }
        let is_back = |partition: &PartitionId| table.contains(*partition, &entry.node);
        let back: Vec<PartitionId> = entry.partitions.iter().copied().filter(is_back).collect();
        if !back.is_empty() {
            entry.partitions.retain(|partition| !is_back(partition));
            resumed.push(Former { partitions: back, ..entry.clone() });
        }
    }
    former.retain(|entry| !entry.partitions.is_empty());
    resumed
}

/// Both lists in one, each holder's partitions together and in order.
fn merged(one: Vec<Former>, other: Vec<Former>) -> Vec<Former> {
    let mut all: BTreeMap<(NodeId, DataIncarnation, ReplicationFactor, Option<Bucket>), Former> =
        BTreeMap::new();
    for former in one.into_iter().chain(other) {
        let key = (former.node.clone(), former.incarnation, former.table, former.bucket.clone());
        match all.get_mut(&key) {
            Some(known) => {
                known.partitions.extend(former.partitions);
                known.partitions.sort_unstable();
                known.partitions.dedup();
            }
            None => drop(all.insert(key, former)),
        }
    }
    all.into_values().collect()
}

#[cfg(test)]
mod tests;
