//! Starling: a leaderless, Dynamo-style key-value store.
//!
//! Imports go one way, and a test (`tests/imports.rs`) holds the tree to it:
//!
//! ```text
//! types ◀─ protocol ◀─ storage, peer ◀─ config, telemetry ◀─ node ◀─ http ◀─ server ◀─ cli
//!       ◀─ load ◀──────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! - [`types`]: names and numbers of the domain, valid by construction.
//! - [`protocol`]: what all replicas must decide alike; pure and deterministic.
//! - [`storage`]: the seam `Store`; RocksDB and memory behind it.
//! - [`peer`]: messages between nodes, and the seam `Transport`.
//! - [`config`], [`telemetry`]: what a node is told, and what it tells.
//! - [`node`]: the running node: coordinator, replica, membership.
//! - `sim`: whole clusters of nodes from a seed (feature `sim`).
//! - [`http`]: the client API.
//! - [`server`]: a node on a real machine: sockets, files, signals.
//! - [`load`]: the load generator; a client like any other.
//! - [`cli`]: the commands.

pub mod cli;
pub mod config;
pub mod http;
pub mod load;
pub mod node;
pub mod peer;
pub mod protocol;
pub mod server;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
pub mod storage;
pub mod telemetry;
pub mod types;
