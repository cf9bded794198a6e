//! What a client asks of a node, and what the node answers: the border between the HTTP API and the
//! coordinator. Everything here is parsed; no status codes yet.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Deserializer, Serialize};
use tokio::time::Instant;

use crate::node::view::{
    BucketView, ClusterView, ExplainView, PlanView, Readiness, RepairView, RingView,
};
use crate::protocol::causality::{Content, Context, Resolve, Shown};
pub use crate::protocol::operation::{
    Acks, Condition, EtagSet, OperationError, Reached, ReplicaOutcome, ReplicaReport, Seen,
    WriteAnswer,
};
pub use crate::storage::BoxFuture;
use crate::types::{Bucket, Epoch, KeyPath, Level, NodeId, RequestId, Weight, Zone};

/// What goes with every operation on a key.
#[derive(Clone, Debug)]
pub struct Terms {
    /// R or W; `None`: the bucket's.
    pub level: Option<Level>,
    /// May fallbacks stand in for replicas? `None`: the bucket's.
    pub sloppy: Option<bool>,
    /// When the client stops waiting.
    pub deadline: Instant,
    /// For logs; also on the replicas.
    pub request_id: RequestId,
}

/// A read of one key.
#[derive(Clone, Debug)]
pub struct Get {
    /// Which key.
    pub path: KeyPath,
    /// Only this version (`?version=`), by its public name.
    pub version: Option<String>,
    /// Level, deadline, request id.
    pub terms: Terms,
}

/// A PUT or a DELETE of one key.
#[derive(Clone, Debug)]
pub struct Write {
    /// Which key.
    pub path: KeyPath,
    /// The value, or a tombstone.
    pub content: Content,
    /// What the writer has seen.
    pub seen: Seen,
    /// All of these must hold.
    pub conditions: Vec<Condition>,
    /// Level, deadline, request id.
    pub terms: Terms,
}

/// What a read found.
#[derive(Clone, Debug)]
pub struct GetAnswer {
    /// What to show of it, under the bucket's policy.
    pub shown: Shown,
    /// How many siblings the key has (1 for a single value; 0 where nothing is shown).
    pub siblings: usize,
    /// Names the set of versions.
    pub set: EtagSet,
    /// The sealed context token.
    pub context: String,
    /// Which replicas answered.
    pub reached: Reached,
    /// The epoch it was answered in.
    pub epoch: Epoch,
}

/// What `POST /v1/cluster/plan` and `/apply` take.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ChangeRequest {
    /// Nodes to take in; those that stand in `replace` too take the place named there.
    pub join: Vec<JoinRequest>,
    /// Nodes to send away.
    pub leave: BTreeSet<NodeId>,
    /// Nodes to send away, each with the name of the one that takes its place.
    pub replace: BTreeMap<NodeId, NodeId>,
    /// Nodes whose process will never run again.
    pub dead: BTreeSet<NodeId>,
    /// Other shares.
    pub weight: BTreeMap<NodeId, Weight>,
    /// Other zones.
    pub zone: BTreeMap<NodeId, Zone>,
    /// Partitions with too few surviving holders are given up.
    pub accept_loss: bool,
    /// Only if the cluster state is still of this epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
}

/// A node to take in.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct JoinRequest {
    /// Its name.
    pub id: NodeId,
    /// `host:port` of its peer port; needed unless it shows itself as a candidate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// Where it stands; else what it says itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<Zone>,
    /// Its share; else what it says itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<Weight>,
}

/// What `POST /v1/cluster/recover` takes: every node of the cluster, once.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RecoverRequest {
    /// Nodes that go on.
    pub survivors: BTreeSet<NodeId>,
    /// Nodes that are gone for good.
    pub lost: BTreeSet<NodeId>,
}

/// What `PUT /v1/buckets/{bucket}` takes; what is absent is the default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BucketChange {
    /// How many replicas its keys have.
    pub n: Option<u8>,
    /// R where a request names none.
    #[serde(deserialize_with = "level")]
    pub r: Option<Level>,
    /// W where a request names none.
    #[serde(deserialize_with = "level")]
    pub w: Option<Level>,
    /// What is done with concurrent versions.
    pub resolve: Option<Resolve>,
    /// Whether fallbacks may stand in for replicas.
    pub sloppy: Option<bool>,
}

/// A level's name, or a number.
fn level<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Level>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Name(String),
        Count(std::num::NonZeroU8),
    }
    Ok(match Option::<Written>::deserialize(from)? {
        None => None,
        Some(Written::Count(count)) => Some(Level::Count(count)),
        Some(Written::Name(name)) => {
            Some(Level::parse_name(&name).map_err(serde::de::Error::custom)?)
        }
    })
}

/// Why a change of the layout was not begun.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TopologyError {
    /// Another one runs.
    #[error("{0}")]
    Running(String),
    /// There is none to abort.
    #[error("no transition is running")]
    NoTransition,
    /// The state is another one by now.
    #[error("the cluster state has changed meanwhile; look at it and ask again if it still fits")]
    EpochChanged,
    /// Somebody who was called dead, or a majority that was called lost, answers.
    #[error("{0}")]
    Alive(String),
    /// It can't be done with this cluster.
    #[error("{0}")]
    Wrong(String),
    /// It can't be decided now.
    #[error("{0}")]
    NoMajority(String),
    /// This node can't serve now.
    #[error(transparent)]
    NotServing(#[from] OperationError),
}

/// What the HTTP API needs of a node. [`crate::node::Node`] is the one implementation that serves
/// clients; the API's own tests bring a scripted one, so that every error can be provoked.
pub trait Service: Send + Sync + 'static {
    /// Reads a key.
    fn get(&self, get: Get) -> BoxFuture<'_, Result<GetAnswer, OperationError>>;

    /// Writes or deletes a key. Once begun it runs to its end, even if the future is dropped.
    fn write(&self, write: Write) -> BoxFuture<'_, Result<WriteAnswer, OperationError>>;

    /// Opens a context token that a client sent for this key.
    ///
    /// # Errors
    /// The sentence for `invalid-context`.
    fn open_context(&self, token: &str, path: &KeyPath) -> Result<Context, String>;

    /// Where a key lies and what each replica holds; repairs nothing.
    ///
    /// # Errors
    /// [`OperationError::NotReady`].
    fn explain(
        &self,
        path: KeyPath,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<ExplainView, OperationError>>;

    /// The cluster, as far as this node knows; an error where there is no state yet.
    ///
    /// # Errors
    /// [`OperationError::NotReady`].
    fn cluster(&self) -> Result<ClusterView, OperationError>;

    /// The table for the cluster's N, or for another one in use; `Ok(None)`: no such table.
    ///
    /// # Errors
    /// [`OperationError::NotReady`].
    fn ring(&self, n: Option<u8>) -> Result<Option<RingView>, OperationError>;

    /// How far replicas agree, and what is kept for others.
    ///
    /// # Errors
    /// [`OperationError::NotReady`].
    fn repair(&self) -> Result<RepairView, OperationError>;

    /// Compares all shared vnodes now; with `accept_loss` gives up keys whose only copies are
    /// damaged, and says how many.
    ///
    /// # Errors
    /// [`OperationError::NotReady`]; [`OperationError::Internal`] where not all nodes have done it.
    fn begin_repair(&self, accept_loss: bool) -> BoxFuture<'_, Result<u64, OperationError>>;

    /// A bucket's properties.
    fn bucket(&self, bucket: &Bucket) -> BucketView;

    /// The buckets with properties of their own.
    fn buckets(&self) -> Vec<(Bucket, BucketView)>;

    /// What a change of the layout would move; changes nothing.
    ///
    /// # Errors
    /// [`TopologyError`].
    fn plan(&self, request: ChangeRequest) -> BoxFuture<'_, Result<PlanView, TopologyError>>;

    /// Begins a change of the layout.
    ///
    /// # Errors
    /// [`TopologyError`].
    fn apply(&self, request: ChangeRequest) -> BoxFuture<'_, Result<PlanView, TopologyError>>;

    /// Goes back to the old layout.
    ///
    /// # Errors
    /// [`TopologyError`].
    fn abort(&self) -> BoxFuture<'_, Result<(), TopologyError>>;

    /// Goes on without a majority that is lost for good.
    ///
    /// # Errors
    /// [`TopologyError`].
    fn recover(&self, request: RecoverRequest) -> BoxFuture<'_, Result<(), TopologyError>>;

    /// Gives a bucket these properties, or the defaults again; what they are then, and whether data
    /// has to move for that.
    ///
    /// # Errors
    /// [`TopologyError`].
    fn change_bucket(
        &self,
        bucket: Bucket,
        change: Option<BucketChange>,
    ) -> BoxFuture<'_, Result<(BucketView, bool), TopologyError>>;

    /// Whether the node can serve.
    fn readiness(&self) -> Readiness;

    /// The epoch of the cluster state here.
    fn epoch(&self) -> Epoch;

    /// A new request id, for a request that brought none.
    fn new_request_id(&self) -> RequestId;

    /// Wall time in milliseconds since 1970, for `Date`-like headers.
    fn wall_ms(&self) -> u64;
}
