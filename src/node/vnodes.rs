//! The vnodes of a node: who mints under which actor, from which floor, and whether all of the
//! vnode's data is there (correctness, section 2 "When the actor is retired", section 3).
//!
//! An actor is persisted and fsynced before its first dot. It is valid only while it was drawn in
//! the present *era*: an unclean stop begins a new era and so retires all of them at once.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::directory::{Directory, DirectoryError};
use super::seams::Randomness;
use crate::storage::schema::{parse_vnode_key, vnode_key};
use crate::storage::{Batch, CommitError, Space, Store, Syncing, frame};
use crate::types::{ActorId, BootNumber, VnodeId};

/// The format of [`Meta`].
const VNODE_FORMAT: u8 = 1;

/// What is persisted of a vnode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Meta {
    /// Who mints here, and since which start.
    actor: Option<(ActorId, BootNumber)>,
    /// The highest counter of the actor that a purged record held.
    floor: u64,
    /// Acknowledged data may be missing.
    is_incomplete: bool,
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
            let mut meta: Meta = frame::decode(&value, VNODE_FORMAT)?;
            if meta.actor.is_some_and(|(_, since)| since < era) {
                meta.actor = None;
                meta.floor = 0;
            }
            metas.insert(vnode, meta);
        }
        Ok(Self {
            boot,
            metas: Mutex::new(metas),
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
        let _changing = self.changing.lock().await;
        if let Some(minter) = self.current(vnode) {
            return Ok(minter);
        }
        let actor = ActorId::new(random.u64());
        let meta = Meta { actor: Some((actor, self.boot)), floor: 0, ..self.meta(vnode) };
        persist(store, &[(vnode, meta)]).await?;
        self.with(|metas| metas.insert(vnode, meta));
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
        let metas: Vec<(VnodeId, Meta)> = self.with(|known| {
            self.findings.fetch_add(1, Ordering::SeqCst);
            let marked = |vnode| {
                let meta = known.entry(vnode).or_default();
                meta.is_incomplete = true;
                (vnode, *meta)
            };
            vnodes.into_iter().map(marked).collect()
        });
        let _changing = self.changing.lock().await;
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
        batch.put(Space::Vnodes, vnode_key(*vnode), frame::encode(VNODE_FORMAT, meta));
    }
    store.commit(batch, Syncing::Always).await
}
