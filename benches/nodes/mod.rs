//! Nodes as processes of their own: the binary as it is shipped, on loopback, with RocksDB.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use starling::load::connection::Connection;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use crate::load::generator::{fill, measure};
use crate::load::limit::measure_limits;
use crate::load::plan::{Plan, Workload, rows};
use crate::load::table::Table;

/// How long a cluster may take to get ready, with what it may have to make of its data first.
const READY_TIMEOUT: Duration = Duration::from_secs(600);
/// A node promises to end within 10 s of SIGTERM.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// Measures these workloads, and the limit before them, on a new cluster of so many nodes.
///
/// # Errors
/// What keeps the nodes from running, and any request that was answered with an error.
pub async fn bench(title: &str, nodes: usize, workloads: &[Workload]) -> anyhow::Result<()> {
    let plan = Plan::from_environment()?;
    let rows = rows(workloads, &plan);
    let limits = measure_limits(&rows, &plan).await?;
    let cluster = Cluster::start(nodes).await?;
    fill(&cluster.addresses, 0, plan.keys.into()).await?;
    let mut table = Table::begin(title, limits);
    for row in &rows {
        table.add(row, &measure(row, &cluster.addresses, &plan).await?);
    }
    cluster.stop().await?;
    table.end()
}

/// The processes. They are killed when this is dropped, and when this process ends.
pub struct Cluster {
    /// Where clients reach them.
    pub addresses: Vec<SocketAddr>,
    peers: Vec<SocketAddr>,
    nodes: Vec<Node>,
    /// Last, so that it is deleted when they have ended.
    folder: TempDir,
}

struct Node {
    process: Child,
    log: PathBuf,
}

impl Cluster {
    /// Starts so many founders, and waits until all are ready.
    ///
    /// # Errors
    /// A node that does not come to serve, with its log.
    pub async fn start(count: usize) -> anyhow::Result<Self> {
        // Not the system's folder for temporary files, which may be memory: fsync must cost.
        let folder = TempDir::new_in(env!("CARGO_TARGET_TMPDIR"))?;
        let ports = free_ports(2 * count)?;
        let (clients, peers) = ports.split_at(count);
        let mut nodes = Vec::with_capacity(count);
        for index in 0..count {
            let home = folder.path().join(format!("node-{index}"));
            nodes.push(start(home, &settings(index, clients, peers))?);
        }
        let (addresses, peers) = (clients.to_vec(), peers.to_vec());
        let mut cluster = Self { addresses, peers, nodes, folder };
        cluster.wait_until_ready().await?;
        Ok(cluster)
    }

    /// Starts a node that waits to be taken in: its name and where peers reach it.
    ///
    /// # Errors
    /// What keeps its process from starting.
    #[allow(dead_code, reason = "not every benchmark lets its cluster grow")]
    pub fn add_candidate(&mut self) -> anyhow::Result<(String, SocketAddr)> {
        let ports = free_ports(2)?;
        let index = self.nodes.len();
        let id = format!("node-{index}");
        let peers: Vec<String> = self.peers.iter().map(|peer| format!("\"{peer}\"")).collect();
        let settings = format!(
            "id = \"{id}\"\nhttp = \"{}\"\npeer = \"{}\"\ndata_dir = \"data\"\njoin = [{}]\n",
            ports[0],
            ports[1],
            peers.join(", "),
        );
        self.nodes.push(start(self.folder.path().join(&id), &settings)?);
        self.addresses.push(ports[0]);
        Ok((id, ports[1]))
    }

    /// Stops a node, as an operator would.
    ///
    /// # Errors
    /// A node that has ended by itself, or does not end in time.
    #[allow(dead_code, reason = "not every benchmark stops one")]
    pub async fn stop_node(&mut self, index: usize) -> anyhow::Result<()> {
        end(&self.nodes[index])?;
        let ended = timeout(STOP_TIMEOUT, self.nodes[index].process.wait()).await;
        let status = ended.context("a node did not stop in time")??;
        ensure!(status.success(), "a node failed to stop: {status}");
        Ok(())
    }

    /// Kills a node, as kill -9 does.
    ///
    /// # Errors
    /// A process that can't be killed.
    #[allow(dead_code, reason = "not every benchmark kills one")]
    pub async fn kill_node(&mut self, index: usize) -> anyhow::Result<()> {
        Ok(self.nodes[index].process.kill().await?)
    }

    /// A node's data directory.
    #[allow(dead_code, reason = "not every benchmark looks into one")]
    pub fn data_of(&self, index: usize) -> PathBuf {
        self.folder.path().join(format!("node-{index}/data"))
    }

    /// Deletes what a node has on disk.
    ///
    /// # Errors
    /// What can't be deleted.
    #[allow(dead_code, reason = "not every benchmark loses one")]
    pub fn wipe_node(&self, index: usize) -> anyhow::Result<()> {
        Ok(std::fs::remove_dir_all(self.data_of(index))?)
    }

    /// Starts a node again that was stopped, and waits until it is ready.
    ///
    /// # Errors
    /// A node that does not come to serve, with its log.
    #[allow(dead_code, reason = "not every benchmark stops one")]
    pub async fn start_node(&mut self, index: usize) -> anyhow::Result<()> {
        self.start_nodes(&[index]).await
    }

    /// Starts nodes again that were stopped, together, and waits until all are ready.
    ///
    /// # Errors
    /// A node that does not come to serve, with its log.
    #[allow(dead_code, reason = "not every benchmark stops one")]
    pub async fn start_nodes(&mut self, indexes: &[usize]) -> anyhow::Result<()> {
        for index in indexes {
            self.nodes[*index] = run(&self.folder.path().join(format!("node-{index}")))?;
        }
        self.wait_until_ready().await
    }

    async fn wait_until_ready(&mut self) -> anyhow::Result<()> {
        let begun = Instant::now();
        for (address, node) in self.addresses.iter().zip(&mut self.nodes) {
            while !is_ready(*address).await {
                let has_ended = node.process.try_wait()?.is_some();
                if has_ended || begun.elapsed() > READY_TIMEOUT {
                    let log = std::fs::read_to_string(&node.log)?;
                    bail!("the node at {address} did not get ready; its log:\n{log}");
                }
                sleep(Duration::from_millis(50)).await;
            }
        }
        Ok(())
    }

    /// A node that fails during the measurement, or to stop, is a failure of the benchmark.
    ///
    /// # Errors
    /// Which, and how.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.nodes.iter().try_for_each(end)?;
        for index in 0..self.nodes.len() {
            self.stop_node(index).await?;
        }
        Ok(())
    }
}

/// The sum of a metric over its labels and over these nodes.
///
/// # Errors
/// A node that does not tell.
#[allow(dead_code, reason = "not every benchmark asks for one")]
pub async fn metric(nodes: &[SocketAddr], name: &str) -> anyhow::Result<f64> {
    let mut sum = 0.0;
    for node in nodes {
        let mut connection = Connection::open(*node).await?;
        let request = format!("GET /metrics HTTP/1.1\r\nHost: {node}\r\n\r\n");
        let answer = connection.exchange(request.as_bytes()).await?;
        let text = std::str::from_utf8(answer.body)?;
        let is_it =
            |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
        let lines = text.lines().filter(is_it);
        sum += lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>();
    }
    Ok(sum)
}

/// Ports that nobody listens on. All are held until all are found, so that they differ.
fn free_ports(count: usize) -> anyhow::Result<Vec<SocketAddr>> {
    let listeners: Vec<_> = (0..count)
        .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
        .collect::<Result<_, _>>()?;
    Ok(listeners.iter().map(TcpListener::local_addr).collect::<Result<_, _>>()?)
}

fn settings(index: usize, clients: &[SocketAddr], peers: &[SocketAddr]) -> String {
    let founder = |(index, peer)| format!("{{ id = \"node-{index}\", peer = \"{peer}\" }}");
    let founders: Vec<String> = peers.iter().enumerate().map(founder).collect();
    format!(
        "id = \"node-{index}\"\nhttp = \"{}\"\npeer = \"{}\"\ndata_dir = \"data\"\n\
         replication_factor = {}\ninitial_nodes = [{}]\n",
        clients[index],
        peers[index],
        peers.len().min(3),
        founders.join(", "),
    )
}

/// Asks a node to stop.
fn end(node: &Node) -> anyhow::Result<()> {
    let pid = node.process.id().context("a node has ended by itself")?;
    let pid = Pid::from_raw(pid.cast_signed()).context("a process id")?;
    Ok(kill_process(pid, Signal::TERM)?)
}

/// Starts a node in a folder of its own.
fn start(home: PathBuf, settings: &str) -> anyhow::Result<Node> {
    std::fs::create_dir(&home)?;
    std::fs::write(home.join("starling.toml"), settings)?;
    run(&home)
}

/// Runs the node of a folder.
fn run(home: &Path) -> anyhow::Result<Node> {
    let log = home.join("log");
    let output = File::options().create(true).append(true).open(&log)?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_starling"));
    command.args(["server", "--config", "starling.toml", "--parent-pid"]);
    command.arg(std::process::id().to_string());
    // No setting from the environment may reach all nodes.
    command.env_clear().current_dir(home).kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    let process = command.spawn().context("can't start a node")?;
    Ok(Node { process, log })
}

async fn is_ready(address: SocketAddr) -> bool {
    let Ok(mut connection) = Connection::open(address).await else { return false };
    let answer = connection.exchange(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    answer.is_ok_and(|answer| answer.status == 200)
}
