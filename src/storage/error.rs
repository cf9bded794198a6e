//! What can go wrong with a store, one enum an operation.

use std::path::PathBuf;
use std::sync::Arc;

use super::Space;

/// What the storage engine or the system under it said, for people to read. Shared, because one
/// failed write fails every batch that was written with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct EngineError(Arc<str>);

impl EngineError {
    /// Keeps the text of what went wrong below the store.
    pub fn new(cause: &impl ToString) -> Self {
        Self(cause.to_string().into())
    }
}

/// Why a batch was not committed. What matters to the caller is whether it may stand all the same.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// Surely nothing of the batch was written, nor ever will be.
    #[error("nothing was written: {cause}")]
    NotApplied {
        /// Why not; says whether trying again helps.
        cause: Refusal,
    },
    /// The batch may be on disk or not, in whole (never in part), and a restart may bring it to
    /// light. Trying again with the same store rarely helps: RocksDB refuses all writes after a
    /// failed one, until it is opened again (a full disk excepted).
    #[error("the write failed and may or may not be there after a restart: {cause}")]
    Unknown {
        /// What the write met.
        #[source]
        cause: EngineError,
    },
}

/// Why a store did not even try to write a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The store was closed. No retry helps.
    #[error("the store is closed")]
    Closed,
    /// More is waiting for the disk than the queue may hold. A later retry helps.
    #[error("the store's queue is full: the disk does not keep up")]
    QueueFull,
}

impl CommitError {
    /// The store was closed before the batch came.
    pub const CLOSED: Self = Self::NotApplied { cause: Refusal::Closed };

    /// The batch may have been written.
    pub fn may_be_applied(&self) -> bool {
        matches!(self, Self::Unknown { .. })
    }
}

/// Why a read has no answer. It says nothing about whether the key exists.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// A checksum of the engine failed: what lies there must not be served. No retry helps.
    #[error("corrupt data in {space:?}: {cause}")]
    Corrupt {
        /// Where.
        space: Space,
        /// What the engine found.
        #[source]
        cause: EngineError,
    },
    /// The disk or the engine failed. A retry may help.
    #[error("reading {space:?} failed: {cause}")]
    Io {
        /// Where.
        space: Space,
        /// What the engine met.
        #[source]
        cause: EngineError,
    },
    /// The store was closed. No retry helps.
    #[error("the store is closed")]
    Closed,
}

/// Why a data directory can't be opened. Nothing of the data was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Another process, or another store of this one, uses the directory.
    #[error(
        "{dir} is in use by another process; stop that node, or give this one a `data_dir` of its \
         own", dir = dir.display()
    )]
    Locked {
        /// The data directory.
        dir: PathBuf,
    },
    /// RocksDB refuses a file.
    #[error(
        "the data in {dir} is damaged and was not opened: {cause}. Keep a copy of the directory for \
         analysis; then `starling server --rebuild`, with this node's settings, empties it and takes \
         everything in from the other replicas", dir = dir.display()
    )]
    Corrupt {
        /// The data directory.
        dir: PathBuf,
        /// Which file, and what is wrong with it.
        #[source]
        cause: EngineError,
    },
    /// Written by a release that knows more than this one.
    #[error(
        "{dir} was written by a newer release ({cause}); start that release, or restore a backup \
         made before the upgrade", dir = dir.display()
    )]
    Newer {
        /// The data directory.
        dir: PathBuf,
        /// What this release does not know.
        #[source]
        cause: EngineError,
    },
    /// The system refused: permissions, a full or failing disk, too many open files.
    #[error(
        "{dir} can't be opened: {cause}; check that it is writable, that the disk has room, and \
         the limit of open files (`ulimit -n`)", dir = dir.display()
    )]
    Io {
        /// The data directory.
        dir: PathBuf,
        /// What the system said.
        #[source]
        cause: EngineError,
    },
}
