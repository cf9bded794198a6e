//! How a cluster's speed and size change with what it is given: more keys, more nodes, more connections,
//! larger values. One thing grows at a time; each line has the machine's limit of the same run beside
//! it, which shows how the machine itself was meanwhile.
//!
//! `cargo bench --bench growth -- keys` (or `nodes`, `connections`, `values`) does one part;
//! `STARLING_BENCH_KEYS` replaces the largest number of keys, 10,000,000.

#[expect(dead_code, reason = "the benchmarks of HTTP use the rest of it")]
mod load;
#[expect(dead_code, reason = "the benchmarks of changes use the rest of it")]
mod nodes;
mod stored;

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use starling::load::values::{ValueSizes, Values};
use starling::load::{Length, Plan};
use tokio_util::sync::CancellationToken;

use self::load::generator::{Measured, fill, finish, measure, running};
use self::load::limit::Server;
use self::load::plan::{Mix, Plan as Rows, Row, Workload};
use self::nodes::{Cluster, metric};
use self::stored::put_into;

const WARM_UP: Duration = Duration::from_secs(2);
const MEASURED: Duration = Duration::from_secs(6);
/// Keys where their number is not what grows.
const KEYS: u64 = 10_000;

fn main() -> anyhow::Result<()> {
    let asked: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let does = |part: &str| asked.is_empty() || asked.iter().any(|asked| asked == part);
    tokio::runtime::Runtime::new()?.block_on(async {
        if does("keys") {
            keys().await?;
        }
        if does("nodes") {
            nodes().await?;
        }
        if does("connections") {
            connections().await?;
        }
        if does("values") {
            values().await?;
        }
        Ok(())
    })
}

/// More keys of 100 B, on three nodes, over 64 connections.
async fn keys() -> anyhow::Result<()> {
    const VALUE_BYTES: u32 = 100;
    let most: u32 =
        std::env::var("STARLING_BENCH_KEYS").map_or(Ok(10_000_000), |keys| keys.parse())?;
    println!(
        "\n{:>10} {:>8} {:>8} {:>8} {:>8}  {:>10} {:>10} {:>10}",
        "keys", "PUT/s", "GET/s", "half/s", "limit/s", "MiB a node", "B on disk", "ready in s"
    );
    let steps = (4..).map(|power| 10_u32.pow(power)).take_while(|step| *step < most);
    for keys in steps.chain([most]) {
        let mut cluster = Cluster::start(3).await?;
        for node in 0..3 {
            cluster.stop_node(node).await?;
        }
        for node in 0..3 {
            put_into(&cluster.data_of(node), 3, keys, VALUE_BYTES as usize).await?;
        }
        let begun = tokio::time::Instant::now();
        cluster.start_nodes(&[0, 1, 2]).await?;
        let ready = begun.elapsed();
        let of = async |mix| -> anyhow::Result<Measured> {
            let mut plan = planned(mix, &cluster.addresses, keys.into());
            plan.values = Arc::new(Values::new(ValueSizes::fixed(VALUE_BYTES)));
            run(plan).await
        };
        let get = of(Mix::Get).await?.per_second;
        let (half, put) = (of(Mix::Half).await?.per_second, of(Mix::Put).await?.per_second);
        let nodes = &cluster.addresses;
        let memory = metric(nodes, "starling_process_resident_memory_bytes").await? / 3.0;
        let disk = metric(nodes, "starling_storage_disk_bytes").await? / 3.0;
        println!(
            "{keys:>10} {put:>8.0} {get:>8.0} {half:>8.0} {:>8.0}  {:>10.0} {:>10.0} {:>10.1}",
            limit(64).await?,
            memory / f64::from(1 << 20),
            disk / f64::from(keys),
            ready.as_secs_f64(),
        );
        cluster.stop().await?;
    }
    Ok(())
}

/// More nodes on the same machine: what an operation costs all of them together.
async fn nodes() -> anyhow::Result<()> {
    println!(
        "\n{:>10} {:>8} {:>8} {:>8} {:>8}  µs of all nodes' processor time for PUT, GET, half",
        "nodes", "PUT/s", "GET/s", "half/s", "limit/s"
    );
    for count in [3, 5, 7, 9] {
        let cluster = Cluster::start(count).await?;
        fill(&cluster.addresses, 0, KEYS).await?;
        let (mut rates, mut costs) = (Vec::new(), Vec::new());
        for mix in [Mix::Put, Mix::Get, Mix::Half] {
            let spent =
                async || metric(&cluster.addresses, "starling_process_cpu_seconds_total").await;
            let before = spent().await?;
            let mut plan = planned(mix, &cluster.addresses, KEYS);
            plan.warm_up = Duration::ZERO;
            let measured = run(plan).await?;
            rates.push(measured.per_second);
            costs.push((spent().await? - before) * 1e6 / measured.latency.len() as f64);
        }
        println!(
            "{count:>10} {:>8.0} {:>8.0} {:>8.0} {:>8.0}  {:.0}, {:.0}, {:.0}",
            rates[0],
            rates[1],
            rates[2],
            limit(64).await?,
            costs[0],
            costs[1],
            costs[2],
        );
        cluster.stop().await?;
    }
    Ok(())
}

/// More connections to three nodes. Beyond what a node takes at once it refuses the rest.
async fn connections() -> anyhow::Result<()> {
    println!(
        "\n{:>10} {:>8} {:>8} {:>8} {:>8}",
        "clients", "half/s", "p50 ms", "p99 ms", "limit/s"
    );
    let cluster = Cluster::start(3).await?;
    fill(&cluster.addresses, 0, KEYS).await?;
    for connections in [1, 4, 16, 64, 256, 1_000] {
        let mut plan = planned(Mix::Half, &cluster.addresses, KEYS);
        plan.connections = NonZeroU32::new(connections).context("some")?;
        let measured = finish(plan, CancellationToken::new()).await?;
        let measured = Measured::from(measured);
        let ms = |quantile| measured.latency.value_at_quantile(quantile) as f64 / 1e6;
        println!(
            "{connections:>10} {:>8.0} {:>8.2} {:>8.2} {:>8.0}  {:?}",
            measured.per_second,
            ms(0.5),
            ms(0.99),
            limit(connections).await?,
            measured.errors,
        );
    }
    cluster.stop().await
}

/// Larger values, over 16 connections to three nodes.
async fn values() -> anyhow::Result<()> {
    println!(
        "\n{:>10} {:>8} {:>8} {:>10} {:>10}",
        "value B", "PUT/s", "GET/s", "MB/s put", "MB/s got"
    );
    let cluster = Cluster::start(3).await?;
    for bytes in [100, 1 << 10, 10 << 10, 100 << 10, 1 << 20] {
        let keys = (256 << 20) / u64::from(bytes).max(64 << 10);
        let of = |mix| {
            let mut plan = planned(mix, &cluster.addresses, keys);
            plan.values = Arc::new(Values::new(ValueSizes::fixed(bytes)));
            plan.connections = NonZeroU32::new(16).expect("some");
            plan
        };
        let load = of(Mix::Put).to_load(0, keys);
        run(load).await?;
        let (put, get) = (run(of(Mix::Put)).await?.per_second, run(of(Mix::Get)).await?.per_second);
        let megabytes = |rate: f64| rate * f64::from(bytes) / 1e6;
        println!(
            "{bytes:>10} {put:>8.0} {get:>8.0} {:>10.1} {:>10.1}",
            megabytes(put),
            megabytes(get)
        );
    }
    cluster.stop().await
}

/// A closed loop over 64 connections.
fn planned(mix: Mix, addresses: &[SocketAddr], keys: u64) -> Plan {
    let mut plan = running(mix, addresses, (0, keys));
    plan.warm_up = WARM_UP;
    plan.length = Length::For(MEASURED);
    plan
}

/// Runs it; a request that fails fails the benchmark.
async fn run(plan: Plan) -> anyhow::Result<Measured> {
    let measured: Measured = finish(plan, CancellationToken::new()).await?.into();
    ensure!(measured.errors.is_empty(), "requests failed: {:?}", measured.errors);
    Ok(measured)
}

/// The machine's limit of one HTTP hop, half reads and half writes, over so many connections.
async fn limit(connections: u32) -> anyhow::Result<f64> {
    let server = Server::start()?;
    let workload = Workload { name: "limit", mix: Mix::Half, query: "" };
    let row = Row { workload, connections };
    let mut plan = Rows::from_environment()?;
    (plan.warm_up, plan.measured) = (Duration::from_millis(500), Duration::from_secs(2));
    Ok(measure(&row, &[server.address], &plan).await?.per_second)
}
