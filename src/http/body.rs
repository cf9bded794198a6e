//! Request bodies: bounded in size, and in how long they may stand still.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::EXPECT;
use http_body::Body;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::timeout;

use super::error::{Code, Failure};

/// An unread body up to this size is read and dropped, so that the connection can be used again.
const MAX_SKIPPED_BYTES: u64 = 64 * 1024;
/// How long that may take in all.
const MAX_SKIPPING: Duration = Duration::from_secs(2);
/// What is set aside on the word of a `Content-Length` alone.
const MAX_UNSEEN_BYTES: usize = 256 * 1024;

/// The body of a request.
#[derive(Debug)]
pub struct RequestBody {
    incoming: Incoming,
    /// How long it may stand still.
    patience: Duration,
    /// The client waits for `100 Continue`, which is sent with the first look at the body.
    awaits_continue: bool,
    state: State,
}

/// How far a body was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// There may be more.
    Open,
    /// To its end.
    Whole,
    /// It failed, stalled or was given up: no other request can follow it.
    Broken,
}

impl RequestBody {
    /// Wraps the body of a request with these headers.
    pub fn new(incoming: Incoming, headers: &HeaderMap, patience: Duration) -> Self {
        let awaits_continue = headers
            .get(EXPECT)
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
        Self { incoming, patience, awaits_continue, state: State::Open }
    }

    /// Reads it to its end.
    ///
    /// # Errors
    /// `value-too-large`, before anything is read where `Content-Length` says so; `body-timeout`;
    /// `invalid-request` where it breaks off or its framing is wrong.
    pub async fn read(&mut self, max_bytes: usize) -> Result<Bytes, Failure> {
        self.check_announced(max_bytes)?;
        self.awaits_continue = false;
        let Some(first) = self.next(0, max_bytes).await? else {
            return Ok(Bytes::new());
        };
        if self.incoming.is_end_stream() {
            return Ok(first);
        }
        self.read_rest(first, max_bytes).await
    }

    /// Checks the size that the client announced.
    ///
    /// # Errors
    /// `value-too-large`.
    pub fn check_announced(&self, max_bytes: usize) -> Result<(), Failure> {
        if self.incoming.size_hint().lower() > max_bytes as u64 {
            return Err(too_large(max_bytes));
        }
        Ok(())
    }

    async fn read_rest(&mut self, first: Bytes, max_bytes: usize) -> Result<Bytes, Failure> {
        let announced = first.len() as u64 + self.incoming.size_hint().lower();
        let capacity = usize::try_from(announced).unwrap_or(max_bytes).min(MAX_UNSEEN_BYTES);
        let mut whole = BytesMut::with_capacity(capacity.max(2 * first.len()));
        whole.extend_from_slice(&first);
        while let Some(more) = self.next(whole.len(), max_bytes).await? {
            whole.extend_from_slice(&more);
        }
        Ok(whole.freeze())
    }

    /// The next piece, after `had_bytes` of at most `max_bytes`.
    async fn next(&mut self, had_bytes: usize, max_bytes: usize) -> Result<Option<Bytes>, Failure> {
        loop {
            let frame = match timeout(self.patience, self.incoming.frame()).await {
                Ok(Some(Ok(frame))) => frame,
                Ok(None) => {
                    self.state = State::Whole;
                    return Ok(None);
                }
                Ok(Some(Err(error))) => {
                    self.state = State::Broken;
                    let detail = format!("the body broke off or is malformed: {error}");
                    return Err(Failure::new(Code::InvalidRequest, detail).closing());
                }
                Err(_) => {
                    self.state = State::Broken;
                    let detail = "the body stood still for too long; send it without pausing";
                    return Err(Failure::new(Code::BodyTimeout, detail).closing());
                }
            };
            // Trailers are no data, and mean nothing here.
            let Ok(data) = frame.into_data() else { continue };
            if data.len() > max_bytes - had_bytes {
                self.state = State::Broken;
                return Err(too_large(max_bytes));
            }
            return Ok(Some(data));
        }
    }

    /// Makes the connection ready for the next request: reads and drops what is left of this one.
    /// False where that is too much: the connection must then end with the answer.
    pub async fn skip(&mut self) -> bool {
        if self.incoming.is_end_stream() || self.state == State::Whole {
            return true;
        }
        let announced = self.incoming.size_hint();
        if self.state == State::Broken
            || self.awaits_continue
            || announced.lower() > MAX_SKIPPED_BYTES
        {
            return false;
        }
        let skip = async {
            let mut left = MAX_SKIPPED_BYTES;
            while let Some(frame) = self.incoming.frame().await {
                let Ok(frame) = frame else { return false };
                let len = frame.data_ref().map_or(0, Bytes::len) as u64;
                let Some(rest) = left.checked_sub(len) else { return false };
                left = rest;
            }
            true
        };
        timeout(MAX_SKIPPING, skip).await.unwrap_or(false)
    }
}

fn too_large(max_bytes: usize) -> Failure {
    let detail = format!("the body is above the limit of {max_bytes} bytes; send less");
    Failure::new(Code::ValueTooLarge, detail).closing()
}
