//! Where the figures of [`StoreStatistics`] come from.

use std::sync::atomic::{AtomicU64, Ordering};

use rocksdb::Cache;
use rocksdb::properties::{
    ACTUAL_DELAYED_WRITE_RATE, CUR_SIZE_ALL_MEM_TABLES, ESTIMATE_NUM_KEYS,
    ESTIMATE_PENDING_COMPACTION_BYTES, IS_WRITE_STOPPED, LIVE_SST_FILES_SIZE, PropName,
};

use crate::storage::{Cached, Space, StoreStatistics};

use super::open::Database;
use super::queue::Fill;
use super::writer::WriteCounters;

/// Counters of point reads since the start.
#[derive(Debug, Default)]
pub(super) struct ReadCounters {
    hits: AtomicU64,
    misses: AtomicU64,
}

impl ReadCounters {
    pub(super) fn count(&self, cached: &Cached) {
        let counter = match cached {
            Cached::Hit(_) => &self.hits,
            Cached::Miss => &self.misses,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn report(&self, statistics: &mut StoreStatistics) {
        statistics.cache_hits = self.hits.load(Ordering::Relaxed);
        statistics.cache_misses = self.misses.load(Ordering::Relaxed);
    }
}

pub(super) fn of_writes(counters: &WriteCounters, fill: &Fill, statistics: &mut StoreStatistics) {
    let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    statistics.batches = load(&counters.batches);
    statistics.batch_bytes = load(&counters.bytes);
    statistics.groups = load(&counters.groups);
    statistics.failed_groups = load(&counters.failed_groups);
    statistics.syncs = load(&counters.syncs);
    statistics.sync_seconds = load(&counters.sync_nanos) as f64 / 1e9;
    statistics.queued_batches = fill.batches;
    statistics.queued_bytes = fill.bytes;
    statistics.refused_batches = fill.refused;
}

pub(super) fn of_engine(database: &Database, cache: &Cache, statistics: &mut StoreStatistics) {
    let sum = |name| Space::ALL.iter().map(|space| property(database, *space, name)).sum();
    statistics.disk_bytes = sum(LIVE_SST_FILES_SIZE);
    statistics.memtable_bytes = sum(CUR_SIZE_ALL_MEM_TABLES);
    statistics.pending_compaction_bytes = sum(ESTIMATE_PENDING_COMPACTION_BYTES);
    statistics.estimated_keys = sum(ESTIMATE_NUM_KEYS);
    statistics.block_cache_bytes = cache.get_usage() as u64;
    // These two are of the database, whichever family is asked.
    statistics.delayed_write_rate = property(database, Space::Records, ACTUAL_DELAYED_WRITE_RATE);
    statistics.writes_stopped = property(database, Space::Records, IS_WRITE_STOPPED) != 0;
}

/// A figure that the engine lacks is shown as 0: metrics must not fail.
fn property(database: &Database, space: Space, name: &PropName) -> u64 {
    let found = database.db().property_int_value_cf(database.family(space), name);
    found.ok().flatten().unwrap_or(0)
}
