//! The arguments of `starling bench`, and the plan that they make.

use std::collections::BTreeMap;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use crate::cli::exit::WrongUsage;
use crate::cli::level;
use crate::load::keys::{Distribution, Keys};
use crate::load::plan::{Length, Pace, Plan};
use crate::load::request::Target;
use crate::load::values::{ValueSizes, Values};
use crate::load::workload::Workload;
use crate::types::{Bucket, Level};

/// How much longer than a node's own deadline an answer is waited for.
const GRACE: Duration = Duration::from_secs(5);
/// The deadline of a node unless another one is asked for.
const NODE_TIMEOUT: Duration = Duration::from_secs(5);

/// Measures how many requests nodes answer, and how fast.
///
/// Without --rate each connection sends its next request when the last one is answered (a closed
/// loop): that finds what the cluster can take. With --rate requests are due at fixed times, and
/// latencies count from when a request was due (an open loop): that finds what clients feel at that
/// load. Both need the keys to be there: they are stored first, unless --no-load is given.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(in crate::cli) struct BenchArgs {
    /// read, write, mixed, rmw (read-modify-write), ycsb-a, -b, -c, -d or -f
    #[arg(default_value = "mixed")]
    workload: String,
    /// A node to ask; several share the connections
    #[arg(
        long,
        value_name = "URL",
        env = "STARLING_NODE",
        default_value = "http://127.0.0.1:7070",
        value_delimiter = ','
    )]
    node: Vec<String>,
    /// The bucket of the keys
    #[arg(long, default_value = "bench")]
    bucket: String,
    /// How many keys there are
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    keys: u64,
    /// The number of the first key
    #[arg(long, default_value_t = 0, value_name = "NUMBER")]
    first_key: u64,
    /// How requests are spread over the keys: uniform, zipfian[:EXPONENT], latest,
    /// hot-set[:KEYS:REQUESTS] (percent) [default: the workload's]
    #[arg(long, value_name = "DISTRIBUTION")]
    distribution: Option<String>,
    /// Bytes of a value: 1024, a range (100-10000), or sizes with weights (100:9,65536:1) [default:
    /// 1024; for YCSB 1000]
    #[arg(long, value_name = "SIZES")]
    value_bytes: Option<String>,
    /// The share of reads in the workload `mixed`
    #[arg(long, value_name = "PERCENT", default_value_t = 50)]
    #[arg(value_parser = clap::value_parser!(u8).range(0..=100))]
    reads: u8,
    /// How many replicas must answer
    #[arg(long, value_name = "LEVEL", value_parser = level::of_reads())]
    consistency: Option<Level>,
    /// How many replicas must answer a read; wins over --consistency
    #[arg(long, value_name = "REPLICAS")]
    r: Option<NonZeroU32>,
    /// How many replicas must answer a write; wins over --consistency
    #[arg(long, value_name = "REPLICAS")]
    w: Option<NonZeroU32>,
    /// Connections, each with one request at a time
    #[arg(long, default_value = "64", value_name = "COUNT")]
    connections: NonZeroU32,
    /// Threads of the generator, which share the connections
    #[arg(long, default_value = "1", value_name = "COUNT")]
    threads: NonZeroU32,
    /// Send at this rate whatever the answers do
    #[arg(long, value_name = "REQUESTS_PER_SECOND")]
    rate: Option<f64>,
    /// Load before the measurement begins, in seconds
    #[arg(long, default_value_t = 2.0, value_name = "SECONDS")]
    warm_up: f64,
    /// How long is measured, in seconds
    #[arg(long, default_value_t = 10.0, value_name = "SECONDS", conflicts_with = "count")]
    duration: f64,
    /// Measure this many operations in place of a time
    #[arg(long, value_name = "OPERATIONS", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Store nothing before the measurement: the keys are there already
    #[arg(long)]
    no_load: bool,
    /// Check every value that is read against what was stored
    #[arg(long)]
    verify: bool,
    /// What the choice of keys and values begins with
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Write the results as JSON in place of a table
    #[arg(long)]
    pub(super) json: bool,
    /// Keep the results in a file, for --compare
    #[arg(long, value_name = "FILE")]
    pub(super) save: Option<PathBuf>,
    /// Draw throughput and latencies over time, as an HTML file
    #[arg(long, value_name = "FILE")]
    pub(super) chart: Option<PathBuf>,
    /// Write the histograms of each second in the log format of HdrHistogram
    #[arg(long, value_name = "FILE")]
    pub(super) histograms: Option<PathBuf>,
    /// Run nothing: show two files of --save beside each other
    #[arg(long, value_names = ["OLD", "NEW"], num_args = 2)]
    compare: Option<Vec<PathBuf>>,
}

const EXAMPLES: &str = "Examples:
  starling bench                                          half reads, half writes
  starling bench write --connections 16 --duration 30
  starling bench ycsb-b --keys 1000000 --rate 5000 --chart report.html
  starling bench read --consistency one --node http://a:7070,http://b:7070
  starling bench mixed --verify --save after.json
  starling bench --compare before.json after.json";

impl BenchArgs {
    /// The two files to compare, if that is all that is asked for.
    pub(super) fn compared(&self) -> Option<[&Path; 2]> {
        match self.compare.as_deref() {
            Some([old, new]) => Some([old, new]),
            _ => None,
        }
    }

    /// The measurement.
    pub(super) fn plan(&self) -> anyhow::Result<Plan> {
        let workload = Workload::named(&self.workload, self.reads).map_err(wrong)?;
        let sizes = match &self.value_bytes {
            Some(text) => text.parse::<ValueSizes>().map_err(wrong)?,
            None => ValueSizes::fixed(workload.value_bytes),
        };
        let distribution = match &self.distribution {
            Some(text) => text.parse::<Distribution>().map_err(wrong)?,
            None => workload.distribution,
        };
        let bucket = Bucket::new(&self.bucket).map_err(wrong)?;
        Ok(Plan {
            nodes: self.nodes()?,
            target: self.target(bucket),
            keys: Keys::new(self.first_key, self.keys),
            distribution,
            values: Arc::new(Values::new(sizes)),
            is_verifying: self.verify,
            connections: self.connections,
            threads: self.threads,
            pace: self.pace()?,
            warm_up: seconds("--warm-up", self.warm_up)?,
            length: match self.count {
                Some(count) => Length::Count(count),
                None => Length::For(seconds("--duration", self.duration)?),
            },
            patience: NODE_TIMEOUT + GRACE,
            persistence: Duration::ZERO,
            seed: self.seed,
            workload,
        })
    }

    /// The keys to store before the measurement: the first one and how many.
    pub(super) fn keys_to_load(&self, plan: &Plan) -> Option<(u64, u64)> {
        let is_needed = !self.no_load && plan.workload.needs_keys();
        is_needed.then_some((self.first_key, self.keys))
    }

    /// What makes two runs comparable.
    pub(super) fn settings(&self, plan: &Plan) -> BTreeMap<String, String> {
        let mut settings = BTreeMap::new();
        let mut set = |name: &str, value: String| settings.insert(name.to_owned(), value);
        set("workload", plan.workload.name.clone());
        if plan.workload.name == "mixed" {
            set("reads", format!("{} %", self.reads));
        }
        set("nodes", plan.nodes.len().to_string());
        set("keys", self.keys.to_string());
        set("distribution", plan.distribution.to_string());
        set("value bytes", plan.values.sizes().to_string());
        set("connections", self.connections.to_string());
        set("threads", self.threads.to_string());
        if let Some(rate) = self.rate {
            set("rate", format!("{rate}/s"));
        }
        for (name, query) in
            [("read", &plan.target.read_query), ("write", &plan.target.write_query)]
        {
            if !query.is_empty() {
                set(name, query.clone());
            }
        }
        settings
    }

    fn target(&self, bucket: Bucket) -> Target {
        let query = |name: &str, replicas: Option<NonZeroU32>| match (replicas, self.consistency) {
            (Some(replicas), _) => format!("{name}={replicas}"),
            (None, Some(level)) => format!("consistency={level}"),
            (None, None) => String::new(),
        };
        Target { bucket, read_query: query("r", self.r), write_query: query("w", self.w) }
    }

    fn pace(&self) -> anyhow::Result<Pace> {
        let Some(rate) = self.rate else { return Ok(Pace::Closed) };
        if rate.is_finite() && rate > 0.0 {
            return Ok(Pace::Open(rate));
        }
        Err(WrongUsage(format!("--rate {rate}: must be above 0")).into())
    }

    fn nodes(&self) -> anyhow::Result<Arc<[SocketAddr]>> {
        self.node.iter().map(|node| resolve(node)).collect()
    }
}

fn wrong(error: impl ToString) -> WrongUsage {
    WrongUsage(error.to_string())
}

fn seconds(name: &str, seconds: f64) -> anyhow::Result<Duration> {
    let duration = Duration::try_from_secs_f64(seconds);
    Ok(duration.map_err(|error| WrongUsage(format!("{name} {seconds}: {error}")))?)
}

/// The address of a node: `http://HOST:PORT`, `HOST:PORT`.
fn resolve(node: &str) -> anyhow::Result<SocketAddr> {
    let place = node.strip_prefix("http://").unwrap_or(node).trim_end_matches('/');
    if place.contains('/') {
        return Err(WrongUsage(format!("--node {node}: must be http://HOST:PORT")).into());
    }
    let found = place.to_socket_addrs();
    let found = found.map_err(|error| WrongUsage(format!("--node {node}: {error}")))?;
    let mut found = found.collect::<Vec<_>>().into_iter();
    found.next().ok_or_else(|| WrongUsage(format!("--node {node}: no address")).into())
}
