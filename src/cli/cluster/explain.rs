//! `starling cluster explain`.

use std::ffi::OsString;

use anyhow::Context as _;
use clap::Args;
use serde::Deserialize;

use crate::cli::client::{KeyName, NodeArgs};
use crate::cli::exit::Outcome;
use crate::cli::output;
use crate::cli::table::{Align, Cell, Table};

/// Shows where a key lies on the ring and what each of its replicas holds. Repairs nothing.
#[derive(Args, Debug)]
pub(in crate::cli) struct ExplainArgs {
    /// The bucket
    bucket: String,
    /// The key
    key: OsString,
    /// Write the node's answer as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    node: NodeArgs,
}

/// The answer of `GET /v1/explain`, as far as it is shown.
#[derive(Deserialize)]
pub(super) struct Explanation {
    token: String,
    partition: u32,
    n: u8,
    replicas: Vec<Replica>,
}

#[derive(Deserialize)]
struct Replica {
    node: String,
    reachable: bool,
    incomplete: bool,
    versions: Option<Vec<Version>>,
    hints: u64,
}

#[derive(Deserialize)]
struct Version {
    version: String,
    deleted: bool,
    bytes: u64,
    modified: String,
}

pub(in crate::cli) async fn run(args: ExplainArgs) -> anyhow::Result<Outcome> {
    let name = KeyName::parse(&args.bucket, &args.key)?;
    let answer = args.node.client()?.get_json(&name.path("explain")).await?;
    if args.json {
        output::write_json(&answer)?;
    } else {
        let explanation = serde_json::from_value(answer).context("the answer can't be read")?;
        output::write(render(&explanation).as_bytes())?;
    }
    Ok(Outcome::Done)
}

/// The whole page: a line for each version of each replica.
pub(super) fn render(explanation: &Explanation) -> String {
    let Explanation { token, partition, n, replicas } = explanation;
    let mut table = Table::new([
        ("REPLICA", Align::Left),
        ("STATE", Align::Left),
        ("HINTS", Align::Right),
        ("VERSION", Align::Left),
        ("BYTES", Align::Right),
        ("MODIFIED", Align::Left),
    ]);
    for replica in replicas {
        for row in rows(replica) {
            table.push(row);
        }
    }
    format!("token {token}, partition {partition}, {n} replicas\n\n{}", table.render())
}

fn rows(replica: &Replica) -> Vec<Vec<Cell>> {
    let state = match (replica.reachable, replica.incomplete) {
        (false, _) => "no answer",
        (true, true) => "incomplete",
        (true, false) => "ok",
    };
    let row = |[version, bytes, modified]: [Cell; 3]| {
        let hints = replica.hints.to_string();
        vec![replica.node.as_str().into(), state.into(), hints.into(), version, bytes, modified]
    };
    match replica.versions.as_deref() {
        None => vec![row(["?".into(), "".into(), "".into()])],
        Some([]) => vec![row(["(nothing)".into(), "".into(), "".into()])],
        Some(versions) => versions.iter().map(|version| row(cells(version))).collect(),
    }
}

fn cells(version: &Version) -> [Cell; 3] {
    let bytes = if version.deleted { "deleted".to_owned() } else { version.bytes.to_string() };
    [version.version.as_str().into(), bytes.into(), version.modified.as_str().into()]
}
