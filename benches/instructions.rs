//! So many requests of one kind on three nodes and their client in one process, for counting their
//! instructions: see `benches/instructions.sh`.
//!
//! `STARLING_BENCH_MIX` is `put` or `get` (quorum), `STARLING_BENCH_REQUESTS` how many. They go to the
//! same keys again and again, each of which is written once before. What runs by the clock and not by
//! the requests (gossip, metrics) would count with how long the requests take: a run lasts
//! `STARLING_BENCH_LASTS` seconds at least, so that two runs can be made equally long, and their
//! difference is that of the requests alone.

#[expect(dead_code, reason = "the benchmarks of HTTP use the rest of it")]
mod load;
mod together;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use starling::load::Length;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use self::load::generator::{Measured, fill, finish, running};
use self::load::plan::Mix;
use self::together::Cluster;

const KEYS: u64 = 500;

fn main() -> anyhow::Result<()> {
    tokio::runtime::Runtime::new()?.block_on(work())
}

async fn work() -> anyhow::Result<()> {
    let until = Instant::now() + Duration::from_secs(number("STARLING_BENCH_LASTS", 0)?);
    let requests = number("STARLING_BENCH_REQUESTS", 500)?;
    let cluster = Cluster::new(3, "repair.interval = \"1h\"\n")?;
    let running = cluster.start_all().await?;
    let addresses: Vec<SocketAddr> = cluster.places.iter().map(|place| place.http).collect();
    fill(&addresses, 0, KEYS).await?;
    match std::env::var("STARLING_BENCH_MIX").as_deref() {
        Err(_) | Ok("put") => write(&addresses, requests).await?,
        Ok("get") => read(&addresses, requests).await?,
        Ok(other) => bail!("STARLING_BENCH_MIX is put or get, and not {other}"),
    }
    sleep_until(until).await;
    for node in running {
        node.stop().await?;
    }
    Ok(())
}

fn number(variable: &str, default: u64) -> anyhow::Result<u64> {
    let Ok(text) = std::env::var(variable) else { return Ok(default) };
    text.parse().with_context(|| format!("{variable} is no number: {text}"))
}

/// One key after the other, so that no two writes of a key are under way at once.
async fn write(addresses: &[SocketAddr], requests: u64) -> anyhow::Result<()> {
    for written in (0..requests).step_by(KEYS as usize) {
        fill(addresses, 0, KEYS.min(requests - written)).await?;
    }
    Ok(())
}

async fn read(addresses: &[SocketAddr], requests: u64) -> anyhow::Result<()> {
    let mut plan = running(Mix::Get, addresses, (0, KEYS));
    plan.length = Length::Count(requests);
    let read: Measured = finish(plan, CancellationToken::new()).await?.into();
    anyhow::ensure!(read.errors.is_empty(), "can't read: {:?}", read.errors);
    Ok(())
}
