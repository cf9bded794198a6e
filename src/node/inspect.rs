//! What a simulation looks at in a node, beyond what the API shows.

use std::collections::{BTreeMap, BTreeSet};

use super::Node;
use super::directory::Directory;
use super::imprint::{Deleted, Imprint, decode_digest, leaf_of};
use super::let_go::{is_left_over, is_to_be_dropped};
use super::replica::Place;
use crate::protocol::causality::{Context, ContextToken, Record};
use crate::protocol::cluster::ClusterState;
use crate::protocol::merkle::{Tree, entry_hash};
use crate::storage::Space;
use crate::storage::schema::{parse_record_key, parse_tree_key, tree_key};
use crate::types::{KeyPath, NodeId, VnodeId};

impl Node {
    /// Where a key lies, and who holds it.
    pub fn place_of(&self, path: &KeyPath) -> Option<(VnodeId, Vec<NodeId>)> {
        let set = self.layout()?.replica_set(path);
        Some((set.vnode, set.peers.iter().map(|peer| peer.id.clone()).collect()))
    }

    /// Whether this node has no business any more with a record of a vnode.
    pub fn is_left_over(&self, vnode: VnodeId, path: &KeyPath) -> bool {
        let place = Place::new(vnode, path.clone());
        self.layout().is_some_and(|layout| {
            let is_nobodys = !layout.has_role(vnode) && !is_to_be_dropped(&layout, &place);
            is_nobodys || is_left_over(&layout, &place)
        })
    }

    /// What a token of this cluster covers.
    ///
    /// # Panics
    /// If it is none.
    pub fn cover_of(&self, token: &str, path: &KeyPath) -> Context {
        let layout = self.layout().expect("a node with tokens has a layout");
        ContextToken::open(token, path, self.token_key_of(&layout)).expect("one of our own tokens")
    }

    /// The cluster state that it works with.
    pub fn cluster_state(&self) -> Option<ClusterState> {
        self.layout().map(|layout| layout.state.clone())
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

    /// Where the hash trees, on disk or in memory, are not what the records make; naively.
    pub async fn wrong_trees(&self) -> Vec<String> {
        let shape = self.shape();
        let mut wrong = Vec::new();
        let (mut trees, mut left) = (BTreeMap::new(), BTreeMap::new());
        for (key, value) in self.all(Space::Trees).await {
            left.insert(key, value);
        }
        let mut deleted: BTreeMap<_, _> = self.all(Space::Deletes).await.into_iter().collect();
        for (key, stored) in self.all(Space::Records).await {
            let Ok((vnode, path)) = parse_record_key(&key) else { continue };
            let leaf = leaf_of(shape, &path);
            let Ok(record) = Record::from_stored_bytes(stored) else {
                wrong.push(format!("{path:?} is damaged"));
                continue;
            };
            let imprint = Imprint::of(&record);
            let tree_key = tree_key(vnode, leaf.0, &path);
            let there = left.remove(&tree_key).and_then(|value| decode_digest(&tree_key, &value));
            if there != imprint.in_tree() {
                wrong.push(format!("{path:?} has the digest {there:x?} in place of {imprint:x?}"));
            }
            let there = deleted.remove(&key).and_then(|value| Deleted::decode(&value).ok());
            if there.map(|there| (there.kind, there.digest)) != imprint.deleted() {
                wrong.push(format!("{path:?} is {imprint:?}, and noted as {there:?}"));
            }
            if let Some(digest) = imprint.in_tree() {
                let tree = trees.entry(vnode).or_insert_with(|| Tree::empty(shape));
                tree.change(leaf, entry_hash(&path.to_bytes(), digest));
            }
        }
        wrong.extend(
            left.keys().map(|key| format!("{:?} has a digest and no record", parse_tree_key(key))),
        );
        wrong.extend(
            deleted.keys().map(|key| format!("{:?} is noted as deleted", parse_record_key(key))),
        );
        let own = self.layout().map(|layout| layout.own_vnodes()).unwrap_or_default();
        // What is taken in, and what is yet to be dropped, too.
        let known = self.trees.known().into_iter().chain(own);
        for vnode in known.collect::<BTreeSet<VnodeId>>() {
            let expected = trees.get(&vnode).map_or(0, Tree::root);
            let root = self.trees.roots(&[vnode])[0];
            if root != expected && !self.trees.is_in_doubt(vnode) {
                wrong.push(format!("the root of {vnode} is {root:x} in place of {expected:x}"));
            }
        }
        wrong
    }

    async fn all(&self, space: Space) -> Vec<(bytes::Bytes, bytes::Bytes)> {
        Directory::new(&*self.store).all(space).await.expect("a store in memory can be read")
    }

    /// How many tasks a stop would wait for now.
    pub fn tasks_under_way(&self) -> usize {
        self.tasks.count()
    }
}
