//! The node as the HTTP API sees it.

use std::sync::Arc;

use tokio::time::Instant;

use super::Node;
use super::operation::{
    BoxFuture, BucketChange, ChangeRequest, Get, GetAnswer, RecoverRequest, Service, TopologyError,
    Write,
};
use super::view::{
    BucketView, ClusterView, ExplainView, PlanView, Readiness, RepairView, RingView,
};
use crate::protocol::causality::{Context, ContextToken};
use crate::protocol::operation::{OperationError, WriteAnswer};
use crate::types::{Bucket, Epoch, KeyPath, RequestId};

impl Service for Arc<Node> {
    fn get(&self, get: Get) -> BoxFuture<'_, Result<GetAnswer, OperationError>> {
        Box::pin(self.coordinate_get(get))
    }

    fn write(&self, write: Write) -> BoxFuture<'_, Result<WriteAnswer, OperationError>> {
        Box::pin(self.coordinate_write(write))
    }

    fn open_context(&self, token: &str, path: &KeyPath) -> Result<Context, String> {
        let key = self.token_key().map_err(|error| error.to_string())?;
        ContextToken::open(token, path, key).map_err(|error| error.to_string())
    }

    fn explain(
        &self,
        path: KeyPath,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<ExplainView, OperationError>> {
        Box::pin(Node::explain(self, path, deadline))
    }

    fn cluster(&self) -> Result<ClusterView, OperationError> {
        self.cluster_view()
    }

    fn ring(&self, n: Option<u8>) -> Result<Option<RingView>, OperationError> {
        self.ring_view(n)
    }

    fn repair(&self) -> Result<RepairView, OperationError> {
        self.repair_view()
    }

    fn begin_repair(&self, accept_loss: bool) -> BoxFuture<'_, Result<u64, OperationError>> {
        Box::pin(Node::begin_repair(self, accept_loss))
    }

    fn bucket(&self, bucket: &Bucket) -> BucketView {
        self.bucket_view(bucket)
    }

    fn buckets(&self) -> Vec<(Bucket, BucketView)> {
        self.named_buckets()
    }

    fn plan(&self, request: ChangeRequest) -> BoxFuture<'_, Result<PlanView, TopologyError>> {
        Box::pin(Node::plan(self, request))
    }

    fn apply(&self, request: ChangeRequest) -> BoxFuture<'_, Result<PlanView, TopologyError>> {
        Box::pin(Node::apply(self, request))
    }

    fn abort(&self) -> BoxFuture<'_, Result<(), TopologyError>> {
        Box::pin(Node::abort(self))
    }

    fn recover(&self, request: RecoverRequest) -> BoxFuture<'_, Result<(), TopologyError>> {
        Box::pin(Node::recover(self, request))
    }

    fn change_bucket(
        &self,
        bucket: Bucket,
        change: Option<BucketChange>,
    ) -> BoxFuture<'_, Result<(BucketView, bool), TopologyError>> {
        Box::pin(Node::change_bucket(self, bucket, change))
    }

    fn readiness(&self) -> Readiness {
        self.readiness_view()
    }

    fn epoch(&self) -> Epoch {
        self.layout().map_or(Epoch::default(), |layout| layout.state.epoch)
    }

    fn new_request_id(&self) -> RequestId {
        RequestId::from_random(self.random.u128())
    }

    fn wall_ms(&self) -> u64 {
        self.clock.wall_ms()
    }
}
