//! The `starling` binary: arguments and a runtime; everything else is in the library.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use starling::cli::{Cli, run};

fn main() -> ExitCode {
    let cli = Cli::parse();
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => {
            let code = runtime.block_on(run(cli));
            // A disk that hangs must not keep the process from ending.
            runtime.shutdown_timeout(Duration::from_millis(500));
            code
        }
        Err(error) => {
            eprintln!("starling: can't start its threads: {error}");
            ExitCode::FAILURE
        }
    }
}
