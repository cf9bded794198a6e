<<<<<<< HEAD
//! What every replica must decide alike: pure, deterministic, tested without a runtime.
//!
//! Deliberately absent: tokio, sockets, files, clocks, global randomness, and decisions that follow
//! the iteration order of an unordered map.

pub mod causality;
pub mod cluster;
pub mod operation;
pub mod quorum;
=======
//! The decisions of the store, without its effects.
//!
//! Everything here is pure and deterministic: equal arguments give equal results on every node and
//! in every run. Nothing awaits, does I/O, reads a clock, draws from a global generator, or decides
//! by the order of an unordered map. Imports come from `types` alone.

>>>>>>> w-ring
pub mod ring;
