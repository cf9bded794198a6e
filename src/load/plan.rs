//! What is to be run.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use super::keys::{Distribution, Keys};
use super::request::Target;
use super::values::Values;
use super::workload::Workload;

/// When requests are sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// As soon as the answer before is there.
    Closed,
    /// At so many a second, whatever the answers do.
    Open(f64),
}

/// When it is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// After this time.
    For(Duration),
    /// After so many operations.
    Count(u64),
}

/// How long nodes may refuse one value before a load is given up.
const LOADING_PERSISTENCE: Duration = Duration::from_secs(60);

/// A run of the generator.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The nodes, which get connections in turn; at least one.
    pub nodes: Arc<[SocketAddr]>,
    /// Bucket and levels.
    pub target: Target,
    /// What the requests do.
    pub workload: Workload,
    /// The keys that there are.
    pub keys: Arc<Keys>,
    /// How they are chosen.
    pub distribution: Distribution,
    /// What is written.
    pub values: Arc<Values>,
    /// Whether each value that is read is checked.
    pub is_verifying: bool,
    /// Connections, each with one request at a time.
    pub connections: NonZeroU32,
    /// The threads that they are spread over.
    pub threads: NonZeroU32,
    /// When requests are sent.
    pub pace: Pace,
    /// Load before the measurement begins.
    pub warm_up: Duration,
    /// When it is over.
    pub length: Length,
    /// How long an answer may take before the connection is given up.
    pub patience: Duration,
    /// How long an operation that busy nodes refuse is begun again before the refusal counts as its result;
    /// zero where refusals are measured.
    pub persistence: Duration,
    /// What the choice of keys and values begins with.
    pub seed: u64,
}

impl Plan {
    /// The run that stores a value under each of these keys, as fast as it can, before this one. What busy
    /// nodes refuse is tried again.
    pub fn to_load(&self, first: u64, count: u64) -> Self {
        Self {
            workload: self.workload.of_inserts(),
            keys: Keys::new(first, 0),
            distribution: Distribution::Uniform,
            pace: Pace::Closed,
            persistence: LOADING_PERSISTENCE,
            warm_up: Duration::ZERO,
            length: Length::Count(count),
            ..self.clone()
        }
    }

    /// No more threads than connections.
    pub(super) fn thread_count(&self) -> u32 {
        self.threads.min(self.connections).get()
    }
}
