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
            eprintln!("starling: {}", in_one_line(&error));
            ExitCode::from(if is_wrong_usage(&error) { 2 } else { 1 })
        }
    }
}

/// An error and its causes, each once: many errors repeat their cause in their own words.
fn in_one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if line.is_empty() {
            line = cause;
        } else if !line.contains(&cause) {
            line = format!("{line}: {cause}");
        }
    }
    line
}

fn is_wrong_usage(error: &anyhow::Error) -> bool {
    let flags = error.downcast_ref::<SettingsErrors>();
    error.is::<WrongUsage>() || flags.is_some_and(SettingsErrors::are_all_from_flags)
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::in_one_line;

    #[test]
    fn causes_that_are_told_already_are_not_told_again() {
        let error = anyhow!("no such file").context("can't read a: no such file").context("b");
        assert_eq!(in_one_line(&error), "b: can't read a: no such file");
    }
}
