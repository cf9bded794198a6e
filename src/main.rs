//! The `starling` binary: arguments and a runtime; everything else is in the library.

use std::process::ExitCode;

use clap::Parser;
use starling::cli::{Cli, run};

fn main() -> ExitCode {
    let cli = Cli::parse();
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(run(cli)),
        Err(error) => {
            eprintln!("starling: can't start its threads: {error}");
            ExitCode::FAILURE
        }
    }
}
