//! Starling: a leaderless, Dynamo-style key-value store.

pub mod storage;
pub mod types;
