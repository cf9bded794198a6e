//! What people ask a node: where a key lies and who holds what, the ring, the cluster.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::Instant;

use super::layout::{Layout, Peer};
use super::view::{
    BucketView, ExplainReplica, ExplainVersion, ExplainView, PartitionView, Readiness, RepairView,
    RingView,
};
use super::{Node, Phase};
use crate::config::BucketSettings;
use crate::peer::messages::{Answer, Held, HeldVersion, Request};
use crate::protocol::cluster::StateStamp;
use crate::protocol::operation::OperationError;
use crate::protocol::ring::{Table, token_of};
use crate::types::{Bucket, HlcStamp, KeyPath, ReplicationFactor, VnodeId};

/// How long the other nodes have to release damaged keys.
const ACCEPT_TIMEOUT: Duration = Duration::from_secs(10);

impl Node {
    /// Where a key lies and what each replica holds. Asks; repairs nothing.
    pub(super) async fn explain(
        self: &Arc<Self>,
        path: KeyPath,
        deadline: Instant,
    ) -> Result<ExplainView, OperationError> {
        let layout = self.serving()?;
        let set = layout.replica_set(&path);
        let asks = set.indices().map(|replica| {
            let is_local = set.is_here(replica);
            let at = (&set.at, set.vnode_at(replica));
            self.explain_replica(set.peer(replica), is_local, at, path.clone(), deadline)
        });
        Ok(ExplainView {
            token: token_of(&path).to_string(),
            partition: set.vnode.partition.get(),
            n: set.n(),
            replicas: join_all(asks).await,
        })
    }

    async fn explain_replica(
        self: &Arc<Self>,
        peer: &Arc<Peer>,
        is_local: bool,
        (at, vnode): (&StateStamp, VnodeId),
        path: KeyPath,
        deadline: Instant,
    ) -> ExplainReplica {
        let hints = self.hints_of_key(&peer.id, vnode, &path).await;
        let held = if is_local {
            self.held(path).await.ok()
        } else {
            let answer = self.call(at, peer, Request::Inspect { path }, deadline, None).await;
            match answer {
                Ok(Answer::Held(held)) => Some(held),
                _ => None,
            }
        };
        ExplainReplica {
            node: peer.id.clone(),
            reachable: held.is_some(),
            incomplete: held.as_ref().is_some_and(|held| held.is_incomplete),
            leaf_hash: held.as_ref().map(|held| format!("{:016x}", held.leaf_hash)),
            versions: held.map(|Held { versions, .. }| versions.iter().map(version).collect()),
            hints,
        }
    }

    /// How far this node's replicas agree with others', and what it keeps for them.
    pub(super) fn repair_view(&self) -> Result<RepairView, OperationError> {
        let layout = self.serving()?;
        Ok(RepairView {
            debt_seconds: self.repair.debt(&layout).as_secs_f64(),
            hints: self.hints_view(),
            pairs: self.repair.pairs(&layout),
        })
    }

    /// Has every node compare all that it shares with others, now; and, if asked for, give up the
    /// keys whose only copies are damaged. Returns how many of those there were.
    pub(super) async fn begin_repair(
        self: &Arc<Self>,
        accept_loss: bool,
    ) -> Result<u64, OperationError> {
        let layout = self.serving()?;
        self.repair.request(None);
        if !accept_loss {
            return Ok(0);
        }
        let failed =
            |error: String| OperationError::Internal { message: error, maybe_applied: true };
        let mut released = self.accept_loss().await.map_err(|error| failed(error.to_string()))?;
        let deadline = Instant::now() + ACCEPT_TIMEOUT;
        let asked = layout.others().filter(|peer| peer.is_up());
        let asked =
            asked.map(|peer| self.call(&layout.stamp, peer, Request::AcceptLoss, deadline, None));
        for answer in join_all(asked).await {
            match answer {
                Ok(Answer::Released(more)) => released += more,
                Ok(_) => {}
                Err(failure) => return Err(failed(failure.to_string())),
            }
        }
        Ok(released)
    }

    /// A table, partition by partition; `None`: no such table is in use.
    pub(super) fn ring_view(&self, n: Option<u8>) -> Result<Option<RingView>, OperationError> {
        let layout = self.serving()?;
        let state = &layout.state;
        let table = match n {
            None => Some(state.main_table()),
            Some(n) => ReplicationFactor::new(n).ok().and_then(|factor| state.table(factor)),
        };
        let view = |table: &Table| RingView {
            layout_version: state.layout_version.get(),
            partitions: state
                .partitions
                .iter()
                .map(|partition| {
                    let (start, end) = state.partitions.range_of(partition);
                    PartitionView {
                        id: partition.get(),
                        start: start.to_string(),
                        end: end.to_string(),
                        replicas: table.replicas(partition).cloned().collect(),
                    }
                })
                .collect(),
        };
        Ok(table.map(view))
    }

    /// A bucket's properties.
    pub(super) fn bucket_view(&self, bucket: &Bucket) -> BucketView {
        match self.layout() {
            Some(layout) => self.bucket_view_at(&layout, bucket),
            None => {
                let n = self.settings.replication_factor.get();
                view_of(n, self.settings.bucket(bucket))
            }
        }
    }

    /// A bucket's properties in a layout.
    pub(super) fn bucket_view_at(&self, layout: &Layout, bucket: &Bucket) -> BucketView {
        let n = layout.state.factor_of(bucket).get();
        view_of(n, self.bucket_settings(layout, bucket))
    }

    /// The buckets that the cluster state or the settings name.
    pub(super) fn named_buckets(&self) -> Vec<(Bucket, BucketView)> {
        let layout = self.layout();
        let decided = layout.iter().flat_map(|layout| layout.state.buckets.keys());
        let named: BTreeSet<&Bucket> = self.settings.buckets.keys().chain(decided).collect();
        named.into_iter().map(|bucket| (bucket.clone(), self.bucket_view(bucket))).collect()
    }

    /// Whether clients should be sent here.
    pub(super) fn readiness_view(&self) -> Readiness {
        let why = match &*self.phase.borrow() {
            Phase::Serving => {
                let layout = self.layout().expect("a serving node has a layout");
                let unheard: Vec<&str> = layout
                    .others()
                    .filter(|peer| peer.is_up() && self.membership.told(&peer.id).is_none())
                    .map(|peer| peer.id.as_str())
                    .collect();
                if unheard.is_empty() {
                    return Readiness::Ready;
                }
                format!("waiting to hear from {}", unheard.join(", "))
            }
            Phase::Starting(why) | Phase::Refusing(why) => why.clone(),
            Phase::Stopping => "the node is stopping".into(),
        };
        Readiness::NotReady(why)
    }
}

fn view_of(n: u8, settings: BucketSettings) -> BucketView {
    let BucketSettings { r, w, resolve, sloppy } = settings;
    BucketView { n, r: r.into(), w: w.into(), resolve, sloppy }
}

fn version(held: &HeldVersion) -> ExplainVersion {
    ExplainVersion {
        version: held.dot.to_string(),
        deleted: held.is_deleted,
        bytes: held.value_bytes,
        modified: rfc3339(held.stamp),
    }
}

/// The wall time of a stamp, to the millisecond.
fn rfc3339(stamp: HlcStamp) -> String {
    let nanos = i128::from(stamp.wall_ms()) * 1_000_000;
    OffsetDateTime::from_unix_timestamp_nanos(nanos)
        .ok()
        .and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_else(|| "9999-12-31T23:59:59Z".into())
}
