//! What a node does for its peers.
//!
//! Before anything else the sender's cluster state and data directory are compared with one's own
//! (correctness, section 7, rules 1, 2 and 8). Only a founding offer and a greeting may come from
//! a node that has no state yet.

use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;

use super::calls::deadline_of;
use super::imprint::leaf_of;
use super::instruments::PlantedBug;
use super::replica::Place;
use super::{Node, Phase};
use crate::peer::Handler;
use crate::peer::messages::{
    Answer, Carried, Envelope, ForwardedWrite, Held, HeldVersion, Part, Refusal, Reply, Request,
    decode, encode,
};
use crate::protocol::causality::{Entry, Summary, Survivors, Version};
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
            Request::Rebuild => return self.answer_rebuild(&envelope.from).await,
            _ => self.check_sender(&envelope)?,
        }
        let request_id = envelope.request_id;
        tracing::trace!(from = %envelope.from, ?request_id, "peer request");
        match envelope.request {
            Request::Read { path, part, hinted: false } => self.answer_read(path, part).await,
            Request::Read { path, part, hinted: true } => self.answer_hinted(path, part).await,
            Request::Merge { path, record, answers } => {
                let merged = self.answer_merge(path, record, &envelope.from, deadline).await?;
                Ok(Answer::Merged(merged.filter(|_| answers)))
            }
            Request::Hint { target, path, record } => {
                self.answer_hint(target, path, record, deadline).await
            }
            Request::Write(write) => self.answer_write(*write, deadline, request_id).await,
            Request::Inspect { path } => Ok(Answer::Held(self.held(path).await?)),
            Request::Page { vnode, after, max_bytes } => {
                self.answer_page(vnode, after, max_bytes).await
            }
            Request::Take { path } => self.answer_take(path).await,
            Request::Purge { vnode, order } => self.answer_purge(vnode, order).await,
            Request::AcceptLoss => Ok(Answer::Released(self.accept_loss().await?)),
            exchange => self.answer_exchange(exchange, &envelope.from, deadline).await,
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
    pub(super) fn place(&self, path: KeyPath) -> Result<Place, Refusal> {
        let layout = self.layout().ok_or(Refusal::NotServing)?;
        let set = layout.replica_set(&path);
        set.local.map(|_| Place::new(set.vnode, path)).ok_or(Refusal::NoReplica)
    }

    async fn answer_read(self: &Arc<Self>, path: KeyPath, part: Part) -> Reply {
        let place = self.place(path)?;
        Ok(match part {
            Part::Record => {
                let (record, purge) = self.record(&place).await?;
                Answer::Record((!record.is_absent()).then(|| record.to_stored_bytes()), purge)
            }
            Part::Heads => {
                let summary = self.summary(&place).await?;
                Answer::Heads((!summary.is_absent()).then(|| summary.to_bytes()))
            }
            Part::Digest => Answer::Digest(comparable_digest(&self.summary(&place).await?)),
        })
    }

    /// What is kept of a key for a replica that this node stands in for.
    async fn answer_hinted(self: &Arc<Self>, path: KeyPath, part: Part) -> Reply {
        let (record, purge) = self.hinted_record(&path).await?;
        let is_there = !record.is_absent();
        Ok(match part {
            Part::Record => Answer::Record(is_there.then(|| record.to_stored_bytes()), purge),
            Part::Heads => Answer::Heads(is_there.then(|| Summary::from(&record).to_bytes())),
            Part::Digest => Answer::Digest(comparable_digest(&record)),
        })
    }

    async fn answer_merge(
        self: &Arc<Self>,
        path: KeyPath,
        record: Carried,
        from: &NodeId,
        deadline: Instant,
    ) -> Result<Option<Carried>, Refusal> {
        let place = self.place(path)?;
        self.merge(&place, record, from, deadline).await
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
        let is_incomplete = self.vnodes.is_incomplete(place.vnode) || self.quarantine.has(&place);
        let Some(record) = self.inspect(&place).await else {
            return Ok(Held { is_incomplete: true, versions: Vec::new(), leaf_hash: 0 });
        };
        let held = |version: &Version| HeldVersion {
            dot: version.dot(),
            is_deleted: version.is_tombstone(),
            value_bytes: version.value().map_or(0, |value| value.body.len() as u64),
            stamp: version.stamp(),
        };
        let shape = self.shape();
        let leaf = leaf_of(shape, &place.path);
        Ok(Held {
            is_incomplete,
            versions: record.versions().iter().map(held).collect(),
            leaf_hash: self.trees.with(place.vnode, shape, |tree| tree.leaf(leaf)),
        })
    }
}

/// A digest by which reads compare replicas: husks are as good as nothing, as both show nothing
/// and neither is pushed.
pub(super) fn comparable_digest<E: Entry>(record: &Survivors<E>) -> u64 {
    match record.is_husk() {
        true => Summary::absent().digest(),
        false => record.digest(),
    }
}
