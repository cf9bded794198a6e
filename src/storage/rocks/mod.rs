//! The store that nodes run on: RocksDB, written by one thread that commits in groups.
//!
//! With [`Durability::Sync`](super::Durability::Sync) RocksDB lets readers see a group only after
//! the fsync of its log, so every read answer reports durable state (but for groups in which all said
//! [`Syncing::Later`]). Point reads are first tried
//! in memory, on the caller's thread; what needs the disk runs on a bounded number of blocking
//! threads.

mod open;
mod options;
mod queue;
mod read;
mod statistics;
mod writer;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use rocksdb::{FlushOptions, ReadOptions};
use tokio::sync::{Semaphore, oneshot};

use super::{
    Batch, BoxFuture, Cached, CommitError, EngineError, Entries, KeyRange, OpenError, Page,
    ReadError, ScanLimit, Snapshot, Space, Store, StoreStatistics, Syncing,
};

pub use open::Recovery;
pub use options::RocksOptions;

use open::Database;
use options::Shared;
use queue::{Queue, Waiting};
use read::{ClosedSnapshot, OwnedSnapshot, RocksSnapshot};
use statistics::ReadCounters;
use writer::{WriteCounters, WriterThreads};

/// A store in one directory of the file system. Dropping it without [`Store::close`] waits for
/// what is queued, and leaves the rest to the recovery of the next start.
pub struct RocksStore {
    inner: Arc<Inner>,
    recovery: Recovery,
}

struct Inner {
    dir: PathBuf,
    /// `None` once closed.
    database: ArcSwapOption<Database>,
    queue: Arc<Queue>,
    /// `None` once closed. Held locked while closing, so that a second closer waits.
    threads: Mutex<Option<WriterThreads>>,
    memory_only: ReadOptions,
    slots: Arc<Semaphore>,
    concurrent_reads: u32,
    shared: Shared,
    writes: Arc<WriteCounters>,
    reads: ReadCounters,
}

impl RocksStore {
    /// Opens the directory, creating it where it is missing, and replays its log. Blocks on the
    /// disk.
    ///
    /// # Errors
    /// [`OpenError`], which says what to do.
    pub fn open(dir: &Path, options: &RocksOptions) -> Result<Self, OpenError> {
        let shared = Shared::new(options);
        let (database, recovery) = open::open(dir, options, &shared)?;
        if let Recovery::CutShort(cause) = &recovery {
            tracing::error!(%cause, dir = %dir.display(), "the store's log is damaged: commits are lost");
        }
        let (database, queue) = (Arc::new(database), Arc::new(Queue::default()));
        let writes = Arc::new(WriteCounters::default());
        let threads = WriterThreads::start(&database, options.durability, &queue, &writes)
            .map_err(|error| OpenError::Io { dir: dir.into(), cause: EngineError::new(&error) })?;
        let inner = Inner {
            dir: dir.into(),
            database: ArcSwapOption::new(Some(database)),
            queue,
            threads: Mutex::new(Some(threads)),
            memory_only: read::memory_only(),
            slots: Arc::new(Semaphore::new(options.concurrent_reads as usize)),
            concurrent_reads: options.concurrent_reads,
            shared,
            writes,
            reads: ReadCounters::default(),
        };
        Ok(Self { inner: Arc::new(inner), recovery })
    }

    /// Deletes what a store has left in a directory, damaged or not; what is no store's stays.
    /// Blocks on the disk.
    ///
    /// # Errors
    /// Whatever the system answers.
    pub fn destroy(dir: &Path) -> io::Result<()> {
        open::destroy(dir)
    }

    /// How much of the log could be replayed. [`Recovery::CutShort`] makes the vnodes of the
    /// directory incomplete; every start reports it until [`RocksStore::forget_cut`].
    pub fn recovery(&self) -> &Recovery {
        &self.recovery
    }

    /// To be called once it is durably noted elsewhere that the vnodes are incomplete: later
    /// starts no longer report the cut. Blocks on the disk.
    ///
    /// # Errors
    /// Whatever the system answers; later starts may still report it then.
    pub fn forget_cut(&self) -> io::Result<()> {
        open::forget_cut(&self.inner.dir)
    }

    /// Runs a read where it may block.
    fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Database) -> Result<T, ReadError> + Send + 'static,
    ) -> BoxFuture<'_, Result<T, ReadError>> {
        let inner = Arc::clone(&self.inner);
        Box::pin(read::blocking(Arc::clone(&self.inner.slots), move || {
            // Taken in the slot: who holds all slots knows that no read holds the database.
            let database = inner.database.load_full().ok_or(ReadError::Closed)?;
            read(&database)
        }))
    }
}

impl Inner {
    /// Drains the queue, moves the memtables to files so that the next start replays nothing, and
    /// lets go of the database. Blocks. Returns the database for the last reads to finish with.
    fn shut_down(&self) -> (Option<Arc<Database>>, Result<(), CommitError>) {
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        self.queue.close();
        let Some(running) = threads.take() else { return (None, Ok(())) };
        running.join();
        let flushed = self.database.load().as_deref().map_or(Ok(()), flush);
        (self.database.swap(None), flushed)
    }

    async fn close(self: Arc<Self>) -> Result<(), CommitError> {
        let inner = Arc::clone(&self);
        let (database, flushed) = blocking(move || inner.shut_down()).await?;
        // Reads that began before now end first; later ones find the store closed.
        let all = self.slots.acquire_many(self.concurrent_reads).await;
        drop(all);
        blocking(move || drop(database)).await?;
        flushed
    }
}

/// Runs a part of closing where it may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, CommitError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| CommitError::Unknown { cause: EngineError::new(&error) })
}

fn flush(database: &Database) -> Result<(), CommitError> {
    let families = Space::ALL.map(|space| database.family(space));
    database
        .db()
        .flush_wal(true)
        .and_then(|()| database.db().flush_cfs_opt(&families, &FlushOptions::default()))
        .map_err(|error| writer::unknown(&error))
}

impl Drop for RocksStore {
    fn drop(&mut self) {
        self.inner.queue.close();
        let threads = self.inner.threads.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(running) = threads {
            running.join();
        }
    }
}

impl Store for RocksStore {
    fn get_cached(&self, space: Space, key: &[u8]) -> Result<Cached, ReadError> {
        let database = self.inner.database.load();
        let database = database.as_ref().ok_or(ReadError::Closed)?;
        let cached = read::get_cached(database, space, key, &self.inner.memory_only)?;
        self.inner.reads.count(&cached);
        Ok(cached)
    }

    fn get(&self, space: Space, key: Bytes) -> BoxFuture<'_, Result<Option<Bytes>, ReadError>> {
        match self.get_cached(space, &key) {
            Ok(Cached::Hit(value)) => Box::pin(std::future::ready(Ok(value))),
            Ok(Cached::Miss) => {
                self.read(move |database| read::get(database, space, &key, &read::checked()))
            }
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }

    fn scan(
        &self,
        space: Space,
        range: KeyRange,
        limit: ScanLimit,
    ) -> BoxFuture<'_, Result<Page, ReadError>> {
        self.read(move |database| read::scan(database, space, range, limit, read::checked()))
    }

    fn scan_each(
        &self,
        space: Space,
        ranges: Vec<KeyRange>,
        enough: usize,
    ) -> BoxFuture<'_, Result<Vec<Entries>, ReadError>> {
        self.read(move |database| {
            read::scan_each(database, space, &ranges, enough, read::checked())
        })
    }

    fn warm(&self, space: Space, mut keys: Vec<Bytes>) -> BoxFuture<'_, ()> {
        keys.retain(|key| matches!(self.get_cached(space, key), Ok(Cached::Miss)));
        if keys.is_empty() {
            return Box::pin(std::future::ready(()));
        }
        let warmed = self.read(move |database| {
            // In the order in which they stand on disk.
            keys.sort_unstable();
            for key in &keys {
                read::get(database, space, key, &read::checked())?;
            }
            Ok(())
        });
        // What is wrong with a key, whoever reads it for its value is told.
        Box::pin(async { warmed.await.unwrap_or_default() })
    }

    fn snapshot(&self) -> Arc<dyn Snapshot> {
        match self.inner.database.load_full() {
            Some(database) => Arc::new(RocksSnapshot {
                snapshot: Arc::new(OwnedSnapshot::take(database)),
                slots: Arc::clone(&self.inner.slots),
            }),
            None => Arc::new(ClosedSnapshot),
        }
    }

    fn commit(
        &self,
        batch: Batch,
        syncing: Syncing,
    ) -> BoxFuture<'static, Result<(), CommitError>> {
        let (done, outcome) = oneshot::channel();
        if let Err(cause) = self.inner.queue.push(Waiting { batch, syncing, done }) {
            return Box::pin(std::future::ready(Err(CommitError::NotApplied { cause })));
        }
        Box::pin(async {
            let gone = |_| CommitError::Unknown { cause: EngineError::new(&"the writer is gone") };
            outcome.await.map_err(gone)?.outcome
        })
    }

    fn sync(&self) -> BoxFuture<'_, Result<(), CommitError>> {
        self.commit(Batch::new(), Syncing::Always)
    }

    fn last_sequence(&self) -> u64 {
        let database = self.inner.database.load();
        database.as_ref().map_or(0, |database| database.db().latest_sequence_number())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let found = rustix::fs::statvfs(&self.inner.dir)?;
        Ok(found.f_bavail.saturating_mul(found.f_frsize))
    }

    fn statistics(&self) -> StoreStatistics {
        let mut statistics = StoreStatistics::default();
        self.inner.reads.report(&mut statistics);
        statistics::of_writes(&self.inner.writes, &self.inner.queue.fill(), &mut statistics);
        if let Some(database) = self.inner.database.load().as_ref() {
            statistics::of_engine(database, &self.inner.shared.block_cache, &mut statistics);
        }
        statistics
    }

    fn close(&self) -> BoxFuture<'_, Result<(), CommitError>> {
        Box::pin(Arc::clone(&self.inner).close())
    }
}
