//! The command line: one file a subcommand.
//!
//! Values and tables go to stdout, everything else to stderr. Exit codes: 0 success, 1 failure,
//! 2 wrong usage, 3 a `get` that found siblings.

mod bench;
mod check_config;
mod client;
mod cluster;
mod delete;
mod dev;
mod exit;
mod get;
mod level;
mod output;
mod put;
mod server;
pub mod signals;
mod table;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub use exit::Outcome;

/// A leaderless, Dynamo-style key-value store.
#[derive(Debug, Parser)]
#[command(name = "starling", version, subcommand_required = true, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a node
    Server(server::ServerArgs),
    /// Run a cluster on this machine, each node a process of its own
    Dev(dev::DevArgs),
    /// Read a value
    Get(get::GetArgs),
    /// Write a value
    Put(put::PutArgs),
    /// Delete a value
    Delete(delete::DeleteArgs),
    /// Look at the cluster
    #[command(subcommand)]
    Cluster(cluster::ClusterCommand),
    /// Measure how many requests nodes answer, and how fast
    Bench(Box<bench::BenchArgs>),
    /// Check a settings file without starting anything
    CheckConfig(check_config::CheckConfigArgs),
}

/// Does what the command line asks and says how the process should end. What went wrong is already
/// on stderr then.
pub async fn run(cli: Cli) -> ExitCode {
    let result = match cli.command {
        Command::Server(args) => server::run(args).await,
        Command::Dev(args) => dev::run(args).await,
        Command::Get(args) => get::run(args).await,
        Command::Put(args) => put::run(args).await,
        Command::Delete(args) => delete::run(args).await,
        Command::Cluster(command) => cluster::run(command).await,
        Command::Bench(args) => bench::run(*args).await,
        Command::CheckConfig(args) => check_config::run(&args),
    };
    exit::code(result)
}

#[cfg(test)]
mod tests;
