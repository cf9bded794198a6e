//! Clients at a fixed rate: an open loop, in which each latency counts from when its request was due.

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU32;

use anyhow::ensure;
use hdrhistogram::Histogram;
use starling::load::Pace;
use starling::load::run::{Measured as Run, Second};
use tokio_util::sync::CancellationToken;

use crate::load::generator::{finish, running};
use crate::load::plan::Mix;

/// How many connections share the work.
const CONNECTIONS: NonZeroU32 = NonZeroU32::new(64).expect("some");

/// What the clients do.
#[derive(Clone, Copy, Debug)]
pub struct Pacing {
    /// Reads, writes or both.
    pub mix: Mix,
    /// The first of the keys.
    pub first_key: u64,
    /// How many keys.
    pub keys: u64,
    /// Requests of all clients together.
    pub per_second: f64,
}

/// What clients felt: latencies in nanoseconds.
#[derive(Debug)]
pub struct Felt {
    /// Of all requests.
    latency: Histogram<u64>,
    /// The p99 of each second, in ascending order.
    seconds: Vec<u64>,
}

impl Felt {
    /// The p99 in proportion to that of before, in words.
    pub fn compared(&self, before: &Self) -> String {
        let all = self.p99() as f64 / before.p99() as f64;
        let typical = self.typical_p99() as f64 / before.typical_p99() as f64;
        format!("{all:.2} (in a typical second {typical:.2})")
    }

    fn p99(&self) -> u64 {
        self.latency.value_at_quantile(0.99)
    }

    /// The p99 of a typical second: the median of all seconds'. A disk shared with other machines now and
    /// then takes many milliseconds for an fsync of each node at once, which the p99 of a minute shows or
    /// does not as it happens.
    fn typical_p99(&self) -> u64 {
        self.seconds.get(self.seconds.len() / 2).copied().unwrap_or_default()
    }
}

impl From<Run> for Felt {
    fn from(run: Run) -> Self {
        let p99 = |second: &Second| second.interval.latency().value_at_quantile(0.99);
        let mut seconds: Vec<u64> = run.seconds.iter().map(p99).collect();
        seconds.sort_unstable();
        Self { latency: run.all.latency(), seconds }
    }
}

impl fmt::Display for Felt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |nanoseconds: u64| nanoseconds as f64 / 1e6;
        write!(
            f,
            "p50 {:.2} ms, p99 {:.2} ms (in a typical second {:.2} ms), {} requests",
            ms(self.latency.value_at_quantile(0.5)),
            ms(self.p99()),
            ms(self.typical_p99()),
            self.latency.len()
        )
    }
}

/// Clients until something is over. A request that fails fails the benchmark.
///
/// # Errors
/// A request that failed.
pub async fn clients(
    addresses: &[SocketAddr],
    pacing: Pacing,
    until: impl Future<Output = ()>,
) -> anyhow::Result<Felt> {
    let mut plan = running(pacing.mix, addresses, (pacing.first_key, pacing.keys));
    plan.pace = Pace::Open(pacing.per_second);
    plan.connections = CONNECTIONS;
    let stop = CancellationToken::new();
    let clients = tokio::spawn(finish(plan, stop.clone()));
    until.await;
    stop.cancel();
    let run = clients.await??;
    ensure!(run.all.errors.is_empty(), "requests failed: {:?}", run.all.errors);
    Ok(run.into())
}
