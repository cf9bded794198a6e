//! What is seen on the disks of all machines while they are written.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::client::value_id;
use super::history::ValueId;
use crate::protocol::causality::{Dot, Record};
use crate::storage::schema::{MetaKey, parse_record_key};
use crate::storage::{Batch, Change, Space};
use crate::types::KeyPath;

/// A version that came to some disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeenVersion {
    /// What it holds; `None`: a tombstone.
    pub value: Option<ValueId>,
    checksum: u64,
}

/// Versions by key and dot.
pub type SeenVersions = BTreeMap<KeyPath, BTreeMap<Dot, SeenVersion>>;

/// See the module's head.
#[derive(Debug, Default)]
pub struct Observer {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    versions: SeenVersions,
    states: BTreeMap<Bytes, usize>,
    /// Who has persisted a state.
    formed: BTreeSet<usize>,
    batches: u64,
    contradictions: Vec<String>,
}

impl Observer {
    /// A batch was queued on a machine's disk.
    pub fn saw(&self, node: usize, batch: &Batch) {
        let mut state = self.lock();
        state.batches += u64::from(!batch.is_empty());
        for change in batch.changes() {
            match change {
                Change::Put { space: Space::Records, key, value } => state.record(key, value),
                Change::Put { space: Space::Meta, key, value }
                    if *key == MetaKey::ClusterState.to_bytes() =>
                {
                    state.formed.insert(node);
                    state.states.insert(value.clone(), node);
                }
                _ => {}
            }
        }
    }

    /// Every version that ever came to a disk.
    pub fn versions(&self) -> SeenVersions {
        self.lock().versions.clone()
    }

    /// Every cluster state that was persisted, with a node that did.
    pub fn states(&self) -> Vec<(Bytes, usize)> {
        self.lock().states.iter().map(|(state, node)| (state.clone(), *node)).collect()
    }

    /// How many machines have persisted a cluster state.
    pub fn formed(&self) -> usize {
        self.lock().formed.len()
    }

    /// How many batches that change something were queued.
    pub fn batches(&self) -> u64 {
        self.lock().batches
    }

    /// One dot with two values, wherever that was seen.
    pub fn contradictions(&self) -> Vec<String> {
        self.lock().contradictions.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn record(&mut self, key: &Bytes, value: &Bytes) {
        let (_, path) = parse_record_key(key).expect("nodes write keys of the schema");
        let record = Record::from_stored_bytes(value.clone()).expect("nodes write whole records");
        let known = self.versions.entry(path.clone()).or_default();
        for version in record.versions() {
            let seen = SeenVersion { value: value_id(version), checksum: version.checksum() };
            let first = *known.entry(version.dot()).or_insert(seen);
            if first != seen {
                let dot = version.dot();
                self.contradictions
                    .push(format!("{path:?}: {dot} stands for {first:?} and for {seen:?}"));
            }
        }
    }
}
