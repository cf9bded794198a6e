//! What every replica must decide alike: pure, deterministic, tested without a runtime.
//!
//! Deliberately absent: tokio, sockets, files, clocks, global randomness, and decisions that follow
//! the iteration order of an unordered map.

pub mod causality;
pub mod cluster;
pub mod operation;
pub mod quorum;
pub mod ring;
