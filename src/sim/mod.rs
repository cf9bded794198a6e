//! Whole clusters from a seed: the very code of [`crate::node`] on a simulated network, disk and
//! clock, on one thread and in virtual time, with faults that come from the seed too.
//!
//! ```text
//! seed ─▶ scenario ─▶ world: machines (process, disk, clock), network, clients, nemesis, operators
//!                       │ safety phase: faults and load; liveness phase: neither
//!                       ▼
//!                     evidence: what clients were told, what replicas minted and hold
//!                       ▼
//!                     properties: one file each ─▶ violations, or none
//! ```
//!
//! The models are FoundationDB's simulation (Zhou et al., SIGMOD 2021, section 4) and TigerBeetle's
//! VOPR. What holds here: the same seed gives the same run, byte for byte. So nothing may read a
//! clock of the machine, draw from its randomness, or iterate over an unordered map.

mod client;
#[cfg(feature = "sim")]
pub mod command;
mod describe;
mod disk;
mod evidence;
mod history;
pub mod linearizability;
mod log;
mod machine;
mod nemesis;
mod observer;
mod operators;
mod phases;
mod properties;
mod run;
pub mod scenario;
pub mod shrink;
mod trace;
mod world;

pub use disk::{DiskFaults, Ending, SimDisk};
pub use evidence::Violation;
pub use run::{Options, Outcome, run};
pub use trace::{Detail, Traced};
pub use world::Selection;
