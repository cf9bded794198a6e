//! How fast background work goes: within a budget of bytes, and out of the way of clients.
//!
//! Work is done in small pieces with a rest after each. While clients are being served, a rest is a
//! multiple of the piece before it, so that background work takes a fixed small share of a core at most;
//! and most of it is done by threads that give way (`tasks`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::Node;

/// While clients are served, a rest is so many times the work before it, unless it is set.
const RESTS: u32 = 4;

/// The longest rest for the sake of clients.
const LONGEST_REST: Duration = Duration::from_millis(50);

/// What clients are being served now, by this node or by others that have asked it for its part.
#[derive(Debug, Default)]
pub(super) struct Clients {
    in_flight: AtomicUsize,
    begun: AtomicU64,
}

/// A client's request, while it is worked on.
pub(super) struct Serving<'a>(&'a Clients);

impl Clients {
    /// A request has begun; it ends when this is dropped.
    pub(super) fn serve(&self) -> Serving<'_> {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        self.begun.fetch_add(1, Ordering::Relaxed);
        Serving(self)
    }
}

impl Drop for Serving<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The pace of one piece of background work after another.
pub(super) struct Pace {
    node: Arc<Node>,
    bytes_per_second: u64,
    rests: u32,
    piece_begun: Instant,
    requests_before: u64,
    were_clients_served: bool,
}

impl Pace {
    /// One that moves at most so many bytes a second; 0: as many as it can.
    pub(super) fn new(node: &Arc<Node>, bytes_per_second: u64) -> Self {
        let requests_before = node.clients.begun.load(Ordering::Relaxed);
        Self {
            node: Arc::clone(node),
            bytes_per_second,
            rests: RESTS,
            piece_begun: Instant::now(),
            requests_before,
            were_clients_served: false,
        }
    }

    /// The same with rests, while clients are served, of so many times the work before them.
    pub(super) const fn resting(mut self, rests: u32) -> Self {
        self.rests = rests;
        self
    }

    /// Whether clients were served during the last piece: then pieces should be small.
    pub(super) fn are_clients_served(&self) -> bool {
        let clients = &self.node.clients;
        clients.begun.load(Ordering::Relaxed) != self.requests_before
            || clients.in_flight.load(Ordering::Relaxed) > 0
            || self.were_clients_served
    }

    /// Ends a piece that has moved so many bytes, and rests before the next.
    pub(super) async fn rest(&mut self, bytes: u64) {
        let took = self.piece_begun.elapsed();
        let due = match self.bytes_per_second {
            0 => Duration::ZERO,
            rate => Duration::from_micros(bytes.saturating_mul(1_000_000) / rate),
        };
        self.were_clients_served = false;
        self.were_clients_served = self.are_clients_served();
        self.requests_before = self.node.clients.begun.load(Ordering::Relaxed);
        let for_clients = match self.were_clients_served {
            true => (took * self.rests).min(LONGEST_REST),
            false => Duration::ZERO,
        };
        let rest = due.saturating_sub(took).max(for_clients);
        if rest.is_zero() {
            tokio::task::yield_now().await;
        } else {
            tokio::time::sleep(rest).await;
        }
        self.piece_begun = Instant::now();
    }
}
