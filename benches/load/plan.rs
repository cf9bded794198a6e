//! What is measured, and for how long.

use std::time::Duration;

use anyhow::Context;

/// Keys, of which each request takes any one with equal probability.
const KEYS: u32 = 10_000;
/// The numbers of connections that each workload is measured with.
const CONNECTIONS: [u32; 3] = [1, 16, 64];

/// What the requests are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mix {
    /// Only writes.
    Put,
    /// Only reads.
    Get,
    /// Either, with equal probability.
    Half,
}

/// Requests of one kind.
#[derive(Clone, Copy, Debug)]
pub struct Workload {
    /// Its name in the table.
    pub name: &'static str,
    /// Reads or writes.
    pub mix: Mix,
    /// The query of each request, without `?`; empty for the server's defaults.
    pub query: &'static str,
}

/// One measurement: a line of the table.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// What is sent.
    pub workload: Workload,
    /// Over how many connections.
    pub connections: u32,
}

/// How long, how much, and which rows.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Load before the measurement begins.
    pub warm_up: Duration,
    /// The measurement.
    pub measured: Duration,
    /// How many keys there are.
    pub keys: u32,
    connections: Vec<u32>,
    filter: Option<String>,
}

impl Plan {
    /// The plan of `cargo bench`: an argument that is no option selects the rows that contain it,
    /// `BENCH_WARM_UP_SECONDS` and `BENCH_SECONDS` replace 2 s and 5 s. Anything else, `cargo test`
    /// above all, gets a plan that only shows that the benchmark works.
    ///
    /// # Errors
    /// A variable that is no number of seconds.
    pub fn from_environment() -> anyhow::Result<Self> {
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        let is_given = |name: &str| arguments.iter().any(|argument| argument == name);
        let filter = arguments.iter().find(|argument| !argument.starts_with('-')).cloned();
        if cfg!(debug_assertions) || is_given("--test") || !is_given("--bench") {
            return Ok(Self::smoke(filter));
        }
        Ok(Self {
            warm_up: seconds("BENCH_WARM_UP_SECONDS", 2.0)?,
            measured: seconds("BENCH_SECONDS", 5.0)?,
            keys: KEYS,
            connections: CONNECTIONS.to_vec(),
            filter,
        })
    }

    fn smoke(filter: Option<String>) -> Self {
        Self {
            warm_up: Duration::ZERO,
            measured: Duration::from_millis(50),
            keys: 100,
            connections: vec![4],
            filter,
        }
    }
}

fn seconds(variable: &str, default: f64) -> anyhow::Result<Duration> {
    let Some(text) = std::env::var_os(variable) else {
        return Ok(Duration::from_secs_f64(default));
    };
    let parsed = text.to_str().and_then(|text| text.parse().ok());
    let duration = parsed.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    duration.with_context(|| format!("{variable} is no number of seconds: {text:?}"))
}

/// The rows of these workloads that the plan selects.
pub fn rows(workloads: &[Workload], plan: &Plan) -> Vec<Row> {
    let wanted = |workload: &&Workload| {
        plan.filter.as_ref().is_none_or(|filter| workload.name.contains(filter.as_str()))
    };
    let each = |workload: &Workload| {
        let workload = *workload;
        plan.connections.iter().map(move |connections| Row { workload, connections: *connections })
    };
    workloads.iter().filter(wanted).flat_map(each).collect()
}
