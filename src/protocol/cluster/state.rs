//! The document, and how two versions of it compare.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::protocol::ring::{Table, token_of};
use crate::types::{
    ClusterId, DataIncarnation, Epoch, KeyPath, LayoutVersion, NodeId, PartitionCount,
    RecoveryNumber, ReplicationFactor, VnodeId, Weight, Zone,
};

/// A node's part in the layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// It holds replicas, and votes.
    Member,
}

/// One node of the cluster state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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

/// One version of the cluster state.
#[derive(Clone, Debug, Serialize, Deserialize)]
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
}

/// What every peer message says of its sender's state (rule 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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

    /// The node of this name.
    pub fn node(&self, id: &NodeId) -> Option<&ClusterNode> {
        self.nodes.binary_search_by(|node| node.id.cmp(id)).ok().map(|at| &self.nodes[at])
    }

    /// The table for a replication factor, if it is in use.
    pub fn table(&self, factor: ReplicationFactor) -> Option<&Table> {
        self.tables.iter().find(|table| table.factor() == factor)
    }

    /// The table of the cluster's own N.
    pub fn main_table(&self) -> &Table {
        self.table(self.replication_factor).expect("a state always has the table of its N")
    }

    /// Where a key lies.
    pub fn vnode_of(&self, path: &KeyPath) -> VnodeId {
        let partition = self.partitions.partition_of(token_of(path));
        VnodeId { table: self.replication_factor, partition }
    }
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
