//! Twice as many requests as three nodes can take, in an open loop: how many are still answered, how
//! fast, what becomes of the rest, of memory, and of the time after.

#[expect(dead_code, reason = "the benchmarks of HTTP use the rest of it")]
mod load;
#[expect(dead_code, reason = "the benchmarks of changes use the rest of it")]
mod nodes;

use std::num::NonZeroU32;
use std::time::Duration;

use starling::load::{Length, Pace, Plan};
use tokio_util::sync::CancellationToken;

use self::load::generator::{Measured, fill, finish, running};
use self::load::plan::Mix;
use self::nodes::{Cluster, metric};

const KEYS: u64 = 10_000;
const LASTS: Duration = Duration::from_secs(15);
/// So many that none of the requests has to wait for a connection.
const CONNECTIONS: NonZeroU32 = NonZeroU32::new(2_000).expect("some");

fn main() -> anyhow::Result<()> {
    tokio::runtime::Runtime::new()?.block_on(overload())
}

async fn overload() -> anyhow::Result<()> {
    println!("three nodes, 1 KiB, half reads and half writes at quorum\n");
    let cluster = Cluster::start(3).await?;
    fill(&cluster.addresses, 0, KEYS).await?;
    let mut plan = running(Mix::Half, &cluster.addresses, (0, KEYS));
    plan.warm_up = Duration::from_secs(3);
    plan.length = Length::For(LASTS);
    let able = run("what it can take, over 64 connections", plan.clone()).await?;
    let capacity = able.per_second;

    plan.connections = CONNECTIONS;
    plan.warm_up = Duration::from_secs(1);
    plan.pace = Pace::Open(capacity * 0.2);
    plan.length = Length::For(Duration::from_secs(5));
    run("a fifth of that, open loop", plan.clone()).await?;
    memory(&cluster).await?;

    plan.pace = Pace::Open(capacity);
    plan.length = Length::For(LASTS);
    let all = run("as much as that, open loop", plan.clone()).await?;
    memory(&cluster).await?;

    plan.pace = Pace::Open(capacity * 2.0);
    let over = run("twice as much, open loop", plan.clone()).await?;
    memory(&cluster).await?;

    plan.pace = Pace::Open(capacity * 0.2);
    plan.warm_up = Duration::ZERO;
    plan.length = Length::For(Duration::from_secs(1));
    run("a fifth again, the first second after", plan.clone()).await?;
    run("and the second", plan).await?;
    memory(&cluster).await?;

    let p99 = |measured: &Measured| measured.latency.value_at_quantile(0.99) as f64;
    println!(
        "\nat twice what it can take: {:.2} of that is answered, at {:.2} times the p99 of an open loop of \
         just that rate, and {:.2} times that of the closed one",
        over.per_second / capacity,
        p99(&over) / p99(&all),
        p99(&over) / p99(&able),
    );
    cluster.stop().await
}

async fn run(what: &str, plan: Plan) -> anyhow::Result<Measured> {
    let measured: Measured = finish(plan, CancellationToken::new()).await?.into();
    let ms = |quantile| measured.latency.value_at_quantile(quantile) as f64 / 1e6;
    println!(
        "{what:<40} {:>7.0}/s answered, p50 {:.2} ms, p99 {:.2} ms; not: {:?}",
        measured.per_second,
        ms(0.5),
        ms(0.99),
        measured.errors,
    );
    Ok(measured)
}

async fn memory(cluster: &Cluster) -> anyhow::Result<()> {
    let bytes = metric(&cluster.addresses, "starling_process_resident_memory_bytes").await? / 3.0;
    println!("{:<40} {:>7.0} MiB a node", "memory", bytes / f64::from(1 << 20));
    Ok(())
}
