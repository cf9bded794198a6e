//! The running node: it coordinates requests, holds replicas, watches its peers.
//!
//! Written against four seams only (`Store`, `Transport`, tokio's time with [`Clock`] for wall
//! time, [`Randomness`]), so that the very same code runs in production and in a simulation. The
//! life of a node is in `start.rs`.

mod calls;
mod candidate;
mod coordinator;
mod directory;
mod disk;
mod epochs;
mod exchange;
mod explain;
mod formation;
mod forwarded;
mod give;
mod greeting;
mod handler;
mod handoff;
mod hints;
mod imprint;
#[cfg(any(test, feature = "sim"))]
mod inspect;
mod instruments;
mod latency;
mod layout;
mod let_go;
mod locks;
mod membership;
mod mend;
mod merge;
pub mod operation;
mod pace;
mod pass_over;
mod process;
mod pulse;
mod purge;
mod quarantine;
mod recovery;
mod register;
mod repair;
mod replay;
mod replica;
mod scrub;
mod seams;
mod sending;
mod service;
mod start;
mod take_in;
mod taken_in;
mod tasks;
mod topology;
mod transitions;
mod trees;
pub mod view;
mod vnodes;
mod watched;

use std::collections::BTreeSet;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use arc_swap::ArcSwapOption;
use tokio::sync::Notify;

pub use directory::DirectoryError;
#[cfg(any(test, feature = "sim"))]
pub use hints::record_of_hint;
pub use instruments::{Instruments, MintedWrite, PlantedBug};
pub use process::{Process, Running};
pub use seams::{Clock, Randomness, SystemClock};
pub use start::{Seams, StartError};
pub use watched::Watched;

use self::directory::Opened;
use self::disk::DiskWatch;
use self::epochs::Epochs;
use self::forwarded::Forwarded;
use self::hints::Hints;
use self::latency::HedgeBudget;
use self::layout::Layout;
use self::locks::KeyLocks;
use self::membership::Membership;
use self::pace::Clients;
use self::pulse::Pulse;
use self::quarantine::Quarantine;
use self::recovery::Recoveries;
use self::repair::Repair;
use self::sending::Sending;
use self::taken_in::TakeIns;
use self::tasks::Tasks;
use self::transitions::Transitions;
use self::trees::Trees;
use self::vnodes::Vnodes;
use crate::config::{BucketSettings, Settings};
use crate::peer::Transport;
use crate::protocol::causality::{Hlc, Record, TokenKey};
use crate::protocol::cluster::formation::Formation;
use crate::protocol::operation::OperationError;
use crate::storage::Store;
use crate::telemetry::Metrics;
use crate::types::{Bucket, HlcStamp, NodeId};

/// Where a node is in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not serving yet, and why.
    Starting(String),
    /// Serving.
    Serving,
    /// Not serving, and why; it takes an operator to change that.
    Refusing(String),
    /// No longer serving.
    Stopping,
}

impl Phase {
    /// Whether the node serves no more.
    fn is_over(&self) -> bool {
        matches!(self, Self::Refusing(_) | Self::Stopping)
    }
}

/// A node. Made by [`Node::open`], brought to service by [`Node::start`].
pub struct Node {
    settings: Arc<Settings>,
    opened: Opened,
    store: Arc<dyn Store>,
    transport: Arc<dyn Transport>,
    clock: Arc<dyn Clock>,
    random: Randomness,
    metrics: Arc<Metrics>,
    has_lost_data: bool,
    /// The directory was emptied to be filled from the peers.
    rebuilds: bool,
    phase: Watched<Phase>,
    /// The present epoch; changed by `epochs.rs` alone.
    layout: ArcSwapOption<Layout>,
    epochs: Epochs,
    take_ins: TakeIns,
    transitions: Transitions,
    recoveries: tokio::sync::Mutex<Recoveries>,
    token_key: OnceLock<TokenKey>,
    formation: Mutex<Option<Formation>>,
    vnodes: Vnodes,
    /// Keys whose record was damaged.
    quarantine: Quarantine,
    /// What is kept for other nodes.
    hints: Hints,
    /// How far this node's replicas agree with others.
    repair: Repair,
    trees: Trees,
    clients: Clients,
    sending: Sending,
    locks: KeyLocks,
    hlc: Mutex<Hlc>,
    hedging: HedgeBudget,
    membership: Membership,
    disk: DiskWatch,
    pulse: Pulse,
    forwarded: Forwarded,
    /// Told when a vnode became incomplete.
    mend: Notify,
    /// An actor was retired in memory only: this run must not end as a clean one.
    is_tainted: AtomicBool,
    /// All that runs in the background.
    tasks: Tasks,
    instruments: Instruments,
    /// Who has answered this start's greeting.
    greeted: Mutex<BTreeSet<NodeId>>,
    /// One greeting at a time is worked off, so that boot numbers are kept in order.
    greeting: tokio::sync::Mutex<()>,
}

impl Node {
    /// The layout, once there is one.
    fn layout(&self) -> Option<Arc<Layout>> {
        self.layout.load_full()
    }

    /// The layout, if this node serves.
    fn serving(&self) -> Result<Arc<Layout>, OperationError> {
        let why = match &*self.phase.borrow() {
            Phase::Serving => None,
            Phase::Starting(why) | Phase::Refusing(why) => Some(why.clone()),
            Phase::Stopping => Some("the node is stopping; ask another one".into()),
        };
        match (why, self.layout()) {
            (None, Some(layout)) => Ok(layout),
            (why, _) => {
                let why = why.unwrap_or_else(|| "the node has no layout yet".into());
                Err(OperationError::NotReady(why))
            }
        }
    }

    /// A bucket's properties: what the cluster state says, and for the rest the settings.
    fn bucket_settings(&self, layout: &Layout, bucket: &Bucket) -> BucketSettings {
        let defaults = self.settings.bucket(bucket);
        let Some(own) = layout.state.buckets.get(bucket) else { return defaults };
        BucketSettings {
            r: own.r.unwrap_or(defaults.r),
            w: own.w.unwrap_or(defaults.w),
            resolve: own.resolve.unwrap_or(defaults.resolve),
            sloppy: own.sloppy.unwrap_or(defaults.sloppy),
        }
    }

    /// What context tokens are keyed with, once the cluster is known.
    fn token_key(&self) -> Result<&TokenKey, OperationError> {
        self.serving().map(|layout| self.token_key_of(&layout))
    }

    /// What context tokens are keyed with in this layout's cluster.
    fn token_key_of(&self, layout: &Layout) -> &TokenKey {
        self.token_key.get_or_init(|| match &self.settings.cluster_secret {
            Some(secret) => TokenKey::from_secret(secret.as_bytes()),
            None => TokenKey::from_cluster_id(layout.state.cluster),
        })
    }

    /// The stamp of the next version.
    fn next_stamp(&self) -> HlcStamp {
        let mut hlc = self.hlc.lock().unwrap_or_else(PoisonError::into_inner);
        hlc.tick(self.clock.wall_ms())
    }

    /// Moves the hybrid logical clock past the stamps of a record, unless they are too far ahead.
    fn observe(&self, record: &Record, from: &NodeId) {
        let Some(latest) = record.versions().iter().map(|version| version.stamp()).max() else {
            return;
        };
        let mut hlc = self.hlc.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(drift) = hlc.observe(latest, self.clock.wall_ms()) {
            drop(hlc);
            tracing::warn!(%from, %drift, "a version is stamped ahead of this node's clock");
            self.metrics.clock_drift(from, drift.ahead_ms);
        }
    }

    /// Where the node is in its life, now and from now on.
    pub fn phase(&self) -> Watched<Phase> {
        self.phase.clone()
    }
}

#[cfg(test)]
mod tests;
