//! The cluster state: one versioned document that says who is in the cluster and who holds what
//! (correctness, section 7).
//!
//! [`formation`] makes its first version, epoch 1, from a list that all founding nodes share.
//! [`change`] derives each later one from the one before, and the [`register`] decides, for each
//! epoch once, which it is. Messages carry a [`StateStamp`], so that nodes with different states
//! never work together.

mod bucket;
pub mod change;
pub mod formation;
pub mod register;
mod state;

pub use bucket::BucketProperties;
pub use change::{Change, ChangeError, Joiner};
pub use state::{
    ClusterNode, ClusterState, Former, Role, Standing, StateStamp, Transition, TransitionId,
    TransitionPhase,
};
