//! Tokens, partitions, and which nodes hold which partition.
//!
//! The ring is cut into equal partitions, and their number never changes (Dynamo, section 6.2,
//! strategy 3). A [`Table`] gives each partition its replica set. Sets are computed rather than
//! walked along the ring: walking gives random shares and moves more than it must.
//!
//! # What holds of every computed table
//! - Each set has min(n, nodes with weight above zero) distinct nodes.
//! - It spans min(that size, zones) distinct zones, and no zone holds more of it than the most
//!   even spread over the zones makes necessary: losing a zone costs as few replicas as possible.
//! - Each node holds its ideal share, rounded down or up. The ideal (`ideal`) is proportional to
//!   the weights as far as "at most once in a set" and the zones allow.
//! - Among all tables of which this is true, none keeps more of the previous table's replicas.
//! - Each node is the primary of its sets' n-th part, rounded down or up.
//!
//! # How
//! Seen as a flow, a table is one unit from each partition for each replica, through a pair
//! (partition, zone) with the bounds of the zone, through a pair (partition, node) with capacity 1,
//! into a node with the bounds [floor, ceil] of its ideal; a pair that the previous table lacks
//! costs 1. The fractional ideal is such a flow, so an integral one exists (flows with integral
//! bounds have integral vertices). The cheapest one is found in three steps:
//!
//! 1. `fill`: each partition by itself keeps as many old replicas as the zones let it; what is
//!    missing goes to the zone, and in it to the node, that lacks most. This is the cheapest
//!    assignment of all if loads didn't matter, so it leaves no cycle of negative cost.
//! 2. `rebalance`: successive shortest paths move load from nodes above their bounds to nodes
//!    below. A shortest path leaves no negative cycle either; so the end is an optimum. The
//!    graph is searched over the nodes only (`search`: some 1,000 vertices instead of 65 million
//!    pairs, which the rows imply), and one search serves many paths (`walk`).
//! 3. `primaries`: shortest paths again choose the first node of each set.
//!
//! Ties are broken by hashes of positions, which spreads the partners of a node: when it dies, its
//! load falls on many others instead of on a neighbour.
//!
//! Garage solves the same flow (its "optimal layout" report): a maximum flow, then cancelling of
//! negative cycles on the explicit graph of pairs. Starting from the optimum without loads needs no
//! cancelling.

use smallvec::SmallVec;
use xxhash_rust::xxh3::xxh3_64;

use crate::types::{KeyPath, NodeId, Token, Weight, Zone};

mod fewest;
mod fill;
mod ideal;
mod measure;
mod plan;
mod primaries;
mod ranking;
mod rebalance;
mod search;
mod table;
mod walk;

#[cfg(test)]
mod tests;

pub use table::{Table, TableError};

/// A node as the ring sees it.
#[derive(
    Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub struct Member {
    /// Its name.
    pub id: NodeId,
    /// Where it stands.
    pub zone: Zone,
    /// Its share; zero: it holds nothing.
    pub weight: Weight,
}

/// Where a key lies on the ring: xxh3-64 of bucket, a zero byte, key.
pub fn token_of(path: &KeyPath) -> Token {
    // In one piece: hashing in several costs several times as much.
    let mut bytes = SmallVec::<[u8; 128]>::new();
    path.parts().iter().for_each(|part| bytes.extend_from_slice(part));
    token_of_bytes(&bytes)
}

/// The same, of the bytes of a path.
pub fn token_of_bytes(path: &[u8]) -> Token {
    Token::new(xxh3_64(path))
}
