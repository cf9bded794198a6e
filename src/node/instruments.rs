//! What a simulation puts into a node: a witness of its mints, and a bug to be found.
//!
//! Compiled to nothing unless the `sim` feature (or a test) asks for it.

#[cfg(any(test, feature = "sim"))]
use std::sync::Arc;

use crate::protocol::causality::{Context, Dot};
use crate::protocol::cluster::StateStamp;
use crate::types::{KeyPath, NodeId, RequestId};

/// A mistake that the simulator must find; each breaks a rule of the design in one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PlantedBug {
    /// The client is answered one acknowledgement too early.
    EarlyAcknowledgement,
    /// An unclean stop keeps the actors.
    ActorKeptAfterUncleanStop,
    /// A failed batch keeps the actor.
    ActorKeptAfterFailedBatch,
    /// A record is read before the key's lock is taken.
    MergeOutsideTheLock,
    /// A forward whose outcome is unknown goes on to the next replica.
    MintTwiceOnStartingOver,
    /// Of two records the one with the newer stamp is kept, whole.
    WallClockMerge,
    /// Reads count replicas that may lack acknowledged data.
    IncompleteCounts,
    /// Reads answer before what they show stands on a write quorum.
    RepairNotWaitedFor,
    /// A forwarded write that comes a second time is done a second time.
    RepeatedForwardTaken,
    /// A record changes and its digest does not.
    TreeNotUpdated,
    /// A write that a replica did not take is kept for nobody.
    SkippedHint,
    /// A hint that was counted in an answer is dropped for age.
    CountedHintDropped,
    /// A tombstone is purged whatever the other replicas say that they hold.
    PurgeWithoutProof,
    /// Husks are deleted though older records may be under way.
    PurgeWithoutFence,
    /// Reads use the new sets alone before every pass is done.
    ReadFromNewTooEarly,
    /// A transition is finished though not every old replica was passed over.
    FinishWithoutAllPasses,
    /// Who stays in a set that shrinks passes over nobody.
    ShrinkWithoutTakeIn,
    /// A change's epoch is not looked at when it is committed.
    EpochCheckedBeforeCommit,
    /// A node whose disk was lost votes as if it had not been.
    WipedNodeVotes,
    /// A vnode that was dropped and is taken in again goes on under its old actor.
    ActorKeptOnReacquisition,
    /// What an earlier change of a bucket has left in a vnode is taken in with the next bucket.
    LeftoversTakenIn,
}

impl PlantedBug {
    /// All of them.
    pub const ALL: [Self; 21] = [
        Self::EarlyAcknowledgement,
        Self::ActorKeptAfterUncleanStop,
        Self::ActorKeptAfterFailedBatch,
        Self::MergeOutsideTheLock,
        Self::MintTwiceOnStartingOver,
        Self::WallClockMerge,
        Self::IncompleteCounts,
        Self::RepairNotWaitedFor,
        Self::RepeatedForwardTaken,
        Self::TreeNotUpdated,
        Self::SkippedHint,
        Self::CountedHintDropped,
        Self::PurgeWithoutProof,
        Self::PurgeWithoutFence,
        Self::ReadFromNewTooEarly,
        Self::FinishWithoutAllPasses,
        Self::ShrinkWithoutTakeIn,
        Self::EpochCheckedBeforeCommit,
        Self::WipedNodeVotes,
        Self::ActorKeptOnReacquisition,
        Self::LeftoversTakenIn,
    ];
}

/// What a mint did.
#[derive(Clone, Debug)]
pub struct MintedWrite {
    /// The client's request.
    pub request_id: RequestId,
    /// Which key.
    pub path: KeyPath,
    /// The new version.
    pub dot: Dot,
    /// What it replaces wherever it comes to.
    pub seen: Context,
}

/// Told of every mint, once its batch is queued.
#[cfg(any(test, feature = "sim"))]
pub type MintWitness = Arc<dyn Fn(&MintedWrite) + Send + Sync>;

/// Told of every replica that did not take a write of this key and dot, once the write is kept for
/// it.
#[cfg(any(test, feature = "sim"))]
pub type UntakenWitness = Arc<dyn Fn(&NodeId, &KeyPath, Dot) + Send + Sync>;

/// Told of every state that a node goes on to.
#[cfg(any(test, feature = "sim"))]
pub type AdoptedWitness = Arc<dyn Fn(&StateStamp) + Send + Sync>;

/// See the module's head.
#[derive(Clone, Default)]
pub struct Instruments {
    /// The bug that is planted.
    #[cfg(any(test, feature = "sim"))]
    pub bug: Option<PlantedBug>,
    /// Who is told of mints.
    #[cfg(any(test, feature = "sim"))]
    pub on_mint: Option<MintWitness>,
    /// Who is told of writes that a replica did not take.
    #[cfg(any(test, feature = "sim"))]
    pub on_untaken: Option<UntakenWitness>,
    /// Who is told of states that are adopted.
    #[cfg(any(test, feature = "sim"))]
    pub on_adopted: Option<AdoptedWitness>,
}

impl Instruments {
    /// Whether this bug is planted. False in every build for users.
    #[cfg(any(test, feature = "sim"))]
    pub(super) fn has(&self, bug: PlantedBug) -> bool {
        self.bug == Some(bug)
    }

    /// Whether this bug is planted. False in every build for users.
    #[cfg(not(any(test, feature = "sim")))]
    pub(super) const fn has(&self, _bug: PlantedBug) -> bool {
        false
    }

    /// A write was minted.
    #[cfg(any(test, feature = "sim"))]
    pub(super) fn minted(&self, write: impl FnOnce() -> MintedWrite) {
        if let Some(witness) = &self.on_mint {
            witness(&write());
        }
    }

    /// A write is kept for a replica that did not take it.
    #[cfg(any(test, feature = "sim"))]
    pub(super) fn untaken(&self, target: &NodeId, path: &KeyPath, dot: Dot) {
        if let Some(witness) = &self.on_untaken {
            witness(target, path, dot);
        }
    }

    /// A write is kept for a replica that did not take it.
    #[cfg(not(any(test, feature = "sim")))]
    pub(super) fn untaken(&self, _target: &NodeId, _path: &KeyPath, _dot: Dot) {}

    /// This node works with another state.
    #[cfg(any(test, feature = "sim"))]
    pub(super) fn adopted(&self, stamp: &StateStamp) {
        if let Some(witness) = &self.on_adopted {
            witness(stamp);
        }
    }

    /// This node works with another state.
    #[cfg(not(any(test, feature = "sim")))]
    pub(super) fn adopted(&self, _stamp: &StateStamp) {}

    /// A write was minted.
    #[cfg(not(any(test, feature = "sim")))]
    pub(super) fn minted(&self, _write: impl FnOnce() -> MintedWrite) {}
}

impl std::fmt::Debug for Instruments {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Instruments")
    }
}
