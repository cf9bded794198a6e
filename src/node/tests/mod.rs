//! Whole clusters of real nodes in one process: stores in memory, a network with faults to inject,
//! paused time. What is tested here is behaviour across nodes; single parts have their own tests.

mod deletes;
mod durability;
mod faults;
mod handoff;
mod quorums;
mod recovery;
mod repair;
mod topology;
mod world;
