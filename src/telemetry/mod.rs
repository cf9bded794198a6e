//! What a node tells its operator: metrics and logs.

pub mod metrics;
pub mod tracing;
