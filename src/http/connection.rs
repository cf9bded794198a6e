//! One client's connection: hyper's state machine, driven under our timeouts.
//!
//! hyper's own head timeout closes without a word, and runs on idle connections too; so the
//! driver keeps the time itself, and answers 408 where a request stopped halfway.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{sleep_until, timeout};

use super::answer::Answer;
use super::app::{App, MAX_TARGET_BYTES, TARGET_TOO_LONG};
use super::error::Code;
use super::wire::{Exchanges, Phase, Wire};

/// Targets of [`MAX_TARGET_BYTES`], 32 KiB of headers, method and version.
const MAX_HEAD_BYTES: usize = MAX_TARGET_BYTES + 32 * 1024 + 64;
/// What hyper reads ahead and writes behind, at most.
const MAX_BUFFER_BYTES: usize = 256 * 1024;
/// How long the server reads and drops, so that the client sees the last answer: closing with
/// unread bytes resets the connection, and a reset throws the answer away.
const LINGER: Duration = Duration::from_secs(2);
/// How long a last answer may take to go out.
const GOODBYE: Duration = Duration::from_secs(1);

/// How hyper's part ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// Both sides are done, or the socket failed.
    Done,
    /// What came is no HTTP/1.1.
    NotHttp,
    /// A phase lasted too long.
    Expired(Phase),
}

/// hyper's settings; made once.
pub fn protocol() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        // A client that has sent all it has to send may still wait for the answer.
        .half_close(true)
        .header_read_timeout(None)
        .max_header_size(MAX_HEAD_BYTES)
        .max_buf_size(MAX_BUFFER_BYTES);
    builder
}

/// Serves one connection to its end. When `stop` turns true, it ends with the request that is
/// being answered, or at once.
pub async fn drive(
    app: Arc<App>,
    protocol: http1::Builder,
    stream: TcpStream,
    mut stop: watch::Receiver<bool>,
) {
    let exchanges = Arc::new(Exchanges::new(app.limits));
    let wire = Wire::new(stream, Arc::clone(&exchanges));
    let service = service_fn(|request| exchange(&app, &exchanges, request));
    let mut connection = protocol.serve_connection(wire, service);
    let mut timer = pin!(sleep_until(exchanges.phase().1.expect("a new connection is idle")));
    let mut stopping = Box::pin(async move { stop.wait_for(|stop| *stop).await.is_ok() });
    let mut is_stopping = false;
    let end = poll_fn(|cx| {
        loop {
            if let Poll::Ready(done) = Pin::new(&mut connection).poll(cx) {
                return Poll::Ready(end_of(&done));
            }
            if !is_stopping && stopping.as_mut().poll(cx).is_ready() {
                is_stopping = true;
                Pin::new(&mut connection).graceful_shutdown();
                continue;
            }
            let (phase, Some(until)) = exchanges.phase() else { return Poll::Pending };
            // Idle connections end at once when the server does; hyper waits for the first
            // request of a new one.
            if is_stopping && phase == Phase::Idle {
                return Poll::Ready(End::Expired(phase));
            }
            // Moved only if it must ring earlier, or has rung: most phases end long before.
            if until < timer.deadline() {
                timer.as_mut().reset(until);
            }
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if until <= timer.deadline() {
                return Poll::Ready(End::Expired(phase));
            }
            timer.as_mut().reset(until);
        }
    })
    .await;
    let parts = connection.into_parts();
    leave(&app, &exchanges, parts.io.into_stream(), (end, &parts.read_buf)).await;
}

fn end_of(done: &hyper::Result<()>) -> End {
    match done {
        Err(error) if error.is_parse() => End::NotHttp,
        Ok(()) | Err(_) => End::Done,
    }
}

async fn exchange(
    app: &App,
    exchanges: &Exchanges,
    request: Request<Incoming>,
) -> Result<Answer, Infallible> {
    exchanges.begin();
    let is_head = request.method() == Method::HEAD;
    let answer = app.answer(request).await;
    let has_body =
        !is_head && !matches!(answer.status(), StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    exchanges.announce(if has_body { answer.body().len() } else { 0 });
    Ok(answer)
}

/// Says what is left to say, and closes so that the client can hear it.
async fn leave(
    app: &App,
    exchanges: &Exchanges,
    mut stream: TcpStream,
    (end, unread): (End, &[u8]),
) {
    let refusal = match (exchanges.refused(), &end) {
        (Some(status), _) => Some(cause(status, unread)),
        (None, End::NotHttp) => Some(cause(StatusCode::BAD_REQUEST, unread)),
        (None, End::Expired(Phase::Head)) => Some(HEAD_TIMEOUT),
        // Bytes of a head that came with the request before.
        (None, End::Expired(Phase::Idle)) if !unread.is_empty() => Some(HEAD_TIMEOUT),
        (None, _) => None,
    };
    match (refusal, end) {
        (Some((code, detail)), _) => {
            let answer = app.refuse(code, detail);
            say_goodbye(&mut stream, answer, LINGER).await;
        }
        (None, End::Expired(_)) => {}
        (None, _) => linger(&mut stream, LINGER).await,
    }
}

const HEAD_TIMEOUT: (Code, &str) = (
    Code::BodyTimeout,
    "the request's headers did not all arrive in time; send the request again, without pausing",
);

/// What is wrong with a request that hyper refused with this status.
fn cause(status: StatusCode, unread: &[u8]) -> (Code, &'static str) {
    if has_long_target(unread) || status == StatusCode::URI_TOO_LONG {
        return (Code::TargetTooLong, TARGET_TOO_LONG);
    }
    if status == StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE {
        let detail = "there are more than 100 headers, or the head is above 48 KiB; send less";
        return (Code::HeadersTooLarge, detail);
    }
    let detail = "this is no well-formed HTTP/1.1 request; check the request line (bytes beyond \
                  plain ASCII are percent-encoded), the headers and the framing of the body";
    (Code::InvalidRequest, detail)
}

/// Whether the target in the first line is too long, complete or not.
fn has_long_target(unread: &[u8]) -> bool {
    let line = unread.split(|b| *b == b'\n').next().unwrap_or_default();
    let target = line.split(|b| *b == b' ').nth(1).unwrap_or_default();
    target.len() > MAX_TARGET_BYTES
}

/// Sends a last answer and closes, reading and dropping for at most `patience`.
pub async fn say_goodbye(stream: &mut TcpStream, answer: Answer, patience: Duration) {
    let bytes = encode(answer).await;
    if matches!(timeout(GOODBYE, stream.write_all(&bytes)).await, Ok(Ok(()))) {
        linger(stream, patience).await;
    }
}

/// Closes our side, then reads and drops until the client closes its own.
async fn linger(stream: &mut TcpStream, patience: Duration) {
    if stream.shutdown().await.is_err() {
        return;
    }
    let drop_all = async {
        let mut dropped = [0; 16 * 1024];
        while stream.read(&mut dropped).await? > 0 {}
        io::Result::Ok(())
    };
    // However it ends, the connection does.
    let _ = timeout(patience, drop_all).await;
}

/// An answer's bytes, for those that hyper does not write.
pub async fn encode(answer: Answer) -> Bytes {
    let (parts, body) = answer.into_parts();
    let status = parts.status;
    let reason = status.canonical_reason().unwrap_or_default();
    let mut head = format!("HTTP/1.1 {} {reason}\r\n", status.as_str());
    for (name, value) in &parts.headers {
        let value = value.to_str().unwrap_or_default();
        write!(head, "{name}: {value}\r\n").expect("a String takes everything");
    }
    head.push_str("\r\n");
    let mut bytes = head.into_bytes();
    let Ok(body) = body.collect().await;
    bytes.extend_from_slice(&body.to_bytes());
    bytes.into()
}
