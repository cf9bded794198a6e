//! The nodes' processes: starting them, seeing them end, stopping them.

use std::fs::{self, File};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use futures_util::future::{join_all, pending, select_all};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::folder::Folder;
use super::plan::NodePlan;

/// A node promises to end within 10 s of SIGTERM.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// Variables that would make all nodes the same one.
const IDENTITY: [&str; 10] = [
    "STARLING_ID",
    "STARLING_HTTP",
    "STARLING_PEER",
    "STARLING_ADVERTISE_HTTP",
    "STARLING_ADVERTISE_PEER",
    "STARLING_DATA_DIR",
    "STARLING_ZONE",
    "STARLING_WEIGHT",
    "STARLING_INITIAL_NODES",
    "STARLING_JOIN",
];

/// The nodes that run.
#[derive(Debug, Default)]
pub(super) struct Processes {
    running: Vec<(NodePlan, Child)>,
}

/// A node that has ended by itself or was killed.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) node: NodePlan,
    pub(super) status: ExitStatus,
}

impl Processes {
    /// Starts a node and notes its process id. To be called on the thread that lives longest: the
    /// system ends the nodes when it does.
    pub(super) fn start(&mut self, node: &NodePlan, folder: &Folder) -> anyhow::Result<()> {
        let binary = std::env::current_exe().context("can't find the own binary")?;
        let log = folder.log(node);
        let log = File::options().append(true).create(true).open(&log);
        let log = log.with_context(|| format!("can't open the log of {}", node.id))?;
        let mut command = Command::new(binary);
        command.arg("server").arg("--config").arg(folder.settings(node));
        command.arg("--parent-pid").arg(std::process::id().to_string());
        IDENTITY.iter().for_each(|name| {
            command.env_remove(name);
        });
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        // A group of their own: Ctrl-C in a terminal goes to this process, which stops them.
        command.process_group(0).kill_on_drop(true);
        let child = command.spawn().with_context(|| format!("can't start {}", node.id))?;
        let pid = child.id().context("the node has no process id")?;
        self.running.push((node.clone(), child));
        fs::write(folder.pid(node), format!("{pid}\n"))
            .with_context(|| format!("can't note the process id of {}", node.id))
    }

    /// Waits until one of them ends; for ever where none runs.
    pub(super) async fn any_ended(&mut self) -> Ended {
        if self.running.is_empty() {
            return pending().await;
        }
        let waits = self.running.iter_mut().map(|(_, child)| Box::pin(child.wait()));
        let (status, index, _) = select_all(waits).await;
        let (node, _) = self.running.remove(index);
        // Waiting for an own child fails only if someone else has taken its status.
        Ended { node, status: status.unwrap_or_default() }
    }

    /// Asks all to stop, and kills those that don't within their promised time.
    pub(super) async fn stop(&mut self) {
        for (node, child) in &self.running {
            signal(node, child, Signal::TERM);
            // A paused one hears of it only when it goes on.
            signal(node, child, Signal::CONT);
        }
        join_all(self.running.iter_mut().map(|(node, child)| end(node, child))).await;
        self.running.clear();
    }
}

fn signal(node: &NodePlan, child: &Child, signal: Signal) {
    // None: it has ended, and its number may be another's by now.
    let pid = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
    if let Some(Err(error)) = pid.map(|pid| kill_process(pid, signal)) {
        eprintln!("starling: can't signal {}: {error}", node.id);
    }
}

async fn end(node: &NodePlan, child: &mut Child) {
    if timeout(STOP_TIMEOUT, child.wait()).await.is_err() {
        eprintln!("starling: {} did not stop within {STOP_TIMEOUT:?} and is killed", node.id);
        if let Err(error) = child.kill().await {
            eprintln!("starling: can't kill {}: {error}", node.id);
        }
    }
}
