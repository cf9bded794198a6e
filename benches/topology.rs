//! A ring that changes while it holds many keys: how long it takes, how fast it streams, and what
//! clients at a fifth of what the cluster can take right before notice of it: nodes that share a few
//! processors take less the more of them there are.
//!
//! Nodes are processes of their own, on loopback, with RocksDB. `STARLING_BENCH_KEYS` replaces
//! 1,000,000 keys of 1 KiB.

#[expect(dead_code, reason = "the benchmarks of HTTP use the rest of it")]
mod load;
#[expect(dead_code, reason = "the benchmarks of HTTP use the rest of it")]
mod nodes;
mod paced;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use starling::storage::{Batch, RocksOptions, RocksStore, Space, Store, Syncing};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use self::load::generator::fill;
use self::load::plan::Mix;
use self::nodes::Cluster;
use self::paced::{Felt, Pacing, clients};

const VALUE_BYTES: usize = 1_024;
/// How long the clients are measured alone: about as long as a change takes. The disk of a shared machine
/// now and then takes 10 ms for an fsync, which a shorter look may miss.
const ALONE: Duration = Duration::from_secs(60);
/// How long what was written is left to settle.
const SETTLES: Duration = Duration::from_secs(10);
/// How many keys are written to find out what the cluster takes.
const MEASURED_KEYS: u64 = 30_000;

fn main() -> anyhow::Result<()> {
    tokio::runtime::Runtime::new()?.block_on(grow())
}

async fn grow() -> anyhow::Result<()> {
    let keys: u64 = std::env::var("STARLING_BENCH_KEYS").map_or(Ok(1_000_000), |n| n.parse())?;
    println!("a ring that changes, N = 3, {keys} keys of 1 KiB\n");
    let limit = store_limit().await?;
    show("limit: records into one store, 1 MiB a batch", format!("{:.0} MB/s", limit / 1e6));
    let mut cluster = Cluster::start(3).await?;
    let capacity = fill(&cluster.addresses, 0, keys).await?;
    show("limit: quorum PUTs over 64 connections", format!("{capacity:.0}/s"));

    let fourth = cluster.add_candidate()?;
    show("3 to 4, idle", change(cluster.addresses[0], join(&[&fourth])).await?.to_string());
    let left = change(cluster.addresses[0], leave(&[&fourth])).await?;
    show("4 to 3, idle", left.to_string());
    cluster.kill_node(3).await?;

    let pacing = Pacing { mix: Mix::Half, first_key: 0, keys, per_second: 0.0 };
    let founders = cluster.addresses[..3].to_vec();
    let mut scene = Scene { clients_ask: founders, pacing, before: None };
    scene.alone("three nodes").await?;
    let fourth = cluster.add_candidate()?;
    scene.changes("3 to 4", join(&[&fourth])).await?;
    scene.alone("four nodes").await?;
    let (fifth, sixth) = (cluster.add_candidate()?, cluster.add_candidate()?);
    scene.changes("4 to 6, both at once", join(&[&fifth, &sixth])).await?;
    scene.alone("six nodes").await?;
    scene.changes("6 to 5", leave(&[&fourth])).await?;
    cluster.kill_node(4).await?;
    scene.alone("five nodes").await?;
    scene.changes("5 to 3, both at once", leave(&[&fifth, &sixth])).await?;
    for gone in 5..=6 {
        cluster.kill_node(gone).await?;
    }
    scene.alone("three nodes again").await?;
    scene.clients_ask.truncate(2);
    cluster.kill_node(2).await?;
    cluster.wipe_node(2)?;
    let new = cluster.add_candidate()?;
    let replacing = json!({
        "join": [{"id": new.0, "peer": new.1.to_string()}],
        "replace": {"node-2": new.0},
        "dead": ["node-2"],
    });
    scene.changes("one killed, wiped and replaced", replacing).await?;
    scene.alone("three nodes, one of them new").await?;
    Ok(())
}

/// The clients that look on.
struct Scene {
    clients_ask: Vec<SocketAddr>,
    pacing: Pacing,
    /// What they felt before the change that goes on, with the nodes that there were then.
    before: Option<Felt>,
}

impl Scene {
    /// Clients at a fifth of what the cluster takes as it is now.
    async fn alone(&mut self, when: &str) -> anyhow::Result<()> {
        let capacity = fill(&self.clients_ask, 0, self.pacing.keys.min(MEASURED_KEYS)).await?;
        show(&format!("quorum PUTs over 64 connections, {when}"), format!("{capacity:.0}/s"));
        self.pacing.per_second = capacity / 5.0;
        sleep(SETTLES).await;
        let felt = clients(&self.clients_ask, self.pacing, sleep(ALONE)).await?;
        show(&format!("clients at a fifth of that, {when}"), felt.to_string());
        self.before = Some(felt);
        Ok(())
    }

    async fn changes(&self, what: &str, asked: Value) -> anyhow::Result<()> {
        let mut changed = None;
        let changing = async { changed = Some(change(self.clients_ask[0], asked).await) };
        let felt = clients(&self.clients_ask, self.pacing, changing).await?;
        show(&format!("{what}, beside them"), changed.context("it has ended")??.to_string());
        show("their requests meanwhile", felt.to_string());
        let before = self.before.as_ref().context("the clients were alone before")?;
        show("their p99 to that of before", felt.compared(before));
        Ok(())
    }
}

/// A change that lets candidates join.
fn join(candidates: &[&(String, SocketAddr)]) -> Value {
    let joiner = |(id, peer): &&(String, SocketAddr)| json!({"id": id, "peer": peer.to_string()});
    json!({"join": candidates.iter().map(joiner).collect::<Vec<_>>()})
}

/// A change that lets nodes leave.
fn leave(nodes: &[&(String, SocketAddr)]) -> Value {
    json!({"leave": nodes.iter().map(|(id, _)| id).collect::<Vec<_>>()})
}

fn show(what: &str, figure: String) {
    println!("{what:<62} {figure}");
}

/// How fast one store takes records, in bytes a second.
async fn store_limit() -> anyhow::Result<f64> {
    const BATCHES: u32 = 300;
    let folder = TempDir::new_in(env!("CARGO_TARGET_TMPDIR"))?;
    let store = RocksStore::open(folder.path(), &RocksOptions::default())?;
    let begun = Instant::now();
    let mut bytes = 0;
    for number in 0..BATCHES {
        let mut batch = Batch::new();
        while batch.bytes() < 1 << 20 {
            let key = format!("{:04}{number:04}{:08}", number % 1_024, batch.bytes());
            batch.put(Space::Records, key.into_bytes(), vec![number as u8; VALUE_BYTES]);
            bytes += VALUE_BYTES;
        }
        store.commit(batch, Syncing::Always).await?;
    }
    let rate = bytes as f64 / begun.elapsed().as_secs_f64();
    store.close().await?;
    Ok(rate)
}

/// How a change of the ring went.
struct Changed {
    /// Until the new sets alone are read.
    switched: Duration,
    /// Until all is dropped that was held before.
    settled: Duration,
    /// What was moved.
    bytes: u64,
    /// While it was moved.
    moving: Duration,
}

impl std::fmt::Display for Changed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let rate = self.bytes as f64 / 1e6 / self.moving.as_secs_f64();
        write!(
            f,
            "{:.1} s until the new sets are read, {:.1} s in all; {:.0} MB at {rate:.1} MB/s",
            self.switched.as_secs_f64(),
            self.settled.as_secs_f64(),
            self.bytes as f64 / 1e6,
        )
    }
}

/// Has the ring changed, and waits until nothing of the change is left.
async fn change(address: SocketAddr, change: Value) -> anyhow::Result<Changed> {
    let client = reqwest::Client::builder().no_proxy().build()?;
    let url = format!("http://{address}/v1/cluster");
    let cluster = async || -> anyhow::Result<Value> {
        let answer = client.get(&url).send().await?.error_for_status()?;
        Ok(serde_json::from_str(&answer.text().await?)?)
    };
    let layout = cluster().await?["layout_version"].as_u64();
    let asked = Instant::now();
    loop {
        let apply = client.post(format!("{url}/apply")).body(change.to_string());
        let apply = apply.header("Content-Type", "application/json");
        let answer = apply.send().await?;
        if answer.status() == 202 {
            break;
        }
        // A candidate has to show itself first.
        let text = answer.text().await?;
        ensure!(asked.elapsed() < Duration::from_secs(30), "refused: {text}");
        sleep(Duration::from_millis(50)).await;
    }
    let begun = Instant::now();
    let mut changed = Changed {
        switched: Duration::ZERO,
        settled: Duration::ZERO,
        bytes: 0,
        moving: Duration::ZERO,
    };
    loop {
        let now = cluster().await?;
        let transition = &now["transition"];
        let bytes = transition["bytes_moved"].as_u64().unwrap_or_default();
        if bytes > changed.bytes {
            (changed.bytes, changed.moving) = (bytes, begun.elapsed());
        }
        if now["layout_version"].as_u64() != layout && changed.switched.is_zero() {
            changed.switched = begun.elapsed();
        }
        let nodes = now["nodes"].as_array().context("nodes")?;
        if transition.is_null()
            && !changed.switched.is_zero()
            && nodes.iter().all(|node| node["role"] == "member")
        {
            changed.settled = begun.elapsed();
            return Ok(changed);
        }
        ensure!(begun.elapsed() < Duration::from_secs(1_800), "it does not end: {transition}");
        sleep(Duration::from_millis(100)).await;
    }
}
