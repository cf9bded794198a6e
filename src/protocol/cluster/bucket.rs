//! What a bucket may have of its own, as a part of the cluster state.

use serde::{Deserialize, Serialize};

use crate::protocol::causality::Resolve;
use crate::types::{Level, ReplicationFactor};

/// A bucket's properties; what is absent is the node's default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketProperties {
    /// How many replicas its keys have. A change moves data.
    pub n: Option<ReplicationFactor>,
    /// R where a request names none.
    pub r: Option<Level>,
    /// W where a request names none.
    pub w: Option<Level>,
    /// What is done with concurrent versions when it is read.
    pub resolve: Option<Resolve>,
    /// Whether fallbacks may stand in for replicas where a request does not say.
    pub sloppy: Option<bool>,
}
