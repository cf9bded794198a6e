//! Reading: point reads and pages, of the present or of a snapshot.

use std::sync::Arc;

use bytes::Bytes;
use rocksdb::properties::{
    NUM_ENTRIES_ACTIVE_MEM_TABLE, NUM_IMMUTABLE_MEM_TABLE, num_files_at_level,
};
use rocksdb::{
    AsColumnFamilyRef, DB, ErrorKind, FlushOptions, ReadOptions, ReadTier, SnapshotWithThreadMode,
};
use self_cell::self_cell;
use tokio::sync::Semaphore;

use crate::storage::range::PageBuilder;
use crate::storage::{
    BoxFuture, Cached, EngineError, Entries, KeyRange, Page, ReadError, ScanLimit, Snapshot, Space,
};

use super::open::Database;
use super::options;

type DbSnapshot<'a> = SnapshotWithThreadMode<'a, DB>;

self_cell! {
    /// A snapshot that keeps its database open.
    pub(super) struct OwnedSnapshot {
        owner: Arc<Database>,
        #[covariant]
        dependent: DbSnapshot,
    }
}

impl OwnedSnapshot {
    pub(super) fn take(database: Arc<Database>) -> Self {
        Self::new(database, |database| database.db().snapshot())
    }

    /// Options that read as of this snapshot; they must not outlive it.
    fn options(&self) -> ReadOptions {
        let mut options = checked();
        options.set_snapshot(self.borrow_dependent());
        options
    }
}

/// Every block read from the disk is held against its checksum.
pub(super) fn checked() -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_verify_checksums(true);
    options
}

/// Options that never lead to the disk.
pub(super) fn memory_only() -> ReadOptions {
    let mut options = checked();
    options.set_read_tier(ReadTier::BlockCache);
    options
}

/// Makes a space that is seldom read ready for it: a memtable that is on its way to a file is sorted once,
/// and not for each read. Where that can't be begun, reads are slower, and no worse.
fn prepare(database: &Database, space: Space) {
    if !options::is_seldom_read(space) {
        return;
    }
    let family = database.family(space);
    let unsorted = database.db().property_int_value_cf(family, NUM_ENTRIES_ACTIVE_MEM_TABLE);
    let is_due = matches!(unsorted, Ok(Some(entries)) if entries > options::MOST_UNSORTED);
    if !is_due || !has_caught_up(database, family) || !has_room(database) {
        return;
    }
    let mut options = FlushOptions::default();
    options.set_wait(false);
    if let Err(error) = database.db().flush_cf_opt(family, &options) {
        tracing::warn!(%error, space = space.name(), "a memtable could not be sent to a file");
    }
}

/// Whether earlier memtables are in files, and few of these wait to be merged: a flush must neither wait
/// for another one nor bring writes near to where RocksDB slows them down.
fn has_caught_up(database: &Database, family: &impl AsColumnFamilyRef) -> bool {
    const MOST_FILES: u64 = 8;
    let db = database.db();
    let waiting = db.property_int_value_cf(family, NUM_IMMUTABLE_MEM_TABLE);
    let files = db.property_value_cf(family, num_files_at_level(0)).ok().flatten();
    let files = files.and_then(|files| files.parse::<u64>().ok());
    matches!(waiting, Ok(Some(0))) && files.is_some_and(|files| files < MOST_FILES)
}

/// Whether the disk has room for a file more: on a full one RocksDB would refuse all that comes later.
fn has_room(database: &Database) -> bool {
    const ROOM_BYTES: u64 = 256 << 20;
    rustix::fs::statvfs(database.db().path())
        .is_ok_and(|found| found.f_bavail.saturating_mul(found.f_frsize) >= ROOM_BYTES)
}

/// Looks a key up with [`memory_only`] options.
pub(super) fn get_cached(
    database: &Database,
    space: Space,
    key: &[u8],
    options: &ReadOptions,
) -> Result<Cached, ReadError> {
    if options::is_seldom_read(space) {
        return Ok(Cached::Miss);
    }
    match database.db().get_pinned_cf_opt(database.family(space), key, options) {
        Ok(value) => Ok(Cached::Hit(value.as_deref().map(Bytes::copy_from_slice))),
        Err(error) if error.kind() == ErrorKind::Incomplete => Ok(Cached::Miss),
        Err(error) => Err(read_error(space, &error)),
    }
}

/// Looks a key up; may wait for the disk.
pub(super) fn get(
    database: &Database,
    space: Space,
    key: &[u8],
    options: &ReadOptions,
) -> Result<Option<Bytes>, ReadError> {
    prepare(database, space);
    let value = database
        .db()
        .get_pinned_cf_opt(database.family(space), key, options)
        .map_err(|error| read_error(space, &error))?;
    Ok(value.as_deref().map(Bytes::copy_from_slice))
}

/// Reads one page; may wait for the disk.
pub(super) fn scan(
    database: &Database,
    space: Space,
    range: KeyRange,
    limit: ScanLimit,
    mut options: ReadOptions,
) -> Result<Page, ReadError> {
    let mut page = PageBuilder::new(limit);
    if range.is_empty() {
        return Ok(page.finish());
    }
    if let Some(end) = range.end {
        options.set_iterate_upper_bound(end);
    }
    prepare(database, space);
    // A walk over everything must not push the hot blocks out of the cache.
    options.fill_cache(false);
    let mut entries = database.db().raw_iterator_cf_opt(database.family(space), options);
    entries.seek(&range.start);
    while let Some((key, value)) = entries.item() {
        if !page.push(Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)) {
            break;
        }
        entries.next();
    }
    // The end of the range and a failure look alike to the loop.
    entries.status().map_err(|error| read_error(space, &error))?;
    Ok(page.finish())
}

/// Reads whole ranges until there are so many entries; may wait for the disk.
pub(super) fn scan_each(
    database: &Database,
    space: Space,
    ranges: &[KeyRange],
    enough: usize,
    mut options: ReadOptions,
) -> Result<Vec<Entries>, ReadError> {
    prepare(database, space);
    options.fill_cache(false);
    // One iterator for all: making one costs more than a short range.
    let mut iterator = database.db().raw_iterator_cf_opt(database.family(space), options);
    let (mut read, mut count) = (Vec::new(), 0);
    for range in ranges {
        if count >= enough {
            break;
        }
        let mut entries = Entries::new();
        iterator.seek(&range.start);
        while let Some((key, value)) = iterator.item().filter(|(key, _)| range.contains(key)) {
            entries.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
            iterator.next();
        }
        iterator.status().map_err(|error| read_error(space, &error))?;
        count += entries.len();
        read.push(entries);
    }
    Ok(read)
}

fn read_error(space: Space, error: &rocksdb::Error) -> ReadError {
    let cause = EngineError::new(error);
    match error.kind() {
        ErrorKind::Corruption => ReadError::Corrupt { space, cause },
        _ => ReadError::Io { space, cause },
    }
}

/// Runs a read where it may block. At most as many at once as `slots` has permits; a read that is
/// no longer waited for still holds its own until it ends.
pub(super) async fn blocking<T: Send + 'static>(
    slots: Arc<Semaphore>,
    read: impl FnOnce() -> Result<T, ReadError> + Send + 'static,
) -> Result<T, ReadError> {
    let slot = slots.acquire_owned().await.map_err(|_| ReadError::Closed)?;
    let task = tokio::task::spawn_blocking(move || {
        let answer = read();
        drop(slot);
        answer
    });
    match task.await {
        Ok(answer) => answer,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // The runtime is shutting down.
        Err(_) => Err(ReadError::Closed),
    }
}

/// A snapshot of an open store.
pub(super) struct RocksSnapshot {
    pub(super) snapshot: Arc<OwnedSnapshot>,
    pub(super) slots: Arc<Semaphore>,
}

impl Snapshot for RocksSnapshot {
    fn get(&self, space: Space, key: Bytes) -> BoxFuture<'_, Result<Option<Bytes>, ReadError>> {
        let snapshot = Arc::clone(&self.snapshot);
        Box::pin(blocking(Arc::clone(&self.slots), move || {
            get(snapshot.borrow_owner(), space, &key, &snapshot.options())
        }))
    }

    fn scan(
        &self,
        space: Space,
        range: KeyRange,
        limit: ScanLimit,
    ) -> BoxFuture<'_, Result<Page, ReadError>> {
        let snapshot = Arc::clone(&self.snapshot);
        Box::pin(blocking(Arc::clone(&self.slots), move || {
            scan(snapshot.borrow_owner(), space, range, limit, snapshot.options())
        }))
    }
}

/// The snapshot of a closed store.
pub(super) struct ClosedSnapshot;

impl Snapshot for ClosedSnapshot {
    fn get(&self, _: Space, _: Bytes) -> BoxFuture<'_, Result<Option<Bytes>, ReadError>> {
        Box::pin(std::future::ready(Err(ReadError::Closed)))
    }

    fn scan(&self, _: Space, _: KeyRange, _: ScanLimit) -> BoxFuture<'_, Result<Page, ReadError>> {
        Box::pin(std::future::ready(Err(ReadError::Closed)))
    }
}
