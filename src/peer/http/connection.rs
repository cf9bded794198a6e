//! The dialling side of one connection: calls that wait for their answers.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use foldhash::{HashMap, HashMapExt as _};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use crate::peer::http::frame::{Frame, FrameError, FrameKind};
use crate::peer::http::line::{Line, Volume};
use crate::peer::http::options::HttpOptions;
use crate::peer::http::outbox::bare;
use crate::peer::http::wire::{Gate, Wire};
use crate::peer::transport::{BreakReason, CallError, NotSentReason};

type Answer = oneshot::Sender<Result<Bytes, CallError>>;

/// A connection that stands, or has ended.
#[derive(Debug)]
pub(super) struct Connection {
    line: Arc<Line>,
    calls: Mutex<Calls>,
}

/// Calls without an answer, by the number of their frame.
#[derive(Debug)]
struct Calls {
    waiting: HashMap<u64, Answer>,
    /// When `waiting` last ceased to be empty.
    waiting_since: Instant,
}

impl Connection {
    pub(super) fn new(options: &HttpOptions, volume: Arc<Volume>) -> Arc<Self> {
        let calls = Calls { waiting: HashMap::new(), waiting_since: Instant::now() };
        let line = Arc::new(Line::new(options, volume));
        Arc::new(Self { line, calls: Mutex::new(calls) })
    }

    /// What the wire of this connection shares with it.
    pub(super) fn line(&self) -> &Arc<Line> {
        &self.line
    }

    fn lock(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().expect("nothing panics while it holds the calls")
    }

    /// One request, one answer, by the deadline. See [`Transport::call`].
    ///
    /// [`Transport::call`]: crate::peer::Transport::call
    pub(super) async fn call(&self, request: Bytes, deadline: Instant) -> Result<Bytes, CallError> {
        let (number, answer) = self.begin(request).map_err(CallError::NotSent)?;
        let mut open = OpenCall { connection: self, number: Some(number) };
        match timeout_at(deadline, answer).await {
            Ok(result) => {
                open.number = None;
                result.expect("answers are only dropped by their call, or sent")
            }
            Err(_) if open.abandon() => Err(CallError::NotSent(NotSentReason::DeadlinePassed)),
            Err(_) => Err(CallError::TimedOut),
        }
    }

    fn begin(
        &self,
        request: Bytes,
    ) -> Result<(u64, oneshot::Receiver<Result<Bytes, CallError>>), NotSentReason> {
        let frame = Frame::new(FrameKind::Request, 0, request);
        let (sender, receiver) = oneshot::channel();
        // Held while pushing: neither the answer nor the end may look for the call before it is in.
        let mut calls = self.lock();
        let number = self.line.outbox.push(frame)?;
        if calls.waiting.is_empty() {
            calls.waiting_since = Instant::now();
        }
        calls.waiting.insert(number, sender);
        Ok((number, receiver))
    }

    /// Queues a one-way message. False if there is no room.
    pub(super) fn send(&self, message: Bytes) -> bool {
        self.line.outbox.push(Frame::new(FrameKind::OneWay, 0, message)).is_ok()
    }

    pub(super) fn has_ended(&self) -> bool {
        self.line.outbox.has_ended()
    }

    /// Whether calls wait for their answers.
    pub(super) fn has_calls(&self) -> bool {
        !self.lock().waiting.is_empty()
    }

    /// For how long requests have been outstanding without a sign of life. Zero without requests.
    pub(super) fn quiet_for(&self, now: Instant) -> Duration {
        let calls = self.lock();
        if calls.waiting.is_empty() {
            return Duration::ZERO;
        }
        let since = calls.waiting_since.max(self.line.pulse.heard_at());
        now.saturating_duration_since(since)
    }

    /// How long the connection has stood.
    pub(super) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.line.pulse.began())
    }

    /// Asks for a sign of life.
    pub(super) fn ping(&self) {
        // No room: then there is traffic enough to draw one.
        let _ = self.line.outbox.push(bare(FrameKind::Ping, 0));
    }

    /// Reads and writes until the connection ends; then resolves all calls.
    pub(super) async fn run(&self, mut wire: Wire) -> ConnectionEnd {
        let end = self.read_answers(&mut wire).await;
        let reason = match end {
            ConnectionEnd::Wrong(_) => BreakReason::Protocol,
            ConnectionEnd::Broken(reason) => reason,
        };
        self.end(reason);
        end
    }

    async fn read_answers(&self, wire: &mut Wire) -> ConnectionEnd {
        loop {
            // First: a frame may have come along with the answer to the upgrade.
            loop {
                match wire.next_frame().and_then(|frame| self.take(frame)) {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(error) => return ConnectionEnd::Wrong(error),
                }
            }
            if let Err(reason) = wire.turn(|| Gate::Read).await {
                return ConnectionEnd::Broken(reason);
            }
        }
    }

    /// Takes one frame in. False without one.
    fn take(&self, frame: Option<Frame>) -> Result<bool, FrameError> {
        let Some(frame) = frame else { return Ok(false) };
        match frame.kind {
            FrameKind::Answer => {
                let call = self.lock().waiting.remove(&frame.correlation);
                if let Some(call) = call {
                    // A call that was dropped just now wants no answer.
                    let _ = call.send(Ok(frame.payload));
                }
                Ok(true)
            }
            FrameKind::Pong => Ok(true),
            FrameKind::Request | FrameKind::OneWay | FrameKind::Ping => {
                Err(FrameError::WrongDirection)
            }
        }
    }

    /// Ends the connection and resolves all calls: those that were still queued as not sent.
    pub(super) fn end(&self, reason: BreakReason) {
        let (reason, taken) = self.line.outbox.end(reason);
        let waiting = std::mem::take(&mut self.lock().waiting);
        for (number, call) in waiting {
            let error = if number > taken {
                CallError::NotSent(NotSentReason::ConnectionEnded)
            } else {
                CallError::Broken(reason)
            };
            let _ = call.send(Err(error));
        }
    }
}

/// Why a connection's task ended.
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub(super) enum ConnectionEnd {
    #[error("{0}")]
    Wrong(FrameError),
    #[error("{0}")]
    Broken(BreakReason),
}

/// Forgets its call when it is dropped unanswered.
struct OpenCall<'a> {
    connection: &'a Connection,
    number: Option<u64>,
}

impl OpenCall<'_> {
    /// Forgets the call. True if it was provably not written.
    fn abandon(&mut self) -> bool {
        let Some(number) = self.number.take() else { return false };
        let mut calls = self.connection.lock();
        calls.waiting.remove(&number);
        self.connection.line.outbox.withdraw(number)
    }
}

impl Drop for OpenCall<'_> {
    fn drop(&mut self) {
        self.abandon();
    }
}
