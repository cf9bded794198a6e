//! What a simulation looks at in a node, beyond what the API shows.

use super::Node;
use crate::protocol::causality::{Context, ContextToken};
use crate::types::{KeyPath, NodeId, VnodeId};

impl Node {
    /// Where a key lies, and who holds it.
    pub fn place_of(&self, path: &KeyPath) -> Option<(VnodeId, Vec<NodeId>)> {
        let set = self.layout()?.replica_set(path);
        Some((set.vnode, set.peers.iter().map(|peer| peer.id.clone()).collect()))
    }

    /// What a token of this cluster covers.
    ///
    /// # Panics
    /// If it is none.
    pub fn cover_of(&self, token: &str, path: &KeyPath) -> Context {
        let layout = self.layout().expect("a node with tokens has a layout");
        ContextToken::open(token, path, self.token_key_of(&layout)).expect("one of our own tokens")
    }

    /// Its vnodes that may lack acknowledged data, each with its replicas.
    pub fn incomplete_vnodes(&self) -> Vec<(VnodeId, Vec<NodeId>)> {
        let Some(layout) = self.layout() else { return Vec::new() };
        let replicas = |vnode| {
            let set = layout.replicas_of(vnode);
            (vnode, set.peers.iter().map(|peer| peer.id.clone()).collect())
        };
        self.vnodes.incomplete().into_iter().map(replicas).collect()
    }

    /// The peers that it takes for down.
    pub fn peers_taken_for_down(&self) -> Vec<NodeId> {
        let Some(layout) = self.layout() else { return Vec::new() };
        layout.others().filter(|peer| !peer.is_up()).map(|peer| peer.id.clone()).collect()
    }

    /// How many tasks a stop would wait for now.
    pub fn tasks_under_way(&self) -> usize {
        self.tasks.count()
    }
}
