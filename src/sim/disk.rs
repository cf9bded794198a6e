//! A simulated disk: what is written is visible and durable only after a while, in groups; a power
//! cut takes what was not synced, torn between batches; and everything on it can fail.

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::oneshot;
use tokio::time::sleep;

use crate::storage::{
    Batch, BoxFuture, Cached, CommitError, Durability, EngineError, KeyRange, MemoryStore, Page,
    ReadError, ScanLimit, Snapshot, Space, Store, StoreStatistics, Syncing,
};

/// How often an `interval` store is synced.
const INTERVAL: Duration = Duration::from_millis(100);

/// How a disk behaves.
#[derive(Clone, Debug)]
pub struct DiskFaults {
    /// How long a group takes to become durable.
    pub sync: RangeInclusive<Duration>,
    /// The probability that a read has to wait for the disk.
    pub miss: f64,
    /// How long such a read takes.
    pub read: RangeInclusive<Duration>,
    /// The probability that such a read fails.
    pub read_error: f64,
    /// The probability that a group fails with an unknown outcome.
    pub write_error: f64,
    /// The probability that a batch is refused, known to have done nothing.
    pub refusal: f64,
    /// The probability that after such a failure all later writes fail, until the next start.
    pub wedge: f64,
    /// Syncs do nothing.
    pub lies: bool,
    /// No room is left.
    pub is_full: bool,
}

impl Default for DiskFaults {
    fn default() -> Self {
        Self {
            sync: Duration::ZERO..=Duration::from_millis(2),
            miss: 0.1,
            read: Duration::ZERO..=Duration::from_millis(2),
            read_error: 0.0,
            write_error: 0.0,
            refusal: 0.0,
            wedge: 0.0,
            lies: false,
            is_full: false,
        }
    }
}

/// Told of every batch when it is queued.
pub type BatchWitness = Arc<dyn Fn(&Batch) + Send + Sync>;

/// The open store on a simulated disk. It dies with its process; [`SimDisk::take_out`] says what
/// the next start finds.
pub struct SimDisk {
    shared: Arc<Shared>,
}

struct Shared {
    durability: Durability,
    /// Syncs only when it is told to.
    memory: MemoryStore,
    state: Mutex<State>,
    witness: BatchWitness,
}

struct State {
    faults: DiskFaults,
    random: StdRng,
    queue: Vec<Queued>,
    is_writing: bool,
    is_wedged: bool,
    /// Out of its machine: nothing changes any more.
    is_out: bool,
    is_closed: bool,
}

struct Queued {
    batch: Batch,
    syncing: Syncing,
    done: oneshot::Sender<Result<(), CommitError>>,
}

/// How a process or its machine ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The operating system lives on, and writes what it was given.
    ProcessDied,
    /// What was not synced is lost.
    PowerCut,
}

impl SimDisk {
    /// A new disk.
    pub fn empty() -> MemoryStore {
        MemoryStore::new(Durability::Os)
    }

    /// Opens what is on a disk.
    pub fn new(
        memory: MemoryStore,
        durability: Durability,
        faults: DiskFaults,
        seed: u64,
        witness: BatchWitness,
    ) -> Self {
        let state = State {
            faults,
            random: StdRng::seed_from_u64(seed),
            queue: Vec::new(),
            is_writing: false,
            is_wedged: false,
            is_out: false,
            is_closed: false,
        };
        let shared = Arc::new(Shared { durability, memory, state: Mutex::new(state), witness });
        if durability == Durability::Interval {
            tokio::spawn(Arc::clone(&shared).sync_now_and_then());
        }
        Self { shared }
    }

    /// Changes how it behaves from now on.
    pub fn set_faults(&self, faults: DiskFaults) {
        self.shared.lock().faults = faults;
    }

    /// How it behaves.
    pub fn faults(&self) -> DiskFaults {
        self.shared.lock().faults.clone()
    }

    /// Whether it fails every write until the next start.
    pub fn is_wedged(&self) -> bool {
        self.shared.lock().is_wedged
    }

    /// What is visible now.
    pub fn memory(&self) -> &MemoryStore {
        &self.shared.memory
    }

    /// Ends it, and returns what the next start finds. Of the batches that were under way, some
    /// have come to the disk, the oldest first.
    pub fn take_out(&self, ending: Ending) -> MemoryStore {
        let mut state = self.shared.lock();
        state.is_out = true;
        let queue = std::mem::take(&mut state.queue);
        let written = state.random.random_range(0..=queue.len());
        for queued in queue.into_iter().take(written) {
            self.shared.apply(&queued.batch, Syncing::Later);
        }
        let unsynced = self.shared.memory.unsynced();
        let kept = match ending {
            Ending::ProcessDied => unsynced,
            Ending::PowerCut => state.random.random_range(0..=unsynced),
        };
        self.shared.memory.crash_keeping(kept)
    }
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimDisk")
    }
}

impl State {
    fn draw(&mut self, range: impl FnOnce(&DiskFaults) -> &RangeInclusive<Duration>) -> Duration {
        let range = range(&self.faults).clone();
        let (least, most) = (range.start().as_micros() as u64, range.end().as_micros() as u64);
        let drawn = if least < most { self.random.random_range(least..=most) } else { least };
        Duration::from_micros(drawn)
    }

    fn happens(&mut self, probability: impl FnOnce(&DiskFaults) -> f64) -> bool {
        let probability = probability(&self.faults);
        probability > 0.0 && self.random.random_bool(probability)
    }
}

/// What becomes of one batch.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Written,
    FailedAndLost,
    FailedButThere,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a batch visible, and durable unless that is put off.
    fn apply(&self, batch: &Batch, syncing: Syncing) {
        let applied = self.memory.commit(batch.clone(), syncing).now_or_never();
        assert_eq!(applied, Some(Ok(())), "a store in memory applies at once");
    }

    /// Writes what is queued, group after group, until nothing is.
    async fn write(self: Arc<Self>) {
        loop {
            let (group, wait) = {
                let mut state = self.lock();
                if state.queue.is_empty() || state.is_out {
                    state.is_writing = false;
                    return;
                }
                (state.queue.len(), state.draw(|faults| &faults.sync))
            };
            if !wait.is_zero() {
                sleep(wait).await;
            }
            self.finish(group);
        }
    }

    /// Ends the first batches of the queue: all written or all failed, as one write of the system.
    fn finish(&self, group: usize) {
        let (fate, batches, is_lying) = {
            let mut state = self.lock();
            if state.is_out {
                return;
            }
            let fate = Self::fate(&mut state);
            let batches: Vec<Queued> = state.queue.drain(..group).collect();
            (fate, batches, state.faults.lies)
        };
        for Queued { batch, syncing, done } in batches {
            if fate != Fate::FailedAndLost {
                self.apply(&batch, self.syncing(syncing, is_lying));
            }
            let cause = || EngineError::new(&"the simulated disk failed");
            let outcome = match fate {
                Fate::Written => Ok(()),
                _ => Err(CommitError::Unknown { cause: cause() }),
            };
            // Whoever waits may be gone.
            drop(done.send(outcome));
        }
    }

    const fn syncing(&self, asked: Syncing, is_lying: bool) -> Syncing {
        match (is_lying, self.durability, asked) {
            (true, ..) | (false, _, Syncing::Later) => Syncing::Later,
            (false, Durability::Sync, _) | (false, _, Syncing::Always) => Syncing::Always,
            (false, Durability::Interval | Durability::Os, Syncing::AsConfigured) => Syncing::Later,
        }
    }

    fn fate(state: &mut State) -> Fate {
        let fails = state.is_wedged || state.happens(|faults| faults.write_error);
        if !fails {
            return Fate::Written;
        }
        let is_first = !state.is_wedged;
        state.is_wedged |= state.happens(|faults| faults.wedge);
        // What a wedged store refuses is never written.
        match is_first && state.random.random_bool(0.5) {
            true => Fate::FailedButThere,
            false => Fate::FailedAndLost,
        }
    }

    async fn sync_now_and_then(self: Arc<Self>) {
        loop {
            sleep(INTERVAL).await;
            let (is_out, lies) = {
                let state = self.lock();
                (state.is_out || state.is_closed, state.faults.lies)
            };
            if is_out {
                return;
            }
            if !lies {
                self.apply(&Batch::new(), Syncing::Always);
            }
        }
    }
}

impl Store for SimDisk {
    fn get_cached(&self, space: Space, key: &[u8]) -> Result<Cached, ReadError> {
        let mut state = self.shared.lock();
        if state.is_closed {
            return Err(ReadError::Closed);
        }
        if space == Space::Records && state.happens(|faults| faults.miss) {
            return Ok(Cached::Miss);
        }
        self.shared.memory.get_cached(space, key)
    }

    fn get(&self, space: Space, key: Bytes) -> BoxFuture<'_, Result<Option<Bytes>, ReadError>> {
        Box::pin(async move {
            let (wait, fails) = {
                let mut state = self.shared.lock();
                if state.is_closed {
                    return Err(ReadError::Closed);
                }
                let fails = space == Space::Records && state.happens(|faults| faults.read_error);
                (state.draw(|faults| &faults.read), fails)
            };
            if !wait.is_zero() {
                sleep(wait).await;
            }
            if fails {
                let cause = EngineError::new(&"the simulated disk failed");
                return Err(ReadError::Io { space, cause });
            }
            self.shared.memory.get(space, key).await
        })
    }

    fn scan(
        &self,
        space: Space,
        range: KeyRange,
        limit: ScanLimit,
    ) -> BoxFuture<'_, Result<Page, ReadError>> {
        self.shared.memory.scan(space, range, limit)
    }

    fn snapshot(&self) -> Arc<dyn Snapshot> {
        self.shared.memory.snapshot()
    }

    fn commit(
        &self,
        batch: Batch,
        syncing: Syncing,
    ) -> BoxFuture<'static, Result<(), CommitError>> {
        let (done, outcome) = oneshot::channel();
        let must_begin = {
            let mut state = self.shared.lock();
            if state.is_closed {
                return Box::pin(std::future::ready(Err(CommitError::CLOSED)));
            }
            if state.is_out {
                return Box::pin(std::future::pending());
            }
            if state.happens(|faults| faults.refusal) {
                let cause = crate::storage::Refusal::QueueFull;
                return Box::pin(std::future::ready(Err(CommitError::NotApplied { cause })));
            }
            state.queue.push(Queued { batch: batch.clone(), syncing, done });
            !std::mem::replace(&mut state.is_writing, true)
        };
        (self.shared.witness)(&batch);
        if must_begin {
            tokio::spawn(Arc::clone(&self.shared).write());
        }
        Box::pin(async move {
            match outcome.await {
                Ok(outcome) => outcome,
                // The machine is gone, and whoever waits with it.
                Err(_) => std::future::pending().await,
            }
        })
    }

    fn sync(&self) -> BoxFuture<'_, Result<(), CommitError>> {
        self.commit(Batch::new(), Syncing::Always)
    }

    fn last_sequence(&self) -> u64 {
        self.shared.memory.last_sequence()
    }

    fn free_bytes(&self) -> std::io::Result<u64> {
        Ok(if self.shared.lock().faults.is_full { 0 } else { u64::MAX })
    }

    fn statistics(&self) -> StoreStatistics {
        self.shared.memory.statistics()
    }

    fn close(&self) -> BoxFuture<'_, Result<(), CommitError>> {
        Box::pin(async move {
            let outcome = self.sync().await;
            self.shared.lock().is_closed = true;
            outcome
        })
    }
}
