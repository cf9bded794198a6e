//! What every replica must decide alike: pure, deterministic, tested without a runtime.

pub mod quorum;
