//! The figures, line by line as they are measured.

use std::fmt::Write as _;

use anyhow::ensure;

use super::generator::Measured;
use super::limit::Limits;
use super::plan::Row;

/// What was measured so far.
#[derive(Debug)]
pub struct Table {
    limits: Limits,
    failed: u64,
}

impl Table {
    /// Begins with the limits.
    pub fn begin(title: &str, limits: Limits) -> Self {
        println!("\n{title}\n");
        println!(
            "{:<22} {:>5} {:>9} {:>9} {:>9} {:>8} {:>8} {:>8} {:>8}  errors",
            "", "conns", "ops/s", "p50 µs", "p99 µs", "× ops/s", "× p50", "× p99", "siblings",
        );
        let mut table = Self { limits: Limits::default(), failed: 0 };
        for (row, measured) in limits.iter() {
            table.add(row, measured);
        }
        Self { limits, ..table }
    }

    /// Prints a line.
    pub fn add(&mut self, row: &Row, measured: &Measured) {
        let figures = Figures::of(measured);
        let ratios = self.limits.of(row).map_or_else(
            || format!("{:>8} {:>8} {:>8}", "", "", ""),
            |limit| figures.over(&Figures::of(limit)),
        );
        let Figures { throughput, p50, p99 } = figures;
        println!(
            "{:<22} {:>5} {throughput:>9.0} {p50:>9.0} {p99:>9.0} {ratios} {:>8}  {}",
            row.workload.name,
            row.connections,
            measured.siblings,
            errors(measured),
        );
        self.failed += measured.errors.values().sum::<u64>();
    }

    /// Ends the table.
    ///
    /// # Errors
    /// If a request was answered with an error.
    pub fn end(self) -> anyhow::Result<()> {
        ensure!(self.failed == 0, "{} requests were answered with an error", self.failed);
        Ok(())
    }
}

fn errors(measured: &Measured) -> String {
    let mut text = measured.errors.values().sum::<u64>().to_string();
    for (kind, count) in &measured.errors {
        write!(text, " ({kind}: {count})").expect("a string takes all");
    }
    text
}

/// Requests a second, and microseconds.
struct Figures {
    throughput: f64,
    p50: f64,
    p99: f64,
}

impl Figures {
    fn of(measured: &Measured) -> Self {
        let quantile = |q| measured.latency.value_at_quantile(q) as f64 / 1_000.0;
        Self { throughput: measured.per_second, p50: quantile(0.5), p99: quantile(0.99) }
    }

    fn over(&self, limit: &Self) -> String {
        format!(
            "{:>8.3} {:>8.1} {:>8.1}",
            self.throughput / limit.throughput,
            self.p50 / limit.p50,
            self.p99 / limit.p99,
        )
    }
}
