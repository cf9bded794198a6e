//! What a seed stands for: a cluster, its clients' scripts, and the faults that befall it. Plain
//! data, so that it can be printed, repeated and shrunk.

mod faults;
mod workload;

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

pub use self::faults::{Fault, PlannedFault, Weather};
pub use self::workload::{Call, ClientPlan, KeyKind, KeyPlan, Step, With};
use crate::storage::Durability;

/// How long faults are made, in virtual time.
pub const SAFETY_PHASE: Duration = Duration::from_secs(60);

/// All that a run does.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Where it comes from; also seeds what is drawn while it runs.
    pub seed: u64,
    /// How many nodes, called `node-1` and so on.
    pub nodes: usize,
    /// Of the ring.
    pub partitions: u32,
    /// N.
    pub replication_factor: u8,
    /// Of every node.
    pub durability: Durability,
    /// How long deletions are kept.
    pub gc_grace: Duration,
    /// Of the network while no other is set.
    pub weather: Weather,
    /// How far each node's wall clock is off, in ms, and how many parts in a million it drifts.
    pub clocks: Vec<(i64, i64)>,
    /// The keys that clients use.
    pub keys: Vec<KeyPlan>,
    /// The clients.
    pub clients: Vec<ClientPlan>,
    /// The faults, by time.
    pub faults: Vec<PlannedFault>,
    /// The one node, from 0 up, whose disk may lose what it had acknowledged.
    pub victim: usize,
}

impl Scenario {
    /// The scenario of a seed.
    pub fn from_seed(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let nodes = random.random_range(3..=7);
        let replication_factor = match random.random_range(0..10) {
            0 => 2,
            1 | 2 if nodes >= 5 => 5,
            _ => 3,
        };
        let durability = match random.random_range(0..10) {
            0 => Durability::Os,
            1 => Durability::Interval,
            _ => Durability::Sync,
        };
        let victim = random.random_range(0..nodes);
        let gc_grace = Duration::from_secs(random.random_range(2..=12));
        let clocks = (0..nodes).map(|_| faults::clock(&mut random)).collect();
        let (keys, clients) = workload::plan(&mut random, nodes, replication_factor);
        Self {
            seed,
            nodes,
            partitions: 16 << random.random_range(0..=2),
            replication_factor,
            durability,
            gc_grace,
            weather: Weather::draw(&mut random),
            clocks,
            keys,
            clients,
            faults: faults::plan(&mut random, nodes, victim),
            victim,
        }
    }

    /// Operations that the clients' scripts hold.
    pub fn operations(&self) -> usize {
        self.clients.iter().map(|client| client.steps.len()).sum()
    }

    /// Whether a fault of the plan can make the victim lose what it had acknowledged.
    pub fn loses_data(&self) -> bool {
        self.faults.iter().any(|planned| planned.fault.loses_data())
    }

    /// Whether a disk of the plan says that it synced what it did not, or goes back in time: what
    /// it has lost is not known to its node at once.
    pub fn deceives(&self) -> bool {
        self.faults.iter().any(|planned| planned.fault.deceives())
    }
}
