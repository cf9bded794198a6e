//! How many leaves a tree has, and where a key lies in it.

use serde::{Deserialize, Serialize};

use crate::types::{PartitionCount, Token};

/// The leaves of all partitions together, unless that were fewer than [`LEAST_LEAF_BITS`] a tree.
const RING_LEAF_BITS: u32 = 20;

/// A tree has 16 leaves at least.
const LEAST_LEAF_BITS: u32 = 4;

/// A leaf of a tree, from 0 up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LeafIndex(pub u32);

/// The shape of every tree of a cluster: max(16, 2^20 / partitions) leaves, in as many branches as
/// each has leaves, or half of that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    partition_bits: u32,
    leaf_bits: u32,
}

impl Shape {
    /// That of a ring with so many partitions.
    pub const fn of(partitions: PartitionCount) -> Self {
        let partition_bits = partitions.get().trailing_zeros();
        let leaf_bits = match RING_LEAF_BITS.checked_sub(partition_bits) {
            Some(bits) if bits > LEAST_LEAF_BITS => bits,
            _ => LEAST_LEAF_BITS,
        };
        Self { partition_bits, leaf_bits }
    }

    /// How many leaves a tree has.
    pub const fn leaves(self) -> usize {
        1 << self.leaf_bits
    }

    /// How many branches a tree has.
    pub const fn branches(self) -> usize {
        1 << (self.leaf_bits / 2)
    }

    /// How many leaves a branch has.
    pub const fn leaves_of_a_branch(self) -> usize {
        self.leaves() / self.branches()
    }

    /// The leaf of a key: the bits of its token below those that name the partition.
    pub const fn leaf_of(self, token: Token) -> LeafIndex {
        let below = token.get() << self.partition_bits;
        LeafIndex((below >> (64 - self.leaf_bits)) as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trees_have_the_leaves_that_the_design_asks_for() {
        for (partitions, leaves, branches) in
            [(16, 65_536, 256), (64, 16_384, 128), (1_024, 1_024, 32), (65_536, 16, 4)]
        {
            let shape = Shape::of(PartitionCount::new(partitions).expect("a power of two"));
            assert_eq!((shape.leaves(), shape.branches()), (leaves, branches));
            assert_eq!(shape.leaves_of_a_branch() * branches, leaves);
        }
    }

    #[test]
    fn a_leaf_is_named_by_the_bits_below_the_partition() {
        let shape = Shape::of(PartitionCount::new(1_024).expect("a power of two"));
        assert_eq!(shape.leaf_of(Token::new(u64::MAX)), LeafIndex(1_023));
        assert_eq!(shape.leaf_of(Token::new(0x0040_0000_0000_0000 - 1)), LeafIndex(1_023));
        assert_eq!(shape.leaf_of(Token::new(0x0040_0000_0000_0000)), LeafIndex(0));
        assert_eq!(shape.leaf_of(Token::new(1 << 44)), LeafIndex(1));
    }
}
