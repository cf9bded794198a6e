//! What a seed stands for: a cluster, its clients' scripts, and the faults that befall it. Plain
//! data, so that it can be printed, repeated and shrunk.

mod amnesia;
mod damage;
mod faults;
mod lopsided;
mod operators;
mod succession;
mod turnover;
mod workload;

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

pub use self::faults::{Fault, PlannedFault, Weather};
pub use self::operators::{Action, PlannedAction};
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
    /// Nodes keep no hints, and compare their replicas seldom.
    pub is_lazy: bool,
    /// How many nodes beyond those wait to be taken in.
    pub spares: usize,
    /// What operators do to the ring, by time.
    pub operators: Vec<PlannedAction>,
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
        let clocks: Vec<(i64, i64)> = (0..nodes).map(|_| faults::clock(&mut random)).collect();
        let (keys, clients) = workload::plan(&mut random, nodes, replication_factor);
        let partitions = 16 << random.random_range(0..=2);
        let weather = Weather::draw(&mut random);
        let mut faults = faults::plan(&mut random, nodes, victim);
        let (spares, operators) = operators::plan(&mut random, nodes);
        let mut clocks = clocks;
        clocks.extend((0..spares).map(|_| faults::clock(&mut random)));
        faults.extend(faults::of_spares(&mut random, nodes, spares));
        faults.sort_by_key(|planned| planned.at_ms);
        let is_lazy = !operators.is_empty() && random.random_bool(0.4);
        let mut scenario = Self {
            seed,
            nodes,
            partitions,
            replication_factor,
            durability,
            gc_grace,
            weather,
            clocks,
            keys,
            clients,
            faults,
            is_lazy,
            spares,
            operators,
            victim,
        };
        // Drawn last: what else a seed stands for stays the same.
        match random.random_range(0..40) {
            0 | 1 => turnover::turn(&mut scenario, &mut random),
            2 => amnesia::turn(&mut scenario, &mut random),
            3 => damage::turn(&mut scenario, &mut random),
            // Drawn apart: what all other seeds stand for stays the same.
            _ => succession::turn_some(&mut scenario),
        }
        scenario
    }

    /// Operations that the clients' scripts hold.
    pub fn operations(&self) -> usize {
        self.clients.iter().map(|client| client.steps.len()).sum()
    }

    /// How many machines there are.
    pub fn machines(&self) -> usize {
        self.nodes + self.spares
    }

    /// Whether the keys of a bucket may come to have more or fewer replicas.
    pub fn may_resize(&self, bucket: &str) -> bool {
        let is_resized = self.sizes_of(bucket).next().is_some();
        is_resized || (self.replication_factor > 3 && !self.operators.is_empty())
    }

    /// Whether the keys of a bucket may come to have one replica, on a disk that may be lost.
    pub fn may_lose_all_of(&self, bucket: &str) -> bool {
        self.loses_data() && self.sizes_of(bucket).any(|n| n == 1)
    }

    /// Every n that operators ask for a bucket.
    fn sizes_of(&self, bucket: &str) -> impl Iterator<Item = u8> {
        self.operators.iter().filter_map(move |planned| match planned.action {
            Action::Resize { bucket: resized, n } if resized == bucket => Some(n),
            _ => None,
        })
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
