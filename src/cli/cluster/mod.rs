//! `starling cluster`.

mod change;
mod explain;
mod recover;
mod repair;
mod ring;
mod status;

use clap::Subcommand;

use super::exit::Outcome;

/// What of the cluster to look at.
#[derive(Debug, Subcommand)]
pub(super) enum ClusterCommand {
    /// Show the nodes, their states and their shares of the data
    Status(status::StatusArgs),
    /// Show which nodes hold which partition of the ring
    Ring(ring::RingArgs),
    /// Show what a change of the layout would move; changes nothing
    Plan(change::PlanArgs),
    /// Change the layout: nodes join, leave, take another's place, weight or zone
    Apply(change::ApplyArgs),
    /// Give up the running transition and return to the old layout
    Abort(change::AbortArgs),
    /// Go on without a majority of the nodes that is lost for good; can lose acknowledged writes
    Recover(recover::RecoverArgs),
    /// Have all nodes compare their replicas now, and show how far they agree
    Repair(repair::RepairArgs),
    /// Show where a key lies and what each replica holds
    Explain(explain::ExplainArgs),
}

pub(super) async fn run(command: ClusterCommand) -> anyhow::Result<Outcome> {
    match command {
        ClusterCommand::Status(args) => status::run(args).await,
        ClusterCommand::Ring(args) => ring::run(args).await,
        ClusterCommand::Plan(args) => change::plan(args).await,
        ClusterCommand::Apply(args) => change::apply(args).await,
        ClusterCommand::Abort(args) => change::abort(args).await,
        ClusterCommand::Recover(args) => recover::run(args).await,
        ClusterCommand::Repair(args) => repair::run(args).await,
        ClusterCommand::Explain(args) => explain::run(args).await,
    }
}
