//! How RocksDB is set up.
//!
//! Sized so that a node with 10 million small keys stays below 600 MiB: 256 MiB of block cache,
//! which also holds all index and filter blocks, and 64 MiB of memtables (up to three times that
//! while flushes fall behind); the rest is left to the node.

use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, DBCompressionType, DBRecoveryMode, Env,
    LogLevel, MemtableFactory, Options, WriteBufferManager,
};

use crate::storage::{Durability, Space};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// The most that flushes and compactions write. A twentieth of it, the least that the rate is tuned to,
/// has to keep up with writes that come all at once after a quiet time: it grows by 5 % a second.
const BACKGROUND_BYTES_PER_SECOND: i64 = 2 << 30;

/// Settings of a [`RocksStore`](super::RocksStore).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RocksOptions {
    /// When a commit counts as done.
    pub durability: Durability,
    /// Memory for blocks of data, indexes and filters, in bytes, shared by all spaces.
    pub block_cache_bytes: usize,
    /// Memory for what is not yet in a data file, in bytes, shared by all spaces.
    pub memtable_bytes: usize,
    /// The most data files held open.
    pub max_open_files: i32,
    /// Threads for flushes and compactions.
    pub background_jobs: i32,
    /// Reads that may wait for the disk at once.
    pub concurrent_reads: u32,
}

impl Default for RocksOptions {
    fn default() -> Self {
        Self {
            durability: Durability::default(),
            block_cache_bytes: 256 * MIB,
            memtable_bytes: 64 * MIB,
            // Half of the 1,024 descriptors that most systems grant; sockets need the others.
            max_open_files: 512,
            background_jobs: 2,
            concurrent_reads: 32,
        }
    }
}

/// What all column families share.
pub(super) struct Shared {
    pub(super) block_cache: Cache,
    memtables: WriteBufferManager,
}

impl Shared {
    pub(super) fn new(options: &RocksOptions) -> Self {
        // Stalling is left to the per-family limits: a stall by the budget would block the writer
        // even where only one cold family is due for a flush.
        let memtables = WriteBufferManager::new_write_buffer_manager(options.memtable_bytes, false);
        Self { block_cache: Cache::new_hyper_clock_cache(options.block_cache_bytes, 0), memtables }
    }
}

/// Options of the database as a whole.
pub(super) fn database(
    options: &RocksOptions,
    shared: &Shared,
    recovery: DBRecoveryMode,
) -> Options {
    let mut db = Options::default();
    db.create_if_missing(true);
    db.create_missing_column_families(true);
    db.set_wal_recovery_mode(recovery);
    db.set_write_buffer_manager(&shared.memtables);
    db.set_max_open_files(options.max_open_files);
    db.set_max_background_jobs(options.background_jobs);
    // Bounds the log that a restart must replay, and with it the time to be ready after a crash.
    db.set_max_total_wal_size(128 * MIB as u64);
    db.set_bytes_per_sync(MIB as u64);
    yield_to_requests(&mut db);
    // Spread over time, what they write does not stand between a commit and its fsync. Tunes itself
    // between a twentieth of this and all of it, by how much there is to do.
    db.set_auto_tuned_ratelimiter(BACKGROUND_BYTES_PER_SECOND, 10_000, 10);
    // Iterators and snapshots are dropped on runtime threads, which must not delete files.
    db.set_avoid_unnecessary_blocking_io(true);
    // There is one thread that writes, and memtables that are vectors take no more.
    db.set_allow_concurrent_memtable_write(false);
    // Visibility after the fsync rests on these two staying off.
    db.set_enable_pipelined_write(false);
    db.set_unordered_write(false);
    db.set_log_level(LogLevel::Warn);
    db.set_keep_log_file_num(4);
    db.set_max_log_file_size(4 * MIB);
    db.set_stats_dump_period_sec(0);
    db.set_stats_persist_period_sec(0);
    db
}

/// Lets flushes and compactions have the processor only when nothing else wants it: at full priority a
/// compaction holds requests up for tens of milliseconds where there are few cores. Writes wait for
/// them only once three memtables are full.
fn yield_to_requests(db: &mut Options) {
    // Without it, all there is to lose is that.
    if let Ok(mut env) = Env::new() {
        env.lower_thread_pool_cpu_priority();
        env.lower_high_priority_thread_pool_cpu_priority();
        db.set_env(&env);
    }
}

/// Digests are written with each record, and read only to compare replicas. Whoever reads such a space
/// first sends what is not in a file yet on its way to one: see [`MOST_UNSORTED`].
pub(super) const fn is_seldom_read(space: Space) -> bool {
    matches!(space, Space::Trees)
}

/// How many entries a memtable that is not sorted may have when it is read: each read sorts a copy of it,
/// of so many in about a tenth of a millisecond.
pub(super) const MOST_UNSORTED: u64 = 512;

/// Options of one space's column family.
pub(super) fn family(space: Space, options: &RocksOptions, shared: &Shared) -> Options {
    let mut family = Options::default();
    family.set_block_based_table_factory(&table(shared));
    family.set_write_buffer_size(options.memtable_bytes / 2);
    family.set_max_write_buffer_number(3);
    if is_seldom_read(space) {
        // Sorted when it is read or becomes a file, in place of a place in a skip list for each entry.
        family.set_memtable_factory(MemtableFactory::Vector);
    } else {
        // A key that is absent from the memtable, the common case, costs no walk of its skip list.
        family.set_memtable_whole_key_filtering(true);
        family.set_memtable_prefix_bloom_ratio(0.02);
    }
    family.set_level_compaction_dynamic_level_bytes(true);
    family.set_compression_type(DBCompressionType::Lz4);
    family.set_bottommost_compression_type(DBCompressionType::Zstd);
    family
}

fn table(shared: &Shared) -> BlockBasedOptions {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(&shared.block_cache);
    table.set_block_size(4 * KIB);
    table.set_bloom_filter(10.0, false);
    table.set_whole_key_filtering(true);
    table.set_optimize_filters_for_memory(true);
    // Indexes and filters in partitions, in the cache: memory stays bounded however many keys
    // there are. Only their small top levels, and those of fresh files, are pinned.
    table.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
    table.set_partition_filters(true);
    table.set_metadata_block_size(4 * KIB);
    table.set_cache_index_and_filter_blocks(true);
    table.set_cache_index_and_filter_blocks_with_high_priority(true);
    table.set_pin_top_level_index_and_filter(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    table
}
