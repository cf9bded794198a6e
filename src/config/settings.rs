//! The settings of a node, validated. Each is documented once: on its field.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::peer::PeerAddress;
use crate::protocol::causality::Resolve;
use crate::storage::Durability;
use crate::types::{Bucket, Level, NodeId, PartitionCount, ReplicationFactor, Weight, Zone};

/// Everything that a node is told. Comes from the file, then the environment, then flags.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `id`: this node's name, unique in the cluster. Default `node-1`.
    pub id: NodeId,
    /// `http`: where clients are listened for. Default `127.0.0.1:7070`.
    pub http: SocketAddr,
    /// `peer`: where other nodes are listened for. Default `127.0.0.1:7071`.
    pub peer: SocketAddr,
    /// `advertise_http`: where clients reach this node, if not at `http`.
    pub advertise_http: PeerAddress,
    /// `advertise_peer`: where peers reach this node, if not at `peer`.
    pub advertise_peer: PeerAddress,
    /// `data_dir`: where data is kept; belongs to one node. Default `starling-data`.
    pub data_dir: PathBuf,
    /// `pid_file`: where the process id is written at the start. Default: nowhere.
    pub pid_file: Option<PathBuf>,
    /// `zone`: where this node stands; replicas go into distinct zones. Default `default`.
    pub zone: Zone,
    /// `weight`: its share of the data relative to others; 0: a gateway without data. Default 1.
    pub weight: Weight,
    /// `initial_nodes`: who forms the cluster; the same list on all of them. Ignored once formed.
    /// Empty, and no `join`: this node forms a cluster of one.
    pub initial_nodes: Vec<InitialNode>,
    /// `join`: peers of a cluster that this node wants to be in.
    pub join: Vec<PeerAddress>,
    /// `auto_join`: whether it applies for that itself. Default false.
    pub auto_join: bool,
    /// `partitions`: equal ranges of the ring, a power of two, 64 to 65,536, fixed at formation.
    /// Default 1,024.
    pub partitions: PartitionCount,
    /// `replication_factor`: N. Default 3.
    pub replication_factor: ReplicationFactor,
    /// `cluster.secret`: keys the tags of context tokens; the same on all nodes. Without one the
    /// cluster id is used, which guards against accidents, not against attackers. 16 bytes or more.
    pub cluster_secret: Option<Secret>,
    /// `durability`: what an acknowledgement means. Default `sync`.
    pub durability: Durability,
    /// `read_repair`: whether reads wait for stale replicas to be mended. Default `blocking`.
    pub read_repair: ReadRepair,
    /// `max_value_bytes`: the largest value. Default 8 MiB.
    pub max_value_bytes: usize,
    /// `max_siblings`: versions that a PUT may leave. Default 100.
    pub max_siblings: usize,
    /// `max_connections`: client connections at once; more are answered with 503. Default 4,096.
    pub max_connections: usize,
    /// `max_requests`: client requests at once; more are answered with 429. Fewer are taken while all
    /// of them take long. Default 1,024.
    pub max_requests: usize,
    /// `header_timeout`: how long a request's head may take, in all. Default 10 s.
    pub header_timeout: Duration,
    /// `body_timeout`: how long a body may stand still. Default 10 s.
    pub body_timeout: Duration,
    /// `gc_grace`: how long a deletion is kept before it is purged; at least twice the longest
    /// request timeout, which is 60 s. Default 1 h.
    pub gc_grace: Duration,
    /// `allow_short_gc_grace`: lets `gc_grace` be below its floor, for tests. Default false.
    pub allow_short_gc_grace: bool,
    /// `hints.*`.
    pub hints: HintSettings,
    /// `repair.*`.
    pub repair: RepairSettings,
    /// `streaming.*`.
    pub streaming: StreamingSettings,
    /// `storage.*`.
    pub storage: StorageSettings,
    /// `membership.*`.
    pub membership: MembershipSettings,
    /// `log.*`.
    pub log: LogSettings,
    /// `default_bucket`: the properties of buckets that are not named.
    pub default_bucket: BucketSettings,
    /// `buckets.<name>`: properties of buckets, over `default_bucket`.
    pub buckets: BTreeMap<Bucket, BucketSettings>,
}

/// A text that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes a secret.
    pub const fn new(text: String) -> Self {
        Self(text)
    }

    /// The bytes, for keying a hash.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"***\"")
    }
}

/// One founding node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct InitialNode {
    /// Its name.
    pub id: NodeId,
    /// Where peers reach it.
    pub peer: PeerAddress,
    /// Where it stands. Default `default`.
    #[serde(default)]
    pub zone: Zone,
    /// Its share. Default 1.
    #[serde(default)]
    pub weight: Weight,
}

/// Whether reads wait for stale replicas to be mended (correctness, section 3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReadRepair {
    /// From `quorum` up, the answer waits until the merge stands on a write quorum.
    #[default]
    Blocking,
    /// Stale replicas are mended after the answer.
    Async,
    /// Reads mend nothing.
    Off,
}

/// `hints.*`: what is kept for nodes that are down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HintSettings {
    /// `hints.max_bytes`: room for hints; beyond it new ones are refused, or dropped and left to
    /// anti-entropy. 0: none are kept. Default 1 GiB.
    pub max_bytes: u64,
    /// `hints.max_age`: how long one is kept, unless it was counted in an answer. Default 3 h.
    pub max_age: Duration,
    /// `hints.max_bytes_per_second`: how fast they are brought to a node that is back; 0: as fast
    /// as it goes. Default 64 MiB.
    pub max_bytes_per_second: u64,
}

/// `repair.*`: anti-entropy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepairSettings {
    /// `repair.interval`: how often a node compares all that it shares with each other node.
    /// Default 60 s.
    pub interval: Duration,
    /// `repair.max_bytes_per_second`: how much it moves for that; 0: as much as it can. Default
    /// 64 MiB.
    pub max_bytes_per_second: u64,
    /// `repair.scrub_interval`: within what time every record is compared with its checksum and
    /// its hash tree. Default 7 days.
    pub scrub_interval: Duration,
}

/// `streaming.*`: taking in and letting go of vnodes while the ring changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamingSettings {
    /// `streaming.max_bytes_per_second`: how much each of the vnodes that are taken in together
    /// moves; 0: as much as it can. Default 64 MiB.
    pub max_bytes_per_second: u64,
}

/// `storage.*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorageSettings {
    /// `storage.min_free_bytes`: below it, writes are refused with 507. Default 256 MiB.
    pub min_free_bytes: u64,
    /// `storage.block_cache_bytes`: memory for blocks of the store's files. Default 256 MiB.
    pub block_cache_bytes: usize,
    /// `storage.memtable_bytes`: memory for data not yet written to files. Default 64 MiB.
    pub memtable_bytes: usize,
}

/// `membership.*`: SWIM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MembershipSettings {
    /// `membership.probe_period`: each node probes one other this often. Default 500 ms.
    pub probe_period: Duration,
    /// `membership.probe_timeout`: how long a probe waits before others are asked to probe.
    /// Default 200 ms.
    pub probe_timeout: Duration,
    /// `membership.suspicion`: how long a suspect has to defend itself. Default 2.5 s.
    pub suspicion: Duration,
}

/// `log.*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// `log.format`: `text` or `json`. Default `text`.
    pub format: LogFormat,
    /// `log.filter`: what is logged, as in `info` or `info,starling=debug`. Default `info`.
    pub filter: String,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For machines: one object a line.
    Json,
}

/// Properties of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BucketSettings {
    /// `r`: R where the request names none; a level's name or a number. Default `quorum`.
    pub r: Level,
    /// `w`: W where the request names none; a level's name or a number. Default `quorum`.
    pub w: Level,
    /// `resolve`: `siblings` or `lww`. Default `siblings`.
    pub resolve: Resolve,
    /// `sloppy`: whether fallbacks may stand in for down replicas. Default false.
    pub sloppy: bool,
}

impl Default for BucketSettings {
    fn default() -> Self {
        Self { r: Level::Quorum, w: Level::Quorum, resolve: Resolve::Siblings, sloppy: false }
    }
}

impl Settings {
    /// The properties of a bucket: its own, or the default.
    pub fn bucket(&self, bucket: &Bucket) -> BucketSettings {
        self.buckets.get(bucket).copied().unwrap_or(self.default_bucket)
    }
}
