//! `starling check-config`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::exit::Outcome;
use super::output;
use crate::config::{Overrides, Settings};

/// Checks a settings file: the file alone, without the environment.
#[derive(Args, Debug)]
pub(super) struct CheckConfigArgs {
    /// The file
    file: PathBuf,
    /// Write the result as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &CheckConfigArgs) -> anyhow::Result<Outcome> {
    let loaded = Settings::load(Some(&args.file), std::iter::empty(), Overrides::default());
    if args.json {
        let errors: Vec<String> = loaded
            .as_ref()
            .err()
            .into_iter()
            .flat_map(|e| e.iter().map(ToString::to_string))
            .collect();
        let warnings = loaded.as_ref().map_or_else(|_| Vec::new(), |l| l.warnings.clone());
        let valid = loaded.is_ok();
        output::write_json(&json!({ "valid": valid, "errors": errors, "warnings": warnings }))?;
    }
    for warning in loaded?.warnings {
        eprintln!("starling: {warning}");
    }
    if !args.json {
        output::write_line(&format!("{}: valid", args.file.display()))?;
    }
    Ok(Outcome::Done)
}
