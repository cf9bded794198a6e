//! What the benchmarks of HTTP have in common: the load generator of `starling bench`, the machine's
//! limit measured with it in the same run, and the table that sets both side by side. Absolute
//! figures differ from machine to machine; the ratios to the limit are what to compare.

pub mod generator;
pub mod limit;
pub mod plan;
pub mod table;

/// Runs a benchmark on the one thread of the generator.
///
/// # Errors
/// The benchmark's own.
pub fn run(benchmark: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(benchmark)
}
