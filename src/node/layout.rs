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
         it serves nothing until the node is replaced by itself"
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
        ReplicaSet { vnode, peers, local: local.map(|at| ReplicaIndex(at as u8)) }
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
        self.local == Some(replica) || self.peer(replica).is_up()
    }
}
