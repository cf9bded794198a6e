//! Purging: what was deleted on all sides goes for good, and nothing of it ever comes back
//! (correctness, section 6).
//!
//! ```text
//! strip    every replica holds exactly this tombstone, long enough: each makes it a husk
//! check    every replica holds exactly this husk or nothing
//! fence    every replica promises the next purge number, then goes on to it: what was read under
//!          the old one is refused from then on; every node confirms that it keeps no hint
//! check    once more
//! delete   each deletes its husk, if it is unchanged, and raises its floor
//! ```
//!
//! Any replica may lead; the primary does so first. Whatever fails ends the round: what was done
//! stays right, and a later round goes on. A node that is down stops the purging of its partitions.
//!
//! The husks are checked on both sides of the fence: every message that carries an older record of
//! such a key was read before the fence, so it bears an older number.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use tokio::time::Instant;

use super::calls::PeerFailure;
use super::imprint::{Change, Deleted, DeletedKind, Imprint};
use super::instruments::PlantedBug;
use super::layout::{Layout, Peer, ReplicaSet};
use super::pace::Pace;
use super::replica::Place;
use super::{Node, Phase};
use crate::peer::messages::{Answer, PurgeAnswer, PurgeKey, PurgeOrder, Refusal, Reply, Request};
use crate::protocol::cluster::StateStamp;
use crate::storage::schema::parse_record_key;
use crate::storage::{Batch, KeyRange, ReadError, ScanLimit, Space, Syncing};
use crate::types::{PurgeNumber, VnodeId};

/// How long one order may take.
const ORDER_TIMEOUT: Duration = Duration::from_secs(10);

/// How many keys of a vnode are purged in one round.
const KEYS_AT_ONCE: usize = 2_048;

/// How many records are changed at once.
const CHANGES_AT_ONCE: usize = 128;

/// How often other leaders' numbers are outbid in one round.
const BIDS: u32 = 3;

/// The longest time between two looks for what can be purged.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// How much of the deleted keys is read at once.
const PAGE: ScanLimit = ScanLimit { entries: 4_096, bytes: 1 << 20 };

/// What one vnode's round is about.
#[derive(Debug, Default)]
struct Candidates {
    tombstones: Vec<PurgeKey>,
    husks: Vec<PurgeKey>,
}

impl Candidates {
    fn len(&self) -> usize {
        self.tombstones.len() + self.husks.len()
    }
}

/// Why a round ended early.
#[derive(Debug, thiserror::Error)]
enum Stop {
    #[error("a node is down")]
    SomebodyIsDown,
    #[error("nothing is left to purge")]
    NothingLeft,
    #[error("another replica leads")]
    Outbid,
    #[error("a node keeps hints for the partition")]
    Hints,
    #[error("{0}")]
    Failed(#[from] PeerFailure),
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Failed(PeerFailure::Refused(refusal))
    }
}

impl Node {
    /// Looks now and then for what can be purged, until the node stops.
    pub(super) fn spawn_purging(self: &Arc<Self>) {
        let node = Arc::clone(self);
        let every = (self.settings.gc_grace / 4).clamp(Duration::from_millis(250), LOOK_EVERY);
        self.tasks.spawn_untracked(async move {
            let phase = node.phase();
            loop {
                let over = phase.wait_for(|phase| phase.is_over());
                if tokio::time::timeout(every, over).await.is_ok() {
                    return;
                }
                if let Err(error) = node.tasks.track(node.purge_all()).await {
                    tracing::error!(%error, "the deleted keys can't be read");
                }
                let deleted = node.trees.deleted();
                node.metrics.deleted_keys(deleted.tombstones, deleted.husks);
            }
        });
    }

    /// Purges what can be, vnode after vnode.
    async fn purge_all(self: &Arc<Self>) -> Result<(), ReadError> {
        let mut pace = Pace::new(self, 0);
        let mut range = KeyRange::all();
        loop {
            let page = self.store.scan(Space::Deletes, range.clone(), PAGE).await?;
            for (vnode, candidates) in self.candidates_for_purging(&page.entries) {
                if *self.phase.borrow() != Phase::Serving {
                    return Ok(());
                }
                match self.purge_vnode(vnode, candidates).await {
                    Ok(purged) => tracing::debug!(%vnode, purged, "purged"),
                    Err(Stop::NothingLeft) => {}
                    Err(why) => tracing::debug!(%vnode, %why, "not purged yet"),
                }
                pace.rest(0).await;
            }
            match page.next {
                Some(next) => range = range.resume_at(next),
                None => return Ok(()),
            }
        }
    }

    /// The deleted keys that are old enough for this replica to lead their purging.
    fn candidates_for_purging(
        &self,
        entries: &[(bytes::Bytes, bytes::Bytes)],
    ) -> BTreeMap<VnodeId, Candidates> {
        let layout = self.layout().expect("only a serving node purges");
        let now_ms = self.clock.wall_ms();
        let grace_ms = self.settings.gc_grace.as_millis() as u64;
        let mut candidates: BTreeMap<VnodeId, Candidates> = BTreeMap::new();
        for (key, value) in entries {
            let (Ok((vnode, path)), Ok(deleted)) = (parse_record_key(key), Deleted::decode(value))
            else {
                continue;
            };
            if layout.state.transition.is_some() || layout.state.has_former(vnode.partition) {
                continue;
            }
            let Some(rank) = layout.replicas_of(vnode).local else { continue };
            // The primary first; the others where it does not get to it.
            let patience_ms = grace_ms * u64::from(rank.0);
            let age_ms = now_ms.saturating_sub(deleted.since_ms);
            let found = candidates.entry(vnode).or_default();
            if found.len() >= KEYS_AT_ONCE {
                continue;
            }
            match deleted.kind {
                DeletedKind::Tombstones if age_ms >= grace_ms + patience_ms => {
                    found.tombstones.push((path, deleted.digest));
                }
                DeletedKind::Husk if age_ms >= patience_ms => {
                    found.husks.push((path, deleted.digest));
                }
                _ => {}
            }
        }
        candidates.retain(|_, found| found.len() > 0);
        candidates
    }

    /// One round for one vnode; how many keys are gone here.
    async fn purge_vnode(
        self: &Arc<Self>,
        vnode: VnodeId,
        candidates: Candidates,
    ) -> Result<usize, Stop> {
        let layout = self.layout().expect("only a serving node purges");
        let set = layout.replicas_of(vnode);
        let round = Round { node: self, layout: &layout, set: &set, vnode };
        if layout.others().any(|peer| !peer.is_up()) {
            return Err(Stop::SomebodyIsDown);
        }
        let mut husks = candidates.husks;
        husks.extend(round.strip(candidates.tombstones).await?);
        let husks = round.agreed(PurgeOrder::Check, husks).await?;
        if husks.is_empty() {
            return Err(Stop::NothingLeft);
        }
        let number = if self.instruments.has(PlantedBug::PurgeWithoutFence) {
            self.vnodes.purge_number(vnode)
        } else {
            round.fence().await?
        };
        let husks = round.agreed(PurgeOrder::Check, husks).await?;
        let gone = round.agreed(|keys| PurgeOrder::Delete(number, keys), husks).await?;
        self.metrics.purged(gone.len() as u64);
        Ok(gone.len())
    }

    /// Does or confirms one step of purging.
    pub(super) async fn answer_purge(
        self: &Arc<Self>,
        at: &StateStamp,
        vnode: VnodeId,
        order: PurgeOrder,
    ) -> Reply {
        let layout = self.layout().ok_or(Refusal::NotServing)?;
        let is_settled =
            layout.state.transition.is_none() && !layout.state.has_former(vnode.partition);
        if layout.stamp != *at || !is_settled {
            return Err(Refusal::StaleEpoch);
        }
        let answer = match order {
            PurgeOrder::NoHints(number) => {
                self.refuse_writes()?;
                self.vnodes
                    .enter_purge(vnode, number, &*self.store)
                    .await
                    .map_err(|_| Refusal::StoreFailed)?;
                let none = self.has_no_hints(vnode).await.map_err(|_| Refusal::StoreFailed)?;
                // What was kept and told to a replica under this very number may come a second time when
                // the key is gone. After the look: it was told before it was kept no more.
                let told = self.hints.told_under(vnode).max(self.vnodes.purge_before(vnode));
                PurgeAnswer::Done(none && told < number)
            }
            order => {
                self.owned(vnode)?;
                if self.vnodes.is_incomplete(vnode) {
                    return Err(Refusal::Incomplete);
                }
                self.refuse_writes()?;
                self.purge_here(at, vnode, order).await?
            }
        };
        Ok(Answer::Purge(answer))
    }

    async fn purge_here(
        self: &Arc<Self>,
        at: &StateStamp,
        vnode: VnodeId,
        order: PurgeOrder,
    ) -> Result<PurgeAnswer, Refusal> {
        let failed = |_| Refusal::StoreFailed;
        Ok(PurgeAnswer::Keys(match order {
            PurgeOrder::Confirm(keys) => {
                let confirmed = self.each(at, vnode, keys, Self::confirm).await;
                // Whatever `durability` says, what was confirmed does not get lost.
                self.store.sync().await.map_err(failed)?;
                confirmed
            }
            PurgeOrder::Strip(keys) => self.each(at, vnode, keys, Self::strip).await,
            PurgeOrder::Check(keys) => self.each(at, vnode, keys, Self::check).await,
            PurgeOrder::Delete(number, keys) => {
                if self.vnodes.purge_number(vnode) != number {
                    return Err(Refusal::StalePurge(self.vnodes.purge_number(vnode)));
                }
                self.raise_floor_above(vnode, &keys).await?;
                self.each(at, vnode, keys, Self::delete_husk).await
            }
            PurgeOrder::Promise(number) => {
                let promised =
                    self.vnodes.promise_purge(vnode, number, &*self.store).await.map_err(failed)?;
                let promised = match promised {
                    true => Ok(()),
                    false => Err(self.vnodes.promised_purge(vnode)),
                };
                return Ok(PurgeAnswer::Promised(promised));
            }
            PurgeOrder::Enter(number) | PurgeOrder::NoHints(number) => {
                self.vnodes.enter_purge(vnode, number, &*self.store).await.map_err(failed)?;
                return Ok(PurgeAnswer::Done(true));
            }
        }))
    }

    /// Does the same to each key, many at once.
    async fn each<F>(
        self: &Arc<Self>,
        at: &StateStamp,
        vnode: VnodeId,
        keys: Vec<PurgeKey>,
        work: impl Fn(Arc<Self>, StateStamp, Place, u64) -> F,
    ) -> Vec<bool>
    where
        F: Future<Output = bool>,
    {
        let work = keys
            .into_iter()
            .map(|(path, digest)| work(Arc::clone(self), *at, Place::new(vnode, path), digest));
        futures_util::stream::iter(work).buffered(CHANGES_AT_ONCE).collect().await
    }

    /// Whether exactly this tombstone is held, for long enough, and is not on its way anywhere.
    async fn confirm(self: Arc<Self>, at: StateStamp, place: Place, digest: u64) -> bool {
        let guard = self.locks.lock(place.key()).await;
        if self.admit(&at, &guard).is_err()
            || self.sending.has(&place)
            || self.imprint(&place).await != Some(Imprint::Tombstones(digest))
        {
            return false;
        }
        let entry = self.store.get(Space::Deletes, place.key().clone()).await;
        let Ok(Some(value)) = entry else { return false };
        let Ok(deleted) = Deleted::decode(&value) else { return false };
        let age_ms = self.clock.wall_ms().saturating_sub(deleted.since_ms);
        deleted.digest == digest && u128::from(age_ms) >= self.settings.gc_grace.as_millis()
    }

    /// Whether the key has a husk by now, in place of exactly this tombstone.
    async fn strip(self: Arc<Self>, at: StateStamp, place: Place, digest: u64) -> bool {
        let guard = self.locks.lock(place.key()).await;
        if self.admit(&at, &guard).is_err() {
            return false;
        }
        let Ok((record, imprint)) = self.record_to_change(&place, &guard).await else {
            return false;
        };
        match imprint {
            Imprint::Husk(_) => true,
            Imprint::Tombstones(held) if held == digest => {
                let husk = record.stripped().expect("all of its versions are tombstones");
                self.replace(&place, imprint, &husk, guard).await
            }
            _ => false,
        }
    }

    /// Whether exactly this husk is held, or nothing.
    async fn check(self: Arc<Self>, at: StateStamp, place: Place, digest: u64) -> bool {
        let guard = self.locks.lock(place.key()).await;
        if self.admit(&at, &guard).is_err() {
            return false;
        }
        let imprint = self.imprint(&place).await;
        let is_so =
            matches!(imprint, Some(Imprint::Absent)) || imprint == Some(Imprint::Husk(digest));
        is_so && !self.quarantine.has(&place) && !self.sending.has(&place)
    }

    /// Whether the husk is gone.
    async fn delete_husk(self: Arc<Self>, at: StateStamp, place: Place, digest: u64) -> bool {
        let guard = self.locks.lock(place.key()).await;
        if self.admit(&at, &guard).is_err() {
            return false;
        }
        let before = match self.imprint(&place).await {
            Some(Imprint::Absent) => return true,
            Some(husk @ Imprint::Husk(held)) if held == digest => husk,
            _ => return false,
        };
        let change = Change { before, after: Imprint::Absent };
        let mut batch = Batch::default();
        batch.delete(Space::Records, place.key().clone());
        change.add_to(&mut batch, &place, self.shape(), self.clock.wall_ms());
        let deleted = self.store.commit(batch, Syncing::AsConfigured).await;
        match &deleted {
            Ok(()) => self.change_tree(&place, change),
            Err(error) => {
                tracing::error!(key = ?place.path, %error, "a husk could not be deleted");
                self.settle(&place, change).await;
            }
        }
        drop(guard);
        deleted.is_ok()
    }

    /// Raises the floor to the highest own counter in these husks: before they go, so that no crash
    /// leaves it too low.
    async fn raise_floor_above(
        self: &Arc<Self>,
        vnode: VnodeId,
        keys: &[PurgeKey],
    ) -> Result<(), Refusal> {
        let Some(minter) = self.vnodes.current(vnode) else { return Ok(()) };
        let mut highest = 0;
        for (path, _) in keys {
            let record = self.inspect(&Place::new(vnode, path.clone())).await;
            let own = record.map(|record| record.context().max_counter(minter.actor));
            highest = highest.max(own.ok_or(Refusal::StoreFailed)?);
        }
        if highest <= minter.floor {
            return Ok(());
        }
        let raised = self.vnodes.raise_floor(vnode, minter.actor, highest, &*self.store).await;
        raised.map_err(|_| Refusal::StoreFailed)
    }
}

/// One round for one vnode.
struct Round<'a> {
    node: &'a Arc<Node>,
    layout: &'a Layout,
    set: &'a ReplicaSet,
    vnode: VnodeId,
}

impl Round<'_> {
    /// Strips the tombstones that every replica holds; returns the husks.
    async fn strip(&self, tombstones: Vec<PurgeKey>) -> Result<Vec<PurgeKey>, Stop> {
        if tombstones.is_empty() {
            return Ok(Vec::new());
        }
        let confirmed = self.agreed(PurgeOrder::Confirm, tombstones).await?;
        let stripped = self.agreed(PurgeOrder::Strip, confirmed).await?;
        let mut husks = Vec::new();
        for (path, _) in stripped {
            let place = Place::new(self.vnode, path.clone());
            if let Some(Imprint::Husk(digest)) = self.node.imprint(&place).await {
                husks.push((path, digest));
            }
        }
        Ok(husks)
    }

    /// From now on every replica refuses what was read before, and no hint is kept.
    async fn fence(&self) -> Result<PurgeNumber, Stop> {
        let mut number = self.node.vnodes.promised_purge(self.vnode).next();
        let mut bids = 0;
        while let Some(greater) = self.outbid(number).await? {
            bids += 1;
            if bids == BIDS {
                return Err(Stop::Outbid);
            }
            number = greater.next();
        }
        self.all(self.replicas(), PurgeOrder::Enter(number)).await?;
        let everybody = self.layout.peers.iter().collect();
        let answers = self.all(everybody, PurgeOrder::NoHints(number)).await?;
        if answers.iter().all(|answer| *answer == PurgeAnswer::Done(true)) {
            Ok(number)
        } else {
            Err(Stop::Hints)
        }
    }

    /// Asks for promises; the greatest number that stands against it.
    async fn outbid(&self, number: PurgeNumber) -> Result<Option<PurgeNumber>, Stop> {
        let answers = self.all(self.replicas(), PurgeOrder::Promise(number)).await?;
        let against = answers.iter().filter_map(|answer| match answer {
            PurgeAnswer::Promised(Err(greater)) => Some(*greater),
            _ => None,
        });
        Ok(against.max())
    }

    /// The keys for which every replica confirms or does what is asked.
    async fn agreed(
        &self,
        order: impl Fn(Vec<PurgeKey>) -> PurgeOrder,
        keys: Vec<PurgeKey>,
    ) -> Result<Vec<PurgeKey>, Stop> {
        if keys.is_empty() {
            return Ok(keys);
        }
        let mut agreed = vec![true; keys.len()];
        let needs_proof = !self.node.instruments.has(PlantedBug::PurgeWithoutProof);
        let answers = self.all(self.replicas(), order(keys.clone())).await?;
        for (replica, answer) in self.set.indices().zip(answers) {
            if !needs_proof && self.set.local != Some(replica) {
                continue;
            }
            let PurgeAnswer::Keys(done) = answer else {
                return Err(PeerFailure::WrongAnswer.into());
            };
            if done.len() != keys.len() {
                return Err(PeerFailure::WrongAnswer.into());
            }
            agreed.iter_mut().zip(done).for_each(|(all, one)| *all &= one);
        }
        Ok(keys.into_iter().zip(agreed).filter(|(_, agreed)| *agreed).map(|(key, _)| key).collect())
    }

    fn replicas(&self) -> Vec<&Arc<Peer>> {
        self.set.peers.iter().collect()
    }

    /// The same order to each of these nodes, this one among them.
    async fn all(
        &self,
        nodes: Vec<&Arc<Peer>>,
        order: PurgeOrder,
    ) -> Result<Vec<PurgeAnswer>, Stop> {
        let asked = nodes.into_iter().map(|peer| self.one(peer, order.clone()));
        join_all(asked).await.into_iter().collect()
    }

    async fn one(&self, peer: &Arc<Peer>, order: PurgeOrder) -> Result<PurgeAnswer, Stop> {
        let answer = if peer.id == self.node.settings.id {
            self.node.answer_purge(&self.layout.stamp, self.vnode, order).await?
        } else {
            let request = Request::Purge { vnode: self.vnode, order };
            let phase = self.node.phase();
            tokio::select! {
                biased;
                _ = phase.wait_for(|phase| phase.is_over()) => return Err(Refusal::NotServing.into()),
                answer = self.node.call(&self.layout.stamp, peer, request, Instant::now() + ORDER_TIMEOUT, None) => answer?,
            }
        };
        match answer {
            Answer::Purge(answer) => Ok(answer),
            _ => Err(PeerFailure::WrongAnswer.into()),
        }
    }
}
