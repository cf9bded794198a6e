//! `starling server`.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use rustix::process::set_parent_process_death_signal;
use rustix::process::{Pid, Resource, Rlimit, Signal, getppid, getrlimit, setrlimit};
use tracing::{info, warn};

use super::exit::Outcome;
use super::signals::StopSignals;
use crate::config::{Loaded, Overrides, Settings};
use crate::server::Start;
use crate::telemetry;

/// Runs a node until SIGTERM. Settings come from the file, then from the environment
/// (STARLING_HTTP, ...), then from these flags; the later wins.
#[derive(Args, Debug)]
pub(super) struct ServerArgs {
    /// The settings file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// This node's name, unique in its cluster
    #[arg(long)]
    id: Option<String>,
    /// Where to listen for clients
    #[arg(long, value_name = "ADDR")]
    http: Option<String>,
    /// Where to listen for other nodes
    #[arg(long, value_name = "ADDR")]
    peer: Option<String>,
    /// Where clients reach this node, if not there
    #[arg(long, value_name = "ADDR")]
    advertise_http: Option<String>,
    /// Where other nodes reach this one, if not there
    #[arg(long, value_name = "ADDR")]
    advertise_peer: Option<String>,
    /// Where data is kept
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Where this node stands; replicas go into distinct zones
    #[arg(long)]
    zone: Option<String>,
    /// Nodes of the cluster to join
    #[arg(long, value_name = "PEER,...")]
    join: Option<String>,
    /// Join without waiting for an operator
    #[arg(long)]
    auto_join: bool,
    /// Empty the data directory and take everything in from the peers; for one that is damaged or
    /// lost
    #[arg(long)]
    rebuild: bool,
    /// End as soon as this process, which must be the parent, is gone: set by `starling dev`
    #[arg(long, value_name = "PID", hide = true)]
    parent_pid: Option<i32>,
}

pub(super) async fn run(args: ServerArgs) -> anyhow::Result<Outcome> {
    if let Some(parent) = args.parent_pid {
        end_with(parent)?;
    }
    let start = if args.rebuild { Start::Rebuild } else { Start::GoOn };
    let Loaded { settings, warnings } = args.load()?;
    telemetry::tracing::init(&settings.log)?;
    for warning in warnings {
        warn!("{warning}");
    }
    raise_file_limit();
    let mut stop = StopSignals::catch().context("can't catch signals")?;
    crate::server::run(settings, start, async move { stop.received().await }).await?;
    Ok(Outcome::Done)
}

impl ServerArgs {
    fn load(self) -> anyhow::Result<Loaded> {
        let flags = Overrides {
            id: self.id,
            http: self.http,
            peer: self.peer,
            advertise_http: self.advertise_http,
            advertise_peer: self.advertise_peer,
            data_dir: self.data_dir,
            zone: self.zone,
            join: self.join,
            auto_join: self.auto_join,
        };
        Ok(Settings::load(self.config.as_deref(), std::env::vars_os(), flags)?)
    }
}

/// Asks the system to kill this process when its parent ends, however that ends.
fn end_with(parent: i32) -> anyhow::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL)).context("can't be bound to the parent")?;
    // It may have ended before the system was asked.
    anyhow::ensure!(getppid().map(Pid::as_raw_pid) == Some(parent), "the parent has ended");
    Ok(())
}

/// Each connection and each file of the store takes one; the usual soft limit of 1,024 is a relic.
fn raise_file_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => info!(from = current, to = maximum, "raised the limit of open files"),
        Err(error) => warn!(limit = current, "can't raise the limit of open files: {error}"),
    }
}
