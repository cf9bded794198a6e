//! `starling cluster repair`.

use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use reqwest::Method;
use serde::Deserialize;
use tokio::time::{Instant, sleep};

use crate::cli::client::{Client, NodeArgs, problem};
use crate::cli::exit::Outcome;
use crate::cli::output;
use crate::cli::table::{Align, Table};

/// How often nodes are asked how far they are.
const ASK_EVERY: Duration = Duration::from_millis(200);

/// Has every node that is up compare all its replicas with those of the others, now, and exchange
/// what differs. Then shows how far they agree.
#[derive(Args, Debug)]
pub(in crate::cli) struct RepairArgs {
    /// Wait until every two replicas were compared
    #[arg(long)]
    wait: bool,
    /// Give up at last the keys whose only copies are damaged (they read as if never written), and
    /// damaged hints
    #[arg(long)]
    accept_loss: bool,
    /// Write the nodes' answers as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    node: NodeArgs,
}

#[derive(Deserialize)]
struct Cluster {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    http: Option<String>,
    state: String,
}

#[derive(Deserialize)]
struct Begun {
    released: u64,
}

/// The answer of `GET /v1/repair`, as far as it is shown.
#[derive(Deserialize)]
pub(super) struct Repair {
    debt_seconds: f64,
    hints: Vec<Hints>,
    pairs: Vec<Pair>,
}

#[derive(Deserialize)]
struct Hints {
    count: u64,
}

#[derive(Deserialize)]
struct Pair {
    node: String,
    oldest_proof_seconds: f64,
    records_repaired: u64,
    bytes_moved: u64,
}

/// A node that is asked.
struct Asked {
    id: String,
    client: Client,
}

pub(in crate::cli) async fn run(args: RepairArgs) -> anyhow::Result<Outcome> {
    let asked = nodes(&args.node.client()?).await?;
    let begun = Instant::now();
    let mut released = 0;
    for (at, node) in asked.iter().enumerate() {
        // One node passes it on to all others.
        let path = match args.accept_loss && at == 0 {
            true => "/v1/repair?accept_loss=true",
            false => "/v1/repair",
        };
        released += begin(node, path).await?;
    }
    if args.accept_loss {
        output::write(format!("{released} damaged records and hints were given up\n").as_bytes())?;
    }
    if args.wait {
        wait(&asked, begun).await?;
    }
    show(&asked, args.json).await?;
    Ok(Outcome::Done)
}

/// The nodes that are up, the one that was named first.
async fn nodes(first: &Client) -> anyhow::Result<Vec<Asked>> {
    let answer = first.get_json("/v1/cluster").await?;
    let this = answer["this_node"].as_str().unwrap_or_default().to_owned();
    let cluster: Cluster = serde_json::from_value(answer).context("the answer can't be read")?;
    let mut asked = vec![Asked { id: this.clone(), client: first.clone() }];
    for node in cluster.nodes {
        if node.id == this {
            continue;
        }
        match node.http.filter(|_| node.state != "down") {
            Some(http) => asked.push(Asked { id: node.id, client: Client::new(&http)? }),
            None => eprintln!("{} is down: its replicas are compared when it is back", node.id),
        }
    }
    Ok(asked)
}

async fn begin(node: &Asked, path: &str) -> anyhow::Result<u64> {
    let response = node.client.send(node.client.request(Method::POST, path)?).await?;
    if !response.status().is_success() {
        return Err(problem(response).await);
    }
    let begun: Begun = response.json().await.context("the node's answer is no JSON")?;
    Ok(begun.released)
}

async fn ask(node: &Asked) -> anyhow::Result<Repair> {
    let answer = node.client.get_json("/v1/repair").await?;
    serde_json::from_value(answer).context("the answer can't be read")
}

/// Waits until every pair of nodes that are up was compared since `begun`.
async fn wait(asked: &[Asked], begun: Instant) -> anyhow::Result<()> {
    for node in asked {
        loop {
            let repair = ask(node).await?;
            let is_open = |pair: &&Pair| {
                let is_up = asked.iter().any(|other| other.id == pair.node);
                is_up && pair.oldest_proof_seconds > begun.elapsed().as_secs_f64()
            };
            if !repair.pairs.iter().any(|pair| is_open(&pair)) {
                break;
            }
            sleep(ASK_EVERY).await;
        }
    }
    Ok(())
}

async fn show(asked: &[Asked], as_json: bool) -> anyhow::Result<()> {
    if as_json {
        let mut answers = serde_json::Map::new();
        for node in asked {
            answers.insert(node.id.clone(), node.client.get_json("/v1/repair").await?);
        }
        output::write_json(&answers.into())?;
        return Ok(());
    }
    let mut repairs = Vec::new();
    for node in asked {
        repairs.push((node.id.clone(), ask(node).await?));
    }
    output::write(render(&repairs).as_bytes())?;
    Ok(())
}

/// A line for each pair of nodes.
pub(super) fn render(repairs: &[(String, Repair)]) -> String {
    let mut table = Table::new([
        ("NODE", Align::Left),
        ("WITH", Align::Left),
        ("OLDEST PROOF", Align::Right),
        ("RECORDS", Align::Right),
        ("BYTES", Align::Right),
    ]);
    for (node, repair) in repairs {
        for pair in &repair.pairs {
            table.push(vec![
                node.as_str().into(),
                pair.node.as_str().into(),
                format!("{:.1} s", pair.oldest_proof_seconds).into(),
                pair.records_repaired.to_string().into(),
                pair.bytes_moved.to_string().into(),
            ]);
        }
    }
    let debt = repairs.iter().map(|(_, repair)| repair.debt_seconds).fold(0.0, f64::max);
    let hints = repairs.iter().flat_map(|(_, repair)| &repair.hints);
    let hints: u64 = hints.map(|hints| hints.count).sum();
    format!("repair debt {debt:.1} s, {hints} hints\n\n{}", table.render())
}
