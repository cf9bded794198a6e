//! A store in memory, for tests and simulations: deterministic, without threads or clocks.
//!
//! It models what a crash takes: every commit that was not yet synced. With
//! [`Durability::Interval`] nothing syncs by itself; whoever drives the time calls
//! [`Store::sync`].

use std::collections::BTreeMap;
use std::future::ready;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::range::PageBuilder;
use super::{
    Batch, BoxFuture, Cached, Change, CommitError, Durability, EngineError, KeyRange, Page,
    ReadError, Refusal, ScanLimit, Snapshot, Space, Store, StoreStatistics, Syncing,
};

/// What the next commit is to suffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitFault {
    /// It fails, known to have done nothing.
    NotApplied,
    /// It reports [`CommitError::Unknown`]; the batch is lost.
    UnknownAndLost,
    /// It reports [`CommitError::Unknown`]; the batch stands.
    UnknownButApplied,
}

/// A store in memory.
#[derive(Debug)]
pub struct MemoryStore {
    durability: Durability,
    state: Mutex<State>,
}

/// One map a space. Shared with snapshots: the first write after a snapshot copies the map.
type Maps = [Arc<BTreeMap<Bytes, Bytes>>; Space::ALL.len()];

#[derive(Clone, Debug, Default)]
struct State {
    maps: Maps,
    sequence: u64,
    /// How to take back the unsynced batches, oldest first.
    unsynced: Vec<Undo>,
    next_fault: Option<CommitFault>,
    /// Pages of what is in it can't be read.
    unreadable: Option<(Space, KeyRange)>,
    closed: bool,
    statistics: StoreStatistics,
}

/// How things stood before a batch.
#[derive(Clone, Debug)]
struct Undo {
    sequence: u64,
    /// What each changed key held, in the order of the changes.
    values: Vec<(Space, Bytes, Option<Bytes>)>,
}

impl MemoryStore {
    /// An empty one.
    pub fn new(durability: Durability) -> Self {
        Self { durability, state: Mutex::default() }
    }

    /// Makes the next commit fail.
    pub fn fail_next_commit(&self, fault: CommitFault) {
        self.lock().next_fault = Some(fault);
    }

    /// Makes every page that holds something of a range unreadable, as a damaged block does; `None`:
    /// all can be read again.
    pub fn make_unreadable(&self, unreadable: Option<(Space, KeyRange)>) {
        self.lock().unreadable = unreadable;
    }

    /// What a restart finds after a power cut at this moment: all that was synced, nothing else.
    /// This store is left as it is.
    pub fn crash(&self) -> Self {
        self.crash_keeping(0)
    }

    /// The same, where so many of the unsynced batches had come to the disk, the oldest first.
    pub fn crash_keeping(&self, unsynced: usize) -> Self {
        let mut state = self.lock().clone();
        state.take_back_unsynced(unsynced);
        let survivor = State { maps: state.maps, sequence: state.sequence, ..State::default() };
        Self { durability: self.durability, state: Mutex::new(survivor) }
    }

    /// How many batches a power cut may take.
    pub fn unsynced(&self) -> usize {
        self.lock().unsynced.len()
    }

    /// Puts other bytes where a value is, as a failing disk would: no batch, no sequence number.
    pub fn damage(&self, space: Space, key: Bytes, value: Bytes) {
        Arc::make_mut(&mut self.lock().maps[space as usize]).insert(key, value);
    }

    /// All that is visible in a space, by key.
    pub fn entries(&self, space: Space) -> Vec<(Bytes, Bytes)> {
        let map = Arc::clone(&self.lock().maps[space as usize]);
        map.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    /// A panic under the lock leaves whole batches only: every change is complete by then.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn commit_now(&self, batch: &Batch, syncing: Syncing) -> Result<(), CommitError> {
        let mut state = self.lock();
        if state.closed {
            return Err(CommitError::CLOSED);
        }
        let fault = state.next_fault.take();
        if matches!(fault, None | Some(CommitFault::UnknownButApplied)) {
            state.apply(batch);
            let is_synced = match syncing {
                Syncing::AsConfigured => self.durability == Durability::Sync,
                Syncing::Later => false,
                Syncing::Always => true,
            };
            if is_synced {
                state.sync();
            }
        }
        fault.map_or(Ok(()), |fault| Err(fault.into_error()))
    }

    fn close_now(&self) -> Result<(), CommitError> {
        let mut state = self.lock();
        if !state.closed {
            state.sync();
            state.closed = true;
        }
        Ok(())
    }

    fn view(&self) -> Result<View, ReadError> {
        let state = self.lock();
        if state.closed { Err(ReadError::Closed) } else { Ok(View(state.maps.clone())) }
    }
}

impl CommitFault {
    fn into_error(self) -> CommitError {
        let cause = EngineError::new(&"a fault was planted");
        match self {
            Self::NotApplied => CommitError::NotApplied { cause: Refusal::QueueFull },
            Self::UnknownAndLost | Self::UnknownButApplied => CommitError::Unknown { cause },
        }
    }
}

impl State {
    fn apply(&mut self, batch: &Batch) {
        self.unsynced.push(Undo { sequence: self.sequence, values: Vec::new() });
        for change in batch.changes() {
            match change {
                Change::Put { space, key, value } => {
                    self.set(*space, key.clone(), Some(value.clone()));
                }
                Change::Delete { space, key } => self.set(*space, key.clone(), None),
                Change::DeleteRange { space, start, end } => {
                    self.delete_range(*space, &KeyRange::new(start.clone(), end.clone()));
                }
            }
        }
        self.sequence += batch.changes().len() as u64;
        self.statistics.batches += 1;
        self.statistics.groups += 1;
        self.statistics.batch_bytes += batch.bytes() as u64;
    }

    fn delete_range(&mut self, space: Space, range: &KeyRange) {
        let map = &self.maps[space as usize];
        let doomed: Vec<Bytes> =
            map.range::<[u8], _>(range.bounds()).map(|(key, _)| key.clone()).collect();
        for key in doomed {
            self.set(space, key, None);
        }
    }

    fn set(&mut self, space: Space, key: Bytes, value: Option<Bytes>) {
        let before = replace(&mut self.maps, space, key.clone(), value);
        let undo = self.unsynced.last_mut().expect("`apply` pushed one for this batch");
        undo.values.push((space, key, before));
    }

    fn sync(&mut self) {
        self.unsynced.clear();
        self.statistics.syncs += 1;
    }

    fn take_back_unsynced(&mut self, kept: usize) {
        while self.unsynced.len() > kept {
            let Some(undo) = self.unsynced.pop() else { return };
            for (space, key, before) in undo.values.into_iter().rev() {
                replace(&mut self.maps, space, key, before);
            }
            self.sequence = undo.sequence;
        }
    }
}

/// Sets or removes a key; returns what it held.
fn replace(maps: &mut Maps, space: Space, key: Bytes, value: Option<Bytes>) -> Option<Bytes> {
    let map = Arc::make_mut(&mut maps[space as usize]);
    match value {
        Some(value) => map.insert(key, value),
        None => map.remove(&key),
    }
}

/// The maps as they were at one moment.
#[derive(Debug)]
struct View(Maps);

impl View {
    fn get(&self, space: Space, key: &[u8]) -> Option<Bytes> {
        self.0[space as usize].get(key).cloned()
    }

    fn scan(&self, space: Space, range: &KeyRange, limit: ScanLimit) -> Page {
        let mut page = PageBuilder::new(limit);
        if !range.is_empty() {
            for (key, value) in self.0[space as usize].range::<[u8], _>(range.bounds()) {
                if !page.push(key.clone(), value.clone()) {
                    break;
                }
            }
        }
        page.finish()
    }
}

impl Store for MemoryStore {
    fn get_cached(&self, space: Space, key: &[u8]) -> Result<Cached, ReadError> {
        let mut state = self.lock();
        if state.closed {
            return Err(ReadError::Closed);
        }
        state.statistics.cache_hits += 1;
        Ok(Cached::Hit(state.maps[space as usize].get(key).cloned()))
    }

    fn get(&self, space: Space, key: Bytes) -> BoxFuture<'_, Result<Option<Bytes>, ReadError>> {
        let answer = self.get_cached(space, &key).map(|cached| match cached {
            Cached::Hit(value) => value,
            Cached::Miss => None,
        });
        Box::pin(ready(answer))
    }

    fn scan(
        &self,
        space: Space,
        range: KeyRange,
        limit: ScanLimit,
    ) -> BoxFuture<'_, Result<Page, ReadError>> {
        let page = self.view().map(|view| view.scan(space, &range, limit));
        let unreadable = self.lock().unreadable.clone();
        let is_in = |page: &Page| {
            let (damaged, range) = unreadable.as_ref()?;
            let is_damaged =
                *damaged == space && page.entries.iter().any(|(key, _)| range.contains(key));
            is_damaged.then_some(())
        };
        let page = page.and_then(|page| match is_in(&page) {
            Some(()) => {
                let cause = EngineError::new(&"a block is damaged");
                Err(ReadError::Corrupt { space, cause })
            }
            None => Ok(page),
        });
        Box::pin(ready(page))
    }

    fn snapshot(&self) -> Arc<dyn Snapshot> {
        Arc::new(MemorySnapshot(self.view()))
    }

    fn commit(
        &self,
        batch: Batch,
        syncing: Syncing,
    ) -> BoxFuture<'static, Result<(), CommitError>> {
        Box::pin(ready(self.commit_now(&batch, syncing)))
    }

    fn sync(&self) -> BoxFuture<'_, Result<(), CommitError>> {
        Box::pin(ready(self.commit_now(&Batch::new(), Syncing::Always)))
    }

    fn last_sequence(&self) -> u64 {
        let state = self.lock();
        if state.closed { 0 } else { state.sequence }
    }

    fn free_bytes(&self) -> std::io::Result<u64> {
        Ok(u64::MAX)
    }

    fn statistics(&self) -> StoreStatistics {
        let state = self.lock();
        let keys: usize = state.maps.iter().map(|map| map.len()).sum();
        StoreStatistics { estimated_keys: keys as u64, ..state.statistics }
    }

    fn close(&self) -> BoxFuture<'_, Result<(), CommitError>> {
        Box::pin(ready(self.close_now()))
    }
}

/// Its reads fail if the store was closed when it was taken.
struct MemorySnapshot(Result<View, ReadError>);

impl MemorySnapshot {
    fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&View) -> T,
    ) -> BoxFuture<'_, Result<T, ReadError>> {
        let answer = self.0.as_ref().map(read).map_err(Clone::clone);
        Box::pin(ready(answer))
    }
}

impl Snapshot for MemorySnapshot {
    fn get(&self, space: Space, key: Bytes) -> BoxFuture<'_, Result<Option<Bytes>, ReadError>> {
        self.read(|view| view.get(space, &key))
    }

    fn scan(
        &self,
        space: Space,
        range: KeyRange,
        limit: ScanLimit,
    ) -> BoxFuture<'_, Result<Page, ReadError>> {
        self.read(|view| view.scan(space, &range, limit))
    }
}
