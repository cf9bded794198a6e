//! Counters of one peer. They are read apart from each other and need not add up exactly.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::peer::http::line::Volume;
use crate::peer::transport::{Condition, PeerStatistics};
use crate::peer::{CallError, PeerAddress};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) volume: Arc<Volume>,
    calls: AtomicU64,
    failures: AtomicU64,
    in_flight: AtomicU64,
    dropped: AtomicU64,
    connects: AtomicU64,
    connect_failures: AtomicU64,
}

fn add_one(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Counters {
    pub(super) fn add_dropped(&self) {
        add_one(&self.dropped);
    }

    pub(super) fn add_connect(&self) {
        add_one(&self.connects);
    }

    pub(super) fn add_connect_failure(&self) {
        add_one(&self.connect_failures);
    }

    /// Counts a call from its beginning to its end.
    pub(super) fn begin_call(&self) -> CountedCall<'_> {
        add_one(&self.calls);
        add_one(&self.in_flight);
        CountedCall(self)
    }

    pub(super) fn read(&self, address: PeerAddress, condition: Condition) -> PeerStatistics {
        PeerStatistics {
            address,
            condition,
            calls: self.calls.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
            in_flight: self.in_flight.load(Ordering::Relaxed),
            dropped: self.dropped.load(Ordering::Relaxed),
            bytes_sent: self.volume.sent(),
            bytes_received: self.volume.received(),
            connects: self.connects.load(Ordering::Relaxed),
            connect_failures: self.connect_failures.load(Ordering::Relaxed),
        }
    }
}

/// A call in flight, until it is dropped.
pub(super) struct CountedCall<'a>(&'a Counters);

impl CountedCall<'_> {
    pub(super) fn ended<T>(self, result: Result<T, CallError>) -> Result<T, CallError> {
        if result.is_err() {
            add_one(&self.0.failures);
        }
        result
    }
}

impl Drop for CountedCall<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}
