//! Where a node keeps what must outlive it: the seam [`Store`], and its two implementations.
//!
//! What holds of every store: a batch is applied whole or not at all; batches are applied in the
//! order in which [`Store::commit`] was called; with [`Durability::Sync`] no reader sees a batch
//! before it is durable, so that a read answer reports only durable state. Except those that were
//! committed with [`Syncing::Later`].
//!
//! Nothing outside this module names RocksDB; [`schema`] is the only place that knows how a key or
//! a metadata value is laid out.

mod batch;
mod error;
pub mod frame;
mod memory;
mod range;
mod rocks;
pub mod schema;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub use batch::{Batch, Change};
pub use error::{CommitError, EngineError, OpenError, ReadError, Refusal};
pub use memory::{CommitFault, MemoryStore};
pub use range::{KeyRange, Page, ScanLimit};
pub use rocks::{Recovery, RocksOptions, RocksStore};

/// A future that can be handed to any task.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A separate range of keys. Batches change several of them at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Space {
    /// What concerns the node as a whole: see [`schema::MetaKey`].
    Meta,
    /// The records of all vnodes.
    Records,
    /// One small value a vnode: actor, floor, purge number.
    Vnodes,
    /// Writes kept for other nodes.
    Hints,
    /// What the vnodes' hash trees are made of: the digest of each record.
    Trees,
    /// Which records are tombstones or husks, and since when.
    Deletes,
    /// Which keys had a record that was damaged, and have no other yet.
    Quarantine,
}

impl Space {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Meta,
        Self::Records,
        Self::Vnodes,
        Self::Hints,
        Self::Trees,
        Self::Deletes,
        Self::Quarantine,
    ];

    /// The name on disk, which never changes.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Meta => "meta",
            Self::Records => "records",
            Self::Vnodes => "vnodes",
            Self::Hints => "hints",
            Self::Trees => "trees",
            Self::Deletes => "deletes",
            Self::Quarantine => "quarantine",
        }
    }
}

/// When a commit counts as done. The promises about acknowledged writes hold for `sync`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// Once it is fsynced, together with all that waits at that moment. Survives power loss.
    #[default]
    Sync,
    /// Once the system has it; fsynced within 100 ms. Survives a crash of the process; power loss
    /// takes up to the last 100 ms.
    Interval,
    /// Once the system has it; fsynced when the system likes. Survives a crash of the process.
    Os,
}

/// Whether one commit follows the store's [`Durability`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Syncing {
    /// As the setting says.
    AsConfigured,
    /// Not for its own sake: durable with the next commit that is. For what may as well not have
    /// happened when the power fails.
    Later,
    /// Fsynced, whatever the setting says. Everything committed before is fsynced with it.
    Always,
}

/// What memory alone knows about a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cached {
    /// The answer: the value, or that there is none.
    Hit(Option<Bytes>),
    /// Only the disk knows.
    Miss,
}

/// Figures for the metrics. Counters start at zero when the store is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StoreStatistics {
    /// Files of live data on disk, in bytes.
    pub disk_bytes: u64,
    /// Memtables, in bytes of memory.
    pub memtable_bytes: u64,
    /// Block cache in use, in bytes.
    pub block_cache_bytes: u64,
    /// Compaction that is due, in bytes to rewrite.
    pub pending_compaction_bytes: u64,
    /// The engine holds writes back until compaction catches up: 0 no, else bytes per second.
    pub delayed_write_rate: u64,
    /// The engine has stopped all writes until compaction catches up.
    pub writes_stopped: bool,
    /// Keys, as far as the engine can tell without counting.
    pub estimated_keys: u64,
    /// Batches committed.
    pub batches: u64,
    /// Bytes in them.
    pub batch_bytes: u64,
    /// Groups written; `batches / groups` is how many share one fsync.
    pub groups: u64,
    /// Groups that failed.
    pub failed_groups: u64,
    /// Groups and intervals that were fsynced.
    pub syncs: u64,
    /// Time spent in writing groups that were fsynced, in seconds.
    pub sync_seconds: f64,
    /// Batches that wait for the writer now.
    pub queued_batches: u64,
    /// Bytes in them.
    pub queued_bytes: u64,
    /// Batches refused because the queue was full.
    pub refused_batches: u64,
    /// Point reads that memory answered.
    pub cache_hits: u64,
    /// Point reads that went to the disk.
    pub cache_misses: u64,
}

/// Keys and values, in key order.
pub type Entries = Vec<(Bytes, Bytes)>;

/// Durable, ordered storage of one node. Object-safe: the node holds an `Arc<dyn Store>`.
pub trait Store: Send + Sync + 'static {
    /// What memory alone can answer; never waits for the disk.
    ///
    /// # Errors
    /// [`ReadError`]; also where the value is on disk only and what leads there is corrupt.
    fn get_cached(&self, space: Space, key: &[u8]) -> Result<Cached, ReadError>;

    /// The value of a key: from memory, else from the disk without blocking the runtime.
    ///
    /// # Errors
    /// [`ReadError`].
    fn get(&self, space: Space, key: Bytes) -> BoxFuture<'_, Result<Option<Bytes>, ReadError>>;

    /// The first page of a range, in key order. The next one is read from
    /// `range.resume_at(next)`, and is of a later moment; see [`Store::snapshot`] for all of one.
    ///
    /// # Errors
    /// [`ReadError`].
    fn scan(
        &self,
        space: Space,
        range: KeyRange,
        limit: ScanLimit,
    ) -> BoxFuture<'_, Result<Page, ReadError>>;

    /// Reads whole ranges, one after the other, until there are so many entries or no range is left:
    /// the entries of each range that was read, in key order. A range is never divided.
    ///
    /// # Errors
    /// [`ReadError`].
    fn scan_each(
        &self,
        space: Space,
        ranges: Vec<KeyRange>,
        enough: usize,
    ) -> BoxFuture<'_, Result<Vec<Entries>, ReadError>> {
        const PAGE: ScanLimit = ScanLimit { entries: 4_096, bytes: 1 << 20 };
        Box::pin(async move {
            let (mut read, mut count) = (Vec::new(), 0);
            for mut range in ranges {
                if count >= enough {
                    break;
                }
                let mut entries = Vec::new();
                loop {
                    let page = self.scan(space, range.clone(), PAGE).await?;
                    entries.extend(page.entries);
                    let Some(next) = page.next else { break };
                    range = range.resume_at(next);
                }
                count += entries.len();
                read.push(entries);
            }
            Ok(read)
        })
    }

    /// Has what is on disk of these keys in memory by the time it returns, where the store can: many
    /// keys then wait for the disk once, not one by one. What is there, later reads say.
    fn warm(&self, _space: Space, _keys: Vec<Bytes>) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    /// All that is visible now, whatever is committed later. Holding it keeps old values on disk,
    /// and the directory locked beyond [`Store::close`]: drop it soon. All reads of one taken from
    /// a closed store fail.
    fn snapshot(&self) -> Arc<dyn Snapshot>;

    /// Applies a batch, atomically. It is queued by the call, before the future is polled, so
    /// that the order of calls is the order of commits; dropping the future changes nothing.
    /// Resolves when the batch is visible, and durable as far as asked for. An empty batch with
    /// [`Syncing::Always`] is a [`Store::sync`].
    ///
    /// # Errors
    /// [`CommitError::NotApplied`] if surely nothing was written, [`CommitError::Unknown`] if the
    /// batch may have been.
    fn commit(&self, batch: Batch, syncing: Syncing)
    -> BoxFuture<'static, Result<(), CommitError>>;

    /// Fsyncs everything committed before this call, whatever `durability` says.
    ///
    /// # Errors
    /// [`CommitError`]; where it is `Unknown`, earlier unsynced commits may be lost by a crash.
    fn sync(&self) -> BoxFuture<'_, Result<(), CommitError>>;

    /// How many changes were ever committed: each change of a batch counts 1. Survives close and
    /// open; a store that lost writes ends below the number it had. 0 for a closed store.
    fn last_sequence(&self) -> u64;

    /// Free room on the disk, in bytes, for this process.
    ///
    /// # Errors
    /// Whatever the system answers.
    fn free_bytes(&self) -> std::io::Result<u64>;

    /// Figures for the metrics. May take some 100 µs: for scrapes, not for requests.
    fn statistics(&self) -> StoreStatistics;

    /// Commits what is queued, fsyncs, and closes; everything later is refused. The directory can
    /// be opened again once this has returned and no snapshot is held any more.
    ///
    /// # Errors
    /// [`CommitError::Unknown`] if not all could be made durable. It is closed all the same.
    fn close(&self) -> BoxFuture<'_, Result<(), CommitError>>;
}

/// The store as it was at one moment.
pub trait Snapshot: Send + Sync + 'static {
    /// The value of a key at that moment.
    ///
    /// # Errors
    /// [`ReadError`].
    fn get(&self, space: Space, key: Bytes) -> BoxFuture<'_, Result<Option<Bytes>, ReadError>>;

    /// The first page of a range at that moment; go on with `range.resume_at(next)`.
    ///
    /// # Errors
    /// [`ReadError`].
    fn scan(
        &self,
        space: Space,
        range: KeyRange,
        limit: ScanLimit,
    ) -> BoxFuture<'_, Result<Page, ReadError>>;
}
