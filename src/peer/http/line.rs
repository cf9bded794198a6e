//! What the task of one connection shares with those who use it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::peer::http::options::HttpOptions;
use crate::peer::http::outbox::Outbox;

/// One connection, seen from outside of its task.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) outbox: Outbox,
    pub(super) pulse: Pulse,
    pub(super) volume: Arc<Volume>,
}

impl Line {
    pub(super) fn new(options: &HttpOptions, volume: Arc<Volume>) -> Self {
        Self { outbox: Outbox::new(options), pulse: Pulse::new(), volume }
    }
}

/// When the other side last gave a sign of life.
#[derive(Debug)]
pub(super) struct Pulse {
    origin: Instant,
    heard_ms: AtomicU64,
}

impl Pulse {
    fn new() -> Self {
        Self { origin: Instant::now(), heard_ms: AtomicU64::new(0) }
    }

    /// A sign of life, now.
    pub(super) fn beat(&self) {
        let now_ms = u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.heard_ms.store(now_ms, Ordering::Relaxed);
    }

    /// When the connection was made.
    pub(super) fn began(&self) -> Instant {
        self.origin
    }

    /// The last sign of life; connecting was the first.
    pub(super) fn heard_at(&self) -> Instant {
        self.origin + Duration::from_millis(self.heard_ms.load(Ordering::Relaxed))
    }
}

/// Bytes that went over connections, framing included.
#[derive(Debug, Default)]
pub(super) struct Volume {
    sent: AtomicU64,
    received: AtomicU64,
}

impl Volume {
    pub(super) fn add_sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn add_received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    pub(super) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}
