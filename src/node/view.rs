//! What a node shows of itself and of the cluster; serialised as the API documents it.

use serde::Serialize;

use crate::types::{Level, NodeId};

/// `GET /v1/cluster`.
#[derive(Clone, Debug, Serialize)]
pub struct ClusterView {
    /// 32 hex digits.
    pub cluster_id: String,
    /// How often the cluster was recovered by force.
    pub recovery: u64,
    /// The version of the cluster state.
    pub epoch: u64,
    /// The version of the tables.
    pub layout_version: u64,
    /// N of the cluster.
    pub replication_factor: u8,
    /// How many the ring has.
    pub partitions: u32,
    /// Who answers.
    pub this_node: NodeId,
    /// All of them, in the order of their ids.
    pub nodes: Vec<NodeView>,
    /// The running transition.
    pub transition: Option<TransitionView>,
    /// Partitions with fewer than N replicas in the layout.
    pub under_replicated: u32,
}

/// One node of [`ClusterView`].
#[derive(Clone, Debug, Serialize)]
pub struct NodeView {
    /// Its name.
    pub id: NodeId,
    /// Where it stands.
    pub zone: String,
    /// Where clients reach it, where that is known (it tells with the first contact).
    pub http: Option<String>,
    /// Where peers reach it.
    pub peer: String,
    /// Its share.
    pub weight: f64,
    /// What the failure detector thinks of it.
    pub state: NodeState,
    /// Its part in the layout.
    pub role: NodeRole,
    /// How many replicas of partitions it holds, over all tables.
    pub vnodes: usize,
    /// The version it runs, where that is known.
    pub software: Option<String>,
}

/// What the failure detector thinks of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    /// It answers.
    Up,
    /// It did not answer lately.
    Suspect,
    /// It has not answered for so long that requests are not sent to it.
    Down,
}

impl NodeState {
    /// As in JSON and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Suspect => "suspect",
            Self::Down => "down",
        }
    }
}

/// A node's part in the layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeRole {
    /// It holds replicas, and votes.
    Member,
    /// It is taking in its replicas.
    Joining,
    /// It is giving its replicas away.
    Leaving,
    /// It has shown up and was not applied yet.
    Candidate,
}

/// A change of the layout that is under way.
#[derive(Clone, Debug, Serialize)]
pub struct TransitionView {
    /// From which tables.
    pub from_layout: u64,
    /// To which tables.
    pub to_layout: u64,
    /// `prepare`, `switch`, `finish`, `abort`.
    pub phase: &'static str,
    /// Partitions that move.
    pub partitions_total: u32,
    /// Partitions that have moved.
    pub partitions_done: u32,
    /// So far.
    pub bytes_moved: u64,
    /// At the present rate.
    pub eta_seconds: Option<u64>,
    /// What it can't go on without.
    pub waiting_for: Vec<String>,
}

/// `POST /v1/cluster/plan` and `/apply`.
#[derive(Clone, Debug, Serialize)]
pub struct PlanView {
    /// The epoch that it was made for.
    pub epoch: u64,
    /// What each node takes in and gives away; nodes that do neither are left out.
    pub moves: Vec<MoveView>,
    /// How evenly the partitions lie.
    pub balance: BalanceView,
    /// What the layout will not hold that one would wish for.
    pub violations: Vec<String>,
    /// At the set rate.
    pub eta_seconds: u64,
}

/// One node of [`PlanView`]; bytes are estimates.
#[derive(Clone, Debug, Serialize)]
pub struct MoveView {
    /// Who.
    pub node: NodeId,
    /// Replicas of partitions that it takes in.
    pub vnodes_in: u32,
    /// Replicas of partitions that it gives away.
    pub vnodes_out: u32,
    /// Bytes that it takes in.
    pub bytes_in: u64,
    /// Bytes that it gives away.
    pub bytes_out: u64,
}

impl MoveView {
    /// A node that moves nothing yet.
    pub(super) const fn of(node: NodeId) -> Self {
        Self { node, vnodes_in: 0, vnodes_out: 0, bytes_in: 0, bytes_out: 0 }
    }
}

/// The largest share of a node over its ideal, before and after; 1 is perfect.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct BalanceView {
    /// Now.
    pub before: f64,
    /// Afterwards.
    pub after: f64,
}

/// `GET /v1/cluster/ring`.
#[derive(Clone, Debug, Serialize)]
pub struct RingView {
    /// The version of the tables.
    pub layout_version: u64,
    /// In ring order.
    pub partitions: Vec<PartitionView>,
}

/// One partition of [`RingView`].
#[derive(Clone, Debug, Serialize)]
pub struct PartitionView {
    /// Its index.
    pub id: u32,
    /// Its first token, 16 hex digits.
    pub start: String,
    /// Its last token, 16 hex digits.
    pub end: String,
    /// The primary first.
    pub replicas: Vec<NodeId>,
}

/// `GET /v1/explain/{bucket}/{key}`.
#[derive(Clone, Debug, Serialize)]
pub struct ExplainView {
    /// Where on the ring, 16 hex digits.
    pub token: String,
    /// In which partition.
    pub partition: u32,
    /// The size of the replica set.
    pub n: u8,
    /// The primary first.
    pub replicas: Vec<ExplainReplica>,
}

/// One replica of [`ExplainView`].
#[derive(Clone, Debug, Serialize)]
pub struct ExplainReplica {
    /// Who.
    pub node: NodeId,
    /// Whether it answered.
    pub reachable: bool,
    /// Whether it may lack acknowledged data.
    pub incomplete: bool,
    /// What it holds; `null` where it did not answer.
    pub versions: Option<Vec<ExplainVersion>>,
    /// The hash of the key's leaf in its tree, 16 hex digits; `null` where there is none.
    pub leaf_hash: Option<String>,
    /// Hints that are kept for it, as far as this node knows.
    pub hints: u64,
}

/// One version of [`ExplainReplica`].
#[derive(Clone, Debug, Serialize)]
pub struct ExplainVersion {
    /// Its public name.
    pub version: String,
    /// Whether it is a tombstone.
    pub deleted: bool,
    /// The size of its value.
    pub bytes: u64,
    /// RFC 3339.
    pub modified: String,
}

/// `GET /v1/buckets/{bucket}`.
#[derive(Clone, Debug, Serialize)]
pub struct BucketView {
    /// How many replicas its keys have.
    pub n: u8,
    /// R where the request names none.
    pub r: LevelView,
    /// W where the request names none.
    pub w: LevelView,
    /// `siblings` or `lww`.
    pub resolve: crate::protocol::causality::Resolve,
    /// Whether fallbacks may stand in for replicas where the request does not say.
    pub sloppy: bool,
}

/// A level as JSON shows it: a name, or a number.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum LevelView {
    /// `"quorum"`.
    Name(String),
    /// `2`.
    Count(u8),
}

impl From<Level> for LevelView {
    fn from(level: Level) -> Self {
        match level {
            Level::Count(count) => Self::Count(count.get()),
            named => Self::Name(named.to_string()),
        }
    }
}

/// `GET /v1/repair`.
#[derive(Clone, Debug, Serialize)]
pub struct RepairView {
    /// The age of the oldest proof that two replicas are the same, in seconds.
    pub debt_seconds: f64,
    /// What is kept here for others.
    pub hints: Vec<HintsView>,
    /// Every other node with which vnodes are shared.
    pub pairs: Vec<PairView>,
}

/// The hints of one target in [`RepairView`].
#[derive(Clone, Debug, Serialize)]
pub struct HintsView {
    /// A node, or `any`: whichever replica is back first.
    pub target: String,
    /// How many.
    pub count: u64,
    /// With their keys.
    pub bytes: u64,
    /// The age of the oldest.
    pub oldest_seconds: u64,
}

/// One peer in [`RepairView`].
#[derive(Clone, Debug, Serialize)]
pub struct PairView {
    /// Who.
    pub node: NodeId,
    /// How many vnodes both hold.
    pub vnodes: usize,
    /// The age of the oldest proof that one of them is the same on both.
    pub oldest_proof_seconds: f64,
    /// Records that this node has exchanged with it since its start.
    pub records_repaired: u64,
    /// Bytes that this node has exchanged with it for that: hashes, keys, records.
    pub bytes_moved: u64,
}

/// Whether a node can serve, for `GET /readyz`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// It can.
    Ready,
    /// It can't, and this is why.
    NotReady(String),
}
