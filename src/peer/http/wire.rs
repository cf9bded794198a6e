//! One connection after the upgrade: reads frames, writes what its outbox holds.
//!
//! Both directions are polled by one task, so an answer that was computed at once is written by
//! the poll that read its request: no task wakes another. Whatever was queued while the socket was
//! busy goes out in one write. What other tasks queue is written once no task is ready to run, so that
//! what they have queued together goes out together; nothing waits for more to come.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use futures_util::future::poll_fn;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::yield_now;

use crate::peer::http::frame::{Frame, FrameError, Parsed, parse};
use crate::peer::http::line::Line;
use crate::peer::transport::BreakReason;

/// How much is read at once, at least.
const READ_BYTES: usize = 64 << 10;
/// With less room than that, a new read buffer is begun.
const MIN_ROOM_BYTES: usize = 4 << 10;
/// Payloads up to that size are copied next to their heads: cheaper than a slice of their own.
const COPIED_BYTES: usize = 8 << 10;
/// How many slices one write takes.
const SLICES: usize = 64;

/// What a turn may do beyond writing; asked anew each time the task is woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gate {
    Read,
    /// End at once: frames that were read before are still to be taken.
    Resume,
    /// Leave what comes in the socket, to hold back its sender.
    Hold,
    /// End as soon as everything queued is written.
    Stop,
}

/// What ended a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// There may be frames to take: see [`Wire::next_frame`].
    Resumed,
    /// The gate said stop and everything is written.
    Stopped,
}

/// See the module.
pub(super) struct Wire {
    stream: TcpStream,
    line: Arc<Line>,
    incoming: BytesMut,
    max_payload: usize,
    /// Frames being written: the chunks, and the buffer that small frames are gathered in.
    outgoing: VecDeque<Bytes>,
    gathered: BytesMut,
    batch: Vec<Frame>,
    /// The socket took no more at the last write. Its taking some again is a sign of life.
    blocked: bool,
}

impl Wire {
    /// `read_ahead`: what was read beyond the HTTP head.
    pub(super) fn new(
        stream: TcpStream,
        read_ahead: &Bytes,
        max_payload: usize,
        line: Arc<Line>,
    ) -> Self {
        Self {
            stream,
            line,
            incoming: BytesMut::from(&read_ahead[..]),
            max_payload,
            outgoing: VecDeque::new(),
            gathered: BytesMut::new(),
            batch: Vec::new(),
            blocked: false,
        }
    }

    /// Writes whatever is queued, until bytes came in or the gate says stop. Safe to drop at any
    /// time.
    ///
    /// # Errors
    /// The connection ended.
    pub(super) async fn turn(&mut self, gate: impl Fn() -> Gate) -> Result<Turn, BreakReason> {
        let mut others_run = pin!(yield_now());
        let mut is_first = true;
        poll_fn(|context| {
            // First: what happens after this wakes the task again.
            self.line.outbox.register(context);
            // What the task itself has queued just now, or has begun to write, waits for nobody.
            let is_mine = std::mem::take(&mut is_first) || !self.outgoing.is_empty();
            if is_mine || self.line.outbox.waiting_bytes() == 0 {
                self.poll_write(context)?;
            } else if others_run.as_mut().poll(context).is_ready() {
                others_run.set(yield_now());
                self.poll_write(context)?;
            }
            match gate() {
                Gate::Read => self.poll_read(context).map_ok(|()| Turn::Resumed),
                Gate::Resume => Poll::Ready(Ok(Turn::Resumed)),
                Gate::Stop if self.is_flushed() => Poll::Ready(Ok(Turn::Stopped)),
                Gate::Hold | Gate::Stop => Poll::Pending,
            }
        })
        .await
    }

    /// The next frame of what was read.
    ///
    /// # Errors
    /// What is there is no frame; the connection is of no use any more.
    pub(super) fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        match parse(&mut self.incoming, self.max_payload)? {
            Parsed::Frame(frame) => Ok(Some(frame)),
            Parsed::Partial(size) => {
                self.make_room(size);
                Ok(None)
            }
        }
    }

    /// Makes room for the rest of a frame, at most doubling what has come in: who only claims to
    /// send a large frame gets no large buffer.
    fn make_room(&mut self, size: usize) {
        let missing = size.saturating_sub(self.incoming.len());
        let room = self.incoming.capacity() - self.incoming.len();
        if room < missing.max(MIN_ROOM_BYTES) {
            let most = self.incoming.len().max(READ_BYTES);
            self.incoming.reserve(missing.clamp(READ_BYTES, most));
        }
    }

    /// Whether nothing is left that was taken from the outbox.
    fn is_flushed(&self) -> bool {
        self.outgoing.is_empty() && self.line.outbox.waiting_bytes() == 0
    }

    /// Says that nothing more will be written.
    pub(super) async fn close(&mut self) {
        // The connection is given up either way.
        let _ = self.stream.shutdown().await;
    }

    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BreakReason>> {
        if self.incoming.capacity() - self.incoming.len() < MIN_ROOM_BYTES {
            self.incoming.reserve(READ_BYTES);
        }
        let read = pin!(self.stream.read_buf(&mut self.incoming));
        let bytes = ready!(read.poll(context)).map_err(|_| BreakReason::Closed)?;
        if bytes == 0 {
            return Poll::Ready(Err(BreakReason::Closed));
        }
        self.line.volume.add_received(bytes);
        self.line.pulse.beat();
        Poll::Ready(Ok(()))
    }

    /// Writes as far as the socket takes it.
    fn poll_write(&mut self, context: &mut Context<'_>) -> Result<(), BreakReason> {
        loop {
            if self.outgoing.is_empty() && !self.gather()? {
                return Ok(());
            }
            let Poll::Ready(bytes) = self.poll_write_once(context)? else {
                self.blocked = true;
                return Ok(());
            };
            if std::mem::take(&mut self.blocked) {
                self.line.pulse.beat();
            }
            self.line.volume.add_sent(bytes);
            self.advance(bytes);
        }
    }

    fn poll_write_once(&mut self, context: &mut Context<'_>) -> Poll<Result<usize, BreakReason>> {
        let mut slices = [IoSlice::new(&[]); SLICES];
        for (slice, chunk) in slices.iter_mut().zip(&self.outgoing) {
            *slice = IoSlice::new(chunk);
        }
        let slices = &slices[..self.outgoing.len().min(SLICES)];
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        match ready!(written) {
            Ok(bytes) if bytes > 0 => Poll::Ready(Ok(bytes)),
            Ok(_) | Err(_) => Poll::Ready(Err(BreakReason::Closed)),
        }
    }

    fn advance(&mut self, mut bytes: usize) {
        while let Some(chunk) = self.outgoing.front_mut() {
            if bytes < chunk.len() {
                chunk.advance(bytes);
                return;
            }
            bytes -= chunk.len();
            self.outgoing.pop_front();
        }
    }

    /// Turns what the outbox hands out into chunks to write. False if nothing waits.
    fn gather(&mut self) -> Result<bool, BreakReason> {
        if !self.line.outbox.take(&mut self.batch)? {
            return Ok(false);
        }
        for frame in self.batch.drain(..) {
            frame.put_head(&mut self.gathered);
            if frame.payload.len() <= COPIED_BYTES {
                self.gathered.extend_from_slice(&frame.payload);
            } else {
                self.outgoing.push_back(self.gathered.split().freeze());
                self.outgoing.push_back(frame.payload);
            }
        }
        if !self.gathered.is_empty() {
            self.outgoing.push_back(self.gathered.split().freeze());
        }
        Ok(true)
    }
}
