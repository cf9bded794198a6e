//! The outcome of an operation, as it goes from the node that coordinated it to the client, and
//! between nodes where a write is forwarded.

use serde::{Deserialize, Serialize};

use crate::protocol::causality::{Context, Dot};
use crate::types::{Epoch, LevelError, NodeId};

/// What a write may replace (correctness, section 2, "What a write has seen").
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Seen {
    /// No context came: what a read at the write's own level shows.
    OwnRead,
    /// `Starling-Context: none`: nothing.
    Nothing,
    /// What this token covers.
    Token(Context),
}

/// A condition on the versions that a write finds; compared by the set of versions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Condition {
    /// `If-None-Match: *`.
    NothingLive,
    /// `If-Match: *`.
    SomethingLive,
    /// `If-Match: "<set>"`, any of these.
    SetIsOneOf(Vec<EtagSet>),
    /// `If-None-Match: "<set>"`, none of these.
    SetIsNoneOf(Vec<EtagSet>),
}

/// The `<set>` of an ETag: a hash of the set of versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct EtagSet(pub u128);

impl std::fmt::Display for EtagSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// `Starling-Acks`: replicas that answered, that were needed, that there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acks {
    /// Answers that count.
    pub got: u8,
    /// What the level needs.
    pub required: u8,
    /// The size of the replica set.
    pub n: u8,
}

/// What a write did.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WriteAnswer {
    /// The version that it made.
    pub version: Dot,
    /// How many siblings the key has now.
    pub siblings: usize,
    /// Names the set of versions, where exactly one stands.
    pub set: Option<EtagSet>,
    /// The sealed context token.
    pub context: String,
    /// How many replicas acknowledged.
    pub acks: Acks,
    /// The epoch it was done in.
    pub epoch: Epoch,
}

/// What one replica had to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReplicaOutcome {
    /// It answered, or has it durably.
    Ok,
    /// Known to be down: not asked.
    Down,
    /// No answer in time.
    Timeout,
    /// It failed.
    Error,
    /// It is at another epoch.
    Stale,
    /// It may lack acknowledged data and counts towards no R.
    Incomplete,
    /// Its disk is full.
    DiskFull,
    /// Nothing was sent to it.
    NotSent,
}

/// One replica's part in an operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaReport {
    /// Which node.
    pub node: NodeId,
    /// What became of it.
    pub outcome: ReplicaOutcome,
}

/// How far an operation got.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reached {
    /// Counts of answers.
    pub acks: Acks,
    /// Each replica of the set.
    pub replicas: Vec<ReplicaReport>,
}

/// Why an operation did not do what was asked.
#[derive(Clone, Debug, thiserror::Error, Serialize, Deserialize)]
pub enum OperationError {
    /// The level doesn't fit the key's replica set. Nothing was sent; a retry does not help.
    #[error("{0}")]
    Level(String),
    /// Something that does not exist yet. Nothing was sent.
    #[error("{0}")]
    NotImplemented(String),
    /// The version named in `?version=` is no longer there.
    #[error("the version {version} is not there any more; read the key to see what is")]
    VersionNotFound {
        /// What was asked for.
        version: String,
        /// The sealed context of the key.
        context: String,
        /// How far the read got.
        reached: Reached,
        /// The epoch it was answered in.
        epoch: Epoch,
    },
    /// A condition failed. Nothing was written.
    #[error("the condition does not hold: the key has changed or is not as asked for")]
    PreconditionFailed {
        /// Names the set of versions that is there; `None` where the key was never written.
        set: Option<EtagSet>,
        /// The sealed context of it.
        context: String,
        /// How far the read got.
        reached: Reached,
        /// The epoch it was answered in.
        epoch: Epoch,
    },
    /// The write would leave too many siblings. Nothing was written.
    #[error(
        "the key has {count} siblings and this write would add one; read it, \
         and write the resolved value with the context of that read"
    )]
    TooManySiblings {
        /// Versions there are.
        count: usize,
        /// The sealed context that covers them.
        context: String,
        /// How far the read before the write got.
        reached: Reached,
        /// The epoch it was answered in.
        epoch: Epoch,
    },
    /// This node's disk is below its floor. Nothing was written.
    #[error("the disk of {node} is nearly full; free some space or write through another node")]
    DiskFull {
        /// Whose disk.
        node: NodeId,
    },
    /// This node can't serve yet, or any more. Nothing was sent.
    #[error("{0}")]
    NotReady(String),
    /// Too few replicas are up. Nothing was sent; a retry helps once they are back.
    #[error(
        "the level needs {} replicas, and {} of {} are up; retry when more are, \
         or ask for a lower level", .0.acks.required, up(.0), .0.acks.n
    )]
    Unavailable(Reached),
    /// Copies of the key are damaged, and without them the level can't be reached.
    #[error(
        "damaged copies of this key keep the level from being reached: they are replaced as soon as \
         another replica has an undamaged one. If none has, write the key anew with the context \
         none, or give up what was lost with `starling cluster repair --accept-loss`"
    )]
    Damaged(Reached),
    /// The level was not reached in time.
    #[error("{}", unreached("the level was not reached before the deadline", .reached, *.maybe_applied))]
    Timeout {
        /// How far it got.
        reached: Reached,
        /// Whether the write may be there.
        maybe_applied: bool,
        /// For a write that was minted: a retry with this replaces it.
        context: Option<String>,
    },
    /// So many replicas failed that the level can't be reached any more.
    #[error("{}", unreached("the level can no longer be reached", .reached, *.maybe_applied))]
    LevelNotReached {
        /// How far it got.
        reached: Reached,
        /// Whether the write may be there.
        maybe_applied: bool,
        /// For a write that was minted: a retry with this replaces it.
        context: Option<String>,
    },
    /// A bug, or a disk that fails.
    #[error("{message}")]
    Internal {
        /// For the log and the answer.
        message: String,
        /// Whether the write may be there.
        maybe_applied: bool,
    },
}

impl From<LevelError> for OperationError {
    fn from(error: LevelError) -> Self {
        Self::Level(error.to_string())
    }
}

impl OperationError {
    /// The same for a read that was part of a write: something was sent, and the contract is that
    /// every failure after that counts as one that may have been applied (correctness, section 3).
    #[must_use]
    pub fn of_a_write(mut self) -> Self {
        if let Self::Timeout { maybe_applied, .. } | Self::LevelNotReached { maybe_applied, .. } =
            &mut self
        {
            *maybe_applied = true;
        }
        self
    }

    /// Whether the write may have been applied all the same. Reads: false.
    pub fn maybe_applied(&self) -> bool {
        match self {
            Self::Timeout { maybe_applied, .. }
            | Self::LevelNotReached { maybe_applied, .. }
            | Self::Internal { maybe_applied, .. } => *maybe_applied,
            _ => false,
        }
    }
}

fn up(reached: &Reached) -> usize {
    let is_up = |r: &&ReplicaReport| r.outcome != ReplicaOutcome::Down;
    reached.replicas.iter().filter(is_up).count()
}

fn unreached(what: &str, reached: &Reached, maybe_applied: bool) -> String {
    let Acks { got, required, n } = reached.acks;
    let advice = if maybe_applied {
        "the write may have been applied; retry it with the context of this answer, if there is \
         one, or read the key"
    } else {
        "retry, or ask for a lower level"
    };
    format!("{what}: {got} of {required} answers, from {n} replicas; {advice}")
}

impl From<u128> for EtagSet {
    fn from(raw: u128) -> Self {
        Self(raw)
    }
}
