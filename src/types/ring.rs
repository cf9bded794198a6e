//! Positions on the ring and the sizes of what lies there.

use std::fmt;
use std::num::NonZeroU8;

use serde::{Deserialize, Serialize};

/// A position on the ring: xxh3-64 of bucket, a zero byte, key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Token(u64);

impl Token {
    /// The position.
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }

    /// The raw position.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({self})")
    }
}

/// One of the equal ranges that the ring is cut into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PartitionId(u32);

impl PartitionId {
    /// The partition with this index, counted from the ring's start.
    pub const fn new(index: u32) -> Self {
        Self(index)
    }

    /// Its index, counted from the ring's start.
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// The raw index.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// How many partitions the ring has: a power of two, 64 to 65,536, fixed at formation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct PartitionCount {
    bits: u32,
}

/// Why a number is no [`PartitionCount`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} partitions: must be a power of two from 64 to 65536")]
pub struct PartitionCountError(u32);

impl PartitionCount {
    /// Checks a count. Simulations and tests may go down to 1 partition; settings files may not
    /// (`config` holds them to 64).
    ///
    /// # Errors
    /// [`PartitionCountError`] unless it is a power of two up to 65,536.
    pub const fn new(count: u32) -> Result<Self, PartitionCountError> {
        if count.is_power_of_two() && count <= 65_536 {
            Ok(Self { bits: count.trailing_zeros() })
        } else {
            Err(PartitionCountError(count))
        }
    }

    /// The count.
    pub const fn get(self) -> u32 {
        1 << self.bits
    }

    /// The partition a token lies in: its top bits.
    pub const fn partition_of(self, token: Token) -> PartitionId {
        // Two shifts, because a shift by the full 64 bits is an overflow.
        PartitionId(((token.0 >> 1) >> (63 - self.bits)) as u32)
    }

    /// The first and the last token of a partition.
    pub const fn range_of(self, partition: PartitionId) -> (Token, Token) {
        let width = u64::MAX >> self.bits;
        let start = ((partition.0 as u64) << 1) << (63 - self.bits);
        (Token(start), Token(start + width))
    }

    /// All partitions, in ring order.
    pub fn iter(self) -> impl Iterator<Item = PartitionId> + use<> {
        (0..self.get()).map(PartitionId)
    }
}

impl Default for PartitionCount {
    fn default() -> Self {
        Self { bits: 10 }
    }
}

impl TryFrom<u32> for PartitionCount {
    type Error = PartitionCountError;

    fn try_from(count: u32) -> Result<Self, PartitionCountError> {
        Self::new(count)
    }
}

impl From<PartitionCount> for u32 {
    fn from(count: PartitionCount) -> Self {
        count.get()
    }
}

/// N: how many replicas a partition should have. 1 to 16.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct ReplicationFactor(NonZeroU8);

/// Why a number is no [`ReplicationFactor`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a replication factor of {0}: must be 1 to 16")]
pub struct ReplicationFactorError(u8);

impl ReplicationFactor {
    /// Checks a replication factor.
    ///
    /// # Errors
    /// [`ReplicationFactorError`] unless it is 1 to 16.
    pub const fn new(n: u8) -> Result<Self, ReplicationFactorError> {
        match NonZeroU8::new(n) {
            Some(n) if n.get() <= 16 => Ok(Self(n)),
            _ => Err(ReplicationFactorError(n)),
        }
    }

    /// All there are.
    pub fn all() -> impl Iterator<Item = Self> {
        (1..=16).filter_map(|n| Self::new(n).ok())
    }

    /// The number.
    pub const fn get(self) -> u8 {
        self.0.get()
    }
}

impl Default for ReplicationFactor {
    fn default() -> Self {
        Self(NonZeroU8::new(3).expect("3 is not 0"))
    }
}

impl TryFrom<u8> for ReplicationFactor {
    type Error = ReplicationFactorError;

    fn try_from(n: u8) -> Result<Self, ReplicationFactorError> {
        Self::new(n)
    }
}

impl From<ReplicationFactor> for u8 {
    fn from(n: ReplicationFactor) -> Self {
        n.get()
    }
}

impl fmt::Display for ReplicationFactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// One node's replica of one partition of one table. Actor, floor, hash tree and purge number
/// belong to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct VnodeId {
    /// Which table: there is one for each replication factor in use.
    pub table: ReplicationFactor,
    /// Which partition of it.
    pub partition: PartitionId,
}

impl fmt::Display for VnodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.table, self.partition)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_fall_into_the_partition_whose_range_holds_them() {
        for count in [1, 2, 64, 1_024, 65_536] {
            let count = PartitionCount::new(count).expect("a power of two");
            for raw in [0, 1, u64::MAX / 3, u64::MAX / 2, u64::MAX / 2 + 1, u64::MAX - 1, u64::MAX]
            {
                let partition = count.partition_of(Token::new(raw));
                let (start, end) = count.range_of(partition);
                assert!(start.get() <= raw && raw <= end.get(), "{raw:x} in {partition}");
            }
        }
    }

    #[test]
    fn ranges_adjoin_and_cover_the_ring() {
        let count = PartitionCount::new(64).expect("a power of two");
        let ranges: Vec<_> = count.iter().map(|p| count.range_of(p)).collect();
        assert_eq!(ranges[0].0.get(), 0);
        assert_eq!(ranges[63].1.get(), u64::MAX);
        assert!(ranges.windows(2).all(|w| w[0].1.get() + 1 == w[1].0.get()));
    }
}
