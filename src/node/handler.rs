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
use crate::peer::messages::{
    Answer, Envelope, ForwardedWrite, Gossip, Held, HeldVersion, Part, Refusal, Reply, Request,
    decode, encode,
};
use crate::peer::{Handler, Lane};
use crate::protocol::causality::{Entry, Summary, Survivors, Version};
use crate::protocol::cluster::{Standing, StateStamp};
use crate::protocol::quorum::ReplicaIndex;
use crate::storage::BoxFuture;
use crate::types::{KeyPath, NodeId, ReplicationFactor, RequestId};

impl Handler for Node {
    fn call(self: Arc<Self>, request: Bytes) -> BoxFuture<'static, Bytes> {
        let tracked = self.tasks.token();
        Box::pin(async move {
            let reply = self.reply(&request).await;
            drop(tracked);
            encode(&reply)
        })
    }

    fn receive(self: Arc<Self>, message: Bytes) {
        match decode::<Gossip>(&message) {
            Ok(gossip) => {
                self.hear_of(&gossip.stamp, &gossip.address);
                self.membership.receive(gossip);
            }
            Err(error) => tracing::debug!(%error, "a membership message was dropped"),
        }
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
        if is_of_any_state(&envelope.request) {
            return Box::pin(self.reply_in_any_state(envelope)).await;
        }
        let at = self.check_sender(&envelope)?;
        let request_id = envelope.request_id;
        // A part of what some client has asked of another node.
        let _serving = request_id.is_some().then(|| self.clients.serve());
        tracing::trace!(from = %envelope.from, ?request_id, "peer request");
        match envelope.request {
            Request::Read { path, table, part, hinted: false } => {
                let place = self.place(path, table)?;
                self.answer_read(&at, place, part).await
            }
            Request::Merge { path, table, record, answers } => {
                let place = self.place(path, table)?;
                let merged = self.merge(&at, &place, record, &envelope.from, deadline).await?;
                Ok(Answer::Merged(merged.filter(|_| answers)))
            }
            Request::Write(write) => self.answer_write(&at, *write, deadline, request_id).await,
            rarer => Box::pin(self.reply_to_rarer(at, rarer, envelope.from, deadline)).await,
        }
    }

    /// Answers what those may ask, too, who are of another state or have none.
    async fn reply_in_any_state(self: &Arc<Self>, envelope: Envelope) -> Reply {
        match &envelope.request {
            Request::Found(offer) => self.answer_offer(offer).await,
            Request::Hello(hello) => self.answer_hello(&envelope, hello).await,
            Request::State => self.answer_state(),
            Request::Describe => self.answer_describe().await,
            Request::Learn(state) => self.answer_learn((**state).clone()).await,
            Request::Join(candidate) => self.answer_join((**candidate).clone()),
            Request::Apply(change) => self.answer_apply((**change).clone()).await,
            Request::Recover(recovery) => self.answer_recover((**recovery).clone()).await,
            _ => Err(Refusal::Malformed),
        }
    }

    /// Answers all but reads and writes. By itself, so that the futures of those are small: each is
    /// copied more than once on its way into its task.
    async fn reply_to_rarer(
        self: &Arc<Self>,
        at: StateStamp,
        request: Request,
        from: NodeId,
        deadline: Instant,
    ) -> Reply {
        match request {
            Request::Read { path, part, hinted: true, .. } => self.answer_hinted(path, part).await,
            Request::Hint { target, path, record } => {
                self.answer_hint(target, path, record, deadline).await
            }
            Request::Inspect { path } => Ok(Answer::Held(self.held(path).await?)),
            Request::Take { path, table } => self.answer_take(path, table).await,
            Request::Purge { vnode, order } => self.answer_purge(&at, vnode, order).await,
            Request::AcceptLoss => Ok(Answer::Released(self.accept_loss().await?)),
            Request::Vote(ask) => self.answer_vote(&at, *ask).await,
            Request::Progress => Ok(Answer::Progress(Box::new(self.progress().await))),
            request if request.kind().1 == Lane::Background => {
                let node = Arc::clone(self);
                let answering =
                    async move { node.answer_background(&at, request, &from, deadline).await };
                self.tasks.in_background(answering).await
            }
            _ => Err(Refusal::Malformed),
        }
    }

    /// Answers what repair and streams ask.
    async fn answer_background(
        self: &Arc<Self>,
        at: &StateStamp,
        request: Request,
        from: &NodeId,
        deadline: Instant,
    ) -> Reply {
        match request {
            taker @ (Request::Page { .. }
            | Request::Digests { .. }
            | Request::Husks { .. }
            | Request::Fetch { .. }
            | Request::Lacks { .. }
            | Request::SameRoots(_)) => self.answer_taker(taker).await,
            exchange => self.answer_exchange(at, exchange, from, deadline).await,
        }
    }

    /// The state that the sender works with: the same as this node's, and it lists the sender's
    /// disk.
    fn check_sender(&self, envelope: &Envelope) -> Result<StateStamp, Refusal> {
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
            Standing::Behind => return Err(Refusal::StaleEpoch),
            Standing::Ahead => return Err(Refusal::Unlearnt),
            Standing::Foreign => return Err(Refusal::OtherCluster),
            Standing::Forked => {
                tracing::error!(from = %envelope.from, "a peer has another state for this epoch");
                self.metrics.alarm("forked-state");
                return Err(Refusal::Forked);
            }
        }
        match layout.peer(&envelope.from) {
            Some(peer) if peer.incarnation == envelope.incarnation => Ok(stamp),
            _ => Err(Refusal::OtherIncarnation),
        }
    }

    /// Where a key lies on this node in a table's vnode, if it does, now or after the running
    /// transition.
    pub(super) fn place(&self, path: KeyPath, table: ReplicationFactor) -> Result<Place, Refusal> {
        let layout = self.layout().ok_or(Refusal::NotServing)?;
        let set = layout.replica_set(&path);
        let is_it =
            |replica: &ReplicaIndex| set.is_here(*replica) && set.vnode_at(*replica).table == table;
        let found = set.indices().find(is_it);
        found.map(|at| Place::new(set.vnode_at(at), path)).ok_or(Refusal::NoReplica)
    }

    async fn answer_read(self: &Arc<Self>, at: &StateStamp, place: Place, part: Part) -> Reply {
        Ok(match part {
            Part::Record => {
                let (record, purge) = self.record(at, &place).await?;
                Answer::Record((!record.is_absent()).then(|| record.to_stored_bytes()), purge)
            }
            Part::Heads => {
                let summary = self.summary(at, &place).await?;
                Answer::Heads((!summary.is_absent()).then(|| summary.to_bytes()))
            }
            Part::Digest => Answer::Digest(comparable_digest(&self.summary(at, &place).await?)),
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

    async fn answer_write(
        self: &Arc<Self>,
        at: &StateStamp,
        write: ForwardedWrite,
        deadline: Instant,
        request_id: Option<RequestId>,
    ) -> Reply {
        if self.pulse.was_paused() {
            return Err(Refusal::TooLate);
        }
        let outcome = self.coordinate_forwarded(at, write, deadline, request_id).await?;
        Ok(Answer::Written(Box::new(outcome)))
    }

    /// What this node holds of a key, for people.
    pub(super) async fn held(self: &Arc<Self>, path: KeyPath) -> Result<Held, Refusal> {
        let layout = self.layout().ok_or(Refusal::NotServing)?;
        let set = layout.replica_set(&path);
        let here = set.indices().find(|replica| set.is_here(*replica));
        let place = Place::new(set.vnode_at(here.ok_or(Refusal::NoReplica)?), path);
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
        let leaf = place.leaf(shape);
        Ok(Held {
            is_incomplete,
            versions: record.versions().iter().map(held).collect(),
            leaf_hash: self.trees.with(place.vnode, shape, |tree| tree.leaf(leaf)),
        })
    }
}

/// Whether a request is about the state itself, or about taking part in it.
const fn is_of_any_state(request: &Request) -> bool {
    use Request::{Apply, Describe, Found, Hello, Join, Learn, Recover, State};
    matches!(
        request,
        Found(_) | Hello(_) | State | Describe | Learn(_) | Join(_) | Apply(_) | Recover(_)
    )
}

/// A digest by which reads compare replicas: husks are as good as nothing, as both show nothing
/// and neither is pushed.
pub(super) fn comparable_digest<E: Entry>(record: &Survivors<E>) -> u64 {
    match record.is_husk() {
        true => Summary::absent().digest(),
        false => record.digest(),
    }
}
