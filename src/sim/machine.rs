//! One simulated machine: a disk, a clock, and the process of a node on it, or none.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use tokio::time::Instant;

use super::disk::{BatchWitness, DiskFaults, Ending, SimDisk};
use super::history::History;
use super::trace::Trace;
use crate::config::Settings;
use crate::node::{
    Clock, Instruments, Node, Phase, PlantedBug, Process, Randomness, Seams, StartError,
};
use crate::peer::loopback::LoopbackNetwork;
use crate::peer::{Handler, PeerAddress};
use crate::protocol::causality::Dot;
use crate::storage::schema::MetaKey;
use crate::storage::{Batch, BoxFuture, Change, Durability, MemoryStore, Space, Store};
use crate::telemetry::Metrics;
use crate::types::{KeyPath, NodeId};

/// A wall clock that is off, drifts and jumps.
#[derive(Debug)]
pub struct SimClock {
    begun: Instant,
    offset_ms: AtomicI64,
    drift_ppm: i64,
}

impl SimClock {
    fn new((offset_ms, drift_ppm): (i64, i64)) -> Self {
        Self { begun: Instant::now(), offset_ms: AtomicI64::new(offset_ms), drift_ppm }
    }

    /// It is right from now on.
    pub fn set_right(&self) {
        let elapsed = self.begun.elapsed().as_millis() as i64;
        self.offset_ms.store(-(elapsed * self.drift_ppm / 1_000_000), Ordering::Relaxed);
    }

    /// Moves it, for good.
    pub fn jump(&self, by_ms: i64) {
        self.offset_ms.fetch_add(by_ms, Ordering::Relaxed);
    }
}

impl Clock for SimClock {
    fn wall_ms(&self) -> u64 {
        const EPOCH_MS: i64 = 1_700_000_000_000;
        let elapsed = self.begun.elapsed().as_millis() as i64;
        let drift = elapsed * self.drift_ppm / 1_000_000;
        (EPOCH_MS + elapsed + drift + self.offset_ms.load(Ordering::Relaxed)) as u64
    }
}

/// What runs on a machine.
#[derive(Clone)]
pub struct Running {
    /// The process.
    pub process: Process,
    /// Set once the directory is open.
    node: Arc<OnceLock<Arc<Node>>>,
    /// The open store.
    pub disk: Arc<SimDisk>,
    /// What the node counts.
    pub metrics: Arc<Metrics>,
}

impl Running {
    /// The node, once it has opened its directory.
    pub fn node(&self) -> Option<Arc<Node>> {
        self.node.get().cloned()
    }

    /// The node, if it takes requests.
    pub fn serving(&self) -> Option<Arc<Node>> {
        self.node().filter(|node| *node.phase().borrow() == Phase::Serving)
    }
}

/// Hands what arrives to a node, in its process.
struct Inbox {
    process: Process,
    node: Arc<OnceLock<Arc<Node>>>,
}

impl Handler for Inbox {
    fn call(self: Arc<Self>, request: Bytes) -> BoxFuture<'static, Bytes> {
        match self.node.get() {
            Some(node) => Box::pin(self.process.run(Arc::clone(node).call(request))),
            // Taken by the system, and by nobody yet.
            None => Box::pin(std::future::pending()),
        }
    }

    fn receive(self: Arc<Self>, message: Bytes) {
        if let Some(node) = self.node.get() {
            let node = Arc::clone(node);
            // One message waits for a stopped process like another.
            tokio::spawn(self.process.run(async move { node.receive(message) }));
        }
    }
}

/// See the module's head.
pub struct Machine {
    /// From 0 up.
    pub number: usize,
    /// `node-1` for number 0.
    pub name: String,
    /// Where peers reach it.
    pub address: PeerAddress,
    /// Its wall clock.
    pub clock: Arc<SimClock>,
    /// The first cluster state that it had, as it was stored: for a planted bug.
    first_state: Arc<OnceLock<Bytes>>,
    state: Mutex<State>,
}

struct State {
    running: Option<Running>,
    disk: MemoryStore,
    faults: DiskFaults,
    starts: u64,
    /// The next start takes everything in from the peers.
    is_to_rebuild: bool,
    /// Who it was on the disk that was lost: for a planted bug.
    lost_identity: Vec<(Bytes, Bytes)>,
    /// Why it can never serve again.
    retired: Option<String>,
    /// How often nodes whose processes have ended found that they had lost history.
    losses: u64,
}

/// The alarm of a node that finds that it has lost history.
const LOST_HISTORY: &str = "lost-history";

/// Told of every batch that is queued on a machine's disk, with the machine's number.
pub type MachineWitness = Arc<dyn Fn(usize, &Batch) + Send + Sync>;

/// Told of writes that a node keeps for a replica which did not take them.
pub type KeptWitness = Arc<dyn Fn(usize, &NodeId, &KeyPath, Dot) + Send + Sync>;

/// What all machines have in common.
pub struct Common {
    /// The network.
    pub network: LoopbackNetwork,
    /// Mints are told to it.
    pub history: History,
    /// What happens is told to it.
    pub trace: Trace,
    /// Batches are told to it.
    pub on_batch: MachineWitness,
    /// Writes that a replica did not take are told to it.
    pub on_untaken: KeptWitness,
    /// The bug that is planted in every node.
    pub bug: Option<PlantedBug>,
    /// Of all nodes.
    pub durability: Durability,
    /// Seeds what nodes and disks draw.
    pub seed: u64,
}

impl Machine {
    /// One with an empty disk, switched off.
    pub fn new(number: usize, address: PeerAddress, clock: (i64, i64)) -> Self {
        let state = State {
            running: None,
            disk: SimDisk::empty(),
            faults: DiskFaults::default(),
            starts: 0,
            is_to_rebuild: false,
            lost_identity: Vec::new(),
            retired: None,
            losses: 0,
        };
        Self {
            number,
            name: format!("node-{}", number + 1),
            address,
            clock: Arc::new(SimClock::new(clock)),
            first_state: Arc::default(),
            state: Mutex::new(state),
        }
    }

    /// What runs, if something does.
    pub fn running(&self) -> Option<Running> {
        self.lock().running.clone()
    }

    /// Why it can never serve again, if so.
    pub fn retired(&self) -> Option<String> {
        self.lock().retired.clone()
    }

    /// How often its nodes found that they had lost history.
    pub fn losses(&self) -> u64 {
        let state = self.lock();
        let now = state.running.as_ref().map_or(0, |r| r.metrics.alarms(LOST_HISTORY));
        state.losses + now
    }

    /// It can never serve again.
    pub fn retire(&self, why: &str) {
        self.lock().retired.get_or_insert_with(|| why.to_owned());
    }

    /// Changes how its disk behaves.
    pub fn set_disk_faults(&self, change: impl FnOnce(&mut DiskFaults)) {
        let mut state = self.lock();
        change(&mut state.faults);
        if let Some(running) = &state.running {
            running.disk.set_faults(state.faults.clone());
        }
    }

    /// The next start takes everything in from the peers, in place of what was on the disk.
    pub fn rebuild_at_next_start(&self) {
        let mut state = self.lock();
        let mut identity = state.disk.entries(Space::Meta);
        identity.retain(|(key, _)| {
            let key = MetaKey::from_bytes(key);
            let names = [MetaKey::Format, MetaKey::Identity, MetaKey::Boot, MetaKey::ClusterState];
            key.is_some_and(|key| names.contains(&key))
        });
        let state_key = MetaKey::ClusterState.to_bytes();
        for (_, value) in identity.iter_mut().filter(|(key, _)| *key == state_key) {
            // Of what it has gone on to it knows nothing.
            if let Some(first) = self.first_state.get() {
                value.clone_from(first);
            }
        }
        state.lost_identity = identity;
        state.disk = SimDisk::empty();
        state.is_to_rebuild = true;
    }

    /// Works on the disk of a machine that is off.
    pub fn with_disk_at_rest<T>(&self, work: impl FnOnce(&mut MemoryStore) -> T) -> T {
        work(&mut self.lock().disk)
    }

    /// Switches it on: makes the process, opens the directory, starts the node. Returns when it
    /// serves or has failed.
    ///
    /// # Errors
    /// [`StartError`]; the process has ended then.
    pub async fn start(&self, settings: Settings, common: &Common) -> Result<(), StartError> {
        let Some((running, seams)) = self.switch_on(&settings, common) else { return Ok(()) };
        let (slot, process) = (Arc::clone(&running.node), running.process.clone());
        let starting = async move {
            let node = Node::open(Arc::new(settings), seams).await?;
            let is_first = slot.set(Arc::clone(&node)).is_ok();
            assert!(is_first, "a process runs one node");
            node.start().await
        };
        let started = tokio::spawn(process.run(starting));
        let abort = started.abort_handle();
        let outcome = tokio::select! {
            biased;
            started = started => started.expect("a start does not panic"),
            () = process.killed() => Ok(()),
        };
        abort.abort();
        if outcome.is_err() {
            self.end(Ending::ProcessDied, common);
        }
        outcome
    }

    /// The process and what its node stands on; `None` where one runs already, or never may again.
    fn switch_on(&self, settings: &Settings, common: &Common) -> Option<(Running, Seams)> {
        let mut state = self.lock();
        if state.running.is_some() || state.retired.is_some() {
            return None;
        }
        state.starts += 1;
        let seed = common.seed ^ ((self.number as u64 + 1) << 32) ^ state.starts;
        if common.bug == Some(PlantedBug::WipedNodeVotes) {
            // It goes on as if its disk had not been lost.
            for (key, value) in std::mem::take(&mut state.lost_identity) {
                state.disk.damage(Space::Meta, key, value);
            }
        }
        // Until it is in the cluster again.
        let is_in_a_cluster = state
            .disk
            .entries(Space::Meta)
            .iter()
            .any(|(key, _)| MetaKey::from_bytes(key) == Some(MetaKey::ClusterState));
        state.is_to_rebuild &= !is_in_a_cluster;
        let rebuild = state.is_to_rebuild;
        let disk = std::mem::replace(&mut state.disk, SimDisk::empty());
        let disk = SimDisk::new(
            disk,
            common.durability,
            state.faults.clone(),
            seed ^ 0x5eed,
            self.batch_witness(common),
        );
        let span = tracing::info_span!("node", name = %settings.id);
        let running = Running {
            process: Process::simulated(span),
            node: Arc::default(),
            disk: Arc::new(disk),
            metrics: Arc::new(Metrics::new()),
        };
        state.running = Some(running.clone());
        let (history, number) = (common.history.clone(), self.number);
        let on_untaken = Arc::clone(&common.on_untaken);
        let (process, node) = (running.process.clone(), Arc::clone(&running.node));
        let inbox = Arc::new(Inbox { process, node });
        let seams = Seams {
            store: Arc::clone(&running.disk) as Arc<dyn Store>,
            transport: common.network.attach(self.address.clone(), inbox),
            clock: Arc::clone(&self.clock) as Arc<dyn Clock>,
            random: Randomness::from_seed(seed),
            metrics: Arc::clone(&running.metrics),
            process: running.process.clone(),
            instruments: Instruments {
                bug: common.bug,
                on_mint: Some(Arc::new(move |write| history.mint(number, write))),
                on_untaken: Some(Arc::new(move |target, path, dot| {
                    on_untaken(number, target, path, dot);
                })),
                on_adopted: None,
            },
            has_lost_data: false,
            rebuild,
        };
        Some((running, seams))
    }

    fn batch_witness(&self, common: &Common) -> BatchWitness {
        let (on_batch, number) = (Arc::clone(&common.on_batch), self.number);
        let (first_state, key) = (Arc::clone(&self.first_state), MetaKey::ClusterState.to_bytes());
        Arc::new(move |batch| {
            let state = batch.changes().iter().find_map(|change| match change {
                Change::Put { space: Space::Meta, key: put, value } if *put == key => Some(value),
                _ => None,
            });
            if let Some(state) = state {
                first_state.get_or_init(|| state.clone());
            }
            on_batch(number, batch);
        })
    }

    /// Ends its process at once. False where none ran.
    pub fn end(&self, ending: Ending, common: &Common) -> bool {
        let Some(running) = self.lock().running.take() else { return false };
        running.process.kill();
        common.network.detach(&self.address);
        let mut state = self.lock();
        state.losses += running.metrics.alarms(LOST_HISTORY);
        state.disk = running.disk.take_out(ending);
        true
    }

    /// Ends its process cleanly. False where none served.
    pub async fn stop(&self, common: &Common) -> bool {
        let Some(running) = self.running() else { return false };
        let Some(node) = running.serving() else { return false };
        let stopping = tokio::spawn(running.process.run(async move { node.stop().await }));
        tokio::select! {
            biased;
            () = running.process.killed() => return false,
            stopped = stopping => stopped.expect("a stop does not panic"),
        }
        self.end(Ending::ProcessDied, common)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
