//! `starling cluster status`.

use anyhow::Context as _;
use clap::Args;
use serde::Deserialize;

use crate::cli::client::NodeArgs;
use crate::cli::exit::Outcome;
use crate::cli::output;
use crate::cli::table::{Align, Cell, Table};

/// Shows the cluster as one of its nodes sees it.
#[derive(Args, Debug)]
pub(in crate::cli) struct StatusArgs {
    /// Write the node's answer as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    node: NodeArgs,
}

/// The answer of `GET /v1/cluster`, as far as it is shown.
#[derive(Deserialize)]
pub(super) struct Cluster {
    cluster_id: String,
    epoch: u64,
    layout_version: u64,
    replication_factor: u8,
    partitions: u32,
    this_node: String,
    nodes: Vec<Node>,
    transition: Option<Transition>,
    under_replicated: u32,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    zone: String,
    http: Option<String>,
    peer: String,
    weight: f64,
    state: String,
    role: String,
    vnodes: u64,
    software: Option<String>,
}

#[derive(Deserialize)]
struct Transition {
    from_layout: u64,
    to_layout: u64,
    phase: String,
    partitions_total: u32,
    partitions_done: u32,
    eta_seconds: Option<u64>,
    waiting_for: Vec<String>,
}

pub(in crate::cli) async fn run(args: StatusArgs) -> anyhow::Result<Outcome> {
    let answer = args.node.client()?.get_json("/v1/cluster").await?;
    if args.json {
        output::write_json(&answer)?;
    } else {
        let cluster = serde_json::from_value(answer).context("the answer can't be read")?;
        output::write(render(&cluster, output::has_colours()).as_bytes())?;
    }
    Ok(Outcome::Done)
}

/// The whole page.
pub(super) fn render(cluster: &Cluster, colours: bool) -> String {
    let Cluster { cluster_id, epoch, layout_version, replication_factor: n, partitions, .. } =
        cluster;
    let seen_by = &cluster.this_node;
    let head = format!(
        "cluster {cluster_id}, as {seen_by} sees it\n\
         epoch {epoch}, layout {layout_version}, {n} replicas of {partitions} partitions\n\n"
    );
    head + &nodes(cluster, colours) + "\n" + &summary(cluster) + &transition(cluster)
}

fn nodes(cluster: &Cluster, colours: bool) -> String {
    let mut table = Table::new([
        ("NODE", Align::Left),
        ("STATE", Align::Left),
        ("ROLE", Align::Left),
        ("ZONE", Align::Left),
        ("WEIGHT", Align::Right),
        ("VNODES", Align::Right),
        ("SHARE", Align::Right),
        ("HTTP", Align::Left),
        ("PEER", Align::Left),
        ("VERSION", Align::Left),
    ]);
    let total: u64 = cluster.nodes.iter().map(|node| node.vnodes).sum();
    for node in &cluster.nodes {
        let share = node.vnodes as f64 * 100.0 / total.max(1) as f64;
        let unknown = || "-".to_owned();
        table.push([
            node.id.as_str().into(),
            Cell::coloured(&node.state, colour(&node.state).filter(|_| colours)),
            node.role.as_str().into(),
            node.zone.as_str().into(),
            node.weight.to_string().into(),
            node.vnodes.to_string().into(),
            format!("{share:.1}%").into(),
            node.http.clone().unwrap_or_else(unknown).into(),
            node.peer.as_str().into(),
            node.software.clone().unwrap_or_else(unknown).into(),
        ]);
    }
    table.render()
}

fn colour(state: &str) -> Option<u8> {
    match state {
        "up" => Some(32),
        "suspect" => Some(33),
        "down" => Some(31),
        _ => None,
    }
}

fn summary(cluster: &Cluster) -> String {
    let count = |state: &str| cluster.nodes.iter().filter(|node| node.state == state).count();
    let states = ["up", "suspect", "down"].map(|state| (count(state), state));
    let present = states.iter().filter(|(count, _)| *count > 0);
    let states: Vec<String> = present.map(|(count, state)| format!("{count} {state}")).collect();
    let replicas = match cluster.under_replicated {
        0 => "every partition has all its replicas in the layout".to_owned(),
        under => {
            let n = cluster.replication_factor;
            format!("{under} partitions have fewer than {n} replicas in the layout: add nodes")
        }
    };
    format!("{} nodes: {}; {replicas}\n", cluster.nodes.len(), states.join(", "))
}

fn transition(cluster: &Cluster) -> String {
    let Some(running) = &cluster.transition else {
        return String::new();
    };
    let Transition { from_layout, to_layout, phase, partitions_done: done, .. } = running;
    let eta = running.eta_seconds.map(|seconds| format!(", about {seconds} s to go"));
    let waiting = match running.waiting_for.as_slice() {
        [] => String::new(),
        waiting => format!(", waiting for {}", waiting.join(", ")),
    };
    format!(
        "layout {from_layout} becomes {to_layout} ({phase}): {done} of {} partitions moved{}{waiting}\n",
        running.partitions_total,
        eta.unwrap_or_default()
    )
}
