//! Counters, gauges and histograms of a node, as `GET /metrics` shows them.
//!
//! Names begin with `starling_`, units last. A [`Metrics`] is a cheap handle: clones share
//! everything. Recording takes a shared lock and a hash of the labels, and allocates nothing once a
//! series exists. The values of labels must come from fixed sets (names of operations, codes of
//! errors, ids of nodes), never from a client's input: each new one is a series that stays.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode_registry;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry};

use super::exposition::to_prometheus_text;
use super::labels::{
    BuildLabels, KindLabel, MemberLabels, NodeName, OutcomeLabel, PeerLabel, ReasonLabel,
    ReplicaCallLabels, RequestLabels, ShortText,
};
use super::process::ProcessCollector;
use super::samples::{Sample, SamplesCollector};
use crate::types::NodeId;

/// The content type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Upper bounds of latency buckets in seconds, 50 µs to 10 s.
const LATENCY_BUCKETS: [f64; 17] = [
    0.000_05, 0.000_1, 0.000_2, 0.000_4, 0.000_8, 0.001_5, 0.003, 0.006, 0.012, 0.025, 0.05, 0.1,
    0.25, 0.5, 1.0, 2.5, 10.0,
];

/// Upper bounds of the buckets for counts of siblings.
const SIBLING_BUCKETS: [f64; 8] = [1.0, 2.0, 3.0, 5.0, 10.0, 25.0, 50.0, 100.0];

const MEMBER_STATES: [&str; 3] = ["up", "suspect", "down"];

type Latencies<L> = Family<L, Histogram, fn() -> Histogram>;

/// The metrics of one node.
#[derive(Clone, Debug)]
pub struct Metrics {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    registry: Mutex<Registry>,
    requests: Family<RequestLabels, Counter>,
    request_seconds: Latencies<RequestLabels>,
    connections_open: Gauge,
    connections: Counter,
    connections_refused: Counter,
    request_limit: Gauge,
    requests_in_flight: Gauge,
    replica_calls: Family<ReplicaCallLabels, Counter>,
    replica_call_seconds: Latencies<ReplicaCallLabels>,
    siblings: Histogram,
    read_repairs: Family<OutcomeLabel, Counter>,
    hedged_reads: Counter,
    failed_over_reads: Counter,
    actors_retired: Family<ReasonLabel, Counter>,
    alarms: Family<KindLabel, Counter>,
    clock_drift_seconds: Family<PeerLabel, Gauge<f64, AtomicU64>>,
    members: Family<MemberLabels, Gauge>,
    incomplete_vnodes: Gauge,
    writes_refused: Family<ReasonLabel, Counter>,
    hints: Family<OutcomeLabel, Counter>,
    repaired_records: Family<PeerLabel, Counter>,
    repair_bytes: Family<PeerLabel, Counter>,
    quarantined_keys: Gauge,
    purged_keys: Counter,
    tombstones: Gauge,
    husks: Gauge,
    scrubbed_records: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// The metrics of a node that has just started.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("starling");
        let build = Family::<BuildLabels, Gauge>::default();
        build.get_or_create(&BuildLabels { version: env!("CARGO_PKG_VERSION") }).set(1);
        registry.register("build_info", "The version that runs; always 1", build);
        registry.register_collector(Box::new(ProcessCollector));
        let shared = Shared::register(registry);
        Self { shared: Arc::new(shared) }
    }

    /// A client's request was answered. `level` is its level as the client or the bucket named it,
    /// or empty; `outcome` is `ok` or the code of the error.
    pub fn request_finished(
        &self,
        operation: &'static str,
        level: &str,
        outcome: &str,
        seconds: f64,
    ) {
        let (level, outcome) = (ShortText::new(level), ShortText::new(outcome));
        let labels = RequestLabels { operation, level, outcome };
        self.shared.requests.get_or_create(&labels).inc();
        self.shared.request_seconds.get_or_create(&labels).observe(seconds);
    }

    /// A client has connected.
    pub fn connection_opened(&self) {
        self.shared.connections.inc();
        self.shared.connections_open.inc();
    }

    /// A client's connection has ended.
    pub fn connection_closed(&self) {
        self.shared.connections_open.dec();
    }

    /// A client was turned away because of `max_connections`.
    pub fn connection_refused(&self) {
        self.shared.connections_refused.inc();
    }

    /// How many requests a node takes at once, and how many it has.
    pub fn load(&self, limit: usize, in_flight: usize) {
        self.shared.request_limit.set(i64::try_from(limit).unwrap_or(i64::MAX));
        self.shared.requests_in_flight.set(i64::try_from(in_flight).unwrap_or(i64::MAX));
    }

    /// A peer has answered a message, or failed to.
    pub fn replica_call(
        &self,
        peer: &NodeId,
        message: &'static str,
        outcome: &'static str,
        seconds: f64,
    ) {
        let labels = ReplicaCallLabels { peer: NodeName(peer.clone()), message, outcome };
        self.shared.replica_calls.get_or_create(&labels).inc();
        self.shared.replica_call_seconds.get_or_create(&labels).observe(seconds);
    }

    /// A write left a key with this many siblings.
    pub fn siblings_after_write(&self, count: usize) {
        self.shared.siblings.observe(count as f64);
    }

    /// A read found stale replicas and mended them, or failed to.
    pub fn read_repair(&self, outcome: &'static str) {
        self.shared.read_repairs.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    /// A second replica was asked because the first was slow.
    pub fn hedged_read(&self) {
        self.shared.hedged_reads.inc();
    }

    /// A second replica was asked because the first failed.
    pub fn failed_over_read(&self) {
        self.shared.failed_over_reads.inc();
    }

    /// A vnode has given up its actor.
    pub fn actor_retired(&self, reason: &'static str) {
        self.shared.actors_retired.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// Something happened that must never happen; an operator should look.
    pub fn alarm(&self, kind: &'static str) {
        self.shared.alarms.get_or_create(&KindLabel { kind }).inc();
    }

    /// How often an alarm of this kind was raised.
    pub fn alarms(&self, kind: &'static str) -> u64 {
        self.shared.alarms.get_or_create(&KindLabel { kind }).get()
    }

    /// A peer's clock is this far ahead of ours.
    pub fn clock_drift(&self, peer: &NodeId, ahead_ms: u64) {
        let labels = PeerLabel { peer: NodeName(peer.clone()) };
        self.shared.clock_drift_seconds.get_or_create(&labels).set(ahead_ms as f64 / 1_000.0);
    }

    /// What the failure detector thinks of a node: `up`, `suspect` or `down`.
    pub fn member_state(&self, node: &NodeId, state: &'static str) {
        for each in MEMBER_STATES {
            let labels = MemberLabels { node: NodeName(node.clone()), state: each };
            self.shared.members.get_or_create(&labels).set(i64::from(each == state));
        }
    }

    /// So many vnodes of this node may lack acknowledged data.
    pub fn incomplete_vnodes(&self, count: usize) {
        self.shared.incomplete_vnodes.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// A write was refused because the disk is below its floor.
    pub fn writes_refused_disk_full(&self) {
        self.shared.writes_refused.get_or_create(&ReasonLabel { reason: "disk-full" }).inc();
    }

    /// A record is kept for a node that can't be reached, as a hint that counts.
    pub fn hint_kept(&self) {
        self.shared.hints.get_or_create(&OutcomeLabel { outcome: "kept" }).inc();
    }

    /// So many hints were brought to their target.
    pub fn hints_replayed(&self, count: u64) {
        self.shared.hints.get_or_create(&OutcomeLabel { outcome: "replayed" }).inc_by(count);
    }

    /// A hint was too old, or there was no room for it: anti-entropy has to do it.
    pub fn hint_dropped(&self) {
        self.shared.hints.get_or_create(&OutcomeLabel { outcome: "dropped" }).inc();
    }

    /// Anti-entropy has exchanged records with a peer, and moved so many bytes for that.
    pub fn repaired(&self, peer: &NodeId, records: u64, bytes: u64) {
        let labels = PeerLabel { peer: NodeName(peer.clone()) };
        self.shared.repaired_records.get_or_create(&labels).inc_by(records);
        self.shared.repair_bytes.get_or_create(&labels).inc_by(bytes);
    }

    /// So many keys have no undamaged record here.
    pub fn quarantined_keys(&self, count: usize) {
        self.shared.quarantined_keys.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Deleted keys have gone for good.
    pub fn purged(&self, keys: u64) {
        self.shared.purged_keys.inc_by(keys);
    }

    /// So many keys here are tombstones, and so many husks.
    pub fn deleted_keys(&self, tombstones: i64, husks: i64) {
        self.shared.tombstones.set(tombstones);
        self.shared.husks.set(husks);
    }

    /// The scrub has read records.
    pub fn scrubbed(&self, records: u64) {
        self.shared.scrubbed_records.inc_by(records);
    }

    /// Adds a source that is asked at each scrape: statistics that someone else keeps.
    pub fn register_samples(&self, source: impl Fn() -> Vec<Sample> + Send + Sync + 'static) {
        let collector = Box::new(SamplesCollector::new(source));
        self.registry().register_collector(collector);
    }

    /// Everything, in Prometheus' text format 0.0.4; its type is [`CONTENT_TYPE`].
    pub fn encode(&self) -> String {
        let mut text = String::with_capacity(16 << 10);
        encode_registry(&mut text, &self.registry()).expect("a String takes any text");
        to_prometheus_text(&text)
    }

    fn registry(&self) -> std::sync::MutexGuard<'_, Registry> {
        // A panic while scraping leaves the registry as it was: it is only read then.
        self.shared.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn latencies() -> Histogram {
    Histogram::new(LATENCY_BUCKETS)
}

fn latency_family<L: Clone + Eq + std::hash::Hash + EncodeLabelSet>() -> Latencies<L> {
    Family::new_with_constructor(latencies as fn() -> Histogram)
}

/// Registers what `make` makes. The registry ends the help text with a full stop itself.
fn add<M: Metric + Clone>(registry: &mut Registry, name: &str, help: &str, metric: M) -> M {
    registry.register(name, help, metric.clone());
    metric
}

impl Shared {
    fn register(mut registry: Registry) -> Self {
        let r = &mut registry;
        let siblings = Histogram::new(SIBLING_BUCKETS);
        Self {
            requests: add(r, "requests", "Requests of clients that were answered", <_>::default()),
            request_seconds: add(r, "request_seconds", "How long they took", latency_family()),
            connections_open: add(r, "connections_open", "Clients connected", <_>::default()),
            connections: add(r, "connections", "Clients that have connected", <_>::default()),
            connections_refused: add(
                r,
                "connections_refused",
                "Clients turned away because of max_connections",
                <_>::default(),
            ),
            request_limit: add(
                r,
                "request_limit",
                "Requests of clients that are taken at once; more are answered with 429",
                <_>::default(),
            ),
            requests_in_flight: add(
                r,
                "requests_in_flight",
                "Requests of clients that are being answered",
                <_>::default(),
            ),
            replica_calls: add(r, "replica_calls", "Messages sent to peers", <_>::default()),
            replica_call_seconds: add(
                r,
                "replica_call_seconds",
                "How long peers took to answer",
                latency_family(),
            ),
            siblings: add(r, "siblings", "Siblings of a key after a write", siblings),
            read_repairs: add(
                r,
                "read_repairs",
                "Reads that found stale replicas, by what became of mending them",
                <_>::default(),
            ),
            hedged_reads: add(
                r,
                "hedged_reads",
                "Replicas asked in addition because another was slow",
                <_>::default(),
            ),
            failed_over_reads: add(
                r,
                "failed_over_reads",
                "Replicas asked in addition because another failed",
                <_>::default(),
            ),
            actors_retired: add(r, "actors_retired", "Actors given up", <_>::default()),
            alarms: add(
                r,
                "alarms",
                "Things that must never happen, and an operator should look into",
                <_>::default(),
            ),
            clock_drift_seconds: add(
                r,
                "clock_drift_seconds",
                "How far a peer's clock was ahead when it was last seen ahead",
                <_>::default(),
            ),
            members: add(
                r,
                "member_state",
                "What the failure detector thinks of a node: 1 at its state",
                <_>::default(),
            ),
            incomplete_vnodes: add(
                r,
                "incomplete_vnodes",
                "Vnodes here that may lack acknowledged data",
                <_>::default(),
            ),
            writes_refused: add(r, "writes_refused", "Writes refused", <_>::default()),
            hints: add(
                r,
                "hints",
                "Hints that were kept by a fallback, replayed, or dropped",
                <_>::default(),
            ),
            repaired_records: add(
                r,
                "repaired_records",
                "Records that anti-entropy has exchanged",
                <_>::default(),
            ),
            repair_bytes: add(
                r,
                "repair_moved_bytes",
                "Bytes that anti-entropy has moved: hashes, keys, records",
                <_>::default(),
            ),
            quarantined_keys: add(
                r,
                "quarantined_keys",
                "Keys of which this node has no undamaged record",
                <_>::default(),
            ),
            purged_keys: add(
                r,
                "purged_keys",
                "Deleted keys that are gone for good",
                <_>::default(),
            ),
            tombstones: add(r, "tombstones", "Keys here that are deleted", <_>::default()),
            husks: add(r, "husks", "Deleted keys here that are about to be purged", <_>::default()),
            scrubbed_records: add(
                r,
                "scrubbed_records",
                "Records that the scrub has read",
                <_>::default(),
            ),
            registry: Mutex::new(registry),
        }
    }
}
