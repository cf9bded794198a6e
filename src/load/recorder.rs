//! What a thread notes while it measures, a second at a time.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::time::Instant;

use super::session::{Failure, Outcome};
use super::workload::Operation;

/// Longer latencies are counted as this one.
const LONGEST_NANOSECONDS: u64 = 120_000_000_000;

/// An empty histogram of nanoseconds, exact to three digits.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST_NANOSECONDS, 3).expect("its bounds are in order")
}

/// What came of operations of one kind.
#[derive(Clone, Debug)]
pub struct Tally {
    /// Nanoseconds of those that were answered as they should be: from when they were due (open loop)
    /// or sent (closed loop) to the end of the answer.
    pub latency: Histogram<u64>,
    /// Nanoseconds from when they were sent. Differs from `latency` in an open loop, in which requests
    /// wait for a connection to be free.
    pub service: Histogram<u64>,
    /// How many of them found several values.
    pub siblings: u64,
    /// How many of them found no value.
    pub missing: u64,
}

impl Default for Tally {
    fn default() -> Self {
        Self { latency: histogram(), service: histogram(), siblings: 0, missing: 0 }
    }
}

impl Tally {
    /// Adds what was done elsewhere, or later.
    pub(super) fn add(&mut self, other: &Self) {
        self.latency.add(&other.latency).expect("histograms are of one kind");
        self.service.add(&other.service).expect("histograms are of one kind");
        self.siblings += other.siblings;
        self.missing += other.missing;
    }
}

/// What happened in a stretch of time.
#[derive(Clone, Debug, Default)]
pub struct Interval {
    /// By kind of operation.
    pub tallies: BTreeMap<Operation, Tally>,
    /// What failed, by kind of error.
    pub errors: BTreeMap<String, u64>,
}

impl Interval {
    /// Adds what happened elsewhere, or later.
    pub fn add(&mut self, other: &Self) {
        for (operation, tally) in &other.tallies {
            self.tallies.entry(*operation).or_default().add(tally);
        }
        for (error, count) in &other.errors {
            *self.errors.entry(error.clone()).or_default() += count;
        }
    }

    /// How many operations were answered as they should be.
    pub fn done(&self) -> u64 {
        self.tallies.values().map(|tally| tally.latency.len()).sum()
    }

    /// How many failed.
    pub fn failed(&self) -> u64 {
        self.errors.values().sum()
    }

    /// The latencies of all operations, in nanoseconds.
    pub fn latency(&self) -> Histogram<u64> {
        let mut all = histogram();
        for tally in self.tallies.values() {
            all.add(&tally.latency).expect("histograms are of one kind");
        }
        all
    }

    fn note(&mut self, noted: &Noted) {
        match &noted.result {
            Ok(outcome) => {
                let tally = self.tallies.entry(noted.operation).or_default();
                tally.latency.saturating_record(nanoseconds(noted.ended - noted.due));
                tally.service.saturating_record(nanoseconds(noted.ended - noted.sent));
                tally.siblings += u64::from(*outcome == Outcome::Siblings);
                tally.missing += u64::from(*outcome == Outcome::Missing);
            }
            Err(failure) => *self.errors.entry(failure.to_string()).or_default() += 1,
        }
    }
}

/// What a thread notes: of the stretch of time that has not been told yet, and of what comes after it,
/// as telling it may be late.
#[derive(Debug)]
pub(super) struct Notes {
    now: Interval,
    next: Interval,
    boundary: Instant,
}

impl Notes {
    /// Of a stretch that ends then.
    pub fn until(boundary: Instant) -> Self {
        Self { now: Interval::default(), next: Interval::default(), boundary }
    }

    pub fn note(&mut self, noted: &Noted) {
        let is_next = noted.ended >= self.boundary;
        if is_next { &mut self.next } else { &mut self.now }.note(noted);
    }

    /// The stretch is over; the next one ends then.
    pub fn turn(&mut self, boundary: Instant) -> Interval {
        self.boundary = boundary;
        let next = std::mem::take(&mut self.next);
        std::mem::replace(&mut self.now, next)
    }
}

/// One operation that has ended.
#[derive(Debug)]
pub(super) struct Noted {
    pub operation: Operation,
    pub due: Instant,
    pub sent: Instant,
    pub ended: Instant,
    pub result: Result<Outcome, Failure>,
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
