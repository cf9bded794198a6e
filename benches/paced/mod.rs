//! Clients at a fixed rate: an open loop, in which each latency counts from when its request was due.

use std::net::SocketAddr;
use std::num::NonZeroU32;

use anyhow::ensure;
use hdrhistogram::Histogram;
use starling::load::Pace;
use tokio_util::sync::CancellationToken;

use crate::load::generator::{Measured, finish, running};
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

/// Clients until something is over; latencies in nanoseconds. A request that fails fails the
/// benchmark.
///
/// # Errors
/// A request that failed.
pub async fn clients(
    addresses: &[SocketAddr],
    pacing: Pacing,
    until: impl Future<Output = ()>,
) -> anyhow::Result<Histogram<u64>> {
    let mut plan = running(pacing.mix, addresses, (pacing.first_key, pacing.keys));
    plan.pace = Pace::Open(pacing.per_second);
    plan.connections = CONNECTIONS;
    let stop = CancellationToken::new();
    let clients = tokio::spawn(finish(plan, stop.clone()));
    until.await;
    stop.cancel();
    let Measured { latency, errors, .. } = clients.await??.into();
    ensure!(errors.is_empty(), "requests failed: {errors:?}");
    Ok(latency)
}

/// The latencies in words.
pub fn described(latency: &Histogram<u64>) -> String {
    let ms = |quantile| latency.value_at_quantile(quantile) as f64 / 1e6;
    format!("p50 {:.2} ms, p99 {:.2} ms, {} requests", ms(0.5), ms(0.99), latency.len())
}
