//! A cluster of processes in a folder of its own.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::Instant;

use crate::http::{Answer, Request, ask};
use crate::ports::Port;
use crate::process::{Process, eventually};

/// How long a cluster may take to be ready, on a machine that does other things too.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// What a stop promises.
pub const STOP_WITHIN: Duration = Duration::from_secs(10);

/// One node: its place, and its process while it runs.
#[derive(Debug)]
pub struct Node {
    pub id: String,
    pub http: Port,
    pub peer: Port,
    pub folder: PathBuf,
    process: Option<Process>,
}

/// Nodes `node-1` to `node-n`, by index from 0. Dropping it kills them and checks their logs.
#[derive(Debug)]
pub struct Cluster {
    pub nodes: Vec<Node>,
    folder: TempDir,
}

impl Cluster {
    /// Starts n nodes and waits until all are ready.
    pub async fn start(n: usize) -> Self {
        Self::with(n, "").await
    }

    /// The same, with further lines in the settings of each.
    pub async fn with(n: usize, settings: &str) -> Self {
        let mut cluster = Self::planned(n, settings);
        (0..n).for_each(|i| cluster.launch(i));
        cluster.wait_ready().await;
        cluster
    }

    /// Settings only; nothing runs.
    pub fn planned(n: usize, settings: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let nodes = (1..=n).map(|i| Node::new(i, folder.path())).collect();
        let cluster = Self { nodes, folder };
        for i in 0..n {
            cluster.write_settings(i, settings);
        }
        cluster
    }

    /// Writes node i's settings: those of every node, and further lines.
    pub fn write_settings(&self, i: usize, further: &str) {
        let node = &self.nodes[i];
        let mut text = format!(
            "id = {:?}\nhttp = \"{}\"\npeer = \"{}\"\ndata_dir = {:?}\npartitions = 64\n",
            node.id,
            node.http.address(),
            node.peer.address(),
            node.data_dir(),
        );
        text += "storage.block_cache_bytes = \"8MiB\"\nstorage.memtable_bytes = \"8MiB\"\n";
        text += "initial_nodes = [\n";
        for node in &self.nodes {
            let (id, peer) = (&node.id, node.peer.address());
            writeln!(text, "  {{ id = {id:?}, peer = \"{peer}\" }},").expect("a String");
        }
        text += "]\n";
        fs::write(node.settings(), text + further).expect("settings are written");
    }

    /// Starts one node more, which waits to be taken in; its index.
    pub fn add_candidate(&mut self) -> usize {
        let i = self.nodes.len();
        let join: Vec<String> = self
            .nodes
            .iter()
            .map(|node| format!("{:?}", node.peer.address().to_string()))
            .collect();
        self.nodes.push(Node::new(i + 1, self.folder.path()));
        let node = &self.nodes[i];
        let text = format!(
            "id = {:?}\nhttp = \"{}\"\npeer = \"{}\"\ndata_dir = {:?}\njoin = [{}]\n\
             storage.block_cache_bytes = \"8MiB\"\nstorage.memtable_bytes = \"8MiB\"\n",
            node.id,
            node.http.address(),
            node.peer.address(),
            node.data_dir(),
            join.join(", "),
        );
        fs::write(node.settings(), text).expect("settings are written");
        self.launch(i);
        i
    }

    /// As a change of the layout names a node that joins.
    pub fn joiner(&self, i: usize) -> Value {
        let node = &self.nodes[i];
        serde_json::json!({"id": node.id, "peer": node.peer.address().to_string()})
    }

    /// Begins a change of the layout through node i, as soon as its candidates have shown themselves.
    pub async fn apply(&self, i: usize, change: Value) {
        let apply = Request::new("POST", "/v1/cluster/apply")
            .header("Content-Type", "application/json")
            .body(change.to_string());
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            let answer = self.ask(i, apply.clone()).await;
            if answer.status == 202 {
                return;
            }
            assert!(Instant::now() < deadline, "{change} is refused: {}", answer.text());
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Waits until node i knows of no transition, and of nobody who leaves.
    pub async fn wait_settled(&self, i: usize) {
        eventually("the transition ends", 2 * READY_WITHIN, || async {
            let Ok(answer) = ask(self.http(i), &Request::get("/v1/cluster")).await else {
                return false;
            };
            let cluster = answer.json();
            let nodes = cluster["nodes"].as_array().cloned().unwrap_or_default();
            answer.status == 200
                && cluster["transition"].is_null()
                && nodes.iter().all(|node| node["role"] == "member")
        })
        .await;
    }

    /// Waits until the transition from this layout is in a phase, as node i sees it, or beyond.
    pub async fn wait_phase(&self, i: usize, layout: u64, phase: &str) {
        const PHASES: [&str; 3] = ["prepare", "switch", "finish"];
        let place = |phase: &str| PHASES.iter().position(|known| *known == phase);
        eventually(phase, READY_WITHIN, || async {
            let Ok(answer) = ask(self.http(i), &Request::get("/v1/cluster")).await else {
                return false;
            };
            let cluster = answer.json();
            match cluster["transition"]["phase"].as_str() {
                Some(present) => place(present) >= place(phase),
                None => cluster["layout_version"].as_u64().is_some_and(|now| now > layout),
            }
        })
        .await;
    }

    /// The version of the layout, as node i knows it.
    pub async fn layout_version(&self, i: usize) -> u64 {
        let cluster = self.ask(i, Request::get("/v1/cluster")).await.expect(200).json();
        cluster["layout_version"].as_u64().expect("a number")
    }

    /// A place for other files of the test.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn launch(&mut self, i: usize) {
        self.launch_with(i, &[]);
    }

    /// Starts a node with further flags.
    pub fn launch_with(&mut self, i: usize, flags: &[&str]) {
        let node = &mut self.nodes[i];
        assert!(node.process.is_none(), "{} runs already", node.id);
        node.process = Some(Process::server(&node.settings(), flags, &node.log_file()));
    }

    /// Waits until all that run are ready, and know each other to be up.
    pub async fn wait_ready(&mut self) {
        for i in self.running() {
            self.wait_node_ready(i).await;
        }
        for i in self.running() {
            for other in self.running() {
                self.wait_state(i, other, "up").await;
            }
        }
    }

    pub async fn wait_node_ready(&mut self, i: usize) {
        let deadline = Instant::now() + READY_WITHIN;
        let address = self.http(i);
        loop {
            let answer = ask(address, &Request::get("/readyz")).await;
            if answer.is_ok_and(|answer| answer.status == 200) {
                return;
            }
            let process = self.nodes[i].process.as_mut().expect("it runs");
            let ended = process.try_wait();
            let is_late = Instant::now() >= deadline;
            assert!(ended.is_none() && !is_late, "not ready, {ended:?}: {}", process.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until node i takes another one to be `up` or `down`.
    pub async fn wait_state(&self, i: usize, other: usize, state: &str) {
        let what = format!("node {i} takes node {other} to be {state}");
        eventually(&what, READY_WITHIN, || async {
            self.state(i, other).await.as_deref() == Some(state)
        })
        .await;
    }

    async fn state(&self, i: usize, other: usize) -> Option<String> {
        let answer = ask(self.http(i), &Request::get("/v1/cluster")).await.ok()?;
        let nodes = answer.json()["nodes"].as_array().cloned().unwrap_or_default();
        // A node whose disk was lost stands there twice until it is filled: what it was, which is down
        // for good, and then what it is.
        let node = nodes.into_iter().rfind(|node| node["id"] == self.nodes[other].id.as_str())?;
        node["state"].as_str().map(str::to_owned)
    }

    /// The indices of those that have a process.
    fn running(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|i| self.nodes[*i].process.is_some()).collect()
    }

    pub fn http(&self, i: usize) -> SocketAddr {
        self.nodes[i].http.address()
    }

    pub fn http_all(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(|node| node.http.address()).collect()
    }

    /// Asks node i over a new connection.
    pub async fn ask(&self, i: usize, request: Request) -> Answer {
        let answer = ask(self.http(i), &request).await;
        answer.unwrap_or_else(|error| panic!("node {i}, {request:?}: {error}"))
    }

    /// Checks that nothing was ever written to the key, on any replica. `key` as in a path.
    pub async fn assert_untouched(&self, bucket: &str, key: &str) {
        let answer = self.ask(0, Request::get(format!("/v1/explain/{bucket}/{key}"))).await;
        let replicas = answer.expect(200).json()["replicas"].as_array().cloned();
        for replica in replicas.expect("replicas") {
            assert_eq!(replica["versions"], Value::Array(Vec::new()), "{bucket}/{key}: {replica}");
        }
    }

    /// The sum of a counter's samples, over its labels.
    pub async fn metric(&self, i: usize, name: &str) -> f64 {
        let text = self.ask(i, Request::get("/metrics")).await.expect(200).text();
        let samples = text.lines().filter(|line| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{']))
        });
        samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// Ends a node as a crash would.
    pub fn kill9(&mut self, i: usize) {
        self.nodes[i].process.take().expect("it runs").kill();
    }

    /// Ends all that run, with as little as possible in between.
    pub fn kill9_all(&mut self) {
        for i in self.running() {
            self.signal(i, Signal::KILL);
        }
        self.nodes.iter_mut().for_each(|node| node.process = None);
    }

    pub fn signal(&self, i: usize, signal: Signal) {
        self.nodes[i].process.as_ref().expect("it runs").signal(signal);
    }

    pub fn pause(&self, i: usize) {
        self.signal(i, Signal::STOP);
    }

    pub fn resume(&self, i: usize) {
        self.signal(i, Signal::CONT);
    }

    /// Asks a node to stop, and waits until it has.
    pub async fn sigterm(&mut self, i: usize) -> ExitStatus {
        self.signal(i, Signal::TERM);
        self.ended(i).await
    }

    /// Waits for a node that was asked to stop.
    pub async fn ended(&mut self, i: usize) -> ExitStatus {
        let status = self.nodes[i].process.as_mut().expect("it runs").wait(STOP_WITHIN).await;
        self.nodes[i].process = None;
        status
    }

    /// Stops all that run, cleanly and at once.
    pub async fn sigterm_all(&mut self) {
        for i in self.running() {
            self.signal(i, Signal::TERM);
        }
        for i in self.running() {
            let status = self.ended(i).await;
            assert!(status.success(), "node {i}: {status}: {}", self.nodes[i].log());
        }
    }
}

impl Node {
    fn new(number: usize, folder: &Path) -> Self {
        let id = format!("node-{number}");
        let folder = folder.join(&id);
        fs::create_dir(&folder).expect("a new folder");
        Self { id, http: Port::any(), peer: Port::any(), folder, process: None }
    }

    pub fn settings(&self) -> PathBuf {
        self.folder.join("starling.toml")
    }

    pub fn data_dir(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn log_file(&self) -> PathBuf {
        self.folder.join("log")
    }

    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.log_file()).unwrap_or_default()).into_owned()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.nodes.iter_mut().for_each(|node| node.process = None);
        for node in &self.nodes {
            let log = node.log();
            if std::thread::panicking() {
                let from = log.len().saturating_sub(6_000);
                eprintln!(
                    "---- {} ----\n{}",
                    node.id,
                    String::from_utf8_lossy(&log.as_bytes()[from..])
                );
                continue;
            }
            for bug in ["panicked", "internal error"] {
                assert!(!log.contains(bug), "{}: {bug}: {log}", node.id);
            }
        }
    }
}
