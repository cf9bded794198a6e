//! `starling bench`: drives nodes with a workload, and shows what came of it.

mod arguments;
mod chart;
mod compare;
mod histograms;
mod live;
mod summary;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio_util::sync::CancellationToken;

pub(super) use self::arguments::BenchArgs;
use self::histograms::HistogramLog;
use self::live::Live;
use super::exit::Outcome;
use super::output;
use super::signals::StopSignals;
use crate::load::run::Measured;
use crate::load::{Plan, Report, run as drive};

pub(super) async fn run(args: BenchArgs) -> anyhow::Result<Outcome> {
    if let Some([old, new]) = args.compared() {
        return compare(old, new);
    }
    let plan = args.plan()?;
    let files = Files::of(&args)?;
    let stop = CancellationToken::new();
    let signals = StopSignals::catch().context("can't catch signals")?;
    tokio::spawn(cancel_when_told(signals, stop.clone()));
    if let Some((first, count)) = args.keys_to_load(&plan) {
        let load = plan.to_load(first, count);
        let loaded = block(load, &stop, Live::new("loading", (count, true)), None).await?;
        let failed = loaded.all.failed();
        ensure!(failed == 0, "{failed} of {count} values could not be stored: {}", kinds(&loaded));
    }
    if stop.is_cancelled() {
        return Ok(Outcome::Done);
    }
    let begun = OffsetDateTime::now_utc() + plan.warm_up;
    let settings = args.settings(&plan);
    let live = Live::new("measuring", Live::steps(&plan));
    let measured = block(plan, &stop, live, files.histograms).await?;
    let report = Report::of(&measured, begun.format(&Rfc3339)?, settings);
    if let Some(path) = &files.save {
        write(path, serde_json::to_string_pretty(&report)?.as_bytes())?;
    }
    if let Some(path) = &files.chart {
        write(path, chart::render(&report)?.as_bytes())?;
    }
    if args.json {
        output::write_json(&serde_json::to_value(&report)?)?;
    } else {
        output::write(summary::render(&report).as_bytes())?;
    }
    let wrong = report.errors.iter().filter(|(kind, _)| kind.starts_with("wrong value"));
    let wrong: u64 = wrong.map(|(_, count)| count).sum();
    ensure!(wrong == 0, "{wrong} values that were read are not those that were stored");
    ensure!(report.total.count > 0, "no request was answered as it should be");
    Ok(Outcome::Done)
}

/// Runs a plan on threads of its own, so that this runtime stays free.
async fn block(
    plan: Plan,
    stop: &CancellationToken,
    mut live: Live,
    mut log: Option<HistogramLog>,
) -> anyhow::Result<Measured> {
    let stop = stop.clone();
    let run = move || -> anyhow::Result<Measured> {
        let mut noted = Ok(());
        let measured = drive(&plan, &stop, &mut |second| {
            live.show(second);
            if let (Some(log), Ok(())) = (&mut log, &noted) {
                noted = log.note(second);
            }
        })?;
        live.end();
        noted?;
        Ok(measured)
    };
    tokio::task::spawn_blocking(run).await.context("the load generator failed")?
}

async fn cancel_when_told(mut signals: StopSignals, stop: CancellationToken) {
    signals.received().await;
    stop.cancel();
    // Who asks a second time does not want to wait for the last answers.
    signals.received().await;
    std::process::exit(130);
}

fn kinds(measured: &Measured) -> String {
    let kinds = measured.all.errors.iter().map(|(kind, count)| format!("{count} × {kind}"));
    kinds.collect::<Vec<_>>().join(", ")
}

fn compare(old: &Path, new: &Path) -> anyhow::Result<Outcome> {
    let (old, new) = (compare::read(old)?, compare::read(new)?);
    output::write(compare::render(&old, &new).as_bytes())?;
    Ok(Outcome::Done)
}

/// Where results go. All are made before anything is measured, so that a path that can't be written
/// to costs no run.
struct Files {
    save: Option<PathBuf>,
    chart: Option<PathBuf>,
    histograms: Option<HistogramLog>,
}

impl Files {
    fn of(args: &BenchArgs) -> anyhow::Result<Self> {
        for path in [&args.save, &args.chart].into_iter().flatten() {
            write(path, b"")?;
        }
        let histograms = args.histograms.as_deref().map(HistogramLog::create).transpose()?;
        Ok(Self { save: args.save.clone(), chart: args.chart.clone(), histograms })
    }
}

fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    std::fs::write(path, bytes).with_context(|| format!("can't write {}", path.display()))
}
