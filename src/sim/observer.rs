//! What is seen on the disks of all machines while they are written.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::client::value_id;
use super::history::ValueId;
use crate::node::record_of_hint;
use crate::protocol::causality::{Context, Dot, Record};
use crate::protocol::cluster::ClusterState;
use crate::storage::schema::{MetaKey, parse_hint_key, parse_record_key};
use crate::storage::{Batch, Change, Space, frame};
use crate::types::{KeyPath, NodeId};

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
    /// The latest of them.
    latest: Option<ClusterState>,
    /// Who has persisted a state.
    formed: BTreeSet<usize>,
    batches: u64,
    /// The same, by node.
    by_node: BTreeMap<usize, u64>,
    contradictions: Vec<String>,
    /// What was stripped, by key: nothing else is deleted for good. By husks, as what else was queued
    /// for a disk may never have come there.
    purged: BTreeMap<KeyPath, Context>,
    /// The last husk of a key on a node.
    husks: BTreeMap<(usize, KeyPath), Context>,
    /// What was deleted for good, behind a fence, by key.
    deleted: BTreeMap<KeyPath, Context>,
    risen: Vec<String>,
    /// In which batch a version first came to a node.
    arrivals: BTreeMap<(usize, Dot), u64>,
    /// In which batch a node last wrote a hint.
    hints: BTreeMap<(usize, NodeId, KeyPath), u64>,
    skipped_hints: Vec<String>,
}

impl Observer {
    /// A batch was queued on a machine's disk.
    pub fn saw(&self, node: usize, batch: &Batch) {
        let mut state = self.lock();
        state.batches += u64::from(!batch.is_empty());
        *state.by_node.entry(node).or_default() += u64::from(!batch.is_empty());
        let is_quarantine = batch
            .changes()
            .iter()
            .any(|change| matches!(change, Change::Put { space: Space::Quarantine, .. }));
        for change in batch.changes() {
            match change {
                Change::Put { space: Space::Records, key, value } => state.record(node, key, value),
                Change::Delete { space: Space::Records, key } if !is_quarantine => {
                    state.delete(node, key);
                }
                Change::Put { space: Space::Hints, key, value } => state.hint(node, key, value),
                Change::Put { space: Space::Meta, key, value }
                    if *key == MetaKey::ClusterState.to_bytes() =>
                {
                    state.formed.insert(node);
                    state.persisted(node, value);
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

    /// The latest state that was persisted anywhere.
    pub fn latest_state(&self) -> Option<ClusterState> {
        self.lock().latest.clone()
    }

    /// How many machines have persisted a cluster state.
    pub fn formed(&self) -> usize {
        self.lock().formed.len()
    }

    /// How many batches that change something were queued on a machine's disk.
    pub fn batches_of(&self, node: usize) -> u64 {
        self.lock().by_node.get(&node).copied().unwrap_or_default()
    }

    /// What was deleted for good of each key.
    pub fn purged(&self) -> BTreeMap<KeyPath, Context> {
        self.lock().purged.clone()
    }

    /// Values that came to a disk after they had been deleted for good.
    pub fn risen(&self) -> Vec<String> {
        self.lock().risen.clone()
    }

    /// A node says that it keeps a write for a replica that did not take it.
    pub fn untaken(&self, node: usize, target: &NodeId, path: &KeyPath, dot: Dot) {
        let mut state = self.lock();
        let arrival = state.arrivals.get(&(node, dot)).copied();
        let hint = state.hints.get(&(node, target.clone(), path.clone())).copied();
        if arrival > hint {
            let text = format!("node-{} keeps no hint of {path:?} {dot} for {target}", node + 1);
            state.skipped_hints.push(text);
        }
    }

    /// Writes that were said to be kept for a replica, and were not.
    pub fn skipped_hints(&self) -> Vec<String> {
        self.lock().skipped_hints.clone()
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
    fn persisted(&mut self, node: usize, value: &Bytes) {
        if self.states.insert(value.clone(), node).is_some() {
            return;
        }
        let state: ClusterState =
            frame::decode(value, u8::MAX).expect("nodes persist whole states");
        let version = |state: &ClusterState| (state.recovery, state.epoch);
        if self.latest.as_ref().is_none_or(|latest| version(latest) < version(&state)) {
            self.latest = Some(state);
        }
    }

    fn hint(&mut self, node: usize, key: &Bytes, value: &Bytes) {
        let (target, _, path) = parse_hint_key(key).expect("nodes write keys of the schema");
        if let Some(record) = record_of_hint(value) {
            // A version may come no further: the next write through this node replaces it here.
            self.versions_of(&path, &whole(&record));
        }
        if let Some(target) = target {
            self.hints.insert((node, target, path), self.batches);
        }
    }

    /// A husk was deleted.
    fn delete(&mut self, node: usize, key: &Bytes) {
        let (_, path) = parse_record_key(key).expect("nodes write keys of the schema");
        if let Some(context) = self.husks.remove(&(node, path.clone())) {
            self.deleted.entry(path).or_default().join(&context);
        }
    }

    fn record(&mut self, node: usize, key: &Bytes, value: &Bytes) {
        let (_, path) = parse_record_key(key).expect("nodes write keys of the schema");
        let record = whole(value);
        if record.is_husk() {
            self.purged.entry(path.clone()).or_default().join(record.context());
            self.husks.insert((node, path.clone()), record.context().clone());
        }
        let deleted = self.deleted.get(&path);
        for version in record.live() {
            if deleted.is_some_and(|deleted| deleted.contains(version.dot())) {
                let dot = version.dot();
                self.risen.push(format!("{path:?}: {dot} came back to node-{}", node + 1));
            }
        }
        for dot in record.dots() {
            self.arrivals.entry((node, dot)).or_insert(self.batches);
        }
        self.versions_of(&path, &record);
    }

    fn versions_of(&mut self, path: &KeyPath, record: &Record) {
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

fn whole(stored: &Bytes) -> Record {
    Record::from_stored_bytes(stored.clone()).expect("nodes write whole records")
}
