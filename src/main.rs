//! The `starling` binary: arguments and a runtime; everything else is in the library.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use starling::cli::{Cli, run};

/// As many threads as a node needs, unless `TOKIO_WORKER_THREADS` says how many. With more, a request at
/// a quiet time wakes threads that find nothing to do, at a fifth to a third of what it costs in all.
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if std::env::var_os("TOKIO_WORKER_THREADS").is_none() {
        builder.worker_threads(starling::server::threads());
    }
    builder.enable_all().build()
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match runtime() {
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
