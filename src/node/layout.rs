//! The cluster state as a node works with it: peers with what is known of them, and each key's
//! replica set.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use smallvec::SmallVec;

use super::latency::Latency;
use super::view::NodeState;
use crate::peer::PeerAddress;
use crate::protocol::cluster::{ClusterState, StateStamp};
use crate::protocol::quorum::ReplicaIndex;
use crate::types::{DataIncarnation, KeyPath, NodeId, VnodeId};

/// One node of the cluster, as this one sees it.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) id: NodeId,
    pub(super) address: PeerAddress,
    pub(super) incarnation: DataIncarnation,
    /// How fast it answers.
    pub(super) latency: Latency,
    state: AtomicU8,
}

/// One epoch, ready for use.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) state: ClusterState,
    pub(super) stamp: StateStamp,
    /// In the order of the state's nodes.
    pub(super) peers: Vec<Arc<Peer>>,
    /// This node's place among them.
    pub(super) me: usize,
}

/// The nodes that hold a key.
#[derive(Clone, Debug)]
pub(super) struct ReplicaSet {
    pub(super) vnode: VnodeId,
    /// The primary first.
    pub(super) peers: SmallVec<[Arc<Peer>; 3]>,
    /// This node's place, if it is one of them.
    pub(super) local: Option<ReplicaIndex>,
    /// Places where another node stands in for a replica that is down.
    stand_ins: SmallVec<[ReplicaIndex; 3]>,
    /// The place where this node does.
    own_stand_in: Option<ReplicaIndex>,
    /// Who may stand in for replicas that turn out not to answer.
    spares: Vec<Arc<Peer>>,
}

/// Why a state can't be worked with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum LayoutError {
    /// This node's name is not in it.
    #[error(
        "this node is not in the cluster's layout; it keeps its data and serves nothing. To join \
         again, empty its data directory"
    )]
    NotListed,
    /// Its name is there with another data directory.
    #[error(
        "the cluster knows this node with another data directory, which is lost or was exchanged; \
         it serves nothing. Put the right one back, or start with --rebuild, which takes everything \
         in from the peers"
    )]
    OtherIncarnation,
    /// An address that can't be used.
    #[error("{0} has no usable peer address in the cluster state")]
    BadAddress(NodeId),
}

impl Peer {
    /// What the failure detector thinks of it.
    pub(super) fn state(&self) -> NodeState {
        match self.state.load(Ordering::Relaxed) {
            0 => NodeState::Up,
            1 => NodeState::Suspect,
            _ => NodeState::Down,
        }
    }

    /// Whether requests are sent to it: until it is known to be down.
    pub(super) fn is_up(&self) -> bool {
        self.state() != NodeState::Down
    }

    /// Takes what the failure detector thinks now; says whether that is news.
    pub(super) fn set_state(&self, state: NodeState) -> bool {
        let code = match state {
            NodeState::Up => 0,
            NodeState::Suspect => 1,
            NodeState::Down => 2,
        };
        self.state.swap(code, Ordering::Relaxed) != code
    }
}

impl Layout {
    /// Makes a state ready for use by the node `id` with the data directory `incarnation`.
    pub(super) fn new(
        state: ClusterState,
        id: &NodeId,
        incarnation: DataIncarnation,
    ) -> Result<Self, LayoutError> {
        let me = state.nodes.iter().position(|node| node.id == *id);
        let me = me.ok_or(LayoutError::NotListed)?;
        if state.nodes[me].incarnation != incarnation {
            return Err(LayoutError::OtherIncarnation);
        }
        let peer = |node: &crate::protocol::cluster::ClusterNode| {
            let address = PeerAddress::new(&node.peer);
            Ok(Arc::new(Peer {
                id: node.id.clone(),
                address: address.map_err(|_| LayoutError::BadAddress(node.id.clone()))?,
                incarnation: node.incarnation,
                latency: Latency::default(),
                state: AtomicU8::new(0),
            }))
        };
        let peers = state.nodes.iter().map(peer).collect::<Result<_, LayoutError>>()?;
        Ok(Self { stamp: state.stamp(), peers, me, state })
    }

    /// The peer of this name.
    pub(super) fn peer(&self, id: &NodeId) -> Option<&Arc<Peer>> {
        self.peers.binary_search_by(|peer| peer.id.cmp(id)).ok().map(|at| &self.peers[at])
    }

    /// All nodes but this one.
    pub(super) fn others(&self) -> impl Iterator<Item = &Arc<Peer>> {
        let me = self.me;
        self.peers.iter().enumerate().filter(move |(i, _)| *i != me).map(|(_, peer)| peer)
    }

    /// Who holds a key.
    pub(super) fn replica_set(&self, path: &KeyPath) -> ReplicaSet {
        self.replicas_of(self.state.vnode_of(path))
    }

    /// Who holds a partition.
    pub(super) fn replicas_of(&self, vnode: VnodeId) -> ReplicaSet {
        let table = self.state.table(vnode.table).expect("vnodes are of tables that exist");
        let peers: SmallVec<[Arc<Peer>; 3]> = table
            .replicas(vnode.partition)
            .map(|id| Arc::clone(self.peer(id).expect("tables name nodes of their own state")))
            .collect();
        let mine = &self.peers[self.me].id;
        let local = peers.iter().position(|peer| peer.id == *mine);
        ReplicaSet {
            vnode,
            peers,
            local: local.map(|at| ReplicaIndex(at as u8)),
            stand_ins: SmallVec::new(),
            own_stand_in: None,
            spares: Vec::new(),
        }
    }

    /// The nodes that may stand in for a set's replicas: outside of it and up, in ring order.
    pub(super) fn fallbacks(&self, vnode: VnodeId) -> impl Iterator<Item = &Arc<Peer>> {
        let table = self.state.table(vnode.table).expect("vnodes are of tables that exist");
        let peers = table
            .fallbacks(vnode.partition)
            .map(|id| self.peer(id).expect("tables name nodes of their own state"));
        let mine = &self.peers[self.me].id;
        peers.filter(move |peer| peer.is_up() || peer.id == *mine)
    }

    /// The set with a fallback in place of each replica that is down, as far as there are any
    /// (sloppy quorum: Dynamo, section 4.6).
    pub(super) fn with_stand_ins(&self, set: &ReplicaSet) -> ReplicaSet {
        let mine = &self.peers[self.me].id;
        let mut sloppy = set.clone();
        let mut fallbacks = self.fallbacks(set.vnode);
        for replica in set.indices().filter(|replica| !set.is_up(*replica)) {
            let Some(fallback) = fallbacks.next() else { break };
            sloppy.peers[replica.index()] = Arc::clone(fallback);
            sloppy.stand_ins.push(replica);
            if fallback.id == *mine {
                sloppy.own_stand_in = Some(replica);
            }
        }
        sloppy.spares = fallbacks.filter(|peer| peer.id != *mine).cloned().collect();
        sloppy
    }

    /// The vnodes that this node and another one both hold, in the order of tables and partitions:
    /// the same list on both.
    pub(super) fn shared_vnodes(&self, other: &NodeId) -> Vec<VnodeId> {
        let mine = &self.peers[self.me].id;
        let of = |table: &crate::protocol::ring::Table| {
            let factor = table.factor();
            let shared =
                table.vnodes_of(mine).filter(|partition| table.contains(*partition, other));
            shared.map(move |partition| VnodeId { table: factor, partition }).collect::<Vec<_>>()
        };
        self.state.tables.iter().flat_map(of).collect()
    }

    /// The vnodes of this node, over all tables.
    pub(super) fn own_vnodes(&self) -> Vec<VnodeId> {
        let mine = &self.peers[self.me].id;
        let of = |table: &crate::protocol::ring::Table| {
            let factor = table.factor();
            let vnode = move |partition| VnodeId { table: factor, partition };
            table.vnodes_of(mine).map(vnode).collect::<Vec<_>>()
        };
        self.state.tables.iter().flat_map(of).collect()
    }
}

impl ReplicaSet {
    /// Its size.
    pub(super) fn n(&self) -> u8 {
        self.peers.len() as u8
    }

    /// The replica at this place.
    pub(super) fn peer(&self, replica: ReplicaIndex) -> &Arc<Peer> {
        &self.peers[replica.index()]
    }

    /// All places.
    pub(super) fn indices(&self) -> impl Iterator<Item = ReplicaIndex> + use<> {
        (0..self.n()).map(ReplicaIndex)
    }

    /// Whether requests are sent to a replica; this node itself always counts as up.
    pub(super) fn is_up(&self, replica: ReplicaIndex) -> bool {
        self.is_here(replica) || self.peer(replica).is_up()
    }

    /// Whether this node is at that place, as a replica or for one.
    pub(super) fn is_here(&self, replica: ReplicaIndex) -> bool {
        self.local == Some(replica) || self.own_stand_in == Some(replica)
    }

    /// Whether the node at that place stands in for a replica.
    pub(super) fn is_stand_in(&self, replica: ReplicaIndex) -> bool {
        self.stand_ins.contains(&replica)
    }

    /// The nodes that may stand in for further replicas, best first.
    pub(super) fn spares(&self) -> &[Arc<Peer>] {
        &self.spares
    }

    /// Whether any node stands in for a replica.
    pub(super) fn has_stand_ins(&self) -> bool {
        !self.stand_ins.is_empty()
    }
}
