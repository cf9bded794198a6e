//! The decisions of one read and of one write, without any I/O (Dynamo, SOSP 2007, section 4.5; the
//! shape is that of riak_kv's request cores).
//!
//! A coordinator tells a core what happened (an answer, a failure, a slow replica) and carries out
//! the commands it gets back. Replicas are named by their index in the replica set. What holds:
//!
//! - a read completes on `required` replicas whose records are all in the merge that it returns;
//! - with blocking repair, from a majority up, the merge stands on a majority before it is shown;
//! - a failure that is already certain is told at once, never at the deadline.
//!
//! While the ring changes, a key has an old and a new set, and a level must be reached in each of
//! them: a [`Group`] for each. A replica in both counts in both (correctness, section 7, rules 10
//! and 12).

mod get;
mod put;

pub use get::{Answer, Finished, Get, GetCommand, GetPlan, Mergeable, RepairMode, Want};
pub use put::{Put, PutProgress};

/// A replica's place in its replica set: 0 is the primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplicaIndex(pub u8);

impl ReplicaIndex {
    /// As an index into arrays of replicas.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A majority of a replica set of `n`: any two of them meet.
pub const fn majority(n: u8) -> u8 {
    n / 2 + 1
}

/// Some places of a replica set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Places(u32);

impl Places {
    /// The first `n`.
    pub const fn first(n: u8) -> Self {
        Self((1 << n) - 1)
    }

    /// Adds one.
    pub const fn insert(&mut self, replica: ReplicaIndex) {
        self.0 |= 1 << replica.0;
    }

    /// Whether it is one of them.
    pub const fn has(self, replica: ReplicaIndex) -> bool {
        self.0 & (1 << replica.0) != 0
    }

    /// How many they are.
    pub const fn count(self) -> u8 {
        self.0.count_ones() as u8
    }

    /// Those in either.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// A set in which a level must be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its replicas.
    pub members: Places,
    /// How many of them it takes.
    pub required: u8,
}

impl Group {
    /// One set of `n`, alone.
    pub const fn of(required: u8, n: u8) -> Self {
        Self { members: Places::first(n), required }
    }
}
