//! Names and numbers of the domain, parsed once at the edge.
//!
//! A value of one of these types is valid by construction: private fields, checked constructors.
//! Nothing here does I/O, reads a clock or draws a random number, and nothing here imports from
//! the rest of the crate.

mod ids;
mod key;
mod level;
mod names;
mod ring;
mod stamp;
mod weight;

pub use ids::{
    ActorId, BootNumber, ClusterId, DataIncarnation, Epoch, LayoutVersion, OperationId,
    PurgeNumber, RecoveryNumber, RequestId, RequestIdError,
};
pub use key::{Key, KeyError, KeyPath, MAX_KEY_BYTES};
pub use level::{Level, LevelError, ReadLevel, WriteLevel};
pub use names::{Bucket, NameError, NodeId, Zone};
pub use ring::{
    PartitionCount, PartitionCountError, PartitionId, ReplicationFactor, ReplicationFactorError,
    Token, VnodeId,
};
pub use stamp::HlcStamp;
pub use weight::{Weight, WeightError};
