//! What came of a run, in figures that are kept: the JSON that `starling bench --save` writes.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::recorder::{Interval, Tally};
use super::run::{Measured, Part, Second};
use super::workload::Operation;

/// The format of the file; a reader refuses others.
pub const FORMAT: u32 = 1;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`FORMAT`].
    pub format: u32,
    /// The version of the generator.
    pub software: String,
    /// When the measurement began, in RFC 3339.
    pub begun: String,
    /// What was asked for: what makes two runs comparable, by name.
    pub settings: BTreeMap<String, String>,
    /// How long it was measured.
    pub elapsed_seconds: f64,
    /// Operations that succeeded.
    pub per_second: f64,
    /// All kinds of operations together.
    pub total: Summary,
    /// By kind.
    pub operations: BTreeMap<Operation, Summary>,
    /// What failed, by kind of error.
    pub errors: BTreeMap<String, u64>,
    /// Requests that were due and never sent, as all connections were waiting for answers.
    pub unsent: u64,
    /// What the generator itself took.
    pub generator: Generator,
    /// Second by second.
    pub seconds: Vec<Point>,
}

/// Operations of one kind, those that succeeded.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// How many.
    pub count: u64,
    /// How many found several values.
    pub siblings: u64,
    /// How many found no value.
    pub missing: u64,
    /// From when they were due; in a closed loop from when they were sent.
    pub latency: Latency,
    /// From when they were sent.
    pub service: Latency,
}

/// Latencies in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "they say it")]
pub struct Latency {
    pub mean_us: f64,
    pub p50_us: f64,
    pub p90_us: f64,
    pub p99_us: f64,
    pub p99_9_us: f64,
    pub p99_99_us: f64,
    pub max_us: f64,
}

impl Latency {
    /// Of a histogram of nanoseconds.
    pub fn of(nanoseconds: &Histogram<u64>) -> Self {
        let quantile = |quantile| nanoseconds.value_at_quantile(quantile) as f64 / 1_000.0;
        Self {
            mean_us: nanoseconds.mean() / 1_000.0,
            p50_us: quantile(0.5),
            p90_us: quantile(0.9),
            p99_us: quantile(0.99),
            p99_9_us: quantile(0.999),
            p99_99_us: quantile(0.999_9),
            max_us: quantile(1.0),
        }
    }
}

/// What the generator took of the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Generator {
    /// Microseconds of the processor for an operation.
    pub cpu_us_per_operation: f64,
    /// The share of the time in which its busiest thread computed. Near 1, the generator is what
    /// limits the throughput: give it more threads.
    pub busiest_thread: f64,
}

/// A second of the measurement.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// When it began.
    pub start_seconds: f64,
    /// Operations that succeeded, a second.
    pub per_second: f64,
    /// Operations that failed, a second.
    pub failed_per_second: f64,
    /// All kinds of operations together.
    pub latency: Latency,
}

impl Point {
    /// Of a stretch of time; none of one that has no length.
    pub fn of(second: &Second) -> Option<Self> {
        let length = second.length.as_secs_f64();
        (length > 0.0).then(|| Self {
            start_seconds: second.start.as_secs_f64(),
            per_second: second.interval.done() as f64 / length,
            failed_per_second: second.interval.failed() as f64 / length,
            latency: Latency::of(&second.interval.latency()),
        })
    }
}

impl Report {
    /// Sums up.
    pub fn of(measured: &Measured, begun: String, settings: BTreeMap<String, String>) -> Self {
        let elapsed = measured.elapsed.as_secs_f64();
        let in_time = measured.in_time.done();
        let summaries = measured.all.tallies.iter();
        let is_measured = |second: &&Second| second.part == Part::Measured;
        Self {
            format: FORMAT,
            software: format!("starling {}", env!("CARGO_PKG_VERSION")),
            begun,
            settings,
            elapsed_seconds: elapsed,
            per_second: if elapsed > 0.0 { in_time as f64 / elapsed } else { 0.0 },
            total: total(&measured.all),
            operations: summaries.map(|(kind, tally)| (*kind, summary(tally))).collect(),
            errors: measured.all.errors.clone(),
            unsent: measured.unsent,
            generator: Generator::of(measured),
            seconds: measured.seconds.iter().filter(is_measured).filter_map(Point::of).collect(),
        }
    }

    /// How many operations failed.
    pub fn failed(&self) -> u64 {
        self.errors.values().sum()
    }
}

fn summary(tally: &Tally) -> Summary {
    Summary {
        count: tally.latency.len(),
        siblings: tally.siblings,
        missing: tally.missing,
        latency: Latency::of(&tally.latency),
        service: Latency::of(&tally.service),
    }
}

fn total(all: &Interval) -> Summary {
    let mut tallies = all.tallies.values();
    let Some(first) = tallies.next() else { return Summary::default() };
    summary(&tallies.fold(first.clone(), |mut sum, tally| {
        sum.add(tally);
        sum
    }))
}

impl Generator {
    fn of(measured: &Measured) -> Self {
        let ended = measured.in_time.done() + measured.in_time.failed();
        let elapsed = measured.elapsed.as_secs_f64();
        if ended == 0 || elapsed == 0.0 {
            return Self::default();
        }
        let cpu: Duration = measured.cpu.iter().sum();
        let busiest = measured.cpu.iter().max().copied().unwrap_or_default();
        Self {
            cpu_us_per_operation: cpu.as_secs_f64() * 1e6 / ended as f64,
            busiest_thread: busiest.as_secs_f64() / elapsed,
        }
    }
}
