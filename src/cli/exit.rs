//! How the process ends.

use std::process::ExitCode;

use crate::config::SettingsErrors;

/// What a command came to, other than failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// What was asked for is done.
    Done,
    /// A `get` found siblings, which the caller has to resolve.
    Siblings,
}

/// The command line is well formed, but what it asks for makes no sense.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct WrongUsage(pub(super) String);

/// Says on stderr what failed, if anything did, and names the exit code.
pub(super) fn code(result: anyhow::Result<Outcome>) -> ExitCode {
    match result {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Siblings) => ExitCode::from(3),
        Err(error) => {
            eprintln!("starling: {error:#}");
            ExitCode::from(if is_wrong_usage(&error) { 2 } else { 1 })
        }
    }
}

fn is_wrong_usage(error: &anyhow::Error) -> bool {
    let flags = error.downcast_ref::<SettingsErrors>();
    error.is::<WrongUsage>() || flags.is_some_and(SettingsErrors::are_all_from_flags)
}
