//! What a client asks of a node, and what the node answers: the border between the HTTP API and the
//! coordinator. Everything here is parsed; no status codes yet.

use tokio::time::Instant;

use crate::node::view::{BucketView, ClusterView, ExplainView, Readiness, RepairView, RingView};
use crate::protocol::causality::{Content, Context, Shown};
pub use crate::protocol::operation::{
    Acks, Condition, EtagSet, OperationError, Reached, ReplicaOutcome, ReplicaReport, Seen,
    WriteAnswer,
};
pub use crate::storage::BoxFuture;
use crate::types::{Bucket, Epoch, KeyPath, Level, RequestId};

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

    /// Whether the node can serve.
    fn readiness(&self) -> Readiness;

    /// The epoch of the cluster state here.
    fn epoch(&self) -> Epoch;

    /// A new request id, for a request that brought none.
    fn new_request_id(&self) -> RequestId;

    /// Wall time in milliseconds since 1970, for `Date`-like headers.
    fn wall_ms(&self) -> u64;
}
