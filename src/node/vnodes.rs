//! The vnodes of a node: who mints under which actor, from which floor, and whether all of the
//! vnode's data is there (correctness, section 2 "When the actor is retired", section 3).
//!
//! An actor is persisted and fsynced before its first dot. It is valid only while it was drawn in
//! the present *era*: an unclean stop begins a new era and so retires all of them at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::directory::{Directory, DirectoryError};
use super::seams::Randomness;
use crate::storage::schema::{parse_vnode_key, vnode_key};
use crate::storage::{Batch, CommitError, Space, Store, Syncing, frame};
use crate::types::{ActorId, BootNumber, PurgeNumber, VnodeId};

/// The format of [`Meta`]. Format 1 had no purge numbers.
const VNODE_FORMAT: u8 = 2;

/// What is persisted of a vnode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Meta {
    /// Who mints here, and since which start.
    actor: Option<(ActorId, BootNumber)>,
    /// The highest counter of the actor that a purged record held.
    floor: u64,
    /// Acknowledged data may be missing.
    is_incomplete: bool,
    /// What was read under a lower one is refused.
    purge: PurgeNumber,
    /// The highest number that this node has said it will go on to.
    promised: PurgeNumber,
}

impl Meta {
    fn decode(value: &[u8]) -> Result<Self, frame::FrameError> {
        if value.first() != Some(&1) {
            return frame::decode(value, VNODE_FORMAT);
        }
        let (actor, floor, is_incomplete) = frame::decode(value, 1)?;
        Ok(Self { actor, floor, is_incomplete, ..Self::default() })
    }
}

/// How the number under which a record was read stands to a vnode's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PurgeStanding {
    /// The record is welcome.
    Current,
    /// It may be older than what was purged.
    Stale,
    /// The vnode is to go on to that number; it has promised to.
    Ahead,
    /// The vnode never promised that: it has lost state.
    Unpromised,
}

/// Who mints, and from where it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Minter {
    pub(super) actor: ActorId,
    pub(super) floor: u64,
}

/// Why an actor is retired; the name is the metric's label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Retirement {
    UncleanStop,
    FailedBatch,
    CorruptRecord,
    LostHistory,
}

impl Retirement {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::UncleanStop => "unclean-stop",
            Self::FailedBatch => "failed-batch",
            Self::CorruptRecord => "corrupt-record",
            Self::LostHistory => "lost-history",
        }
    }
}

/// All vnodes of a node that were ever minted at or found incomplete.
#[derive(Debug)]
pub(super) struct Vnodes {
    boot: BootNumber,
    metas: Mutex<BTreeMap<VnodeId, Meta>>,
    /// The purge numbers that were entered before this run.
    purges_before: BTreeMap<VnodeId, PurgeNumber>,
    /// Counts how often anything was found incomplete: mending that began before the last time
    /// proves nothing.
    findings: AtomicU64,
    /// Held while a vnode's persisted part changes, so that changes reach the store in order.
    changing: tokio::sync::Mutex<()>,
}

impl Vnodes {
    /// Reads what is persisted; actors from before `era` were retired.
    pub(super) async fn load(
        directory: Directory<'_>,
        boot: BootNumber,
        era: BootNumber,
    ) -> Result<Self, DirectoryError> {
        let mut metas = BTreeMap::new();
        for (key, value) in directory.all(Space::Vnodes).await? {
            let vnode = parse_vnode_key(&key).ok_or(frame::FrameError::Malformed)?;
            let mut meta = Meta::decode(&value)?;
            if meta.actor.is_some_and(|(_, since)| since < era) {
                meta.actor = None;
                meta.floor = 0;
            }
            metas.insert(vnode, meta);
        }
        let purges_before = metas.iter().map(|(vnode, meta)| (*vnode, meta.purge)).collect();
        Ok(Self {
            boot,
            metas: Mutex::new(metas),
            purges_before,
            findings: AtomicU64::new(0),
            changing: tokio::sync::Mutex::default(),
        })
    }

    /// Who mints at this vnode; draws and persists an actor where there is none.
    pub(super) async fn minter(
        &self,
        vnode: VnodeId,
        store: &dyn Store,
        random: &Randomness,
    ) -> Result<Minter, CommitError> {
        if let Some(minter) = self.current(vnode) {
            return Ok(minter);
        }
        let changing = self.changing.lock().await;
        if let Some(minter) = self.current(vnode) {
            return Ok(minter);
        }
        let actor = ActorId::new(random.u64());
        let draw = |meta: &mut Meta| (meta.actor, meta.floor) = (Some((actor, self.boot)), 0);
        self.change(&changing, vnode, store, draw).await?;
        Ok(Minter { actor, floor: 0 })
    }

    /// Who mints at this vnode, if there is one.
    pub(super) fn current(&self, vnode: VnodeId) -> Option<Minter> {
        let meta = self.meta(vnode);
        meta.actor.map(|(actor, _)| Minter { actor, floor: meta.floor })
    }

    /// The next mint draws a new actor. Says whether there was one. In memory only: the caller
    /// makes sure that this run does not end as a clean one, or persists what follows.
    pub(super) fn retire(&self, vnode: VnodeId) -> bool {
        self.with(|metas| {
            let meta = metas.entry(vnode).or_default();
            meta.floor = 0;
            meta.actor.take().is_some()
        })
    }

    /// The next mint draws a new actor, also after a restart: some of the vnode's history is about to
    /// be dropped. Fsynced.
    pub(super) async fn retire_for_good(
        &self,
        vnode: VnodeId,
        store: &dyn Store,
    ) -> Result<(), CommitError> {
        if self.current(vnode).is_none() {
            return Ok(());
        }
        let changing = self.changing.lock().await;
        self.change(&changing, vnode, store, |meta| (meta.actor, meta.floor) = (None, 0)).await
    }

    /// Every vnode draws a new actor at its next mint; how many had one. The caller has persisted
    /// the new era.
    pub(super) fn retire_all(&self) -> usize {
        self.with(|metas| {
            let had_one = metas.values_mut().filter_map(|meta| {
                meta.floor = 0;
                meta.actor.take()
            });
            had_one.count()
        })
    }

    /// Whether acknowledged data may be missing.
    pub(super) fn is_incomplete(&self, vnode: VnodeId) -> bool {
        self.meta(vnode).is_incomplete
    }

    /// The vnodes where acknowledged data may be missing.
    pub(super) fn incomplete(&self) -> Vec<VnodeId> {
        self.with(|metas| {
            let incomplete = metas.iter().filter(|(_, meta)| meta.is_incomplete);
            incomplete.map(|(vnode, _)| *vnode).collect()
        })
    }

    /// Marks vnodes as incomplete: at once in memory, fsynced when it returns.
    pub(super) async fn mark_incomplete(
        &self,
        vnodes: impl IntoIterator<Item = VnodeId>,
        store: &dyn Store,
    ) -> Result<(), CommitError> {
        let marked: Vec<VnodeId> = self.with(|known| {
            self.findings.fetch_add(1, Ordering::SeqCst);
            let mark = |vnode| {
                known.entry(vnode).or_default().is_incomplete = true;
                vnode
            };
            vnodes.into_iter().map(mark).collect()
        });
        let _changing = self.changing.lock().await;
        let metas: Vec<(VnodeId, Meta)> =
            marked.into_iter().map(|vnode| (vnode, self.meta(vnode))).collect();
        persist(store, &metas).await
    }

    /// To be handed to [`Vnodes::mark_complete`] by what begins to mend now.
    pub(super) fn findings(&self) -> u64 {
        self.findings.load(Ordering::SeqCst)
    }

    /// Marks a vnode as complete, fsynced first, unless something was found incomplete since
    /// `findings`. Says whether it is complete now.
    pub(super) async fn mark_complete(
        &self,
        vnode: VnodeId,
        findings: u64,
        store: &dyn Store,
    ) -> Result<bool, CommitError> {
        let _changing = self.changing.lock().await;
        if self.findings() != findings {
            return Ok(false);
        }
        persist(store, &[(vnode, Meta { is_incomplete: false, ..self.meta(vnode) })]).await?;
        let is_still_so = self.with(|known| {
            let is_still_so = self.findings() == findings;
            if is_still_so {
                known.entry(vnode).or_default().is_incomplete = false;
            }
            is_still_so
        });
        if !is_still_so {
            // Found incomplete while that was being written: the mark goes back to the disk.
            persist(store, &[(vnode, self.meta(vnode))]).await?;
        }
        Ok(is_still_so)
    }

    /// Something was found missing that marks no vnode: reads that are under way do not count.
    pub(super) fn note_finding(&self) {
        self.findings.fetch_add(1, Ordering::SeqCst);
    }

    /// The number under which this vnode's records are read.
    pub(super) fn purge_number(&self, vnode: VnodeId) -> PurgeNumber {
        self.meta(vnode).purge
    }

    /// The number under which an earlier run may have told others what it kept for them.
    pub(super) fn purge_before(&self, vnode: VnodeId) -> PurgeNumber {
        self.purges_before.get(&vnode).copied().unwrap_or_default()
    }

    /// The highest number that was promised for this vnode.
    pub(super) fn promised_purge(&self, vnode: VnodeId) -> PurgeNumber {
        let meta = self.meta(vnode);
        meta.promised.max(meta.purge)
    }

    /// A vnode that is being taken in takes over the numbers of one that holds it: it has promised
    /// nothing itself yet. Fsynced, where that is news.
    pub(super) async fn take_purge(
        &self,
        vnode: VnodeId,
        number: PurgeNumber,
        promised: PurgeNumber,
        store: &dyn Store,
    ) -> Result<(), CommitError> {
        if number <= self.purge_number(vnode) && promised <= self.promised_purge(vnode) {
            return Ok(());
        }
        let changing = self.changing.lock().await;
        let take = |meta: &mut Meta| {
            meta.purge = meta.purge.max(number);
            meta.promised = meta.promised.max(promised).max(number);
        };
        self.change(&changing, vnode, store, take).await
    }

    /// The vnodes of which anything is known.
    pub(super) fn known(&self) -> BTreeSet<VnodeId> {
        self.with(|metas| metas.keys().copied().collect())
    }

    /// Whether anything is known of a vnode.
    pub(super) fn knows(&self, vnode: VnodeId) -> bool {
        self.with(|metas| metas.contains_key(&vnode))
    }

    /// A vnode was dropped, on disk: its actor never mints again.
    pub(super) fn forget(&self, vnode: VnodeId) {
        self.with(|metas| metas.remove(&vnode));
    }

    /// How a record that was read under this number stands to the vnode.
    pub(super) fn purge_standing(&self, vnode: VnodeId, number: PurgeNumber) -> PurgeStanding {
        let Meta { purge, promised, .. } = self.meta(vnode);
        if number == purge {
            PurgeStanding::Current
        } else if number < purge {
            PurgeStanding::Stale
        } else if number <= promised {
            PurgeStanding::Ahead
        } else {
            PurgeStanding::Unpromised
        }
    }

    /// Promises to go on to a number, fsynced, unless that or a greater one was promised before.
    pub(super) async fn promise_purge(
        &self,
        vnode: VnodeId,
        number: PurgeNumber,
        store: &dyn Store,
    ) -> Result<bool, CommitError> {
        let changing = self.changing.lock().await;
        if number <= self.promised_purge(vnode) {
            return Ok(false);
        }
        self.change(&changing, vnode, store, |meta| meta.promised = number).await?;
        Ok(true)
    }

    /// Goes on to a number, fsynced; at once where the vnode is there already or beyond.
    pub(super) async fn enter_purge(
        &self,
        vnode: VnodeId,
        number: PurgeNumber,
        store: &dyn Store,
    ) -> Result<(), CommitError> {
        if number <= self.purge_number(vnode) {
            return Ok(());
        }
        let changing = self.changing.lock().await;
        let enter = |meta: &mut Meta| {
            meta.purge = meta.purge.max(number);
            meta.promised = meta.promised.max(number);
        };
        self.change(&changing, vnode, store, enter).await
    }

    /// Raises the floor of an actor to this counter, fsynced; in memory first, where it may be too
    /// high but never too low. Nothing, where another actor mints by now.
    pub(super) async fn raise_floor(
        &self,
        vnode: VnodeId,
        actor: ActorId,
        counter: u64,
        store: &dyn Store,
    ) -> Result<(), CommitError> {
        let raise = |meta: &mut Meta| {
            if meta.actor.is_some_and(|(current, _)| current == actor) {
                meta.floor = meta.floor.max(counter);
            }
        };
        self.with(|metas| raise(metas.entry(vnode).or_default()));
        let changing = self.changing.lock().await;
        self.change(&changing, vnode, store, raise).await
    }

    /// Changes what is persisted of a vnode: on disk first, then in memory.
    async fn change(
        &self,
        _changing: &tokio::sync::MutexGuard<'_, ()>,
        vnode: VnodeId,
        store: &dyn Store,
        change: impl Fn(&mut Meta),
    ) -> Result<(), CommitError> {
        let mut meta = self.meta(vnode);
        change(&mut meta);
        persist(store, &[(vnode, meta)]).await?;
        // What changed in memory alone meanwhile stays.
        self.with(|metas| change(metas.entry(vnode).or_default()));
        Ok(())
    }

    fn meta(&self, vnode: VnodeId) -> Meta {
        self.with(|metas| metas.get(&vnode).copied().unwrap_or_default())
    }

    fn with<T>(&self, work: impl FnOnce(&mut BTreeMap<VnodeId, Meta>) -> T) -> T {
        work(&mut self.metas.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

async fn persist(store: &dyn Store, metas: &[(VnodeId, Meta)]) -> Result<(), CommitError> {
    let mut batch = Batch::default();
    for (vnode, meta) in metas {
        put(&mut batch, *vnode, meta);
    }
    store.commit(batch, Syncing::Always).await
}

fn put(batch: &mut Batch, vnode: VnodeId, meta: &Meta) {
    batch.put(Space::Vnodes, vnode_key(vnode), frame::encode(VNODE_FORMAT, meta));
}
