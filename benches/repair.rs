//! What it takes that replicas mend themselves: two nodes with the same million keys compare their
//! hash trees, equal and with keys missing; and one is killed and started again.
//!
//! Set `STARLING_BENCH_REPAIR_KEYS` for another number of keys. The nodes run in this process, on
//! loopback and RocksDB, so that the processor's time is that of both sides together; the node that
//! is killed is a process of its own.

#[expect(dead_code, reason = "the benchmarks of HTTP use the rest of it")]
mod load;
mod stored;
mod together;

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use futures_util::StreamExt;
use futures_util::stream;
use starling::protocol::merkle::Shape;
use starling::protocol::ring::token_of;
use starling::storage::schema::{record_key, tree_key};
use starling::storage::{Batch, RocksOptions, RocksStore, Space, Store, Syncing};
use starling::types::PartitionCount;
use tempfile::TempDir;
use tokio::process::Command;
use tokio::time::{Instant, sleep};

use self::load::generator::fill as put;
use self::stored::{PARTITIONS, path, put_into, settle, vnode};
use self::together::{Cluster, client, get, ready};

const VALUE_BYTES: usize = 100;

fn main() -> anyhow::Result<()> {
    tokio::runtime::Runtime::new()?.block_on(async {
        let keys =
            std::env::var("STARLING_BENCH_REPAIR_KEYS").map_or(Ok(1_000_000), |n| n.parse())?;
        anti_entropy(keys).await
    })
}

/// Takes so many keys out of a directory, with their digests.
async fn lose(directory: &Path, keys: u32, lost: u32) -> anyhow::Result<()> {
    let store = RocksStore::open(directory, &RocksOptions::default())?;
    let shape = Shape::of(PartitionCount::new(PARTITIONS).expect("a power of two"));
    let mut batch = Batch::new();
    for key in (0..keys).step_by((keys / lost) as usize).take(lost as usize) {
        let path = path(key);
        let vnode = vnode(&path, 2);
        batch.delete(Space::Records, record_key(vnode, &path));
        batch.delete(Space::Trees, tree_key(vnode, shape.leaf_of(token_of(&path)).0, &path));
    }
    store.commit(batch, Syncing::Always).await?;
    Ok(store.close().await?)
}

/// Processor time of this process so far.
fn processor_time() -> anyhow::Result<Duration> {
    let text = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = text.rsplit(')').next().context("a stat")?.split_whitespace().collect();
    let ticks = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    Ok(Duration::from_millis(ticks * 10))
}

/// How much one node has moved for repairs, and how old its oldest proof is.
async fn repair(address: SocketAddr) -> anyhow::Result<(u64, u64, f64)> {
    let view: serde_json::Value = serde_json::from_str(&get(address, "/v1/repair").await?)?;
    let pair = &view["pairs"][0];
    let number = |name: &str| pair[name].as_u64().context("a number");
    let age = pair["oldest_proof_seconds"].as_f64().context("a number")?;
    Ok((number("records_repaired")?, number("bytes_moved")?, age))
}

async fn metric(address: SocketAddr, name: &str, label: &str) -> anyhow::Result<f64> {
    let text = get(address, "/metrics").await?;
    let is_it = |line: &&str| line.starts_with(name) && line.contains(label);
    Ok(text
        .lines()
        .filter(is_it)
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum())
}

async fn anti_entropy(keys: u32) -> anyhow::Result<()> {
    println!("anti-entropy: two nodes, {keys} keys of {VALUE_BYTES} B, {PARTITIONS} partitions\n");
    let cluster = Cluster::new(2, "repair.interval = \"1h\"\nrepair.max_bytes_per_second = 0\n")?;
    for node in cluster.start_all().await? {
        node.stop().await?;
    }
    let data = |i: usize| cluster.places[i].folder.join("data");
    for i in 0..2 {
        put_into(&data(i), 2, keys, VALUE_BYTES).await?;
    }
    let running = cluster.start_all().await?;
    equal(&cluster).await?;
    for node in running {
        node.stop().await?;
    }
    println!(
        "{:<44} {:>12.0} records/s",
        "limit: records merged into one store",
        merge_limit().await?
    );
    for lost in [10, 10_000] {
        lose(&data(1), keys, lost).await?;
        for i in 0..2 {
            settle(&data(i)).await?;
        }
        differing(&cluster, lost).await?;
    }
    killed(&cluster).await
}

/// All replicas are equal.
async fn equal(cluster: &Cluster) -> anyhow::Result<()> {
    let address = cluster.places[0].http;
    // What the start itself has begun.
    sleep(Duration::from_secs(3)).await;
    let calls = |label: &'static str| metric(address, "starling_replica_calls_total", label);
    let (_, bytes, _) = repair(address).await?;
    let roots = calls("\"roots\"").await?;
    let below = calls("\"branches\"").await?;
    client()?.post(format!("http://{address}/v1/repair")).send().await?.error_for_status()?;
    let begun = Instant::now();
    while repair(address).await?.2 > begun.elapsed().as_secs_f64() {
        sleep(Duration::from_millis(1)).await;
    }
    let trips = calls("\"roots\"").await? - roots;
    ensure!(calls("\"branches\"").await? == below, "equal replicas differ");
    let moved = repair(address).await?.1 - bytes;
    println!("{:<44} {trips:>12} round trips, {moved} bytes", "equal: all shared vnodes together");
    Ok(())
}

/// What 128 at once cost a store alone: one record each, synced.
async fn merge_limit() -> anyhow::Result<f64> {
    let folder = TempDir::new_in(env!("CARGO_TARGET_TMPDIR"))?;
    let store = RocksStore::open(folder.path(), &RocksOptions::default())?;
    let begun = Instant::now();
    let commits = (0..20_000_u32).map(|key| {
        let path = path(key);
        let mut batch = Batch::new();
        batch.put(Space::Records, record_key(vnode(&path, 2), &path), vec![0; VALUE_BYTES + 60]);
        batch.put(Space::Trees, tree_key(vnode(&path, 2), 0, &path), vec![0; 16]);
        store.commit(batch, Syncing::AsConfigured)
    });
    let mut commits = stream::iter(commits).buffer_unordered(128);
    while let Some(committed) = commits.next().await {
        committed?;
    }
    let rate = 20_000.0 / begun.elapsed().as_secs_f64();
    store.close().await?;
    Ok(rate)
}

/// The second node lacks some keys: from both being ready until all is there.
async fn differing(cluster: &Cluster, lost: u32) -> anyhow::Result<()> {
    let running = cluster.start_all().await?;
    let (begun, worked) = (Instant::now(), processor_time()?);
    let addresses = [cluster.places[0].http, cluster.places[1].http];
    let mut moved = (0, 0);
    while moved.0 < u64::from(lost) {
        moved = (0, 0);
        for address in addresses {
            let (records, bytes, _) = repair(address).await?;
            moved = (moved.0 + records, moved.1 + bytes);
        }
        ensure!(begun.elapsed() < Duration::from_secs(120), "not repaired: {moved:?}");
        sleep(Duration::from_millis(10)).await;
    }
    let (took, worked) = (begun.elapsed(), processor_time()? - worked);
    println!(
        "{:<44} {:>12.0} records/s, {:.0} ms, {:.0} ms of both processors' work, {} KiB",
        format!("{lost} keys differ"),
        f64::from(lost) / took.as_secs_f64(),
        took.as_secs_f64() * 1e3,
        worked.as_secs_f64() * 1e3,
        moved.1 / 1_024
    );
    for node in running {
        node.stop().await?;
    }
    Ok(())
}

/// A node is killed and started again.
async fn killed(cluster: &Cluster) -> anyhow::Result<()> {
    let other = cluster.start(1)?;
    let mut took = Duration::ZERO;
    for round in 0..2 {
        let mut command = Command::new(env!("CARGO_BIN_EXE_starling"));
        let config = cluster.places[0].folder.join("starling.toml");
        command.arg("server").arg("--config").arg(config).env_clear().kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let begun = Instant::now();
        let mut process = command.spawn()?;
        ready(cluster.places[0].http).await?;
        took = begun.elapsed();
        if round == 0 {
            // Something to replay.
            put(&[cluster.places[0].http], 0, 5_000).await?;
        }
        process.kill().await?;
    }
    println!("{:<44} {:>12.0} ms", "killed: until ready, trees and all", took.as_secs_f64() * 1e3);
    other.stop().await
}
