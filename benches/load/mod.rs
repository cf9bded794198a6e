//! What the benchmarks of HTTP have in common: one load generator, the machine's limit measured
//! with it in the same run, and the table that sets both side by side.
//!
//! A closed loop: each connection sends its next request when the last is answered. The generator
//! shares the machine's cores with what it measures, so it is one thread, speaks HTTP over bare
//! sockets, and reads no more of an answer than where it ends. Absolute figures differ from machine
//! to machine; the ratios to the limit are what to compare.

pub mod answer;
pub mod connection;
pub mod generator;
pub mod limit;
pub mod plan;
pub mod requests;
pub mod table;

/// Runs a benchmark on the one thread of the generator.
///
/// # Errors
/// The benchmark's own.
pub fn run(benchmark: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(benchmark)
}
