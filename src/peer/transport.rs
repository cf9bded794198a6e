//! The seam between a node and the network.
//!
//! What matters most about a failed call is whether the peer may have begun it: a write is minted
//! once, so a forward goes on to a second replica only if the first provably did not begin it
//! (`correctness.md`, "Who mints"). [`CallError`] keeps the two cases apart, and a transport that
//! does not know says "maybe".

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::time::Instant;

use crate::peer::address::PeerAddress;

/// Which of the connections to a peer a message takes. Each lane keeps its own order and its own
/// queue, so that membership never waits behind values, and clients never wait behind a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Membership and the cluster state: small, and in time or useless.
    Control,
    /// What clients wait for.
    Data,
    /// Repair and streams, which give way to clients.
    Background,
}

impl Lane {
    /// Every lane.
    pub const ALL: [Self; 3] = [Self::Control, Self::Data, Self::Background];

    /// The name on the wire and in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Data => "data",
            Self::Background => "background",
        }
    }
}

/// Moves bytes to peers and brings their answers back. In order neither across lanes nor among the
/// calls of one lane: each call is answered when its handler is done.
pub trait Transport: Send + Sync + 'static {
    /// One request, one answer. The call ends by `deadline` at the latest.
    ///
    /// Nothing is sent before the future is polled. A future that is dropped sends nothing more;
    /// if its request was written, the peer still works it off and the answer is dropped.
    ///
    /// # Errors
    /// [`CallError`]; [`CallError::is_not_sent`] tells whether the request may be done elsewhere.
    fn call(
        &self,
        to: &PeerAddress,
        lane: Lane,
        request: Bytes,
        deadline: Instant,
    ) -> BoxFuture<'static, Result<Bytes, CallError>>;

    /// One-way, best effort, never waits: for SWIM, which expects loss. A message is dropped if
    /// the peer is out of reach or its queue is full.
    fn send(&self, to: &PeerAddress, lane: Lane, message: Bytes);

    /// What is known of a peer from the traffic to it. Costs no message; never waits.
    fn condition(&self, to: &PeerAddress) -> Condition;

    /// The peer was heard of otherwise than through a connection of this side: if connecting to it
    /// is paused after failures, it is tried at once. A restarted node so is reached as soon as it
    /// greets, not when the pause is over.
    fn heard_from(&self, _peer: &PeerAddress) {}

    /// Figures for metrics: one entry a peer that was used of late, ordered by address.
    fn statistics(&self) -> Vec<PeerStatistics>;
}

/// What a node gives to a transport to answer incoming messages.
pub trait Handler: Send + Sync + 'static {
    /// Answers a request. The future runs to its end even if the caller went away.
    ///
    /// It may be polled for the first time on the task that reads the connection, so what it does
    /// before its first wait must be short and must not block. The bytes are a slice of a read
    /// buffer and keep all of it alive: copy what is kept for long.
    fn call(self: Arc<Self>, request: Bytes) -> BoxFuture<'static, Bytes>;

    /// Takes a one-way message. Called on the task that reads the connection: must neither block
    /// nor take long.
    fn receive(self: Arc<Self>, message: Bytes);
}

/// Why a call brought no answer, and whether the peer may have begun it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// Provably nothing of the request reached the connection: it was not applied, and it is safe
    /// to do it elsewhere.
    #[error("not sent: {0}")]
    NotSent(NotSentReason),
    /// Written, or maybe written, and no answer by the deadline. It may be applied, even later.
    #[error("no answer by the deadline")]
    TimedOut,
    /// Written, or maybe written, then the connection ended. It may be applied.
    #[error("connection ended before the answer: {0}")]
    Broken(BreakReason),
}

impl CallError {
    /// Whether the peer provably did not begin the request.
    pub const fn is_not_sent(self) -> bool {
        matches!(self, Self::NotSent(_))
    }
}

/// Why a request was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum NotSentReason {
    /// No connection could be made: refused, unreachable, no such name, or no peer behind it.
    #[error("no connection to the peer")]
    Unreachable,
    /// Connecting failed a moment ago and the pause before the next attempt still runs.
    #[error("the peer was unreachable a moment ago")]
    BreakerOpen,
    /// Too many requests or bytes wait for this peer already.
    #[error("the queue to the peer is full")]
    QueueFull,
    /// The deadline passed before the request's turn came.
    #[error("the deadline passed before it was the request's turn")]
    DeadlinePassed,
    /// The connection ended before the request's turn came.
    #[error("the connection ended before it was the request's turn")]
    ConnectionEnded,
    /// The request is larger than a frame may be. Retrying elsewhere won't help.
    #[error("the request is larger than a frame may be")]
    TooLarge,
    /// This transport was shut down.
    #[error("the transport is shut down")]
    ShutDown,
}

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum BreakReason {
    /// The peer closed or reset the connection, or the network did.
    #[error("closed by the peer or the network")]
    Closed,
    /// Requests were outstanding and nothing at all was heard for long.
    #[error("the peer fell silent")]
    Silent,
    /// The peer sent what is no frame, or a damaged one.
    #[error("the peer sent a wrong frame")]
    Protocol,
    /// This transport was shut down.
    #[error("the transport is shut down")]
    ShutDown,
}

/// What the traffic of late says of a peer. A hint for the order in which to ask peers, no verdict
/// on who is up: that is the failure detector's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Condition {
    /// Nothing speaks against it. Also said of a peer never talked to.
    #[default]
    Good,
    /// Requests are outstanding and nothing at all was heard for half a second on that lane: the
    /// process is stopped or the network swallows packets.
    Stalled,
    /// Connecting fails: calls end at once with [`CallError::NotSent`].
    Failing,
}

/// Figures of one peer since it was first used, all lanes together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatistics {
    /// The peer.
    pub address: PeerAddress,
    /// Its condition now.
    pub condition: Condition,
    /// Calls begun.
    pub calls: u64,
    /// Calls that ended without an answer, for whatever reason.
    pub failures: u64,
    /// Calls without an answer so far.
    pub in_flight: u64,
    /// One-way messages dropped because of no connection or a full queue.
    pub dropped: u64,
    /// Bytes written, with framing.
    pub bytes_sent: u64,
    /// Bytes read, with framing.
    pub bytes_received: u64,
    /// Connections made, the first of each lane included.
    pub connects: u64,
    /// Attempts to connect that failed.
    pub connect_failures: u64,
}
