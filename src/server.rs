//! A node on a real machine: its files, its sockets, its signals.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Handle, Runtime};

use crate::config::Settings;
use crate::http::{self, HttpLimits, Load, Observer};
use crate::node::operation::Service;
use crate::node::view::RepairView;
use crate::node::{Instruments, Node, Phase, Process, Randomness, Seams, SystemClock};
use crate::peer::http::{HttpOptions, HttpTransport, PeerListener, PeerServer};
use crate::peer::{PeerStatistics, Transport};
use crate::storage::{OpenError, Recovery, RocksOptions, RocksStore, Store};
use crate::telemetry::{Metrics, Sample};

/// How long requests that were begun may take once a stop was asked for. With the node's own drain
/// this stays below the 10 s that a stop may take in all.
const REQUESTS_DRAIN: Duration = Duration::from_secs(3);

/// What is left for answers to peers once the node has stopped.
const PEERS_DRAIN: Duration = Duration::from_millis(500);

/// How much lower than that of requests the priority of repair and streams is (nice(2)).
const BACKGROUND_NICE: i32 = 10;

/// What to do with what is in the data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Go on from it.
    GoOn,
    /// Empty it, and take everything in from the peers.
    Rebuild,
}

/// Runs a node until `stop` is done, then stops it cleanly.
///
/// # Errors
/// What keeps the node from starting, in words that say what to do.
pub async fn run(
    settings: Settings,
    start: Start,
    stop: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<()> {
    let settings = Arc::new(settings);
    warn_of_open_ports(&settings);
    let listeners = Listeners::open(&settings)?;
    if let Some(file) = &settings.pid_file {
        std::fs::write(file, format!("{}\n", std::process::id()))
            .with_context(|| format!("can't write the process id to {}", file.display()))?;
    }
    if start == Start::Rebuild {
        empty(&settings).await?;
    }
    let store = open_store(&settings).await?;
    let random = Randomness::from_system().context("the system gives no randomness")?;
    let options =
        HttpOptions { max_frame_bytes: max_frame_bytes(&settings), ..HttpOptions::default() };
    let transport = Arc::new(HttpTransport::new(options, random.u64()));
    let background = Background::start().context("can't start threads")?;
    let metrics = Arc::new(Metrics::new());
    register_samples(&metrics, &store, &transport);
    let seams = Seams {
        has_lost_data: *store.recovery() != Recovery::Whole,
        store: Arc::clone(&store) as Arc<dyn Store>,
        transport: Arc::clone(&transport) as Arc<dyn Transport>,
        clock: Arc::new(SystemClock),
        random,
        metrics: Arc::clone(&metrics),
        process: Process::with_background(background.handle().clone()),
        instruments: Instruments::default(),
        rebuild: start == Start::Rebuild,
    };
    let node = Node::open(Arc::clone(&settings), seams).await?;
    register_repair_samples(&metrics, &node);
    let running = Running { settings, node, store, transport, metrics };
    running.serve(listeners, stop).await
}

/// How many threads a node needs for requests, and for what it does in the background: half as many as
/// there are processors, one at least. The store's own threads need the others.
pub fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, |processors| (processors.get() / 2).max(1))
}

/// Threads for repair and streams.
struct Background(Option<Runtime>);

impl Background {
    fn start() -> std::io::Result<Self> {
        let lower = lower_priority();
        let runtime = Builder::new_multi_thread()
            .worker_threads(threads())
            .thread_name("background")
            .on_thread_start(move || yield_to_others(lower))
            .enable_all()
            .build()?;
        Ok(Self(Some(runtime)))
    }

    fn handle(&self) -> &Handle {
        self.0.as_ref().expect("there until it is dropped").handle()
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // What still reads or writes must not keep the process from ending.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// The priority of threads that give way to those of this process.
fn lower_priority() -> i32 {
    const LEAST: i32 = 19;
    let now = rustix::process::getpriority_process(None).unwrap_or_default();
    (now + BACKGROUND_NICE).min(LEAST)
}

/// Has the system run this thread when no other wants to run. A priority and not a difference: threads
/// inherit it from one another. Elsewhere than on Linux it is one of whole processes.
fn yield_to_others(priority: i32) {
    if cfg!(target_os = "linux")
        && let Err(error) = rustix::process::setpriority_process(None, priority)
    {
        tracing::warn!(%error, "repair and streams run at the priority of requests");
    }
}

struct Listeners {
    clients: TcpListener,
    peers: PeerListener,
}

impl Listeners {
    /// Takes both ports before anything else, so that a taken one is told at once.
    fn open(settings: &Settings) -> anyhow::Result<Self> {
        let taken = |what: &str, address| {
            format!("can't listen for {what} on {address}; is another node running there?")
        };
        let clients =
            http::listen(settings.http).with_context(|| taken("clients", settings.http))?;
        let options =
            HttpOptions { max_frame_bytes: max_frame_bytes(settings), ..HttpOptions::default() };
        let peers = HttpTransport::bind(settings.peer, options)
            .with_context(|| taken("peers", settings.peer))?;
        Ok(Self { clients, peers })
    }
}

struct Running {
    settings: Arc<Settings>,
    node: Arc<Node>,
    store: Arc<RocksStore>,
    transport: Arc<HttpTransport>,
    metrics: Arc<Metrics>,
}

impl Running {
    async fn serve(
        self,
        listeners: Listeners,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> anyhow::Result<()> {
        let peers = listeners.peers.serve(Arc::clone(&self.node) as _);
        let (stopping, stopped) = tokio::sync::watch::channel(false);
        let wait = |mut stopped: tokio::sync::watch::Receiver<bool>| async move {
            // An error means that the sender is gone, which is a stop too.
            drop(stopped.wait_for(|stopped| *stopped).await);
        };
        let clients = tokio::spawn(http::serve(
            listeners.clients,
            Arc::new(Arc::clone(&self.node)) as Arc<dyn Service>,
            Arc::new(MetricsObserver(Arc::clone(&self.metrics))) as Arc<dyn Observer>,
            self.limits(),
            wait(stopped),
        ));
        tokio::pin!(stop);
        let started = tokio::select! {
            started = self.node.start() => started,
            () = &mut stop => {
                self.shut_down(stopping, clients, peers).await;
                return Ok(());
            }
        };
        if started.is_ok() {
            if let Err(error) = self.forget_lost_data().await {
                tracing::error!(%error, "the note on the damaged log stays: the next start mends again");
            }
            stop.await;
            tracing::info!("stopping");
        }
        self.shut_down(stopping, clients, peers).await;
        Ok(started?)
    }

    async fn shut_down(
        &self,
        stopping: tokio::sync::watch::Sender<bool>,
        clients: tokio::task::JoinHandle<()>,
        peers: PeerServer,
    ) {
        stopping.send_replace(true);
        if tokio::time::timeout(REQUESTS_DRAIN, clients).await.is_err() {
            tracing::warn!("some requests were not done in time");
        }
        self.node.stop().await;
        peers.shutdown(PEERS_DRAIN).await;
        self.transport.shutdown();
        tracing::info!("stopped");
    }

    /// What the store lost is on disk as incomplete vnodes by now.
    async fn forget_lost_data(&self) -> anyhow::Result<()> {
        let is_marked = self.node.phase().borrow().clone() == Phase::Serving;
        if is_marked && *self.store.recovery() != Recovery::Whole {
            let store = Arc::clone(&self.store);
            tokio::task::spawn_blocking(move || store.forget_cut()).await??;
        }
        Ok(())
    }

    fn limits(&self) -> HttpLimits {
        HttpLimits {
            max_value_bytes: self.settings.max_value_bytes,
            max_connections: self.settings.max_connections,
            max_requests: self.settings.max_requests,
            header_timeout: self.settings.header_timeout,
            body_timeout: self.settings.body_timeout,
            ..HttpLimits::default()
        }
    }
}

/// A record holds at most `max_siblings` values and one more, each with its metadata; one frame
/// holds one record, or a page of small ones.
fn max_frame_bytes(settings: &Settings) -> usize {
    let record = (settings.max_value_bytes + (16 << 10)) * (settings.max_siblings + 1);
    record.clamp(64 << 20, u32::MAX as usize)
}

/// Empties the data directory, unless it is another node's or somebody works with it.
async fn empty(settings: &Settings) -> anyhow::Result<()> {
    let dir = settings.data_dir.clone();
    let opened = match open_store(settings).await {
        Ok(store) => {
            let owner = Node::owner_of(&*store).await;
            store.close().await?;
            drop(store);
            owner.ok().flatten()
        }
        Err(error) => match error.downcast::<OpenError>() {
            Ok(OpenError::Corrupt { cause, .. }) => {
                tracing::warn!(%cause, "the data directory can't be opened; it is emptied");
                None
            }
            Ok(error) => return Err(error.into()),
            Err(error) => return Err(error),
        },
    };
    if let Some(owner) = opened.filter(|owner| *owner != settings.id) {
        anyhow::bail!(
            "{} belongs to node {owner}, and this node is {}; nothing was deleted",
            dir.display(),
            settings.id
        );
    }
    let emptied = dir.clone();
    tokio::task::spawn_blocking(move || RocksStore::destroy(&emptied))
        .await?
        .with_context(|| format!("can't empty {}", dir.display()))?;
    tracing::warn!(dir = %dir.display(), "the data directory was emptied");
    Ok(())
}

async fn open_store(settings: &Settings) -> anyhow::Result<Arc<RocksStore>> {
    let dir = settings.data_dir.clone();
    let options = RocksOptions {
        durability: settings.durability,
        block_cache_bytes: settings.storage.block_cache_bytes,
        memtable_bytes: settings.storage.memtable_bytes,
        ..RocksOptions::default()
    };
    let opened = tokio::task::spawn_blocking(move || RocksStore::open(&dir, &options)).await?;
    let store = Arc::new(opened?);
    if let Recovery::CutShort(cause) = store.recovery() {
        tracing::error!(%cause, "the log of the store was damaged: what was lost is taken in from the other replicas");
    }
    Ok(store)
}

fn warn_of_open_ports(settings: &Settings) {
    for (name, address) in [("http", settings.http), ("peer", settings.peer)] {
        if !address.ip().is_loopback() {
            tracing::warn!(%address, "{name} listens beyond this machine, and there is no authentication: whoever reaches it can read and write everything");
        }
    }
}

fn register_samples(metrics: &Metrics, store: &Arc<RocksStore>, transport: &Arc<HttpTransport>) {
    let (store, transport) = (Arc::clone(store), Arc::clone(transport));
    metrics.register_samples(move || {
        let mut samples = storage_samples(&*store);
        samples.extend(transport.statistics().iter().flat_map(peer_samples));
        samples
    });
}

fn register_repair_samples(metrics: &Metrics, node: &Arc<Node>) {
    let node = Arc::downgrade(node);
    metrics.register_samples(move || {
        let view = node.upgrade().and_then(|node| node.repair().ok());
        view.map_or_else(Vec::new, |view| repair_samples(&view))
    });
}

fn repair_samples(view: &RepairView) -> Vec<Sample> {
    let mut samples = vec![Sample::gauge(
        "repair_debt_seconds",
        "Age of the oldest proof that two replicas are the same",
        view.debt_seconds,
    )];
    for hints in &view.hints {
        let labelled = |sample: Sample| sample.with_label("target", hints.target.as_str());
        samples.push(labelled(Sample::gauge(
            "hints_stored",
            "Hints that are kept for a node",
            hints.count as f64,
        )));
        samples.push(labelled(Sample::gauge(
            "hints_stored_bytes",
            "Their size",
            hints.bytes as f64,
        )));
    }
    samples
}

fn storage_samples(store: &dyn Store) -> Vec<Sample> {
    let s = store.statistics();
    let free = store.free_bytes().unwrap_or(0);
    vec![
        Sample::gauge("storage_free_bytes", "Free space of the data directory's disk", free as f64),
        Sample::gauge("storage_disk_bytes", "Size of the data files", s.disk_bytes as f64),
        Sample::gauge("storage_memtable_bytes", "Data not yet in files", s.memtable_bytes as f64),
        Sample::gauge(
            "storage_block_cache_bytes",
            "Memory of the block cache",
            s.block_cache_bytes as f64,
        ),
        Sample::gauge(
            "storage_pending_compaction_bytes",
            "Data that waits for compaction",
            s.pending_compaction_bytes as f64,
        ),
        Sample::gauge(
            "storage_estimated_keys",
            "About how many keys are stored",
            s.estimated_keys as f64,
        ),
        Sample::gauge(
            "storage_queued_bytes",
            "Batches that wait for the writer",
            s.queued_bytes as f64,
        ),
        Sample::counter("storage_batches", "Batches that were written", s.batches as f64),
        Sample::counter(
            "storage_groups",
            "Groups of batches that were written together",
            s.groups as f64,
        ),
        Sample::counter("storage_failed_groups", "Groups that failed", s.failed_groups as f64),
        Sample::counter("storage_syncs", "Times the log was synced", s.syncs as f64),
        Sample::counter("storage_sync_seconds", "Time spent syncing the log", s.sync_seconds),
        Sample::counter("storage_cache_hits", "Reads answered from memory", s.cache_hits as f64),
        Sample::counter(
            "storage_cache_misses",
            "Reads that went to the disk",
            s.cache_misses as f64,
        ),
    ]
}

fn peer_samples(peer: &PeerStatistics) -> Vec<Sample> {
    let labelled = |sample: Sample| sample.with_label("address", peer.address.as_str());
    vec![
        labelled(Sample::gauge(
            "peer_calls_in_flight",
            "Calls without an answer so far",
            peer.in_flight as f64,
        )),
        labelled(Sample::counter(
            "peer_sent_bytes",
            "Bytes written to the peer",
            peer.bytes_sent as f64,
        )),
        labelled(Sample::counter(
            "peer_received_bytes",
            "Bytes read from the peer",
            peer.bytes_received as f64,
        )),
        labelled(Sample::counter(
            "peer_connects",
            "Connections made to the peer",
            peer.connects as f64,
        )),
        labelled(Sample::counter(
            "peer_connect_failures",
            "Attempts to connect that failed",
            peer.connect_failures as f64,
        )),
        labelled(Sample::counter(
            "peer_dropped_messages",
            "One-way messages that were dropped",
            peer.dropped as f64,
        )),
    ]
}

/// The metrics as the HTTP API tells them.
struct MetricsObserver(Arc<Metrics>);

impl Observer for MetricsObserver {
    fn request_finished(
        &self,
        operation: &'static str,
        level: &'static str,
        outcome: &'static str,
        seconds: f64,
    ) {
        self.0.request_finished(operation, level, outcome, seconds);
    }

    fn connection_opened(&self) {
        self.0.connection_opened();
    }

    fn connection_closed(&self) {
        self.0.connection_closed();
    }

    fn connection_refused(&self) {
        self.0.connection_refused();
    }

    fn load(&self, Load { limit, in_flight }: Load) {
        self.0.load(limit, in_flight);
    }

    fn metrics_text(&self) -> String {
        self.0.encode()
    }
}
