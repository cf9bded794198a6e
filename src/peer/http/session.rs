//! The listening side of one connection after the upgrade: requests to the handler, answers back.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::sync::watch;

use crate::peer::http::frame::{Frame, FrameError, FrameKind};
use crate::peer::http::line::Line;
use crate::peer::http::options::HttpOptions;
use crate::peer::http::outbox::bare;
use crate::peer::http::wire::{Gate, Turn, Wire};
use crate::peer::transport::{BreakReason, Handler};

/// See the module.
pub(super) struct Session {
    handler: Arc<dyn Handler>,
    line: Arc<Line>,
    /// Requests that are being worked on.
    active: AtomicUsize,
    max_active: usize,
    max_queue_bytes: usize,
}

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum SessionEnd {
    #[error("wrong frame: {0}")]
    Wrong(#[from] FrameError),
    #[error("{0}")]
    Broken(BreakReason),
    #[error("drained")]
    Drained,
}

/// How many of the frames that were read have been taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taken {
    All,
    /// There was no room for more; others may be left.
    Some,
}

impl Session {
    pub(super) fn new(handler: Arc<dyn Handler>, line: Arc<Line>, options: &HttpOptions) -> Self {
        Self {
            handler,
            line,
            active: AtomicUsize::new(0),
            max_active: options.max_handlers,
            max_queue_bytes: options.max_queue_bytes,
        }
    }

    /// Serves until the connection ends, or `stop` turns true and all that was begun is answered.
    pub(super) async fn run(
        self: Arc<Self>,
        mut wire: Wire,
        mut stop: watch::Receiver<bool>,
    ) -> SessionEnd {
        let end = self.serve(&mut wire, &mut stop).await;
        // Handlers that still run find their answers unwanted.
        self.line.outbox.end(BreakReason::Closed);
        if end == SessionEnd::Drained {
            wire.close().await;
        }
        end
    }

    async fn serve(
        self: &Arc<Self>,
        wire: &mut Wire,
        stop: &mut watch::Receiver<bool>,
    ) -> SessionEnd {
        let mut stopping = false;
        let mut stop = std::pin::pin!(stop.wait_for(|stop| *stop));
        loop {
            // First: frames may have come along with the request for the upgrade.
            let taken = if stopping { Ok(Taken::All) } else { self.take(wire) };
            let taken = match taken {
                Ok(taken) => taken,
                Err(error) => return SessionEnd::Wrong(error),
            };
            let turn = tokio::select! {
                biased;
                turn = wire.turn(|| self.gate(stopping, taken)) => turn,
                _ = &mut stop, if !stopping => {
                    stopping = true;
                    continue;
                }
            };
            match turn {
                Ok(Turn::Resumed) => {}
                Ok(Turn::Stopped) => return SessionEnd::Drained,
                Err(reason) => return SessionEnd::Broken(reason),
            }
        }
    }

    fn gate(&self, stopping: bool, taken: Taken) -> Gate {
        if stopping {
            let idle = self.active.load(Ordering::Acquire) == 0;
            return if idle { Gate::Stop } else { Gate::Hold };
        }
        match taken {
            _ if !self.has_room() => Gate::Hold,
            Taken::All => Gate::Read,
            Taken::Some => Gate::Resume,
        }
    }

    /// Whether one more request may be begun.
    fn has_room(&self) -> bool {
        self.active.load(Ordering::Acquire) < self.max_active
            && self.line.outbox.waiting_bytes() <= self.max_queue_bytes
    }

    /// Takes the frames that were read, as far as there is room.
    fn take(self: &Arc<Self>, wire: &mut Wire) -> Result<Taken, FrameError> {
        while self.has_room() {
            let Some(frame) = wire.next_frame()? else { return Ok(Taken::All) };
            match frame.kind {
                FrameKind::Request => self.begin(frame.correlation, frame.payload),
                FrameKind::OneWay => self.receive(frame.payload),
                FrameKind::Ping => self.push(bare(FrameKind::Pong, frame.correlation)),
                FrameKind::Answer | FrameKind::Pong => return Err(FrameError::WrongDirection),
            }
        }
        Ok(Taken::Some)
    }

    fn receive(&self, message: Bytes) {
        let received = std::panic::catch_unwind(AssertUnwindSafe(|| {
            Arc::clone(&self.handler).receive(message);
        }));
        if received.is_err() {
            tracing::error!("a one-way message made its handler panic");
        }
    }

    /// Begins to work on a request. What needs no wait is answered here and now, without a task
    /// and its wake-up; the rest runs as a task of its own, to its end.
    fn begin(self: &Arc<Self>, number: u64, request: Bytes) {
        self.active.fetch_add(1, Ordering::AcqRel);
        let handler = Arc::clone(&self.handler);
        let call = std::panic::catch_unwind(AssertUnwindSafe(|| handler.call(request)));
        let Ok(call) = call else { return self.finish(number, None) };
        let mut call = AssertUnwindSafe(call).catch_unwind();
        // Spawning polls it again, with the waker of its task.
        match call.poll_unpin(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(answer) => self.finish(number, answer.ok()),
            Poll::Pending => {
                let session = Arc::clone(self);
                tokio::spawn(async move { session.finish(number, call.await.ok()) });
            }
        }
    }

    /// Sends the answer; without one, because the handler panicked, the caller waits in vain.
    fn finish(&self, number: u64, answer: Option<Bytes>) {
        match answer {
            Some(answer) => self.push(Frame::new(FrameKind::Answer, number, answer)),
            None => tracing::error!("a request made its handler panic"),
        }
        self.active.fetch_sub(1, Ordering::AcqRel);
        self.line.outbox.wake_writer();
    }

    fn push(&self, frame: Frame) {
        let bytes = frame.wire_bytes();
        if self.line.outbox.push_answer(frame).is_err() && !self.line.outbox.has_ended() {
            tracing::error!(bytes, "an answer is larger than a frame may be");
        }
    }
}
