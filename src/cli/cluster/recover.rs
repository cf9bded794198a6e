//! `starling cluster recover`.

use clap::Args;
use serde_json::json;

use crate::cli::client::NodeArgs;
use crate::cli::exit::{Outcome, WrongUsage};

/// What is said before anything is done.
const WARNING: &str = "\
A forced recovery gives up the nodes that are named as lost, for good.
- Writes that only lost nodes had acknowledged are gone.
- A lost node that comes back with its disk serves nothing; empty it and let it join anew.
- If a node that is named as lost still runs, it can go on answering its own clients with old data
  at level one: stop its process first.
Name every node of the cluster once, and ask a survivor.";

/// Goes on without a majority of the nodes that vote, when that is gone for good. The survivors
/// decide alone from then on; then send the lost nodes away with `starling cluster apply
/// --accept-loss --yes`.
#[derive(Args, Debug)]
pub(in crate::cli) struct RecoverArgs {
    /// The nodes that go on
    #[arg(long, value_name = "ID,...", value_delimiter = ',', required = true)]
    survivors: Vec<String>,
    /// The nodes that are gone for good
    #[arg(long, value_name = "ID,...", value_delimiter = ',', required = true)]
    lost: Vec<String>,
    /// Do it: you have read what can be lost
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    node: NodeArgs,
}

pub(in crate::cli) async fn run(args: RecoverArgs) -> anyhow::Result<Outcome> {
    if !args.yes {
        eprintln!("{WARNING}");
        return Err(WrongUsage("nothing was changed: say --yes to do it".into()).into());
    }
    let body = json!({"survivors": args.survivors, "lost": args.lost});
    args.node.client()?.post_json("/v1/cluster/recover", &body).await?;
    Ok(Outcome::Done)
}
