//! What a node tells its operator: metrics and logs.

mod exposition;
mod labels;
pub mod metrics;
mod process;
mod samples;
pub mod tracing;

pub use metrics::Metrics;
pub use samples::{Sample, SampleKind};

#[cfg(test)]
mod tests;
