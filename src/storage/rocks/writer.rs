//! The one thread that writes: it takes all batches that wait, writes them as one, fsyncs once,
//! and answers each. What comes in meanwhile makes the next group; nothing sleeps to gather.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rocksdb::{WriteBatch, WriteOptions};
use tokio::time::Instant;

use crate::storage::{Batch, Change, CommitError, Durability, EngineError, Syncing};

use super::open::Database;
use super::queue::{Queue, Waiting, Written};

/// How long an acknowledged write may stay unsynced with [`Durability::Interval`].
const SYNC_INTERVAL: Duration = Duration::from_millis(100);

/// Counters of the writer since the start.
#[derive(Debug, Default)]
pub(super) struct WriteCounters {
    pub(super) batches: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) groups: AtomicU64,
    pub(super) failed_groups: AtomicU64,
    pub(super) syncs: AtomicU64,
    pub(super) sync_nanos: AtomicU64,
}

impl WriteCounters {
    fn count_group(&self, group: &[Waiting], outcome: &Result<(), CommitError>) {
        let bytes: usize = group.iter().map(|waiting| waiting.batch.bytes()).sum();
        self.groups.fetch_add(1, Ordering::Relaxed);
        match outcome {
            Ok(()) => {
                self.batches.fetch_add(group.len() as u64, Ordering::Relaxed);
                self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
            }
            Err(_) => {
                self.failed_groups.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn count_sync(&self, started: Instant) {
        let nanos = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.syncs.fetch_add(1, Ordering::Relaxed);
        self.sync_nanos.fetch_add(nanos, Ordering::Relaxed);
    }
}

/// The threads behind a store's commits.
pub(super) struct WriterThreads {
    writer: JoinHandle<()>,
    syncer: Option<JoinHandle<()>>,
    dirty: Arc<Dirty>,
}

impl WriterThreads {
    pub(super) fn start(
        database: &Arc<Database>,
        durability: Durability,
        queue: &Arc<Queue>,
        counters: &Arc<WriteCounters>,
    ) -> io::Result<Self> {
        let dirty = Arc::new(Dirty::default());
        let writer = Writer {
            database: Arc::clone(database),
            durability,
            queue: Arc::clone(queue),
            counters: Arc::clone(counters),
            dirty: Arc::clone(&dirty),
        };
        let syncer = if durability == Durability::Interval {
            let (database, counters) = (Arc::clone(database), Arc::clone(counters));
            let dirty = Arc::clone(&dirty);
            let run = move || sync_at_intervals(&database, &counters, &dirty);
            Some(thread::Builder::new().name("store-sync".into()).spawn(run)?)
        } else {
            None
        };
        let writer = thread::Builder::new().name("store-write".into()).spawn(|| writer.run())?;
        Ok(Self { writer, syncer, dirty })
    }

    /// Waits until the closed queue is drained and both threads are gone.
    pub(super) fn join(self) {
        // A panic was printed by its thread; the senders it dropped told every caller.
        let _ = self.writer.join();
        self.dirty.stop();
        if let Some(syncer) = self.syncer {
            let _ = syncer.join();
        }
    }
}

struct Writer {
    database: Arc<Database>,
    durability: Durability,
    queue: Arc<Queue>,
    counters: Arc<WriteCounters>,
    dirty: Arc<Dirty>,
}

/// However the thread ends, nobody waits for it in vain.
impl Drop for Writer {
    fn drop(&mut self) {
        self.queue.abandon();
    }
}

impl Writer {
    fn run(self) {
        let mut group = Vec::new();
        while self.queue.pop_group(&mut group) {
            let outcome = self.write(&group);
            self.counters.count_group(&group, &outcome);
            for Waiting { batch, done, .. } in group.drain(..) {
                // Whoever dropped the future does not want to know.
                let _ = done.send(Written { outcome: outcome.clone(), _batch: batch });
            }
        }
    }

    fn write(&self, group: &[Waiting]) -> Result<(), CommitError> {
        let sync = group.iter().any(|waiting| match waiting.syncing {
            Syncing::AsConfigured => self.durability == Durability::Sync,
            Syncing::Later => false,
            Syncing::Always => true,
        });
        let mut writes = WriteBatch::with_capacity_bytes(encoded_bytes(group));
        for waiting in group {
            append(&mut writes, &waiting.batch, &self.database);
        }
        let started = Instant::now();
        // RocksDB appends a batch to the log, fsyncs the log (that of earlier, unsynced batches
        // with it), and only then lets readers see the batch.
        let written = if writes.is_empty() {
            if sync { self.database.db().flush_wal(true) } else { Ok(()) }
        } else {
            let mut options = WriteOptions::default();
            options.set_sync(sync);
            self.database.db().write_opt(writes, &options)
        };
        if sync {
            self.counters.count_sync(started);
        } else {
            self.dirty.mark();
        }
        written.map_err(|error| unknown(&error))
    }
}

/// About how much a group takes in RocksDB's form.
fn encoded_bytes(group: &[Waiting]) -> usize {
    const HEAD_BYTES: usize = 12;
    group.iter().fold(HEAD_BYTES, |bytes, waiting| bytes + waiting.batch.bytes())
}

fn append(writes: &mut WriteBatch, batch: &Batch, database: &Database) {
    for change in batch.changes() {
        match change {
            Change::Put { space, key, value } => {
                writes.put_cf(database.family(*space), key, value);
            }
            Change::Delete { space, key } => writes.delete_cf(database.family(*space), key),
            Change::DeleteRange { space, start, end } => {
                writes.delete_range_cf(database.family(*space), start, end);
            }
        }
    }
}

/// A failed write leaves RocksDB refusing all further ones. It resumes by itself when a full disk
/// has room again; its API offers no resuming after anything else but to open the database anew.
pub(super) fn unknown(error: &rocksdb::Error) -> CommitError {
    tracing::error!(%error, "writing to the store failed");
    CommitError::Unknown { cause: EngineError::new(error) }
}

/// Whether something was written and not yet fsynced.
#[derive(Default)]
struct Dirty {
    state: Mutex<DirtyState>,
    changed: Condvar,
}

#[derive(Default)]
struct DirtyState {
    dirty: bool,
    stopped: bool,
}

impl Dirty {
    fn mark(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.dirty {
            state.dirty = true;
            self.changed.notify_all();
        }
    }

    fn stop(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).stopped = true;
        self.changed.notify_all();
    }

    /// Waits for a write, then until it is [`SYNC_INTERVAL`] old; `false`: stopped.
    fn wait_until_due(&self) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let state = self
            .changed
            .wait_while(state, |state| !state.dirty && !state.stopped)
            .unwrap_or_else(PoisonError::into_inner);
        let (mut state, _) = self
            .changed
            .wait_timeout_while(state, SYNC_INTERVAL, |state| !state.stopped)
            .unwrap_or_else(PoisonError::into_inner);
        // Cleared before the fsync: what is written during it is due again.
        state.dirty = false;
        !state.stopped
    }
}

fn sync_at_intervals(database: &Database, counters: &WriteCounters, dirty: &Dirty) {
    while dirty.wait_until_due() {
        let started = Instant::now();
        let synced = database.db().flush_wal(true);
        counters.count_sync(started);
        if let Err(error) = synced {
            // RocksDB has noted it and fails the commits that follow.
            tracing::error!(%error, "fsync of the store's log failed; the last writes may be lost");
            dirty.mark();
        }
    }
}
