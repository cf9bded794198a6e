//! What it takes that replicas mend themselves: two nodes with the same million keys compare their
//! hash trees, equal and with keys missing; and one is killed and started again.
//!
//! Set `STARLING_BENCH_REPAIR_KEYS` for another number of keys. The nodes run in this process, on
//! loopback and RocksDB, so that the processor's time is that of both sides together; the node that
//! is killed is a process of its own. `-- puts` only writes, for `benches/trees.sh`.

#[expect(dead_code, reason = "the benchmarks of HTTP use the rest of it")]
mod load;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use futures_util::StreamExt;
use futures_util::stream;
use starling::config::{Overrides, Settings};
use starling::protocol::causality::{Content, Context, Record, Value};
use starling::protocol::merkle::Shape;
use starling::protocol::ring::token_of;
use starling::server::{self, Start};
use starling::storage::schema::{MetaKey, record_key, tree_key};
use starling::storage::{Batch, RocksOptions, RocksStore, Space, Store, Syncing};
use starling::types::{
    ActorId, Bucket, HlcStamp, Key, KeyPath, PartitionCount, ReplicationFactor, VnodeId,
};
use tempfile::TempDir;
use tokio::process::Command;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use self::load::generator::fill as put;

const PARTITIONS: u32 = 1_024;
const VALUE_BYTES: usize = 100;

fn main() -> anyhow::Result<()> {
    tokio::runtime::Runtime::new()?.block_on(async {
        let keys =
            std::env::var("STARLING_BENCH_REPAIR_KEYS").map_or(Ok(1_000_000), |n| n.parse())?;
        match std::env::args().any(|argument| argument == "puts") {
            true => puts().await,
            false => anti_entropy(keys).await,
        }
    })
}

/// A node's place.
struct Place {
    folder: PathBuf,
    http: SocketAddr,
    peer: SocketAddr,
}

/// A node that runs in this process.
struct Running {
    stop: oneshot::Sender<()>,
    ended: JoinHandle<anyhow::Result<()>>,
}

struct Cluster {
    places: Vec<Place>,
    _folder: TempDir,
}

impl Cluster {
    fn new(nodes: usize, further: &str) -> anyhow::Result<Self> {
        // Not the system's folder for temporary files, which may be memory: fsync must cost.
        let folder = TempDir::new_in(env!("CARGO_TARGET_TMPDIR"))?;
        let listeners: Vec<TcpListener> = (0..2 * nodes)
            .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
            .collect::<Result<_, _>>()?;
        let address = |i: usize| listeners[i].local_addr();
        let mut places = Vec::new();
        for i in 0..nodes {
            let folder = folder.path().join(format!("node-{}", i + 1));
            std::fs::create_dir(&folder)?;
            places.push(Place { folder, http: address(2 * i)?, peer: address(2 * i + 1)? });
        }
        let founders: Vec<String> = places
            .iter()
            .enumerate()
            .map(|(i, place)| format!("{{ id = \"node-{}\", peer = \"{}\" }}", i + 1, place.peer))
            .collect();
        for (i, place) in places.iter().enumerate() {
            let mut text = format!(
                "id = \"node-{}\"\nhttp = \"{}\"\npeer = \"{}\"\ndata_dir = {:?}\n\
                 partitions = {PARTITIONS}\nreplication_factor = {}\ninitial_nodes = [{}]\n",
                i + 1,
                place.http,
                place.peer,
                place.folder.join("data"),
                nodes.min(3),
                founders.join(", ")
            );
            text.push_str(further);
            std::fs::write(place.folder.join("starling.toml"), text)?;
        }
        Ok(Self { places, _folder: folder })
    }

    fn start(&self, i: usize) -> anyhow::Result<Running> {
        let file = self.places[i].folder.join("starling.toml");
        let settings =
            Settings::load(Some(&file), std::iter::empty(), Overrides::default())?.settings;
        let (stop, stopped) = oneshot::channel();
        let ended = tokio::spawn(server::run(settings, Start::GoOn, async move {
            // Dropped is stopped too.
            drop(stopped.await);
        }));
        Ok(Running { stop, ended })
    }

    async fn start_all(&self) -> anyhow::Result<Vec<Running>> {
        let running = (0..self.places.len()).map(|i| self.start(i)).collect::<Result<_, _>>()?;
        for place in &self.places {
            ready(place.http).await?;
        }
        Ok(running)
    }
}

impl Running {
    async fn stop(self) -> anyhow::Result<()> {
        drop(self.stop);
        self.ended.await?
    }
}

/// Made once: making one costs more than a request.
fn client() -> anyhow::Result<reqwest::Client> {
    static CLIENT: OnceLock<reqwest::Client> = OnceLock::new();
    if let Some(client) = CLIENT.get() {
        return Ok(client.clone());
    }
    let client = reqwest::Client::builder().no_proxy().build()?;
    Ok(CLIENT.get_or_init(|| client).clone())
}

async fn get(address: SocketAddr, path: &str) -> anyhow::Result<String> {
    let answer = client()?.get(format!("http://{address}{path}")).send().await?;
    Ok(answer.error_for_status()?.text().await?)
}

async fn ready(address: SocketAddr) -> anyhow::Result<()> {
    let begun = Instant::now();
    while get(address, "/readyz").await.is_err() {
        ensure!(begun.elapsed() < Duration::from_secs(120), "{address} does not get ready");
        sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

fn path(key: u32) -> KeyPath {
    let bucket = Bucket::new("bench").expect("valid");
    KeyPath { bucket, key: Key::new(format!("key-{key:08}").into_bytes()).expect("valid") }
}

fn vnode(path: &KeyPath, nodes: u8) -> VnodeId {
    let partitions = PartitionCount::new(PARTITIONS).expect("a power of two");
    let table = ReplicationFactor::new(nodes).expect("1 to 16");
    VnodeId { table, partition: partitions.partition_of(token_of(path)) }
}

/// Puts the same records into a directory, as if written long ago; the digests are made at the next
/// start.
async fn fill(directory: &Path, keys: u32) -> anyhow::Result<()> {
    let store = RocksStore::open(directory, &RocksOptions::default())?;
    let mut batch = Batch::new();
    batch.delete(Space::Meta, MetaKey::Trees);
    for key in 0..keys {
        let path = path(key);
        let mut record = Record::absent();
        let body = vec![key as u8; VALUE_BYTES].into();
        let content = Content::Value(Value { body, ..Value::default() });
        record.update(&Context::empty(), content, HlcStamp::new(1, key), ActorId::new(7), 0);
        batch.put(Space::Records, record_key(vnode(&path, 2), &path), record.to_stored_bytes());
        if batch.bytes() > 1 << 20 {
            store.commit(std::mem::take(&mut batch), Syncing::AsConfigured).await?;
        }
    }
    store.commit(batch, Syncing::Always).await?;
    Ok(store.close().await?)
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
        fill(&data(i), keys).await?;
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

/// Only quorum PUTs, for counting their instructions: of the same keys again and again, so that from
/// the second time on no tree grows.
async fn puts() -> anyhow::Result<()> {
    const KEYS: u64 = 500;
    let cluster = Cluster::new(3, "repair.interval = \"1h\"\n")?;
    let running = cluster.start_all().await?;
    let puts = std::env::var("STARLING_BENCH_PUTS").map_or(Ok(1_000), |puts| puts.parse())?;
    let addresses: Vec<SocketAddr> = cluster.places.iter().map(|place| place.http).collect();
    for written in (0..puts).step_by(KEYS as usize) {
        put(&addresses, 0, KEYS.min(puts - written)).await?;
    }
    for node in running {
        node.stop().await?;
    }
    Ok(())
}
