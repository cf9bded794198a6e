//! The cluster state: one versioned document that says who is in the cluster and who holds what
//! (correctness, section 7).
//!
//! [`formation`] makes its first version, epoch 1, from a list that all founding nodes share.
//! Messages carry a [`StateStamp`], so that nodes with different states never work together.

pub mod formation;
mod state;

pub use state::{ClusterNode, ClusterState, Role, Standing, StateStamp};
