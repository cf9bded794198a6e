//! The simulator's command: `cargo run --release --features sim --bin starling-sim -- --help`.

use std::process::ExitCode;

use clap::Parser;
use starling::sim::command::{Arguments, execute};

fn main() -> ExitCode {
    execute(&Arguments::parse())
}
