//! The hash trees of a node's vnodes, in memory; made from `Space::Trees` at the start, and changed
//! with each record once its batch is there (correctness, section 5).
//!
//! The digests on disk change in the record's own batch, so they are right after any crash. If a
//! batch's outcome is unknown, what became of the record is looked at under the key's lock; where
//! that can't be told, the tree is *in doubt* and is made anew before it is compared again.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use foldhash::HashMap;

use super::Node;
use super::directory::{Directory, DirectoryError};
use super::imprint::{Change, Deleted, DeletedKind, Imprint, decode_digest};
use super::instruments::PlantedBug;
use super::pace::Pace;
use super::replica::Place;
use crate::protocol::causality::Summary;
use crate::protocol::merkle::{LeafIndex, Shape, Tree, entry_hash};
use crate::storage::schema::{leaf_range, parse_record_key, parse_tree_key, vnode_range};
use crate::storage::{Batch, KeyRange, ReadError, ScanLimit, Space, Store, Syncing};
use crate::types::{KeyPath, VnodeId};

/// How much is read at once.
const PAGE: ScanLimit = ScanLimit { entries: 16_384, bytes: 4 << 20 };

/// How many leaves are made anew at once. No change of a record begins while those under way end, once for
/// each so many.
const REMADE_TOGETHER: usize = 256;

/// See the module's head.
#[derive(Debug, Default)]
pub(super) struct Trees {
    trees: Mutex<HashMap<VnodeId, Tree>>,
    in_doubt: Mutex<BTreeSet<VnodeId>>,
    /// Those that are being made anew, and are in doubt until they are.
    being_remade: Mutex<BTreeSet<VnodeId>>,
    deleted: Mutex<HashMap<VnodeId, DeletedCounts>>,
    /// What is on disk is in here.
    are_loaded: AtomicBool,
}

/// How many records of a vnode are deleted ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct DeletedCounts {
    pub(super) tombstones: i64,
    pub(super) husks: i64,
}

impl Trees {
    /// Changes a tree, and the counts of deleted records.
    pub(super) fn change(&self, shape: Shape, place: &Place, change: Change) {
        let in_leaf = change.of_leaf(place);
        if in_leaf != 0 {
            let leaf = place.leaf(shape);
            self.with(place.vnode, shape, |tree| tree.change(leaf, in_leaf));
        }
        self.count(place.vnode, change.before, -1);
        self.count(place.vnode, change.after, 1);
    }

    /// Works on one tree.
    pub(super) fn with<T>(
        &self,
        vnode: VnodeId,
        shape: Shape,
        work: impl FnOnce(&mut Tree) -> T,
    ) -> T {
        work(self.lock().entry(vnode).or_insert_with(|| Tree::empty(shape)))
    }

    /// The roots of some vnodes.
    pub(super) fn roots(&self, vnodes: &[VnodeId]) -> Vec<u64> {
        let trees = self.lock();
        vnodes.iter().map(|vnode| trees.get(vnode).map_or(0, Tree::root)).collect()
    }

    /// The root of a vnode; `None` while it may be another one than the records on disk make.
    pub(super) fn known_root(&self, vnode: VnodeId) -> Option<u64> {
        let is_known = || self.are_loaded() && !self.is_in_doubt(vnode);
        let root = is_known().then(|| self.roots(&[vnode])[0]);
        root.filter(|_| is_known())
    }

    /// How many records here are deleted ones.
    pub(super) fn deleted(&self) -> DeletedCounts {
        self.deleted_by_vnode().values().fold(DeletedCounts::default(), |sum, counts| {
            DeletedCounts {
                tombstones: sum.tombstones + counts.tombstones,
                husks: sum.husks + counts.husks,
            }
        })
    }

    /// What a vnode's tree says is no longer known to be true.
    pub(super) fn doubt(&self, vnode: VnodeId) {
        self.doubts().insert(vnode);
    }

    /// A vnode was dropped.
    pub(super) fn forget(&self, vnode: VnodeId) {
        let is_being_read = !self.are_loaded() || self.being_remade().contains(&vnode);
        self.lock().remove(&vnode);
        if is_being_read {
            // What comes of that may have been there before.
            self.doubt(vnode);
        } else {
            self.doubts().remove(&vnode);
        }
        self.deleted_by_vnode().remove(&vnode);
    }

    /// Whether what is on disk is in here.
    pub(super) fn are_loaded(&self) -> bool {
        self.are_loaded.load(Ordering::SeqCst)
    }

    /// Once they are loaded, all vnodes that hold anything, and others.
    pub(super) fn known(&self) -> BTreeSet<VnodeId> {
        let mut known: BTreeSet<VnodeId> = self.lock().keys().copied().collect();
        // Husks are in no tree, and damaged digests neither.
        known.extend(self.deleted_by_vnode().keys());
        known.extend(self.doubts().iter());
        known
    }

    /// Whether a vnode's tree may be wrong.
    pub(super) fn is_in_doubt(&self, vnode: VnodeId) -> bool {
        // Under both locks: what goes from one set to the other is in one of them.
        let doubts = self.doubts();
        doubts.contains(&vnode) || self.being_remade().contains(&vnode)
    }

    /// The vnodes whose trees have to be made anew.
    pub(super) fn in_doubt(&self) -> Vec<VnodeId> {
        self.doubts().iter().copied().collect()
    }

    fn count(&self, vnode: VnodeId, imprint: Imprint, by: i64) {
        let Some((kind, _)) = imprint.deleted() else { return };
        let mut deleted = self.deleted_by_vnode();
        let counts = deleted.entry(vnode).or_default();
        match kind {
            DeletedKind::Tombstones => counts.tombstones += by,
            DeletedKind::Husk => counts.husks += by,
        }
    }

    fn deleted_by_vnode(&self) -> MutexGuard<'_, HashMap<VnodeId, DeletedCounts>> {
        self.deleted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<VnodeId, Tree>> {
        self.trees.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn doubts(&self) -> MutexGuard<'_, BTreeSet<VnodeId>> {
        self.in_doubt.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn being_remade(&self) -> MutexGuard<'_, BTreeSet<VnodeId>> {
        self.being_remade.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the trees from the digests on disk. Entries that are damaged put their tree in doubt.
    pub(super) async fn load(&self, store: &dyn Store, shape: Shape) -> Result<(), ReadError> {
        let mut range = KeyRange::all();
        loop {
            let page = store.scan(Space::Trees, range.clone(), PAGE).await?;
            for (key, value) in &page.entries {
                let Ok((vnode, leaf, path)) = parse_tree_key(key) else { continue };
                match decode_digest(key, value) {
                    Some(digest) if (leaf as usize) < shape.leaves() => {
                        let change = entry_hash(&path.to_bytes(), digest);
                        self.with(vnode, shape, |tree| tree.change(LeafIndex(leaf), change));
                    }
                    _ => self.doubt(vnode),
                }
            }
            match page.next {
                Some(next) => range = range.resume_at(next),
                None => break,
            }
        }
        self.deleted_by_vnode().clear();
        self.count_deleted(store, KeyRange::all()).await?;
        self.are_loaded.store(true, Ordering::SeqCst);
        Ok(())
    }

    /// Counts the deleted records of a vnode again, after some were dropped. While nothing of it changes.
    pub(super) async fn count_deleted_anew(
        &self,
        vnode: VnodeId,
        store: &dyn Store,
    ) -> Result<(), ReadError> {
        self.deleted_by_vnode().remove(&vnode);
        self.count_deleted(store, vnode_range(vnode)).await
    }

    /// Adds the deleted records of a range to the counts.
    async fn count_deleted(&self, store: &dyn Store, mut range: KeyRange) -> Result<(), ReadError> {
        loop {
            let page = store.scan(Space::Deletes, range.clone(), PAGE).await?;
            for (key, value) in &page.entries {
                let Ok((vnode, _)) = parse_record_key(key) else { continue };
                match Deleted::decode(value) {
                    Ok(Deleted { kind: DeletedKind::Tombstones, digest, .. }) => {
                        self.count(vnode, Imprint::Tombstones(digest), 1);
                    }
                    Ok(Deleted { digest, .. }) => self.count(vnode, Imprint::Husk(digest), 1),
                    Err(_) => self.doubt(vnode),
                }
            }
            match page.next {
                Some(next) => range = range.resume_at(next),
                None => return Ok(()),
            }
        }
    }
}

/// What a scrub of one vnode has found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Scrubbed {
    pub(super) records: u64,
    /// Records that did not match their checksum.
    pub(super) corrupt: u64,
    /// Digests that did not match their record.
    pub(super) mismatched: u64,
}

impl Node {
    /// The shape of this cluster's trees.
    pub(super) fn shape(&self) -> Shape {
        let layout = self.layout().expect("trees are of a layout");
        Shape::of(layout.state.partitions)
    }

    /// Makes the trees; where the directory is of a release without them, from its records.
    pub(super) async fn load_trees(self: &Arc<Self>) -> Result<(), DirectoryError> {
        let shape = self.shape();
        let directory = Directory::new(&*self.store);
        if !directory.has_trees().await? {
            self.make_digests(shape).await?;
            directory.note_trees().await?;
        }
        self.trees.load(&*self.store, shape).await?;
        Ok(())
    }

    /// A record's batch has failed with an unknown outcome: has the record changed? Under the key's
    /// lock, so that nothing else changes it.
    pub(super) async fn settle(self: &Arc<Self>, place: &Place, change: Change) {
        match self.imprint(place).await {
            Some(found) if found == change.after => self.change_tree(place, change),
            Some(found) if found == change.before => {}
            _ => self.trees.doubt(place.vnode),
        }
    }

    /// A record has changed.
    pub(super) fn change_tree(&self, place: &Place, change: Change) {
        if self.instruments.has(PlantedBug::TreeNotUpdated) && change.before != Imprint::Absent {
            return;
        }
        self.trees.change(self.shape(), place, change);
    }

    /// Compares every record of a vnode with its checksum and its digest; what is wrong is put
    /// right or quarantined. The tree is made anew.
    pub(super) async fn scrub_vnode(
        self: &Arc<Self>,
        vnode: VnodeId,
        pace: &mut Pace,
    ) -> Result<Scrubbed, ReadError> {
        let mut found = Scrubbed::default();
        let mut range = vnode_range(vnode);
        loop {
            let page = self.store.scan(Space::Records, range.clone(), PAGE).await?;
            let place = |(key, stored): (Bytes, Bytes)| {
                let (_, path) = parse_record_key(&key).ok()?;
                Some((Place::new(vnode, path), stored))
            };
            let (places, stored): (Vec<Place>, Vec<Bytes>) =
                page.entries.into_iter().filter_map(place).unzip();
            let digests = self.stored_digests(&places).await?;
            for ((place, stored), digest) in places.iter().zip(&stored).zip(digests) {
                self.scrub_record(place, stored, digest, &mut found).await?;
            }
            found.records += places.len() as u64;
            pace.rest(stored.iter().map(|stored| stored.len() as u64).sum()).await;
            match page.next {
                Some(next) => range = range.resume_at(next),
                None => break,
            }
        }
        self.drop_orphans(vnode, &mut found).await?;
        Ok(found)
    }

    async fn scrub_record(
        self: &Arc<Self>,
        place: &Place,
        stored: &Bytes,
        digest: Option<u64>,
        found: &mut Scrubbed,
    ) -> Result<(), ReadError> {
        if self.drop_if_left_over(place).await {
            return Ok(());
        }
        let is_right = Summary::from_stored_bytes(stored)
            .is_ok_and(|summary| Imprint::of(&summary).in_tree() == digest);
        if is_right {
            return Ok(());
        }
        let (node, place) = (Arc::clone(self), place.clone());
        let looked = self.tasks.in_foreground(async move { node.look_again(&place).await }).await?;
        found.corrupt += looked.corrupt;
        found.mismatched += looked.mismatched;
        Ok(())
    }

    /// Looks at a record in which something seemed wrong, and puts that right. It may have changed
    /// between two looks: only what is found under the key's lock counts.
    async fn look_again(self: &Arc<Self>, place: &Place) -> Result<Scrubbed, ReadError> {
        let mut found = Scrubbed::default();
        let guard = self.locks.lock(place.key()).await;
        match self.imprint(place).await {
            None => {
                drop(guard);
                if !self.is_corrupt(place).await {
                    // It may be well: the store failed, or a newer release wrote it.
                    return Ok(found);
                }
                found.corrupt += 1;
                self.note_corrupt(place.vnode);
                self.drop_if_corrupt(place).await;
            }
            Some(imprint) => {
                let there = self.imprint_in_indexes(place).await?;
                if there != imprint {
                    found.mismatched += 1;
                    self.metrics.alarm("wrong-tree");
                    self.trees.doubt(place.vnode);
                    self.put_right(place, Change { before: there, after: imprint }).await;
                }
                drop(guard);
            }
        }
        Ok(found)
    }

    /// Writes the indexes of a record that has others. Under the key's lock.
    async fn put_right(self: &Arc<Self>, place: &Place, change: Change) {
        let mut batch = Batch::default();
        change.add_to(&mut batch, place, self.shape(), self.clock.wall_ms());
        if let Err(error) = self.store.commit(batch, Syncing::AsConfigured).await {
            tracing::error!(key = ?place.path, %error, "a wrong digest could not be put right");
        }
    }

    /// Removes digests of a vnode whose records are not there; and makes its tree anew if it is in
    /// doubt.
    async fn drop_orphans(
        self: &Arc<Self>,
        vnode: VnodeId,
        found: &mut Scrubbed,
    ) -> Result<(), ReadError> {
        let mut range = vnode_range(vnode);
        loop {
            let page = self.store.scan(Space::Trees, range.clone(), PAGE).await?;
            for (key, _) in &page.entries {
                let Ok((_, _, path)) = parse_tree_key(key) else { continue };
                let place = Place::new(vnode, path);
                if self.store.get(Space::Records, place.key().clone()).await?.is_some() {
                    continue;
                }
                let node = Arc::clone(self);
                let dropping = async move { node.drop_if_orphan(&place).await };
                found.mismatched += u64::from(self.tasks.in_foreground(dropping).await?);
            }
            match page.next {
                Some(next) => range = range.resume_at(next),
                None => return Ok(()),
            }
        }
    }

    /// Removes a digest if its record is not there; says whether that was so.
    async fn drop_if_orphan(self: &Arc<Self>, place: &Place) -> Result<bool, ReadError> {
        let _guard = self.locks.lock(place.key()).await;
        if self.imprint(place).await != Some(Imprint::Absent) {
            return Ok(false);
        }
        let there = self.imprint_in_indexes(place).await?;
        if there == Imprint::Absent {
            return Ok(false);
        }
        self.trees.doubt(place.vnode);
        self.put_right(place, Change { before: there, after: Imprint::Absent }).await;
        Ok(true)
    }

    /// Makes a vnode's tree anew from the digests on disk, while nothing of it changes: the digests
    /// of one leaf after another are read, while no change of a record is half done.
    pub(super) async fn remake_tree(self: &Arc<Self>, vnode: VnodeId) -> Result<(), ReadError> {
        self.trees.being_remade().insert(vnode);
        // Whoever doubts it from now on may mean what was read before.
        self.trees.doubts().remove(&vnode);
        let remade = self.remake_all_leaves(vnode).await;
        if remade.is_err() {
            self.trees.doubt(vnode);
        }
        self.trees.being_remade().remove(&vnode);
        remade
    }

    async fn remake_all_leaves(self: &Arc<Self>, vnode: VnodeId) -> Result<(), ReadError> {
        let shape = self.shape();
        let leaves: Vec<LeafIndex> = (0..shape.leaves() as u32).map(LeafIndex).collect();
        for together in leaves.chunks(REMADE_TOGETHER) {
            self.remake_leaves(vnode, together.to_vec(), shape).await?;
        }
        Ok(())
    }

    /// Replaces leaves by what their digests on disk make; tried again while their keys change.
    async fn remake_leaves(
        self: &Arc<Self>,
        vnode: VnodeId,
        mut leaves: Vec<LeafIndex>,
        shape: Shape,
    ) -> Result<(), ReadError> {
        const TRIES: u32 = 8;
        for _ in 0..TRIES {
            let places: Vec<(VnodeId, LeafIndex)> =
                leaves.iter().map(|leaf| (vnode, *leaf)).collect();
            let before: Vec<u64> = self
                .trees
                .with(vnode, shape, |tree| leaves.iter().map(|leaf| tree.leaf(*leaf)).collect());
            let listed = self.entries_of(&places, usize::MAX).await?;
            // Whoever changes a key holds the gate open until the tree in memory has changed too. Not
            // those of the listed keys alone: one that was just dropped is not among them any more.
            let node = Arc::clone(self);
            // Requests wait meanwhile: not for a thread that gives way to them.
            let ended = async move { drop(node.locks.close_gate().await) };
            self.tasks.in_foreground(ended).await;
            let still = self.entries_of(&places, usize::MAX).await?;
            leaves = self.trees.with(vnode, shape, |tree| {
                let mut changed = Vec::new();
                for (i, leaf) in leaves.iter().enumerate() {
                    let now = tree.leaf(*leaf);
                    if now == before[i] && listed[i] == still[i] {
                        tree.change(*leaf, now ^ leaf_hash(&listed[i]));
                    } else {
                        changed.push(*leaf);
                    }
                }
                changed
            });
            if leaves.is_empty() {
                return Ok(());
            }
            tokio::task::yield_now().await;
        }
        self.trees.doubt(vnode);
        Ok(())
    }

    /// The keys of leaves with their digests, leaf by leaf, until there are so many.
    pub(super) async fn entries_of(
        &self,
        leaves: &[(VnodeId, LeafIndex)],
        enough: usize,
    ) -> Result<Vec<Vec<(KeyPath, u64)>>, ReadError> {
        let ranges = leaves.iter().map(|(vnode, leaf)| leaf_range(*vnode, leaf.0)).collect();
        let read = self.store.scan_each(Space::Trees, ranges, enough).await?;
        let digested = |vnode: VnodeId, (key, value): &(Bytes, Bytes)| {
            let Ok((_, _, path)) = parse_tree_key(key) else { return None };
            let digest = decode_digest(key, value);
            if digest.is_none() {
                self.trees.doubt(vnode);
            }
            Some((path, digest?))
        };
        let listed = leaves.iter().zip(&read).map(|((vnode, _), entries)| {
            entries.iter().filter_map(|entry| digested(*vnode, entry)).collect()
        });
        Ok(listed.collect())
    }

    /// The digests that are kept of some records, damaged ones left out: all of them in one read, since
    /// `Space::Trees` is made to be written.
    pub(super) async fn stored_digests(
        &self,
        places: &[Place],
    ) -> Result<Vec<Option<u64>>, ReadError> {
        let shape = self.shape();
        let ranges = places.iter().map(|place| KeyRange::only(place.tree_key(shape))).collect();
        let read = self.store.scan_each(Space::Trees, ranges, usize::MAX).await?;
        let digest_of = |entries: &Vec<(Bytes, Bytes)>| {
            entries.first().and_then(|(key, value)| decode_digest(key, value))
        };
        Ok(read.iter().map(digest_of).collect())
    }

    /// Writes the digests of all records: for a directory that has none yet.
    async fn make_digests(self: &Arc<Self>, shape: Shape) -> Result<(), DirectoryError> {
        let mut range = KeyRange::all();
        loop {
            let page = self.store.scan(Space::Records, range.clone(), PAGE).await?;
            let mut batch = Batch::default();
            for (key, stored) in &page.entries {
                let (Ok((vnode, path)), Ok(summary)) =
                    (parse_record_key(key), Summary::from_stored_bytes(stored))
                else {
                    continue;
                };
                let change = Change { before: Imprint::Absent, after: Imprint::of(&summary) };
                change.add_to(&mut batch, &Place::new(vnode, path), shape, self.clock.wall_ms());
            }
            if !batch.is_empty() {
                self.store.commit(batch, Syncing::AsConfigured).await?;
            }
            match page.next {
                Some(next) => range = range.resume_at(next),
                None => return Ok(()),
            }
        }
    }
}

/// What the digests of a leaf's keys make of it.
fn leaf_hash(entries: &[(KeyPath, u64)]) -> u64 {
    let of_entry = |(path, digest): &(KeyPath, u64)| entry_hash(&path.to_bytes(), *digest);
    entries.iter().fold(0, |sum, entry| sum ^ of_entry(entry))
}
