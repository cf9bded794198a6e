//! The cluster state as a node works with it: peers with what is known of them, and each key's
//! replica set.
//!
//! While a transition runs, a key has two sets. Its [`ReplicaSet`] is both: the present one first,
//! then those that only the next one has. If the key's bucket goes to another table, a node that is
//! in both sets holds the key twice, in two vnodes, and has two places here.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use smallvec::{SmallVec, smallvec};

use super::latency::Latency;
use super::view::NodeState;
use crate::peer::PeerAddress;
use crate::protocol::cluster::{ClusterNode, ClusterState, Role, StateStamp, TransitionPhase};
use crate::protocol::quorum::{Group, Places, ReplicaIndex};
use crate::protocol::ring::Table;
use crate::types::{DataIncarnation, KeyPath, Level, NodeId, VnodeId};

/// One node of the cluster, as this one sees it.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) id: NodeId,
    pub(super) address: PeerAddress,
    pub(super) incarnation: DataIncarnation,
    /// How fast it answers.
    pub(super) latency: Latency,
    /// Held while it is told a state or asked for its own, so that of the many requests that meet
    /// another epoch at once the first does that for all. Holds what it was told last.
    pub(super) told: tokio::sync::Mutex<Option<StateStamp>>,
    /// How often it was told one.
    pub(super) told_times: AtomicU64,
    state: AtomicU8,
    /// It will never run again.
    is_gone: bool,
}

/// One epoch, ready for use.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) state: ClusterState,
    pub(super) stamp: StateStamp,
    /// Everybody who is asked for anything, in the order of their ids.
    pub(super) peers: Vec<Arc<Peer>>,
    /// This node's place among them.
    pub(super) me: usize,
    /// In the order of the state's nodes.
    present: Vec<Arc<Peer>>,
    /// In the order of the nodes after the running transition.
    next: Vec<Arc<Peer>>,
}

/// The nodes that hold a key.
#[derive(Clone, Debug)]
pub(super) struct ReplicaSet {
    /// The state in which they do.
    pub(super) at: StateStamp,
    /// Where reads look and writes are minted.
    pub(super) vnode: VnodeId,
    /// The primary first; those of the next set alone come last.
    pub(super) peers: SmallVec<[Arc<Peer>; 3]>,
    /// This node's place in the present set, if it has one.
    pub(super) local: Option<ReplicaIndex>,
    /// The vnode of those that only the next set has.
    next_vnode: VnodeId,
    /// How many are of the present set.
    present: u8,
    /// Those of the next set, while a transition runs.
    next: Option<Places>,
    /// Reads need their level in both sets.
    is_switched: bool,
    /// All places of this node.
    here: Places,
    /// Places where another node stands in for a replica that is down.
    stand_ins: Places,
    /// Who may stand in for replicas that turn out not to answer.
    spares: Vec<Arc<Peer>>,
}

/// Why a state can't be worked with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
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
        if self.is_gone {
            return NodeState::Down;
        }
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

    /// Whether it will never run again.
    pub(super) fn is_gone(&self) -> bool {
        self.is_gone
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
    /// Makes a state ready for use by the node `id` with the data directory `incarnation`. What is
    /// known of peers is taken over from the layout before.
    pub(super) fn new(
        state: ClusterState,
        id: &NodeId,
        incarnation: DataIncarnation,
        before: Option<&Self>,
    ) -> Result<Self, LayoutError> {
        if !state.lists(id, incarnation) {
            let is_named = state.nodes.iter().any(|node| node.id == *id);
            return Err(if is_named {
                LayoutError::OtherIncarnation
            } else {
                LayoutError::NotListed
            });
        }
        let known = |node: &ClusterNode| {
            let known = before.and_then(|layout| layout.peer(&node.id)).filter(|peer| {
                peer.incarnation == node.incarnation && peer.address.to_string() == node.peer
            });
            match known {
                Some(peer) => Ok(Arc::clone(peer)),
                None => Peer::new(node, false),
            }
        };
        let mut peers: Vec<Arc<Peer>> = state.all_nodes().map(known).collect::<Result<_, _>>()?;
        peers.sort_by(|a, b| a.id.cmp(&b.id));
        let of = |node: &ClusterNode| {
            let alive = peers.iter().find(|p| p.id == node.id && p.incarnation == node.incarnation);
            alive.map_or_else(|| Peer::new(node, true), |peer| Ok(Arc::clone(peer)))
        };
        let present = state.nodes.iter().map(of).collect::<Result<_, _>>()?;
        let after = state.transition.iter().flat_map(|transition| &transition.nodes);
        let next = after.map(of).collect::<Result<_, _>>()?;
        let me = peers.iter().position(|peer| peer.id == *id);
        let me = me.expect("the state lists this node");
        Ok(Self { stamp: state.stamp(), peers, me, present, next, state })
    }

    /// Whether this node holds nothing any more and is about to be taken out of the state.
    pub(super) fn is_going(&self) -> bool {
        let me = self.this();
        let listed = self.state.node(&me.id).filter(|node| node.incarnation == me.incarnation);
        self.state.transition.is_none() && listed.is_some_and(|node| node.role == Role::Leaving)
    }

    /// The node of this name that is asked for things.
    pub(super) fn peer(&self, id: &NodeId) -> Option<&Arc<Peer>> {
        find(&self.peers, id)
    }

    /// This node, as others see it.
    pub(super) fn this(&self) -> &Arc<Peer> {
        &self.peers[self.me]
    }

    /// All nodes but this one.
    pub(super) fn others(&self) -> impl Iterator<Item = &Arc<Peer>> {
        let me = self.me;
        self.peers.iter().enumerate().filter(move |(i, _)| *i != me).map(|(_, peer)| peer)
    }

    /// Who holds a key.
    pub(super) fn replica_set(&self, path: &KeyPath) -> ReplicaSet {
        let vnode = self.state.vnode_of(path);
        match self.state.transition {
            None => self.set_of(vnode, vnode),
            Some(_) => self.set_of(vnode, self.state.next_vnode_of(path)),
        }
    }

    /// Who holds a partition of a table, now and after the running transition.
    pub(super) fn replicas_of(&self, vnode: VnodeId) -> ReplicaSet {
        self.set_of(vnode, vnode)
    }

    fn set_of(&self, vnode: VnodeId, next_vnode: VnodeId) -> ReplicaSet {
        let mut peers: SmallVec<[Arc<Peer>; 3]> = match self.state.table(vnode.table) {
            Some(table) => row(table, vnode, &self.present).cloned().collect(),
            None => SmallVec::new(),
        };
        let present = peers.len() as u8;
        let mut next = None;
        if let Some(transition) = &self.state.transition {
            let mut places = Places::default();
            if let Some(table) = transition.table(next_vnode.table) {
                for peer in row(table, next_vnode, &self.next) {
                    let known = peers.iter().position(|known| Arc::ptr_eq(known, peer));
                    let at = known.filter(|_| vnode == next_vnode).unwrap_or(peers.len());
                    if at == peers.len() {
                        peers.push(Arc::clone(peer));
                    }
                    places.insert(ReplicaIndex(at as u8));
                }
            }
            next = Some(places);
        }
        let mine = self.this();
        let mut here = Places::default();
        for (i, _) in peers.iter().enumerate().filter(|(_, peer)| Arc::ptr_eq(peer, mine)) {
            here.insert(ReplicaIndex(i as u8));
        }
        let local = (0..present).map(ReplicaIndex).find(|replica| here.has(*replica));
        let phase = self.state.transition.as_ref().map(|transition| transition.phase);
        ReplicaSet {
            at: self.stamp,
            vnode,
            peers,
            local,
            next_vnode,
            present,
            next,
            is_switched: phase == Some(TransitionPhase::Switch),
            here,
            stand_ins: Places::default(),
            spares: Vec::new(),
        }
    }

    /// The nodes of the present set of a vnode that may live, this one among them.
    pub(super) fn present_holders(&self, vnode: VnodeId) -> Vec<Arc<Peer>> {
        let table = self.state.table(vnode.table);
        let holders = table.into_iter().flat_map(|table| row(table, vnode, &self.present));
        holders.filter(|peer| !peer.is_gone).cloned().collect()
    }

    /// Whether a vnode is this node's, now or after the running transition.
    pub(super) fn has_role(&self, vnode: VnodeId) -> bool {
        vnode.partition.get() < self.state.partitions.get()
            && self.replicas_of(vnode).here != Places::default()
    }

    /// Whether a vnode is this node's after the running transition only, and has to be taken in: it
    /// is none of its present ones.
    pub(super) fn is_incoming(&self, vnode: VnodeId) -> bool {
        self.state.transition.is_some()
            && self.has_role(vnode)
            && self.replicas_of(vnode).local.is_none()
    }

    /// Whether the keys of this bucket go to another table in the running transition.
    pub(super) fn is_moving(&self, path: &KeyPath) -> bool {
        self.state.transition.is_some()
            && self.state.factor_of(&path.bucket) != self.state.next_factor_of(&path.bucket)
    }

    /// The nodes that may stand in for a set's replicas: outside of it and up, in ring order.
    pub(super) fn fallbacks(&self, set: &ReplicaSet) -> Vec<Arc<Peer>> {
        let Some(table) = self.state.table(set.vnode.table) else { return Vec::new() };
        let all = table.replicas(set.vnode.partition).chain(table.fallbacks(set.vnode.partition));
        let peers = all.filter_map(|id| self.peer(id));
        let is_outside = |peer: &&Arc<Peer>| !set.peers.iter().any(|p| Arc::ptr_eq(p, peer));
        let mine = self.this();
        let may = |peer: &&Arc<Peer>| peer.is_up() || Arc::ptr_eq(peer, mine);
        peers.filter(is_outside).filter(may).cloned().collect()
    }

    /// The set with a fallback in place of each replica that is down, as far as there are any
    /// (sloppy quorum: Dynamo, section 4.6).
    pub(super) fn with_stand_ins(&self, set: &ReplicaSet) -> ReplicaSet {
        let mine = self.this();
        let mut sloppy = set.clone();
        let mut fallbacks = self.fallbacks(set).into_iter();
        for replica in set.indices().filter(|replica| !set.is_up(*replica)) {
            let Some(fallback) = fallbacks.next() else { break };
            sloppy.stand_ins.insert(replica);
            if Arc::ptr_eq(&fallback, mine) {
                sloppy.here.insert(replica);
            }
            sloppy.peers[replica.index()] = fallback;
        }
        sloppy.spares = fallbacks.filter(|peer| !Arc::ptr_eq(peer, mine)).collect();
        sloppy
    }

    /// The vnodes that this node and another one both hold at present, in the order of tables and
    /// partitions: the same list on both.
    pub(super) fn shared_vnodes(&self, other: &NodeId) -> Vec<VnodeId> {
        let is_present = |id: &NodeId| {
            self.state.node(id).is_some_and(|node| {
                self.peer(id).is_some_and(|peer| peer.incarnation == node.incarnation)
            })
        };
        let mine = &self.this().id;
        if !is_present(mine) || !is_present(other) {
            return Vec::new();
        }
        let of = |table: &Table| {
            let factor = table.factor();
            let shared =
                table.vnodes_of(mine).filter(|partition| table.contains(*partition, other));
            shared.map(move |partition| VnodeId { table: factor, partition }).collect::<Vec<_>>()
        };
        self.state.tables.iter().flat_map(of).collect()
    }

    /// The present vnodes of this node, over all tables.
    pub(super) fn own_vnodes(&self) -> Vec<VnodeId> {
        let mine = self.this();
        let is_listed =
            self.state.node(&mine.id).is_some_and(|n| n.incarnation == mine.incarnation);
        if !is_listed {
            return Vec::new();
        }
        vnodes_in(&self.state.tables, &mine.id)
    }

    /// The vnodes of this node after the running transition.
    pub(super) fn next_vnodes(&self) -> Vec<VnodeId> {
        let Some(transition) = &self.state.transition else { return Vec::new() };
        let mine = self.this();
        let is_listed =
            transition.node(&mine.id).is_some_and(|n| n.incarnation == mine.incarnation);
        if is_listed { vnodes_in(&transition.tables, &mine.id) } else { Vec::new() }
    }
}

fn find<'a>(peers: &'a [Arc<Peer>], id: &NodeId) -> Option<&'a Arc<Peer>> {
    peers.binary_search_by(|peer| peer.id.cmp(id)).ok().map(|at| &peers[at])
}

fn row<'a>(
    table: &'a Table,
    vnode: VnodeId,
    peers: &'a [Arc<Peer>],
) -> impl Iterator<Item = &'a Arc<Peer>> {
    let replicas = table.replicas(vnode.partition);
    replicas.map(|id| find(peers, id).expect("tables name nodes of their own state"))
}

fn vnodes_in(tables: &[Table], node: &NodeId) -> Vec<VnodeId> {
    let of = |table: &Table| {
        let factor = table.factor();
        let vnode = move |partition| VnodeId { table: factor, partition };
        table.vnodes_of(node).map(vnode).collect::<Vec<_>>()
    };
    tables.iter().flat_map(of).collect()
}

impl Peer {
    fn new(node: &ClusterNode, is_gone: bool) -> Result<Arc<Self>, LayoutError> {
        let address = PeerAddress::new(&node.peer);
        Ok(Arc::new(Self {
            id: node.id.clone(),
            address: address.map_err(|_| LayoutError::BadAddress(node.id.clone()))?,
            incarnation: node.incarnation,
            latency: Latency::default(),
            told: tokio::sync::Mutex::default(),
            told_times: AtomicU64::new(0),
            state: AtomicU8::new(0),
            is_gone,
        }))
    }
}

impl ReplicaSet {
    /// The size of the present set: what levels count by.
    pub(super) fn n(&self) -> u8 {
        self.present
    }

    /// How many places it has, those of the next set among them.
    pub(super) fn places(&self) -> u8 {
        self.peers.len() as u8
    }

    /// The replica at this place.
    pub(super) fn peer(&self, replica: ReplicaIndex) -> &Arc<Peer> {
        &self.peers[replica.index()]
    }

    /// The vnode that the replica at this place holds the key in.
    pub(super) fn vnode_at(&self, replica: ReplicaIndex) -> VnodeId {
        if replica.0 < self.present { self.vnode } else { self.next_vnode }
    }

    /// All places.
    pub(super) fn indices(&self) -> impl Iterator<Item = ReplicaIndex> + use<> {
        (0..self.places()).map(ReplicaIndex)
    }

    /// The sets that a write must reach, each with its level.
    pub(super) fn write_groups(&self, level: Level) -> SmallVec<[Group; 2]> {
        let of = |members: Places| Group { members, required: level.clamped(members.count()) };
        let mut groups = smallvec![of(Places::first(self.present))];
        groups.extend(self.next.map(of));
        groups
    }

    /// The sets that a read must reach, each with its level.
    pub(super) fn read_groups(&self, level: Level) -> SmallVec<[Group; 2]> {
        let mut groups = self.write_groups(level);
        if !self.is_switched {
            groups.truncate(1);
        }
        groups
    }

    /// The sets on whose majorities a merge must stand once it was sent anywhere.
    pub(super) fn mended(&self) -> SmallVec<[Places; 2]> {
        let mut sets = smallvec![Places::first(self.present)];
        sets.extend(self.next);
        sets
    }

    /// Whether requests are sent to a replica; this node itself always counts as up.
    pub(super) fn is_up(&self, replica: ReplicaIndex) -> bool {
        self.is_here(replica) || self.peer(replica).is_up()
    }

    /// Whether this node is at that place, as a replica or for one.
    pub(super) fn is_here(&self, replica: ReplicaIndex) -> bool {
        self.here.has(replica)
    }

    /// Whether the node at that place stands in for a replica.
    pub(super) fn is_stand_in(&self, replica: ReplicaIndex) -> bool {
        self.stand_ins.has(replica)
    }

    /// The nodes that may stand in for further replicas, best first.
    pub(super) fn spares(&self) -> &[Arc<Peer>] {
        &self.spares
    }

    /// Whether any node stands in for a replica.
    pub(super) fn has_stand_ins(&self) -> bool {
        self.stand_ins != Places::default()
    }
}
