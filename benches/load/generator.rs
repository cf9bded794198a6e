//! The closed loop.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use futures_util::future::try_join_all;
use hdrhistogram::Histogram;
use tokio::time::{Instant, timeout};

use super::connection::Connection;
use super::plan::{Plan, Row};
use super::requests::Requests;

/// Longer latencies are counted as this one.
const LONGEST_NANOSECONDS: u64 = 60_000_000_000;
/// How long the last answers of a measurement may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// What came of one row.
#[derive(Debug)]
pub struct Measured {
    /// How long it took.
    pub elapsed: Duration,
    /// Nanoseconds from sending a request to having its answer.
    pub latency: Histogram<u64>,
    /// Answers that hold several values, which writes at the same time may leave.
    pub siblings: u64,
    /// Other answers than 2xx, by status.
    pub errors: BTreeMap<u16, u64>,
}

impl Measured {
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            elapsed: Duration::ZERO,
            latency: Histogram::new_with_bounds(1, LONGEST_NANOSECONDS, 3)?,
            siblings: 0,
            errors: BTreeMap::new(),
        })
    }

    fn note(&mut self, status: u16, latency: Duration) {
        let nanoseconds = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.latency.saturating_record(nanoseconds);
        match status {
            200..300 => {}
            300 => self.siblings += 1,
            _ => *self.errors.entry(status).or_default() += 1,
        }
    }
}

/// Measures one row; its connections are spread evenly over the addresses.
///
/// # Errors
/// A connection that breaks or stalls. Answers with an error are counted instead.
pub async fn measure(row: &Row, addresses: &[SocketAddr], plan: &Plan) -> anyhow::Result<Measured> {
    let mut connections = Vec::with_capacity(row.connections);
    for index in 0..row.connections {
        connections.push(Connection::open(addresses[index % addresses.len()]).await?);
    }
    let begin = Instant::now() + plan.warm_up;
    let period = Period { begin, end: begin + plan.measured };
    let measured = Arc::new(Mutex::new(Measured::new()?));
    let loops = connections.into_iter().zip(1..).map(|(connection, seed)| {
        tokio::spawn(closed_loop(connection, *row, plan.keys, seed, period, Arc::clone(&measured)))
    });
    let ended = timeout(plan.warm_up + plan.measured + PATIENCE, try_join_all(loops)).await;
    let ended = ended.with_context(|| format!("no answer within {PATIENCE:?}"))??;
    ended.into_iter().collect::<Result<Vec<()>, _>>()?;
    let elapsed = begin.elapsed();
    let measured = Arc::into_inner(measured).expect("all loops have ended");
    let measured = measured.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(Measured { elapsed, ..measured })
}

/// Answers that come in it are counted.
#[derive(Clone, Copy)]
struct Period {
    begin: Instant,
    end: Instant,
}

async fn closed_loop(
    mut connection: Connection,
    row: Row,
    keys: u32,
    seed: u64,
    period: Period,
    measured: Arc<Mutex<Measured>>,
) -> anyhow::Result<()> {
    let mut requests = Requests::new(row.workload.query, seed);
    let mut sent = Instant::now();
    while sent < period.end {
        let status = connection.exchange(requests.next(row.workload.mix, keys)).await?;
        let answered = Instant::now();
        if answered >= period.begin {
            let mut measured = measured.lock().unwrap_or_else(PoisonError::into_inner);
            measured.note(status, answered - sent);
        }
        sent = answered;
    }
    Ok(())
}
