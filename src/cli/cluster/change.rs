//! `starling cluster plan`, `apply` and `abort`.

use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::time::sleep;

use crate::cli::client::{Client, NodeArgs};
use crate::cli::exit::{Outcome, WrongUsage};
use crate::cli::output;
use crate::cli::table::{Align, Table};

/// How often it is looked how far a transition is.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What is to be changed; all of it in one transition.
#[derive(Args, Debug, Default)]
pub(in crate::cli) struct ChangeArgs {
    /// Take in a node that was started with --join; with its peer address where it is not shown as
    /// a candidate
    #[arg(long, value_name = "ID[=PEER]")]
    join: Vec<String>,
    /// Send a node away: it gives its data to the others first
    #[arg(long, value_name = "ID")]
    leave: Vec<String>,
    /// Have one node take another's exact place; a node whose disk was lost takes its own: ID=ID
    #[arg(long, value_name = "OLD=NEW")]
    replace: Vec<String>,
    /// This node's process will never run again: do not wait for it
    #[arg(long, value_name = "ID")]
    dead: Vec<String>,
    /// Give a node another share; 0 makes it a gateway, which holds nothing
    #[arg(long, value_name = "ID=WEIGHT")]
    weight: Vec<String>,
    /// Put a node into another zone
    #[arg(long, value_name = "ID=ZONE")]
    zone: Vec<String>,
    /// Go on even where fewer than half of a partition's replicas survive
    #[arg(long)]
    accept_loss: bool,
}

/// Shows what a change would move, how even the shares would be, and what it would not hold.
#[derive(Args, Debug)]
pub(in crate::cli) struct PlanArgs {
    #[command(flatten)]
    change: ChangeArgs,
    /// Write the node's answer as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    node: NodeArgs,
}

/// Changes the layout, while clients go on reading and writing. Shows the plan, and with --yes
/// begins; `starling cluster status` shows how far it is.
#[derive(Args, Debug)]
pub(in crate::cli) struct ApplyArgs {
    #[command(flatten)]
    change: ChangeArgs,
    /// Begin, and do not only show
    #[arg(long)]
    yes: bool,
    /// Wait until the transition has ended and nothing is left to be dropped
    #[arg(long)]
    wait: bool,
    /// Write the node's answer as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    node: NodeArgs,
}

/// Returns to the old layout: nothing is lost, and what was copied is deleted.
#[derive(Args, Debug)]
pub(in crate::cli) struct AbortArgs {
    #[command(flatten)]
    node: NodeArgs,
}

/// The answer of `POST /v1/cluster/plan`.
#[derive(Deserialize)]
pub(super) struct Plan {
    epoch: u64,
    moves: Vec<Move>,
    balance: Balance,
    violations: Vec<String>,
    eta_seconds: u64,
}

#[derive(Deserialize)]
struct Move {
    node: String,
    vnodes_in: u32,
    vnodes_out: u32,
    bytes_in: u64,
    bytes_out: u64,
}

#[derive(Deserialize)]
struct Balance {
    before: f64,
    after: f64,
}

impl ChangeArgs {
    /// As the API takes it.
    fn body(&self) -> Result<Value, WrongUsage> {
        let join: Vec<Value> = self
            .join
            .iter()
            .map(|text| match text.split_once('=') {
                Some((id, peer)) => json!({"id": id, "peer": peer}),
                None => json!({"id": text}),
            })
            .collect();
        let mut weights = Map::new();
        for (id, weight) in pairs("--weight", &self.weight)? {
            let wrong = || WrongUsage(format!("--weight {id}={weight}: {weight} is no number"));
            weights.insert(id.into(), json!(weight.parse::<f64>().map_err(|_| wrong())?));
        }
        let texts = |flag: &str, given: &[String]| -> Result<Map<String, Value>, WrongUsage> {
            let pairs = pairs(flag, given)?;
            Ok(pairs.into_iter().map(|(id, text)| (id.to_owned(), json!(text))).collect())
        };
        Ok(json!({
            "join": join,
            "leave": self.leave,
            "replace": texts("--replace", &self.replace)?,
            "dead": self.dead,
            "weight": weights,
            "zone": texts("--zone", &self.zone)?,
            "accept_loss": self.accept_loss,
        }))
    }
}

fn pairs<'a>(flag: &str, given: &'a [String]) -> Result<Vec<(&'a str, &'a str)>, WrongUsage> {
    let pair = |text: &'a String| {
        let wrong = || WrongUsage(format!("{flag} {text}: must be two things with = between"));
        text.split_once('=').ok_or_else(wrong)
    };
    given.iter().map(pair).collect()
}

pub(in crate::cli) async fn plan(args: PlanArgs) -> anyhow::Result<Outcome> {
    let body = args.change.body()?;
    let answer = args.node.client()?.post_json("/v1/cluster/plan", &body).await?;
    show(&answer, args.json)?;
    Ok(Outcome::Done)
}

pub(in crate::cli) async fn apply(args: ApplyArgs) -> anyhow::Result<Outcome> {
    let client = args.node.client()?;
    let mut body = args.change.body()?;
    if !args.yes {
        let answer = client.post_json("/v1/cluster/plan", &body).await?;
        show(&answer, args.json)?;
        return Err(WrongUsage("nothing was changed: say --yes to begin".into()).into());
    }
    let planned: Plan = parse(&client.post_json("/v1/cluster/plan", &body).await?)?;
    body["epoch"] = planned.epoch.into();
    let answer = client.post_json("/v1/cluster/apply", &body).await?;
    show(&answer, args.json)?;
    if args.wait {
        wait(&client, planned.epoch).await?;
    }
    Ok(Outcome::Done)
}

pub(in crate::cli) async fn abort(args: AbortArgs) -> anyhow::Result<Outcome> {
    args.node.client()?.post_json("/v1/cluster/abort", &json!({})).await?;
    Ok(Outcome::Done)
}

/// Waits until the node that is asked knows of no transition any more.
async fn wait(client: &Client, epoch: u64) -> anyhow::Result<()> {
    let mut shown = String::new();
    loop {
        let cluster = client.get_json("/v1/cluster").await?;
        let transition = &cluster["transition"];
        let leaves = |node: &Value| node["role"] == "leaving";
        let is_leaving = cluster["nodes"].as_array().is_some_and(|nodes| nodes.iter().any(leaves));
        let is_later = cluster["epoch"].as_u64().is_some_and(|now| now > epoch);
        if transition.is_null() && !is_leaving && is_later {
            return Ok(());
        }
        let line = format!(
            "{}: {} of {} vnodes, waiting for {}",
            transition["phase"].as_str().unwrap_or("finish"),
            transition["partitions_done"],
            transition["partitions_total"],
            transition["waiting_for"],
        );
        if line != shown {
            eprintln!("{line}");
            shown = line;
        }
        sleep(LOOK_EVERY).await;
    }
}

fn parse(answer: &Value) -> anyhow::Result<Plan> {
    serde_json::from_value(answer.clone()).context("the answer can't be read")
}

fn show(answer: &Value, as_json: bool) -> anyhow::Result<()> {
    if as_json {
        return Ok(output::write_json(answer)?);
    }
    Ok(output::write(render(&parse(answer)?).as_bytes())?)
}

/// The whole page.
pub(super) fn render(plan: &Plan) -> String {
    let mut table = Table::new([
        ("NODE", Align::Left),
        ("VNODES IN", Align::Right),
        ("VNODES OUT", Align::Right),
        ("MIB IN", Align::Right),
        ("MIB OUT", Align::Right),
    ]);
    let mib = |bytes: u64| format!("{:.1}", bytes as f64 / f64::from(1 << 20));
    for moves in &plan.moves {
        table.push([
            moves.node.as_str().into(),
            moves.vnodes_in.to_string().into(),
            moves.vnodes_out.to_string().into(),
            mib(moves.bytes_in).into(),
            mib(moves.bytes_out).into(),
        ]);
    }
    let Balance { before, after } = plan.balance;
    let mut page = format!("planned for epoch {}\n\n{}\n", plan.epoch, table.render());
    page += &format!("largest share over ideal: {before:.3} before, {after:.3} after\n");
    page += &format!("about {} s at the set rate, by what this node holds\n", plan.eta_seconds);
    for violation in &plan.violations {
        page += &format!("note: {violation}\n");
    }
    page
}
