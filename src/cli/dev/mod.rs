//! `starling dev`: a cluster on one machine, for trying things out.
//!
//! Each node is a process of its own, so that one can be killed. A node that ends stays ended; when
//! this process ends, however it does, its nodes end with it.

mod folder;
mod plan;
mod processes;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use reqwest::Method;
use tokio::time::sleep;

use self::folder::Folder;
use self::plan::Plan;
use self::processes::{Ended, Processes};
use super::client::Client;
use super::exit::Outcome;
use super::output;
use super::signals::StopSignals;

const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Runs a cluster on this machine until Ctrl-C or SIGTERM, each node a process of its own.
#[derive(Args, Debug)]
pub(super) struct DevArgs {
    /// How many nodes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=64))]
    nodes: u16,
    /// The HTTP port of node-1; node-2's is 10 higher, and so on. Each node's peer port is its HTTP
    /// port plus 1
    #[arg(long, default_value_t = 7070, value_name = "PORT")]
    base_port: u16,
    /// Where the nodes keep data, logs and process ids
    #[arg(long, value_name = "DIR", default_value = ".starling/dev")]
    data_dir: PathBuf,
    /// Begin with empty nodes: delete what an earlier run left in DIR
    #[arg(long)]
    fresh: bool,
}

pub(super) async fn run(args: DevArgs) -> anyhow::Result<Outcome> {
    let plan = Plan::new(args.nodes, args.base_port)?;
    // Held, and with it the lock on it, until the nodes are gone.
    let mut folder = Folder::claim(&args.data_dir)?;
    // Before anything is deleted or written for a cluster that could not run.
    plan.check_ports()?;
    folder.prepare(&plan, args.fresh)?;
    let mut stop = StopSignals::catch().context("can't catch signals")?;
    let mut processes = Processes::default();
    let result = serve(&plan, &folder, &mut processes, &mut stop).await;
    processes.stop().await;
    result.map(|()| Outcome::Done)
}

/// Starts the nodes and watches them until a signal asks to stop.
async fn serve(
    plan: &Plan,
    folder: &Folder,
    processes: &mut Processes,
    stop: &mut StopSignals,
) -> anyhow::Result<()> {
    for node in plan.nodes() {
        processes.start(node, folder)?;
    }
    for node in plan.nodes() {
        output::write_line(&format!(
            "{}  http://{}  log {}",
            node.id,
            node.http,
            folder.log(node).display()
        ))?;
    }
    tokio::select! {
        biased;
        () = stop.received() => return Ok(()),
        ended = processes.any_ended() => bail!(ended_too_early(&ended, folder)),
        ready = all_ready(plan) => ready?,
    }
    output::write_line("ready")?;
    loop {
        tokio::select! {
            biased;
            () = stop.received() => return Ok(()),
            ended = processes.any_ended() => tell(&ended, folder),
        }
    }
}

async fn all_ready(plan: &Plan) -> anyhow::Result<()> {
    for node in plan.nodes() {
        let client = Client::new(&node.http.to_string())?;
        while !is_ready(&client).await {
            sleep(POLL_INTERVAL).await;
        }
    }
    Ok(())
}

async fn is_ready(client: &Client) -> bool {
    let Ok(request) = client.request(Method::GET, "/readyz") else { return false };
    let answer = request.timeout(Duration::from_secs(2)).send().await;
    answer.is_ok_and(|answer| answer.status().is_success())
}

fn ended_too_early(ended: &Ended, folder: &Folder) -> String {
    let log = folder.log(&ended.node);
    let last_words = folder.last_log_line(&ended.node).unwrap_or_default();
    let (id, status) = (&ended.node.id, ended.status);
    format!("{id} ended before it was ready ({status}); see {}: {last_words}", log.display())
}

fn tell(ended: &Ended, folder: &Folder) {
    let settings = folder.settings(&ended.node);
    eprintln!(
        "starling: {} has ended ({}); start it again with: starling server --config {}",
        ended.node.id,
        ended.status,
        settings.display()
    );
}
