//! Starling: a leaderless, Dynamo-style key-value store.

pub mod protocol;
pub mod types;
