//! Clients at a fixed rate: an open loop, in which each latency counts from when its request was due.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::ensure;
use hdrhistogram::Histogram;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

use crate::load::connection::Connection;
use crate::load::plan::Mix;
use crate::load::requests::Requests;

/// How many connections share the work.
const LANES: u32 = 16;

/// What the clients do.
#[derive(Clone, Copy, Debug)]
pub struct Pacing {
    /// Reads, writes or both.
    pub mix: Mix,
    /// The first of the keys.
    pub first_key: u32,
    /// How many keys.
    pub keys: u32,
    /// Requests of all clients together.
    pub per_second: f64,
}

/// Clients until something is over; latencies in µs. An error that is answered fails the benchmark.
///
/// # Errors
/// A request that failed.
pub async fn clients(
    addresses: &[SocketAddr],
    pacing: Pacing,
    until: impl Future<Output = ()>,
) -> anyhow::Result<Histogram<u64>> {
    let period = Duration::from_secs_f64(f64::from(LANES) / pacing.per_second);
    let latencies = Arc::new(Mutex::new(Histogram::<u64>::new(3)?));
    let lane = |lane: u32| {
        let address = addresses[lane as usize % addresses.len()];
        let latencies = Arc::clone(&latencies);
        tokio::spawn(async move {
            let mut connection = Connection::open(address).await?;
            let mut requests = Requests::new("", u64::from(1_000 + lane));
            let mut ticks = interval(period);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
            loop {
                let due = ticks.tick().await;
                let request = requests.next_of(pacing.mix, pacing.first_key, pacing.keys);
                let status = connection.exchange(request).await?;
                ensure!(matches!(status, 200 | 204 | 300), "a request was answered with {status}");
                let took = due.elapsed().as_micros() as u64;
                latencies.lock().map_err(|_| anyhow::anyhow!("a client panicked"))?.record(took)?;
            }
        })
    };
    let lanes: Vec<JoinHandle<anyhow::Result<()>>> = (0..LANES).map(lane).collect();
    until.await;
    for lane in lanes {
        ensure!(!lane.is_finished(), "a client failed: {:?}", lane.await);
        lane.abort();
    }
    let latencies = latencies.lock().map_err(|_| anyhow::anyhow!("a client panicked"))?;
    Ok(latencies.clone())
}
