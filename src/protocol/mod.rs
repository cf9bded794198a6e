//! What the nodes agree on, as pure functions and state machines.
//!
//! Everything below is deterministic: no I/O, no async runtime, no clock, no global randomness, and
//! no decision by iteration over an unordered map. Time, random numbers and bytes are handed in.

pub mod causality;
