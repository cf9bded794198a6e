//! Starling: a leaderless, Dynamo-style key-value store.

pub mod peer;
pub mod types;
