//! The table of a run.

use std::fmt::Write as _;

use crate::cli::table::{Align, Cell, Table};
use crate::load::report::{Latency, Report, Summary};

/// From here on the generator may be what limits the throughput: a share of its busiest thread's time.
const BUSY: f64 = 0.9;

/// The results for people.
pub(super) fn render(report: &Report) -> String {
    let mut text = format!("{}\n\n", settings(report));
    text += &table(report).render();
    text.push('\n');
    text += &notes(report);
    text
}

/// What was asked for, in one line.
pub(super) fn settings(report: &Report) -> String {
    let settings = report.settings.iter().map(|(name, value)| format!("{name} {value}"));
    settings.collect::<Vec<_>>().join(" · ")
}

fn table(report: &Report) -> Table {
    let mut columns = vec![("", Align::Left)];
    columns.extend(
        ["count", "per second", "p50 ms", "p90 ms", "p99 ms", "p99.9 ms", "max ms"]
            .map(|name| (name, Align::Right)),
    );
    let mut table = Table::new(columns);
    for (operation, summary) in &report.operations {
        table.push(row(operation.name(), summary, report));
    }
    if report.operations.len() > 1 {
        table.push(row("all", &report.total, report));
    }
    if report.settings.contains_key("rate") {
        let sent = Summary { latency: report.total.service, ..report.total.clone() };
        table.push(row("from being sent", &sent, report));
    }
    table
}

fn row(name: &str, summary: &Summary, report: &Report) -> Vec<Cell> {
    let share = summary.count as f64 / report.total.count.max(1) as f64;
    let Latency { p50_us, p90_us, p99_us, p99_9_us, max_us, .. } = summary.latency;
    let figures = [p50_us, p90_us, p99_us, p99_9_us, max_us];
    let mut row: Vec<Cell> = vec![name.into(), summary.count.to_string().into()];
    row.push(format!("{:.0}", report.per_second * share).into());
    row.extend(figures.map(|us| format!("{:.2}", us / 1_000.0).into()));
    row
}

/// What the figures alone don't say.
fn notes(report: &Report) -> String {
    let mut text = String::new();
    let mut note = |line: String| writeln!(text, "{line}").expect("a string takes all");
    let Summary { siblings, missing, .. } = report.total;
    if siblings > 0 {
        note(format!("{siblings} reads found several values (siblings)"));
    }
    if missing > 0 {
        note(format!("{missing} reads found no value"));
    }
    for (kind, count) in &report.errors {
        note(format!("{count} failed: {kind}"));
    }
    if report.unsent > 0 {
        let unsent = report.unsent;
        note(format!("{unsent} were due and never sent: all connections waited for answers"));
    }
    let generator = report.generator;
    note(format!(
        "the generator took {:.1} µs of the processor for each operation",
        generator.cpu_us_per_operation
    ));
    if generator.busiest_thread > BUSY {
        note(format!(
            "a thread of the generator was busy {:.0} % of the time: the nodes may take more; \
             try --threads",
            generator.busiest_thread * 100.0
        ));
    }
    text
}
