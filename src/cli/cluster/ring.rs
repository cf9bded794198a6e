//! `starling cluster ring`.

use std::collections::BTreeMap;

use anyhow::Context as _;
use clap::Args;
use serde::Deserialize;

use crate::cli::client::NodeArgs;
use crate::cli::exit::Outcome;
use crate::cli::output;
use crate::cli::table::{Align, Table};

/// Shows each partition of the ring with its replicas, the primary first; then how many each node
/// holds.
#[derive(Args, Debug)]
pub(in crate::cli) struct RingArgs {
    /// The table for this replication factor, if not the cluster's
    #[arg(long, value_name = "N")]
    n: Option<u8>,
    /// Write the node's answer as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    node: NodeArgs,
}

/// The answer of `GET /v1/cluster/ring`.
#[derive(Deserialize)]
pub(super) struct Ring {
    layout_version: u64,
    partitions: Vec<Partition>,
}

#[derive(Deserialize)]
struct Partition {
    id: u32,
    start: String,
    end: String,
    replicas: Vec<String>,
}

pub(in crate::cli) async fn run(args: RingArgs) -> anyhow::Result<Outcome> {
    let query = args.n.map(|n| format!("?n={n}")).unwrap_or_default();
    let answer = args.node.client()?.get_json(&format!("/v1/cluster/ring{query}")).await?;
    if args.json {
        output::write_json(&answer)?;
    } else {
        let ring = serde_json::from_value(answer).context("the answer can't be read")?;
        output::write(render(&ring).as_bytes())?;
    }
    Ok(Outcome::Done)
}

/// The whole page.
pub(super) fn render(ring: &Ring) -> String {
    let head = format!("layout {}, {} partitions\n\n", ring.layout_version, ring.partitions.len());
    head + &partitions(ring) + "\n" + &nodes(ring)
}

fn partitions(ring: &Ring) -> String {
    let mut table = Table::new([
        ("PARTITION", Align::Right),
        ("FIRST TOKEN", Align::Left),
        ("LAST TOKEN", Align::Left),
        ("REPLICAS", Align::Left),
    ]);
    for Partition { id, start, end, replicas } in &ring.partitions {
        table.push([
            id.to_string().into(),
            start.as_str().into(),
            end.as_str().into(),
            replicas.join(" ").into(),
        ]);
    }
    table.render()
}

fn nodes(ring: &Ring) -> String {
    let mut counts: BTreeMap<&str, (u32, u32)> = BTreeMap::new();
    for partition in &ring.partitions {
        for (index, node) in partition.replicas.iter().enumerate() {
            let (primary, replica) = counts.entry(node).or_default();
            *primary += u32::from(index == 0);
            *replica += 1;
        }
    }
    let mut table = Table::new([
        ("NODE", Align::Left),
        ("REPLICA OF", Align::Right),
        ("PRIMARY OF", Align::Right),
    ]);
    for (node, (primary, replica)) in counts {
        table.push([node.into(), replica.to_string().into(), primary.to_string().into()]);
    }
    table.render()
}
