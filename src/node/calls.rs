//! Calls to peers: the envelope around each request, and what a failed one means for the operation
//! that made it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, timeout_at};

use super::Node;
use super::layout::Peer;
use crate::peer::messages::{
    Answer, Envelope, EnvelopeRef, Refusal, Reply, Request, decode, encode,
};
use crate::peer::{CallError, Lane, PeerAddress};
use crate::protocol::cluster::StateStamp;
use crate::protocol::operation::ReplicaOutcome;
use crate::types::{DataIncarnation, RequestId};

/// What a forwarded write leaves of its time for the way back.
const FORWARD_MARGIN: Duration = Duration::from_millis(50);

/// How long a peer has to take a state, or to tell its own: others wait meanwhile who would tell, or
/// ask, the same.
const STATE_TIMEOUT: Duration = Duration::from_secs(1);

/// A request on its way to an address.
pub(super) struct Outgoing {
    /// The data directory that is meant, where it is known.
    pub(super) to: Option<DataIncarnation>,
    pub(super) lane: Lane,
    pub(super) request: Request,
    pub(super) deadline: Instant,
    pub(super) request_id: Option<RequestId>,
}

impl Outgoing {
    /// A message about the cluster itself, to whoever answers.
    pub(super) fn control(request: Request, deadline: Instant) -> Self {
        Self { to: None, lane: Lane::Control, request, deadline, request_id: None }
    }
}

/// Why a peer did not do what it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PeerFailure {
    /// The transport brought no answer.
    #[error("{0}")]
    Transport(#[from] CallError),
    /// It refused; nothing was done there.
    #[error("{0}")]
    Refused(Refusal),
    /// It answered something else than was asked for.
    #[error("it answered what was not asked for")]
    WrongAnswer,
}

impl PeerFailure {
    /// What to report of the replica.
    pub(super) fn outcome(&self) -> ReplicaOutcome {
        match self {
            Self::Transport(CallError::NotSent(_)) => ReplicaOutcome::NotSent,
            Self::Transport(CallError::TimedOut) => ReplicaOutcome::Timeout,
            Self::Refused(Refusal::TooLate) => ReplicaOutcome::Timeout,
            Self::Refused(
                Refusal::StaleEpoch | Refusal::Unlearnt | Refusal::Forked | Refusal::StalePurge(_),
            ) => ReplicaOutcome::Stale,
            Self::Refused(Refusal::Incomplete | Refusal::Quarantined) => ReplicaOutcome::Incomplete,
            Self::Refused(Refusal::DiskFull) => ReplicaOutcome::DiskFull,
            Self::Transport(CallError::Broken(_)) | Self::Refused(_) | Self::WrongAnswer => {
                ReplicaOutcome::Error
            }
        }
    }

    /// Whether the request was provably not begun, so that another replica may be asked.
    pub(super) fn is_unbegun(&self) -> bool {
        match self {
            Self::Transport(error) => error.is_not_sent(),
            Self::Refused(refusal) => !matches!(refusal, Refusal::StoreFailed | Refusal::Repeated),
            Self::WrongAnswer => false,
        }
    }

    /// The metric's label.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Transport(CallError::NotSent(_)) => "not-sent",
            Self::Transport(CallError::TimedOut) => "timeout",
            Self::Transport(CallError::Broken(_)) => "broken",
            Self::Refused(_) => "refused",
            Self::WrongAnswer => "wrong-answer",
        }
    }
}

impl Request {
    /// The metric's label, and which lane it takes.
    pub(super) const fn kind(&self) -> (&'static str, Lane) {
        match self {
            Self::Read { .. } => ("read", Lane::Data),
            Self::Merge { .. } => ("merge", Lane::Data),
            Self::Write(_) => ("write", Lane::Data),
            Self::Inspect { .. } => ("inspect", Lane::Data),
            Self::Page { .. } => ("page", Lane::Background),
            Self::Hint { .. } => ("hint", Lane::Data),
            Self::Take { .. } => ("take", Lane::Data),
            Self::Roots(_) => ("roots", Lane::Background),
            Self::Branches(_) => ("branches", Lane::Background),
            Self::Leaves(_) => ("leaves", Lane::Background),
            Self::Keys(_) => ("keys", Lane::Background),
            Self::Deliver(_) => ("deliver", Lane::Background),
            Self::Push { .. } => ("push", Lane::Background),
            Self::Purge { .. } => ("purge", Lane::Data),
            Self::AcceptLoss => ("accept-loss", Lane::Data),
            Self::Digests { .. } => ("digests", Lane::Background),
            Self::Husks { .. } => ("husks", Lane::Background),
            Self::Fetch { .. } => ("fetch", Lane::Background),
            Self::Lacks { .. } => ("lacks", Lane::Background),
            Self::SameRoots(_) => ("same-roots", Lane::Background),
            Self::State => ("state", Lane::Control),
            Self::Learn(_) => ("learn", Lane::Control),
            Self::Vote(_) => ("vote", Lane::Control),
            Self::Progress => ("progress", Lane::Control),
            Self::Join(_) => ("join", Lane::Control),
            Self::Describe => ("describe", Lane::Control),
            Self::Apply(_) => ("apply", Lane::Control),
            Self::Recover(_) => ("recover", Lane::Control),
            Self::Found(_) => ("found", Lane::Control),
            Self::Hello(_) => ("hello", Lane::Control),
        }
    }
}

impl Node {
    /// Asks a node of the layout, counts and times it. The request is one of the epoch `at`: a peer
    /// that has not heard of it is told, and asked again; if the peer is ahead, this node goes on to
    /// its state before it returns [`Refusal::StaleEpoch`], where that can be had in time.
    pub(super) async fn call(
        self: &Arc<Self>,
        at: &StateStamp,
        peer: &Peer,
        request: Request,
        deadline: Instant,
        request_id: Option<RequestId>,
    ) -> Result<Answer, PeerFailure> {
        let (name, lane) = request.kind();
        let begun = Instant::now();
        let to = Some(peer.incarnation);
        let may_repeat = !matches!(request, Request::Write(_));
        let outgoing = Outgoing { to, lane, request, deadline, request_id };
        let message = self.enveloped(Some(*at), &outgoing);
        let mut reply = self.send(&peer.address, lane, message.clone(), deadline).await;
        match reply {
            Err(PeerFailure::Refused(Refusal::Unlearnt)) => {
                let is_told = self.teach(peer, deadline).await;
                if is_told && may_repeat {
                    reply = self.send(&peer.address, lane, message, deadline).await;
                }
            }
            Err(PeerFailure::Refused(Refusal::StaleEpoch)) => {
                self.catch_up(at, peer, deadline).await
            }
            _ => {}
        }
        let took = begun.elapsed();
        let outcome = match &reply {
            Ok(_) => {
                if name == "read" {
                    peer.latency.record(took);
                }
                "ok"
            }
            Err(failure) => {
                tracing::debug!(peer = %peer.id, message = name, %failure, "a call failed");
                failure.name()
            }
        };
        self.metrics.replica_call(&peer.id, name, outcome, took.as_secs_f64());
        reply
    }

    /// Tells a peer this node's state; whether it took it.
    async fn teach(&self, peer: &Peer, deadline: Instant) -> bool {
        let times = peer.told_times.load(Ordering::Relaxed);
        let Ok(mut told) = timeout_at(deadline, peer.told.lock()).await else { return false };
        let Some(layout) = self.layout() else { return false };
        if peer.told_times.load(Ordering::Relaxed) != times && *told == Some(layout.stamp) {
            return true;
        }
        let deadline = deadline.min(Instant::now() + STATE_TIMEOUT);
        let learn = Request::Learn(Box::new(layout.state.clone()));
        let answer = self.call_address(&peer.address, Outgoing::control(learn, deadline)).await;
        let is_told = matches!(answer, Ok(Answer::Learnt));
        if is_told {
            *told = Some(layout.stamp);
            peer.told_times.fetch_add(1, Ordering::Relaxed);
        }
        is_told
    }

    /// Goes on to the state of a peer that is ahead.
    async fn catch_up(self: &Arc<Self>, at: &StateStamp, peer: &Peer, deadline: Instant) {
        let epochs = self.epochs.present.clone();
        let _one = tokio::select! {
            biased;
            // It has heard of it otherwise.
            _ = epochs.wait_for(|present| *present != Some(*at)) => return,
            one = timeout_at(deadline, peer.told.lock()) => one,
        };
        if !self.is_past(at) {
            let deadline = deadline.min(Instant::now() + STATE_TIMEOUT);
            self.learn_from(&peer.address, deadline).await;
        }
    }

    /// Asks whoever answers at an address.
    pub(super) async fn call_address(
        &self,
        address: &PeerAddress,
        outgoing: Outgoing,
    ) -> Result<Answer, PeerFailure> {
        let message = self.enveloped(self.layout().map(|layout| layout.stamp), &outgoing);
        self.send(address, outgoing.lane, message, outgoing.deadline).await
    }

    fn enveloped(&self, stamp: Option<StateStamp>, outgoing: &Outgoing) -> Bytes {
        let Outgoing { to, request, deadline, request_id, .. } = outgoing;
        let mut timeout = deadline.saturating_duration_since(Instant::now());
        if matches!(request, Request::Write(_)) {
            // So that the replica's own word on a write that it could not finish gets here in time.
            timeout -= FORWARD_MARGIN.min(timeout / 10);
        }
        encode(&EnvelopeRef {
            from: &self.settings.id,
            incarnation: self.opened.identity.incarnation,
            to: *to,
            stamp,
            timeout_ms: u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX),
            request_id,
            request,
        })
    }

    async fn send(
        &self,
        address: &PeerAddress,
        lane: Lane,
        message: Bytes,
        deadline: Instant,
    ) -> Result<Answer, PeerFailure> {
        let bytes = self.transport.call(address, lane, message, deadline).await?;
        match decode::<Reply>(&bytes) {
            Ok(Ok(answer)) => Ok(answer),
            // What can't be read says nothing of what was done.
            Err(Refusal::Malformed) => Err(PeerFailure::WrongAnswer),
            Ok(Err(refusal)) | Err(refusal) => {
                if refusal == Refusal::Forked {
                    self.metrics.alarm("forked-state");
                }
                Err(PeerFailure::Refused(refusal))
            }
        }
    }
}

/// When a request that came with this much time left must be done.
pub(super) fn deadline_of(envelope: &Envelope) -> Instant {
    Instant::now() + Duration::from_millis(u64::from(envelope.timeout_ms))
}
