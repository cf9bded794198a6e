//! The document, and how two versions of it compare.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::bucket::BucketProperties;
use crate::protocol::ring::{Member, Table, token_of};
use crate::types::{
    Bucket, ClusterId, DataIncarnation, Epoch, KeyPath, LayoutVersion, NodeId, PartitionCount,
    PartitionId, RecoveryNumber, ReplicationFactor, VnodeId, Weight, Zone,
};

/// A node's part in the layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// It holds replicas, and votes.
    Member,
    /// It gives its replicas away. It votes until the transition that sends it away is finished.
    Leaving,
    /// Gone for good in a forced recovery: it neither votes nor is asked for anything.
    Lost,
}

/// One node of the cluster state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterNode {
    /// Its name.
    pub id: NodeId,
    /// Which data directory it was listed with: the same name with another one neither votes nor
    /// serves.
    pub incarnation: DataIncarnation,
    /// `host:port` of its peer port.
    pub peer: String,
    /// Where it stands.
    pub zone: Zone,
    /// Its share.
    pub weight: Weight,
    /// Its part in the layout.
    pub role: Role,
}

impl ClusterNode {
    /// As the ring places it.
    pub fn member(&self) -> Member {
        Member { id: self.id.clone(), zone: self.zone.clone(), weight: self.weight }
    }
}

/// How far a transition is (correctness, section 7, rules 10 to 13).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TransitionPhase {
    /// Reads use the old sets, writes need their level in both; new replicas take in the bulk.
    Prepare,
    /// Reads too need their level in both; new replicas pass over every old one.
    Switch,
}

impl TransitionPhase {
    /// As the API names it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::Switch => "switch",
        }
    }
}

/// Names a transition. Epochs go back in a forced recovery that a node which was ahead survives, so one
/// epoch may begin two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransitionId {
    /// Orders before the epoch.
    pub recovery: RecoveryNumber,
    /// The epoch that began it.
    pub begun: Epoch,
}

/// A change of who holds what, under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transition {
    /// The epoch that began it.
    pub begun: Epoch,
    /// How far it is.
    pub phase: TransitionPhase,
    /// The nodes afterwards, in the order of their ids; those that are new among them are joining.
    pub nodes: Vec<ClusterNode>,
    /// The tables afterwards, in the order of their replication factors.
    pub tables: Vec<Table>,
    /// The buckets afterwards.
    pub buckets: BTreeMap<Bucket, BucketProperties>,
    /// Nodes of the old sets whose processes will never run again.
    pub dead: BTreeSet<NodeId>,
    /// Members that it sends away.
    pub leaving: BTreeSet<NodeId>,
    /// What was waiting to be dropped and is to be held again: it keeps actor and data.
    pub resumed: Vec<Former>,
}

/// What a node held in an earlier layout and has not yet dropped (rule 15).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Former {
    /// Who.
    pub node: NodeId,
    /// Its data directory.
    pub incarnation: DataIncarnation,
    /// Of which table.
    pub table: ReplicationFactor,
    /// One bucket's records of vnodes that it keeps; `None`: whole vnodes.
    pub bucket: Option<Bucket>,
    /// Which partitions.
    pub partitions: Vec<PartitionId>,
}

impl Former {
    /// Whether this is (part of) a vnode of that name.
    pub fn has(&self, vnode: VnodeId) -> bool {
        self.table == vnode.table && self.partitions.binary_search(&vnode.partition).is_ok()
    }
}

/// One version of the cluster state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterState {
    /// Which cluster.
    pub cluster: ClusterId,
    /// How often it was recovered by force; orders before the epoch.
    pub recovery: RecoveryNumber,
    /// The version of this document.
    pub epoch: Epoch,
    /// The version of the tables.
    pub layout_version: LayoutVersion,
    /// How many the ring has.
    pub partitions: PartitionCount,
    /// N of the cluster.
    pub replication_factor: ReplicationFactor,
    /// In the order of their ids.
    pub nodes: Vec<ClusterNode>,
    /// One for each replication factor in use, in their order.
    pub tables: Vec<Table>,
    /// Buckets with properties of their own.
    pub buckets: BTreeMap<Bucket, BucketProperties>,
    /// The change that is under way.
    pub transition: Option<Box<Transition>>,
    /// What was not dropped yet; sorted.
    pub former: Vec<Former>,
}

/// What every peer message says of its sender's state (rule 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct StateStamp {
    /// Which cluster.
    pub cluster: ClusterId,
    /// Orders before the epoch.
    pub recovery: RecoveryNumber,
    /// Which version.
    pub epoch: Epoch,
    /// Of the whole document.
    pub hash: u64,
}

/// How a peer's state stands to one's own (rule 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The same document.
    Same,
    /// The peer is behind: tell it.
    Behind,
    /// The peer is ahead: adopt first.
    Ahead,
    /// Another cluster altogether: refuse.
    Foreign,
    /// The same epoch and another document: refuse, alarm, never adopt.
    Forked,
}

impl StateStamp {
    /// How a peer with the stamp `other` stands to this one.
    pub fn standing_of(&self, other: &Self) -> Standing {
        let version = |stamp: &Self| (stamp.recovery, stamp.epoch);
        match version(other).cmp(&version(self)) {
            _ if other.cluster != self.cluster => Standing::Foreign,
            std::cmp::Ordering::Less => Standing::Behind,
            std::cmp::Ordering::Greater => Standing::Ahead,
            std::cmp::Ordering::Equal if other.hash == self.hash => Standing::Same,
            std::cmp::Ordering::Equal => Standing::Forked,
        }
    }
}

impl Transition {
    /// The node of this name afterwards.
    pub fn node(&self, id: &NodeId) -> Option<&ClusterNode> {
        find(&self.nodes, id)
    }

    /// The table for a replication factor afterwards, if it will be in use.
    pub fn table(&self, factor: ReplicationFactor) -> Option<&Table> {
        self.tables.iter().find(|table| table.factor() == factor)
    }
}

impl ClusterState {
    /// The stamp of this document.
    pub fn stamp(&self) -> StateStamp {
        let bytes = postcard::to_stdvec(self).expect("plain data always encodes");
        StateStamp {
            cluster: self.cluster,
            recovery: self.recovery,
            epoch: self.epoch,
            hash: xxh3_64(&bytes),
        }
    }

    /// Which transition runs, if one does. A forced recovery ends the one before it.
    pub fn transition_id(&self) -> Option<TransitionId> {
        let id = |transition: &Transition| TransitionId {
            recovery: self.recovery,
            begun: transition.begun,
        };
        self.transition.as_deref().map(id)
    }

    /// The node of this name, as the present sets know it.
    pub fn node(&self, id: &NodeId) -> Option<&ClusterNode> {
        find(&self.nodes, id)
    }

    /// Everybody who is asked for anything: the present nodes that may live, and those that join.
    pub fn all_nodes(&self) -> impl Iterator<Item = &ClusterNode> {
        let present = self.nodes.iter().filter(|node| self.may_live(node));
        present.chain(self.joining())
    }

    /// Whether this data directory is a part of the cluster.
    pub fn lists(&self, id: &NodeId, incarnation: DataIncarnation) -> bool {
        self.all_nodes().any(|node| node.id == *id && node.incarnation == incarnation)
    }

    /// Whether a present node was neither lost nor declared dead.
    pub fn may_live(&self, node: &ClusterNode) -> bool {
        let is_dead = self.transition.as_ref().is_some_and(|t| t.dead.contains(&node.id));
        node.role != Role::Lost && !is_dead
    }

    /// The nodes that the running transition brings in.
    pub fn joining(&self) -> impl Iterator<Item = &ClusterNode> {
        let after = self.transition.iter().flat_map(|transition| &transition.nodes);
        after.filter(|node| {
            self.node(&node.id).is_none_or(|present| present.incarnation != node.incarnation)
        })
    }

    /// Who decides the next epoch (rule 6): members, and while the transition runs those that it
    /// sends away. The dead count as well: what a majority is does not depend on who lives.
    pub fn voters(&self) -> impl Iterator<Item = &ClusterNode> {
        let sent_away = self.transition.as_ref().map(|transition| &transition.leaving);
        self.nodes.iter().filter(move |node| match node.role {
            Role::Member => true,
            Role::Leaving => sent_away.is_some_and(|leaving| leaving.contains(&node.id)),
            Role::Lost => false,
        })
    }

    /// The table for a replication factor, if it is in use.
    pub fn table(&self, factor: ReplicationFactor) -> Option<&Table> {
        self.tables.iter().find(|table| table.factor() == factor)
    }

    /// The table of the cluster's own N.
    pub fn main_table(&self) -> &Table {
        self.table(self.replication_factor).expect("a state always has the table of its N")
    }

    /// How many replicas the keys of a bucket have, as the present sets have it.
    pub fn factor_of(&self, bucket: &Bucket) -> ReplicationFactor {
        self.buckets.get(bucket).and_then(|own| own.n).unwrap_or(self.replication_factor)
    }

    /// The same after the running transition; the present one where none runs.
    pub fn next_factor_of(&self, bucket: &Bucket) -> ReplicationFactor {
        let Some(transition) = &self.transition else { return self.factor_of(bucket) };
        transition.buckets.get(bucket).and_then(|own| own.n).unwrap_or(self.replication_factor)
    }

    /// Where a key lies now.
    pub fn vnode_of(&self, path: &KeyPath) -> VnodeId {
        let partition = self.partitions.partition_of(token_of(path));
        VnodeId { table: self.factor_of(&path.bucket), partition }
    }

    /// Where a key lies after the running transition.
    pub fn next_vnode_of(&self, path: &KeyPath) -> VnodeId {
        VnodeId { table: self.next_factor_of(&path.bucket), ..self.vnode_of(path) }
    }

    /// Whether something of a partition is still to be dropped somewhere, of whatever table: a bucket
    /// may have gone from one to another. Nothing of it is purged until then.
    pub fn has_former(&self, partition: PartitionId) -> bool {
        self.former.iter().any(|former| former.partitions.binary_search(&partition).is_ok())
    }
}

/// The node of this name in a list in the order of ids.
pub(super) fn find<'a>(nodes: &'a [ClusterNode], id: &NodeId) -> Option<&'a ClusterNode> {
    nodes.binary_search_by(|node| node.id.cmp(id)).ok().map(|at| &nodes[at])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(cluster: u128, recovery: u64, epoch: u64, hash: u64) -> StateStamp {
        StateStamp {
            cluster: ClusterId::new(cluster),
            recovery: RecoveryNumber::new(recovery),
            epoch: Epoch::new(epoch),
            hash,
        }
    }

    #[test]
    fn states_order_by_recovery_then_epoch_and_forks_are_seen() {
        let mine = stamp(1, 1, 5, 9);
        let cases = [
            (stamp(1, 1, 5, 9), Standing::Same),
            (stamp(1, 1, 5, 8), Standing::Forked),
            (stamp(1, 1, 6, 9), Standing::Ahead),
            (stamp(1, 0, 9, 9), Standing::Behind),
            (stamp(1, 2, 1, 9), Standing::Ahead),
            (stamp(2, 1, 5, 9), Standing::Foreign),
        ];
        for (theirs, expected) in cases {
            assert_eq!(mine.standing_of(&theirs), expected, "{theirs:?}");
        }
    }
}
