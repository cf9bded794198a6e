//! One tree: its leaves, and what is derived from them.

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::shape::{LeafIndex, Shape};

/// A hash tree. Branches without keys take no memory for their leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    shape: Shape,
    root: u64,
    branches: Box<[Branch]>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Branch {
    hash: u64,
    /// `None`: all are 0.
    leaves: Option<Box<[u64]>>,
}

/// What a key with a record of this digest adds to its leaf: xxh3-64 of the bytes of its path, seeded
/// with the digest.
pub fn entry_hash(path: &[u8], digest: u64) -> u64 {
    xxh3_64_with_seed(path, digest)
}

/// How a key changes its leaf as its digest goes from one to another; `None` is that of no record.
pub fn change_hash(path: &[u8], before: Option<u64>, after: Option<u64>) -> u64 {
    let digests = before.into_iter().chain(after);
    digests.fold(0, |hash, digest| hash ^ entry_hash(path, digest))
}

/// What a child adds to what stands above it. Nothing, where it holds no key.
fn place_hash(place: usize, child: u64) -> u64 {
    if child == 0 {
        return 0;
    }
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&(place as u64).to_be_bytes());
    bytes[8..].copy_from_slice(&child.to_be_bytes());
    xxh3_64(&bytes)
}

impl Tree {
    /// The tree of a vnode without keys.
    pub fn empty(shape: Shape) -> Self {
        Self { shape, root: 0, branches: vec![Branch::default(); shape.branches()].into() }
    }

    /// A record of a leaf's key came, went or changed: `change` is the XOR of what it added before
    /// and of what it adds now ([`change_hash`]).
    pub fn change(&mut self, leaf: LeafIndex, change: u64) {
        if change == 0 {
            return;
        }
        let width = self.shape.leaves_of_a_branch();
        let (at, within) = (leaf.0 as usize / width, leaf.0 as usize % width);
        let branch = &mut self.branches[at];
        let before = branch.hash;
        let leaves = branch.leaves.get_or_insert_with(|| vec![0; width].into());
        let old = leaves[within];
        leaves[within] = old ^ change;
        branch.hash ^= place_hash(within, old) ^ place_hash(within, old ^ change);
        self.root ^= place_hash(at, before) ^ place_hash(at, branch.hash);
    }

    /// Equal for two trees exactly if they are equal (but for collisions).
    pub fn root(&self) -> u64 {
        self.root
    }

    /// The hashes of all branches.
    pub fn branches(&self) -> Vec<u64> {
        self.branches.iter().map(|branch| branch.hash).collect()
    }

    /// The leaves of one branch; `None` where the tree has no such branch.
    pub fn leaves(&self, branch: u32) -> Option<Vec<u64>> {
        let leaves = &self.branches.get(branch as usize)?.leaves;
        Some(match leaves {
            Some(leaves) => leaves.to_vec(),
            None => vec![0; self.shape.leaves_of_a_branch()],
        })
    }

    /// One leaf.
    ///
    /// # Panics
    /// If the tree has no such leaf.
    pub fn leaf(&self, leaf: LeafIndex) -> u64 {
        let width = self.shape.leaves_of_a_branch();
        let leaves = &self.branches[leaf.0 as usize / width].leaves;
        leaves.as_ref().map_or(0, |leaves| leaves[leaf.0 as usize % width])
    }

    /// The leaf of this place in a branch.
    pub fn leaf_index(&self, branch: u32, within: u32) -> LeafIndex {
        LeafIndex(branch * self.shape.leaves_of_a_branch() as u32 + within)
    }
}

/// The places where two lists of hashes differ; `None` where they are not of one length.
pub fn differing(mine: &[u64], theirs: &[u64]) -> Option<Vec<u32>> {
    let places = || (0..).zip(mine.iter().zip(theirs));
    (mine.len() == theirs.len())
        .then(|| places().filter(|(_, (a, b))| a != b).map(|(place, _)| place).collect())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    use super::*;
    use crate::types::PartitionCount;

    fn shape() -> Shape {
        Shape::of(PartitionCount::new(65_536).expect("a power of two"))
    }

    /// A tree the naive way: from all its keys.
    fn naive(entries: &BTreeMap<(u32, u8), u64>) -> Tree {
        let mut tree = Tree::empty(shape());
        for ((leaf, _), hash) in entries {
            tree.change(LeafIndex(*leaf), *hash);
        }
        tree
    }

    proptest! {
        #[test]
        fn a_tree_is_the_same_however_it_came_to_be(
            changes in proptest::collection::vec((0..16_u32, 0..4_u8, any::<u64>(), any::<bool>()), 0..60),
        ) {
            let (mut entries, mut tree) = (BTreeMap::new(), Tree::empty(shape()));
            for (leaf, key, hash, goes) in changes {
                let before = if goes {
                    entries.remove(&(leaf, key))
                } else {
                    entries.insert((leaf, key), hash)
                };
                let now = if goes { 0 } else { hash };
                tree.change(LeafIndex(leaf), before.unwrap_or(0) ^ now);
            }
            let other = naive(&entries);
            prop_assert_eq!(tree.root(), other.root());
            prop_assert_eq!(tree.branches(), other.branches());
            for branch in 0..4 {
                prop_assert_eq!(tree.leaves(branch), other.leaves(branch));
            }
            prop_assert_eq!(tree.leaves(4), None);
        }

        #[test]
        fn one_key_more_shows_on_its_way_to_the_root_and_nowhere_else(
            entries in proptest::collection::btree_map((0..16_u32, 0..4_u8), any::<u64>(), 0..40),
            leaf in 0..16_u32,
            hash in 1..u64::MAX,
        ) {
            let tree = naive(&entries);
            let mut other = tree.clone();
            other.change(LeafIndex(leaf), hash);
            prop_assert!(tree.root() != other.root());
            let branches = differing(&tree.branches(), &other.branches()).expect("one shape");
            prop_assert_eq!(&branches, &[leaf / 4]);
            let leaves = [&tree, &other].map(|tree| tree.leaves(branches[0]).expect("it is there"));
            let leaves = differing(&leaves[0], &leaves[1]).expect("one shape");
            prop_assert_eq!(tree.leaf_index(branches[0], leaves[0]), LeafIndex(leaf));
            prop_assert_eq!(leaves.len(), 1);
            prop_assert_eq!(tree.leaf(LeafIndex(leaf)) ^ hash, other.leaf(LeafIndex(leaf)));
        }
    }

    #[test]
    fn the_same_leaf_at_another_place_is_another_tree() {
        let [mut a, mut b] = [0, 1].map(|_| Tree::empty(shape()));
        a.change(LeafIndex(1), 7);
        b.change(LeafIndex(2), 7);
        assert_ne!(a.root(), b.root());
        b.change(LeafIndex(2), 7);
        assert_eq!(b.root(), 0);
    }

    #[test]
    fn lists_of_two_lengths_are_not_compared() {
        assert_eq!(differing(&[1], &[1, 2]), None);
    }
}
