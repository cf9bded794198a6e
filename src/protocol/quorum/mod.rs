//! The decisions of one read and of one write, without any I/O (Dynamo, SOSP 2007, section 4.5; the
//! shape is that of riak_kv's request cores).
//!
//! A coordinator tells a core what happened (an answer, a failure, a slow replica) and carries out
//! the commands it gets back. Replicas are named by their index in the replica set. What holds:
//!
//! - a read completes on `required` replicas whose records are all in the merge that it returns;
//! - with blocking repair, from a majority up, the merge stands on a majority before it is shown;
//! - a failure that is already certain is told at once, never at the deadline.

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
