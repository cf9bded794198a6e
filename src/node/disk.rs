//! Free space: below the floor, writes are refused before the store meets a full disk
//! (correctness, section 8).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::{Node, Phase};
use crate::storage::schema::MetaKey;
use crate::storage::{Batch, Space, Store, Syncing};

/// How often the free space is looked at. The floor must be more than what is written in between.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// How often in a row the store must fail to write before it is given up: 30 s. RocksDB tries by
/// itself, every 5 s, whether a disk that was full has room again.
const FAILURES: u32 = 120;

/// Whether the disk is below its floor, and whether the store still writes.
#[derive(Debug)]
pub(super) struct DiskWatch {
    min_free_bytes: u64,
    is_full: AtomicBool,
    is_suspect: AtomicBool,
}

impl DiskWatch {
    pub(super) fn new(min_free_bytes: u64) -> Self {
        Self { min_free_bytes, is_full: AtomicBool::new(false), is_suspect: AtomicBool::new(false) }
    }

    /// Whether writes are to be refused.
    pub(super) fn is_full(&self) -> bool {
        self.is_full.load(Ordering::Relaxed)
    }

    /// A write failed with an unknown outcome: the next look tries whether the store still works.
    pub(super) fn suspect(&self) {
        self.is_suspect.store(true, Ordering::Relaxed);
    }

    /// Looks at the disk. Where it can't be asked, what was known stays.
    pub(super) fn look(&self, store: &dyn Store) {
        let free = match store.free_bytes() {
            Ok(free) => free,
            Err(error) => return tracing::error!(%error, "the free space can't be read"),
        };
        let is_full = free < self.min_free_bytes;
        if self.is_full.swap(is_full, Ordering::Relaxed) != is_full {
            let floor = self.min_free_bytes;
            if is_full {
                tracing::error!(free, floor, "the disk is below its floor: writes are refused");
            } else {
                tracing::info!(free, floor, "there is space again: writes go on");
            }
        }
    }
}

impl Node {
    /// After a failed write: tries whether the store writes again. It is asked for a write, not for
    /// a sync: syncing a log that has failed makes RocksDB take the failure for a fatal one. A
    /// store that goes on failing makes the node stop serving, so that requests go to others and
    /// somebody looks at the disk.
    async fn probe_store(&self, failures: u32) -> u32 {
        if !self.disk.is_suspect.load(Ordering::Relaxed) {
            return 0;
        }
        let mut probe = Batch::default();
        probe.put(Space::Meta, MetaKey::Probe, bytes::Bytes::new());
        match self.store.commit(probe, Syncing::Always).await {
            Ok(()) => {
                self.disk.is_suspect.store(false, Ordering::Relaxed);
                0
            }
            Err(_) if self.disk.is_full() => 0,
            Err(error) if failures + 1 >= FAILURES => {
                self.refuse(&format!(
                    "the store writes no more ({error}); check the disk, then restart the node"
                ));
                0
            }
            Err(_) => failures + 1,
        }
    }

    /// Watches the free space until the node stops.
    pub(super) fn spawn_disk_watch(self: &Arc<Self>) {
        let node = Arc::clone(self);
        self.tasks.spawn_untracked(async move {
            let phase = node.phase();
            let mut failures = 0;
            loop {
                let stopping = phase.wait_for(|phase| *phase == Phase::Stopping);
                if tokio::time::timeout(LOOK_EVERY, stopping).await.is_ok() {
                    return;
                }
                node.disk.look(&*node.store);
                failures = node.probe_store(failures).await;
                if matches!(*node.phase.borrow(), Phase::Refusing(_)) {
                    return;
                }
            }
        });
    }
}
