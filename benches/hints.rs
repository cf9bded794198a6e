//! What it takes to bring hints: three nodes, one of them down while 100,000 values are written; how
//! long it takes until all are brought to it, on an idle cluster and beside clients, and what the
//! clients notice. `STARLING_BENCH_HINTS` replaces 100,000.

#[expect(dead_code, reason = "the benchmarks of HTTP use the rest of it")]
mod load;
#[expect(dead_code, reason = "the benchmarks of HTTP use the rest of it")]
mod nodes;
mod paced;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use tokio::time::{Instant, sleep};

use self::load::generator::fill;
use self::load::plan::Mix;
use self::nodes::{Cluster, metric};
use self::paced::{Pacing, clients};

/// How long the clients are measured alone: about as long as the hints take beside them.
const ALONE: Duration = Duration::from_secs(60);
/// Until the other nodes are sure that one is down, and what was written has settled.
const SETTLE: Duration = Duration::from_secs(15);
/// Clients write keys that no hint is kept for.
const CLIENTS: Pacing =
    Pacing { mix: Mix::Put, first_key: 50_000_000, keys: 10_000, per_second: 0.0 };

fn main() -> anyhow::Result<()> {
    tokio::runtime::Runtime::new()?.block_on(bring())
}

async fn bring() -> anyhow::Result<()> {
    let hints = std::env::var("STARLING_BENCH_HINTS").map_or(Ok(100_000), |n| n.parse())?;
    println!("three nodes, {hints} writes of 1 KiB while one is down\n");
    let mut cluster = Cluster::start(3).await?;
    let all = cluster.addresses.clone();
    let live = &all[..2];
    let capacity = fill(&all, CLIENTS.first_key, 100_000).await?;
    show("limit: quorum PUTs over 64 connections", format!("{capacity:.0}/s"));
    let pacing = Pacing { per_second: capacity / 5.0, ..CLIENTS };
    sleep(SETTLE).await;
    let alone = clients(live, pacing, sleep(ALONE)).await?;
    show("clients at a fifth of that, alone", alone.to_string());

    keep(&mut cluster, live, hints).await?;
    cluster.start_node(2).await?;
    show("brought on an idle cluster", drained(live).await?);

    keep(&mut cluster, live, hints).await?;
    cluster.start_node(2).await?;
    let mut brought = None;
    let during = clients(live, pacing, async { brought = Some(drained(live).await) }).await?;
    show("brought beside those clients", brought.context("it has ended")??);
    show("the clients meanwhile", during.to_string());
    show("their p99 to that of before", during.compared(&alone));
    cluster.stop().await
}

fn show(what: &str, figure: String) {
    println!("{what:<46} {figure}");
}

/// Has the others keep so many hints for the third node, which stays down.
async fn keep(cluster: &mut Cluster, live: &[SocketAddr], hints: u64) -> anyhow::Result<()> {
    cluster.stop_node(2).await?;
    sleep(SETTLE).await;
    fill(live, 0, hints).await?;
    sleep(SETTLE).await;
    Ok(())
}

/// Waits until no hint is kept any more; how many there were, and how long it took.
async fn drained(nodes: &[SocketAddr]) -> anyhow::Result<String> {
    let begun = Instant::now();
    let most = metric(nodes, "starling_hints_stored").await?;
    while metric(nodes, "starling_hints_stored").await? > 0.0 {
        sleep(Duration::from_millis(20)).await;
    }
    Ok(format!("{most:.0} hints in {:.1} s", begun.elapsed().as_secs_f64()))
}
