//! What every replica must decide alike, without its effects.
//!
//! Everything here is pure and deterministic: equal arguments give equal results on every node and
//! in every run. Nothing awaits, does I/O, reads a clock, draws from a global generator, or decides
//! by the order of an unordered map. Imports come from `types` alone.

pub mod causality;
pub mod cluster;
pub mod merkle;
pub mod operation;
pub mod quorum;
pub mod ring;
