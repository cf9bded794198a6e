//! One measurement, by the generator of `starling bench`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use hdrhistogram::Histogram;
use starling::load::keys::{Distribution, Keys};
use starling::load::request::Target;
use starling::load::run::Measured as Run;
use starling::load::values::{ValueSizes, Values};
use starling::load::workload::Workload as Requests;
use starling::load::{Length, Pace, Plan as Running, run};
use starling::types::Bucket;
use tokio_util::sync::CancellationToken;

use super::plan::{Mix, Plan, Row};

/// The size of each value, in bytes.
pub const VALUE_BYTES: u32 = 1_024;

/// What came of one row.
#[derive(Debug)]
pub struct Measured {
    /// Requests answered as they should be, a second.
    pub per_second: f64,
    /// Nanoseconds from sending a request, or from when it was due, to having its answer.
    pub latency: Histogram<u64>,
    /// Answers that hold several values, which writes at the same time may leave.
    pub siblings: u64,
    /// What failed, by kind.
    pub errors: BTreeMap<String, u64>,
}

impl From<Run> for Measured {
    fn from(run: Run) -> Self {
        Self {
            per_second: run.in_time.done() as f64 / run.elapsed.as_secs_f64(),
            latency: run.all.latency(),
            siblings: run.all.tallies.values().map(|tally| tally.siblings).sum(),
            errors: run.all.errors,
        }
    }
}

/// A closed loop for ever over 64 connections, of which parts are replaced.
pub fn running(mix: Mix, addresses: &[SocketAddr], keys: (u64, u64)) -> Running {
    let reads = match mix {
        Mix::Put => 0,
        Mix::Get => 100,
        Mix::Half => 50,
    };
    let workload = Requests::named("mixed", reads).expect("it has this name");
    Running {
        nodes: addresses.into(),
        target: Target::with_defaults(Bucket::new("bench").expect("a bucket's name")),
        keys: Keys::new(keys.0, keys.1),
        distribution: Distribution::Uniform,
        values: Arc::new(Values::new(ValueSizes::fixed(VALUE_BYTES))),
        is_verifying: false,
        connections: NonZeroU32::new(64).expect("some"),
        threads: NonZeroU32::MIN,
        pace: Pace::Closed,
        warm_up: Duration::ZERO,
        length: Length::For(Duration::from_secs(3_600)),
        patience: Duration::from_secs(30),
        persistence: Duration::ZERO,
        seed: 1,
        workload,
    }
}

/// Runs it to its end, or until it is told to stop.
///
/// # Errors
/// Nodes that can't be reached.
pub async fn finish(plan: Running, stop: CancellationToken) -> anyhow::Result<Run> {
    let run = tokio::task::spawn_blocking(move || run(&plan, &stop, &mut |_| {}));
    Ok(run.await.context("the generator failed")??)
}

/// Measures one row; its connections are spread evenly over the addresses.
///
/// # Errors
/// Nodes that can't be reached.
pub async fn measure(row: &Row, addresses: &[SocketAddr], plan: &Plan) -> anyhow::Result<Measured> {
    let mut run = running(row.workload.mix, addresses, (0, plan.keys.into()));
    run.target.read_query = row.workload.query.into();
    run.target.write_query = row.workload.query.into();
    run.connections = NonZeroU32::new(row.connections).context("a row has connections")?;
    run.warm_up = plan.warm_up;
    run.length = Length::For(plan.measured);
    Ok(finish(run, CancellationToken::new()).await?.into())
}

/// Stores a value under each of so many keys from the first one on; how many a second.
///
/// # Errors
/// What could not be stored.
pub async fn fill(addresses: &[SocketAddr], first: u64, count: u64) -> anyhow::Result<f64> {
    let plan = running(Mix::Put, addresses, (first, count)).to_load(first, count);
    let stored: Measured = finish(plan, CancellationToken::new()).await?.into();
    anyhow::ensure!(stored.errors.is_empty(), "can't store the values: {:?}", stored.errors);
    Ok(stored.per_second)
}
