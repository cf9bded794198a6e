//! What a node does for its peers.
//!
//! Before anything else the sender's cluster state and data directory are compared with one's own
//! (correctness, section 7, rules 1, 2 and 8). Only a founding offer and a greeting may come from
//! a node that has no state yet.

use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;

use super::calls::deadline_of;
use super::instruments::PlantedBug;
use super::replica::Place;
use super::{Node, Phase};
use crate::peer::Handler;
use crate::peer::messages::{
    Answer, Envelope, ForwardedWrite, Held, HeldVersion, Part, Refusal, Reply, Request, decode,
    encode,
};
use crate::protocol::causality::Version;
use crate::protocol::cluster::Standing;
use crate::storage::BoxFuture;
use crate::types::{KeyPath, NodeId, RequestId};

impl Handler for Node {
    fn call(self: Arc<Self>, request: Bytes) -> BoxFuture<'static, Bytes> {
        let tracked = self.tasks.token();
        Box::pin(async move {
            let reply = self.reply(&request).await;
            drop(tracked);
            encode(&reply)
        })
    }

    fn receive(&self, message: Bytes) {
        self.membership.receive(message);
    }
}

impl Node {
    async fn reply(self: &Arc<Self>, request: &[u8]) -> Reply {
        let envelope: Envelope = decode(request)?;
        let deadline = deadline_of(&envelope);
        // Before anything is refused: whoever was refused may have gone on to another replica, and
        // what comes a second time may come when nothing would be refused any more.
        if let Request::Write(write) = &envelope.request
            && !self.forwarded.is_first(write.operation)
            && !self.instruments.has(PlantedBug::RepeatedForwardTaken)
        {
            return Err(Refusal::Repeated);
        }
        match &envelope.request {
            Request::Found(offer) => return self.answer_offer(offer).await,
            Request::Hello(hello) => return self.answer_hello(&envelope, hello).await,
            _ => self.check_sender(&envelope)?,
        }
        let request_id = envelope.request_id;
        tracing::trace!(from = %envelope.from, ?request_id, "peer request");
        match envelope.request {
            Request::Read { path, part } => self.answer_read(path, part).await,
            Request::Merge { path, record } => {
                self.answer_merge(path, record, &envelope.from, deadline).await
            }
            Request::Write(write) => self.answer_write(*write, deadline, request_id).await,
            Request::Inspect { path } => Ok(Answer::Held(self.held(path).await?)),
            Request::Page { vnode, after, max_bytes } => {
                self.answer_page(vnode, after, max_bytes).await
            }
            Request::Found(_) | Request::Hello(_) => Err(Refusal::Malformed),
        }
    }

    /// Whether the sender works with the same state, from the disk that the state lists.
    fn check_sender(&self, envelope: &Envelope) -> Result<(), Refusal> {
        if !matches!(*self.phase.borrow(), Phase::Serving) {
            return Err(Refusal::NotServing);
        }
        if envelope.to.is_some_and(|to| to != self.opened.identity.incarnation) {
            return Err(Refusal::OtherIncarnation);
        }
        let layout = self.layout().ok_or(Refusal::NotServing)?;
        let stamp = envelope.stamp.ok_or(Refusal::StaleEpoch)?;
        match layout.stamp.standing_of(&stamp) {
            Standing::Same => {}
            Standing::Behind | Standing::Ahead => return Err(Refusal::StaleEpoch),
            Standing::Foreign => return Err(Refusal::OtherCluster),
            Standing::Forked => {
                tracing::error!(from = %envelope.from, "a peer has another state for this epoch");
                self.metrics.alarm("forked-state");
                return Err(Refusal::Forked);
            }
        }
        match layout.peer(&envelope.from) {
            Some(peer) if peer.incarnation == envelope.incarnation => Ok(()),
            _ => Err(Refusal::OtherIncarnation),
        }
    }

    /// Where a key lies on this node, if it does.
    fn place(&self, path: KeyPath) -> Result<Place, Refusal> {
        let layout = self.layout().ok_or(Refusal::NotServing)?;
        let set = layout.replica_set(&path);
        set.local.map(|_| Place::new(set.vnode, path)).ok_or(Refusal::NoReplica)
    }

    async fn answer_read(self: &Arc<Self>, path: KeyPath, part: Part) -> Reply {
        let place = self.place(path)?;
        Ok(match part {
            Part::Record => {
                let record = self.record(&place).await?;
                Answer::Record((!record.is_absent()).then(|| record.to_stored_bytes()))
            }
            Part::Heads => {
                let summary = self.summary(&place).await?;
                Answer::Heads((!summary.is_absent()).then(|| summary.to_bytes()))
            }
            Part::Digest => Answer::Digest(self.summary(&place).await?.digest()),
        })
    }

    async fn answer_merge(
        self: &Arc<Self>,
        path: KeyPath,
        record: Bytes,
        from: &NodeId,
        deadline: Instant,
    ) -> Reply {
        let place = self.place(path)?;
        self.merge(&place, record, from, deadline).await?;
        Ok(Answer::Merged)
    }

    async fn answer_write(
        self: &Arc<Self>,
        write: ForwardedWrite,
        deadline: Instant,
        request_id: Option<RequestId>,
    ) -> Reply {
        self.place(write.path.clone())?;
        if self.pulse.was_paused() {
            return Err(Refusal::TooLate);
        }
        let outcome = self.coordinate_forwarded(write, deadline, request_id).await;
        Ok(Answer::Written(Box::new(outcome)))
    }

    /// What this node holds of a key, for people.
    pub(super) async fn held(self: &Arc<Self>, path: KeyPath) -> Result<Held, Refusal> {
        let place = self.place(path)?;
        let is_incomplete = self.vnodes.is_incomplete(place.vnode);
        let Some(record) = self.inspect(&place).await else {
            return Ok(Held { is_incomplete: true, versions: Vec::new() });
        };
        let held = |version: &Version| HeldVersion {
            dot: version.dot(),
            is_deleted: version.is_tombstone(),
            value_bytes: version.value().map_or(0, |value| value.body.len() as u64),
            stamp: version.stamp(),
        };
        Ok(Held { is_incomplete, versions: record.versions().iter().map(held).collect() })
    }
}
