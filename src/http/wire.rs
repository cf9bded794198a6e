//! The socket as hyper sees it.
//!
//! hyper answers what it can't parse by itself, with a bare head: `400`, `414` or `431` and no
//! body. Such an answer must not reach the client, so the wire knows which messages are ours: each
//! is announced with the length of its body before hyper writes it. Between two messages, what was
//! not announced is hyper's own: `100 Continue` passes, anything else is swallowed and its status
//! noted, and `connection` answers in its place.
//!
//! The wire also sees what the timeouts are about: when a head begins, and when an answer is out.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard};
use std::task::{Context, Poll, ready};

use http::StatusCode;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use memchr::memmem;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::app::HttpLimits;

/// Built once: every answer's head is searched.
static HEAD_END: LazyLock<memmem::Finder<'static>> =
    LazyLock::new(|| memmem::Finder::new("\r\n\r\n"));

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Waiting for a request.
    Idle,
    /// A request's head is arriving.
    Head,
    /// A request is being answered; it bounds its own time.
    Busy,
    /// An answer is going out.
    Answering,
}

/// What wire, requests and the connection's driver tell one another. All of them run in one task.
#[derive(Debug)]
pub struct Exchanges {
    limits: HttpLimits,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    /// When the phase has lasted too long.
    until: Instant,
    /// Lengths of the bodies of our answers that hyper has not begun to write, in order.
    announced: VecDeque<u64>,
    /// The status of hyper's own answer, which was swallowed.
    refused: Option<StatusCode>,
}

impl Exchanges {
    /// Those of a new connection; its first head may take as long as any.
    pub fn new(limits: HttpLimits) -> Self {
        let until = Instant::now() + limits.header_timeout;
        let state = State { phase: Phase::Idle, until, announced: VecDeque::new(), refused: None };
        Self { limits, state: Mutex::new(state) }
    }

    /// A request's head is complete.
    pub fn begin(&self) {
        self.lock().phase = Phase::Busy;
    }

    /// An answer is ready, with so many bytes of body.
    pub fn announce(&self, body_bytes: u64) {
        let mut state = self.lock();
        state.announced.push_back(body_bytes);
        state.phase = Phase::Answering;
        state.until = Instant::now() + self.limits.body_timeout;
    }

    /// What the connection is doing, and when that has lasted too long, if ever.
    pub fn phase(&self) -> (Phase, Option<Instant>) {
        let state = self.lock();
        (state.phase, (state.phase != Phase::Busy).then_some(state.until))
    }

    /// The status of the answer that hyper made by itself and nobody saw.
    pub fn refused(&self) -> Option<StatusCode> {
        self.lock().refused
    }

    fn received(&self) {
        let mut state = self.lock();
        if state.phase == Phase::Idle {
            state.phase = Phase::Head;
            state.until = Instant::now() + self.limits.header_timeout;
        }
    }

    fn sent(&self, is_message_done: bool) {
        let mut state = self.lock();
        // A pipelined request may have begun already; its phase is not this answer's to end.
        if state.phase != Phase::Answering {
            return;
        }
        if !is_message_done {
            state.until = Instant::now() + self.limits.body_timeout;
        } else if state.announced.is_empty() {
            state.phase = Phase::Idle;
            state.until = Instant::now() + self.limits.idle_timeout;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds the lock")
    }
}

/// The socket, between hyper and the client.
#[derive(Debug)]
pub struct Wire {
    io: TokioIo<TcpStream>,
    exchanges: Arc<Exchanges>,
    /// Bytes of the message that is being written; 0: between messages.
    left: u64,
}

/// Who made the message that begins.
enum Message {
    /// We: so many bytes, head and body.
    Ours(u64),
    /// hyper, because it could not parse the request.
    Refusal(StatusCode),
}

impl Wire {
    /// Wraps a connection.
    pub fn new(stream: TcpStream, exchanges: Arc<Exchanges>) -> Self {
        Self { io: TokioIo::new(stream), exchanges, left: 0 }
    }

    /// The connection.
    pub fn into_stream(self) -> TcpStream {
        self.io.into_inner()
    }

    /// Reads which message begins with these bytes. hyper puts a whole head into one buffer.
    fn begin(&self, bytes: &[u8]) -> Message {
        const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
        if bytes.starts_with(CONTINUE) {
            return Message::Ours(CONTINUE.len() as u64);
        }
        let mut state = self.exchanges.lock();
        if let Some(body_bytes) = state.announced.pop_front() {
            let head_end = HEAD_END.find(bytes).map(|at| at as u64 + 4);
            return Message::Ours(head_end.map_or(u64::MAX, |head| head + body_bytes));
        }
        let status = bytes.get(9..12).and_then(|digits| StatusCode::from_bytes(digits).ok());
        let status = status.unwrap_or(StatusCode::BAD_REQUEST);
        state.refused = Some(status);
        Message::Refusal(status)
    }

    /// Bytes of `first` that may go out now; `None`: none of them may, ever.
    fn admit(&mut self, first: &[u8]) -> Option<u64> {
        if self.left == 0 {
            match self.begin(first) {
                Message::Ours(bytes) => self.left = bytes,
                Message::Refusal(status) => {
                    tracing::debug!(%status, "refusing a malformed request");
                    return None;
                }
            }
        }
        Some(self.left)
    }

    fn wrote(&mut self, bytes: usize) {
        self.left = self.left.saturating_sub(bytes as u64);
        self.exchanges.sent(self.left == 0);
    }
}

impl Read for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        self.exchanges.received();
        Poll::Ready(Ok(()))
    }
}

impl Write for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let Some(admitted) = self.admit(buf) else {
            return Poll::Ready(Ok(buf.len()));
        };
        let admitted = usize::try_from(admitted).unwrap_or(usize::MAX).min(buf.len());
        let written = ready!(Pin::new(&mut self.io).poll_write(cx, &buf[..admitted]))?;
        self.wrote(written);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let total: usize = bufs.iter().map(|buf| buf.len()).sum();
        let Some(first) = bufs.iter().find(|buf| !buf.is_empty()) else {
            return Poll::Ready(Ok(0));
        };
        let Some(admitted) = self.admit(first) else {
            return Poll::Ready(Ok(total));
        };
        if admitted < total as u64 {
            // Another message follows: up to the end of this one only, so that the next begins
            // at the beginning of a buffer.
            return self.poll_write(cx, first);
        }
        let written = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, bufs))?;
        self.wrote(written);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    /// Does nothing: the driver may have to say something yet, and closes.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
