//! Two runs beside each other.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, ensure};

use crate::cli::table::{Align, Table};
use crate::load::Report;
use crate::load::report::FORMAT;

/// Reads a file of `--save`.
///
/// # Errors
/// A file that is none, or one of another format.
pub(super) fn read(path: &Path) -> anyhow::Result<Report> {
    let shown = path.display();
    let bytes = std::fs::read(path).with_context(|| format!("can't read {shown}"))?;
    let json: serde_json::Value = serde_json::from_slice(&bytes)
        .with_context(|| format!("{shown} is no file of starling bench --save"))?;
    let format = json["format"].as_u64();
    ensure!(
        format == Some(FORMAT.into()),
        "{shown} is no file of starling bench --save, or of another version: its format is {}",
        format.map_or("missing".into(), |format| format.to_string())
    );
    serde_json::from_value(json).with_context(|| format!("{shown} can't be read"))
}

/// The figures of both, and the new ones in proportion to the old ones.
pub(super) fn render(old: &Report, new: &Report) -> String {
    let mut table = Table::new([
        ("", Align::Left),
        ("old", Align::Right),
        ("new", Align::Right),
        ("new / old", Align::Right),
    ]);
    for (name, figure) in FIGURES {
        let (old, new) = (figure(old), figure(new));
        let ratio = if old > 0.0 { format!("{:.3}", new / old) } else { "-".into() };
        table.push([name.into(), rounded(old).into(), rounded(new).into(), ratio.into()]);
    }
    differences(old, new) + &table.render()
}

type Figure = fn(&Report) -> f64;

const FIGURES: [(&str, Figure); 9] = [
    ("operations a second", |report| report.per_second),
    ("p50 ms", |report| report.total.latency.p50_us / 1_000.0),
    ("p90 ms", |report| report.total.latency.p90_us / 1_000.0),
    ("p99 ms", |report| report.total.latency.p99_us / 1_000.0),
    ("p99.9 ms", |report| report.total.latency.p99_9_us / 1_000.0),
    ("max ms", |report| report.total.latency.max_us / 1_000.0),
    ("failed", |report| report.failed() as f64),
    ("unsent", |report| report.unsent as f64),
    ("generator's µs an operation", |report| report.generator.cpu_us_per_operation),
];

fn rounded(figure: f64) -> String {
    if figure >= 1_000.0 || figure.fract() == 0.0 {
        format!("{figure:.0}")
    } else {
        format!("{figure:.3}")
    }
}

/// Settings in which they differ: ratios mean little then.
fn differences(old: &Report, new: &Report) -> String {
    let mut text = String::new();
    let names = old.settings.keys().chain(new.settings.keys());
    let mut names: Vec<&String> = names.collect();
    names.sort();
    names.dedup();
    let of = |report: &Report, name: &str| {
        report.settings.get(name).cloned().unwrap_or_else(|| "the default".into())
    };
    for name in names {
        let (old, new) = (of(old, name), of(new, name));
        if old != new {
            writeln!(text, "not the same: {name} was {old}, is {new}").expect("a string takes all");
        }
    }
    if !text.is_empty() {
        text.push('\n');
    }
    text
}
