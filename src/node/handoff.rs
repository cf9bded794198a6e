//! Bringing hints to their targets as they come back (Dynamo, section 4.6; correctness, section 4).
//!
//! A hint is removed under the lock of its key, and only if it does not stand for something newer by
//! then.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use tokio::time::Instant;

use super::Node;
use super::calls::PeerFailure;
use super::hints::{Hint, PAGE, Target};
use super::instruments::PlantedBug;
use super::layout::ReplicaSet;
use super::pace::Pace;
use super::replica::Place;
use crate::peer::messages::{Answer, Carried, Refusal, Request};
use crate::protocol::quorum::ReplicaIndex;
use crate::storage::schema::{hints_for, parse_hint_key};
use crate::storage::{Batch, ReadError, ScanLimit, Space, Syncing};
use crate::types::KeyPath;

/// How many are on their way at once.
const CONCURRENT: usize = 64;

/// How many are brought between two rests while clients are being served.
const BESIDE_CLIENTS: usize = 16;

/// How long a target has to take one.
const REPLAY_TIMEOUT: Duration = Duration::from_secs(5);

/// How often it is looked whether a target is back.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How often it is looked which hints are too old, or more often where they get old sooner: that
/// reads all of them.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// How often a record is read again because of a purge.
const TRIES: u32 = 3;

/// What became of a hint that was to be brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Replayed {
    /// The target has it; the hint is gone, or stands for something newer.
    Brought,
    /// It is of no use any more.
    Pointless,
    /// The target did not take it.
    Failed,
}

/// A hint as it was read.
struct KeptHint {
    target: Target,
    place: Place,
    key: Bytes,
    value: Bytes,
}

/// What shows that a hint stands for nothing newer.
enum Unchanged {
    /// The hint is still the same.
    Hint,
    /// This node still holds the record that was brought.
    Own(Option<Bytes>),
}

impl KeptHint {
    fn parse(key: Bytes, value: Bytes) -> Option<(Self, Hint)> {
        let (target, vnode, path) = parse_hint_key(&key).ok()?;
        let hint = Hint::decode(&value).ok()?;
        let place = Place::new(vnode, path);
        Some((Self { target, place, key, value }, hint))
    }
}

impl Node {
    /// Brings hints to their targets as they come back, until the node stops.
    pub(super) fn spawn_handoff(self: &Arc<Self>) {
        let node = Arc::clone(self);
        self.tasks.spawn_untracked(async move {
            let phase = node.phase();
            let mut swept = None;
            loop {
                let wait = tokio::time::timeout(LOOK_EVERY, node.hints.wake.notified());
                tokio::select! {
                    biased;
                    _ = phase.wait_for(|phase| phase.is_over()) => return,
                    _ = wait => {}
                }
                let every = SWEEP_EVERY.min(node.settings.hints.max_age / 4);
                let is_sweep = swept.is_none_or(|at: Instant| at.elapsed() >= every);
                if is_sweep {
                    swept = Some(Instant::now());
                }
                node.tasks.track(node.hand_off(is_sweep)).await;
            }
        });
    }

    /// Brings what can be brought now; what can't is looked at for its age if this is a sweep.
    async fn hand_off(self: &Arc<Self>, is_sweep: bool) {
        if self.hints.is_in_doubt.swap(false, Ordering::Relaxed)
            && let Err(error) = self.hints.count_all(&*self.store).await
        {
            tracing::error!(%error, "hints can't be read");
            self.hints.doubt();
        }
        for target in self.targets().await {
            if self.phase.borrow().is_over() {
                return;
            }
            if let Err(error) = self.replay(&target, is_sweep).await {
                tracing::error!(%error, "hints can't be read");
            }
        }
    }

    /// For whom something is kept: by the counts, and where these say nothing by a look at the disk,
    /// so that no hint rests on a count.
    async fn targets(self: &Arc<Self>) -> Vec<Target> {
        let layout = self.layout().expect("hints are of a layout");
        let one = ScanLimit { entries: 1, bytes: 1 };
        let mut targets = self.hints.targets();
        for target in layout.others().map(|peer| Some(peer.id.clone())).chain([None]) {
            if targets.contains(&target) {
                continue;
            }
            let found = self.store.scan(Space::Hints, hints_for(target.as_ref()), one).await;
            if found.is_ok_and(|page| !page.entries.is_empty()) {
                self.hints.doubt();
                targets.push(target);
            }
        }
        targets
    }

    /// Brings all hints of one target, as far as it takes them; in a sweep, drops those that are too
    /// old.
    async fn replay(self: &Arc<Self>, target: &Target, is_sweep: bool) -> Result<(), ReadError> {
        let layout = self.layout().expect("hints are of a layout");
        let is_up = match target {
            // Who is gone for good can't take it: those that hold its keys now can.
            Some(id) => layout.peer(id).is_none_or(|peer| peer.is_up()),
            None => true,
        };
        if !is_up && !is_sweep {
            return Ok(());
        }
        let mut pace = Pace::new(self, self.settings.hints.max_bytes_per_second);
        let mut range = hints_for(target.as_ref());
        loop {
            let page = self.store.scan(Space::Hints, range.clone(), PAGE).await?;
            let bytes = page.entries.iter().map(|(key, value)| (key.len() + value.len()) as u64);
            let bytes = bytes.sum();
            if !is_up || !self.replay_page(&page.entries, bytes, &mut pace).await {
                self.drop_old_hints(page.entries).await;
                if is_up {
                    return Ok(());
                }
                pace.rest(bytes).await;
            }
            match page.next {
                Some(next) if !self.phase.borrow().is_over() => range = range.resume_at(next),
                _ => return Ok(()),
            }
        }
    }

    /// Whether all of a page went.
    async fn replay_page(
        self: &Arc<Self>,
        mut entries: &[(Bytes, Bytes)],
        bytes: u64,
        pace: &mut Pace,
    ) -> bool {
        let each = bytes / entries.len().max(1) as u64;
        while !entries.is_empty() {
            let most = if pace.are_clients_served() { BESIDE_CLIENTS } else { entries.len() };
            let (piece, rest) = entries.split_at(most.min(entries.len()));
            entries = rest;
            if !self.replay_piece(piece).await {
                return false;
            }
            pace.rest(each * piece.len() as u64).await;
        }
        true
    }

    /// Whether all of a piece went.
    async fn replay_piece(self: &Arc<Self>, entries: &[(Bytes, Bytes)]) -> bool {
        let replays = entries.iter().cloned().map(|(key, value)| {
            let node = Arc::clone(self);
            async move { node.replay_hint(key, value).await }
        });
        let mut replays = futures_util::stream::iter(replays).buffered(CONCURRENT);
        while let Some(replayed) = replays.next().await {
            match replayed {
                Replayed::Brought => self.metrics.hint_replayed(),
                Replayed::Pointless => {}
                Replayed::Failed => return false,
            }
        }
        true
    }

    async fn replay_hint(self: Arc<Self>, key: Bytes, value: Bytes) -> Replayed {
        let Some((kept, hint)) = KeptHint::parse(key, value) else {
            tracing::error!("a hint is damaged");
            self.metrics.alarm("corrupt-hint");
            return Replayed::Pointless;
        };
        let layout = self.layout().expect("hints are of a layout");
        let set = layout.replica_set(&kept.place.path);
        let may_take =
            |replica: &ReplicaIndex| !set.is_here(*replica) && !set.peer(*replica).is_gone();
        let others: Vec<ReplicaIndex> = set.indices().filter(may_take).collect();
        let Some(id) = &kept.target else {
            return self.bring_to_any(&set, &others, &kept, &hint).await;
        };
        let is_target = |replica: &&ReplicaIndex| set.peer(**replica).id == *id;
        let takers: Vec<ReplicaIndex> = others.iter().filter(is_target).copied().collect();
        // Whoever it was kept for holds the key no more: those who do now must have it.
        let takers = if takers.is_empty() { others } else { takers };
        self.bring_to_all(&set, &takers, &kept, &hint).await
    }

    /// Brings a hint to the first replica that takes it: one of the present set. What a replica of the
    /// next set alone holds is gone if the transition is aborted; and what one of the present set holds
    /// comes to the next set, with the transition or from a former holder.
    async fn bring_to_any(
        self: &Arc<Self>,
        set: &ReplicaSet,
        others: &[ReplicaIndex],
        kept: &KeptHint,
        hint: &Hint,
    ) -> Replayed {
        let is_asked = |replica: &&ReplicaIndex| replica.0 < set.n() && set.peer(**replica).is_up();
        for replica in others.iter().filter(is_asked) {
            let brought = self.bring_to_all(set, &[*replica], kept, hint).await;
            if brought != Replayed::Failed {
                return brought;
            }
        }
        Replayed::Failed
    }

    /// Brings a hint to some replicas; it goes when all of them have it.
    async fn bring_to_all(
        self: &Arc<Self>,
        set: &ReplicaSet,
        takers: &[ReplicaIndex],
        kept: &KeptHint,
        hint: &Hint,
    ) -> Replayed {
        let mut unchanged = Unchanged::Hint;
        for replica in takers {
            let to = (set, *replica);
            let brought = match &hint.record {
                Some(record) => self.bring_kept(to, kept, record).await,
                None => self.bring_own(to, kept).await,
            };
            match brought {
                Ok(brought) => unchanged = brought,
                Err(replayed) => return replayed,
            }
        }
        self.remove_hint(kept, unchanged).await
    }

    /// Brings a record that is kept with its hint.
    async fn bring_kept(
        self: &Arc<Self>,
        (set, replica): (&ReplicaSet, ReplicaIndex),
        kept: &KeptHint,
        record: &Bytes,
    ) -> Result<Unchanged, Replayed> {
        let vnode = set.vnode_at(replica);
        // Once more, if the target knows of a purge that this node had not heard of. No record of
        // this partition can have been purged by it: this node has not confirmed that it keeps no
        // hint.
        for _ in 0..TRIES {
            let purge = self.vnodes.purge_number(vnode);
            let carried = Carried { record: record.clone(), purge };
            match self.bring(set, replica, &kept.place.path, carried).await {
                Ok(()) => return Ok(Unchanged::Hint),
                Err(PeerFailure::Refused(Refusal::StalePurge(number))) => {
                    if self.adopt_purge_number(vnode, number).await.is_err() {
                        return Err(Replayed::Failed);
                    }
                }
                Err(_) => return Err(Replayed::Failed),
            }
        }
        Err(Replayed::Failed)
    }

    /// Brings what this node, a replica itself, holds of a key.
    async fn bring_own(
        self: &Arc<Self>,
        (set, replica): (&ReplicaSet, ReplicaIndex),
        kept: &KeptHint,
    ) -> Result<Unchanged, Replayed> {
        for _ in 0..TRIES {
            let mut carried = match self.carried_when_settled(&kept.place).await {
                Ok(Some(carried)) => carried,
                // Purged, dropped, or damaged here: what there is comes from others.
                Ok(None) | Err(Refusal::Quarantined) => {
                    self.remove_hint(kept, Unchanged::Own(None)).await;
                    return Err(Replayed::Pointless);
                }
                Err(_) => return Err(Replayed::Failed),
            };
            let record = carried.record.clone();
            let vnode = set.vnode_at(replica);
            if vnode != kept.place.vnode {
                // Numbers are of one vnode.
                carried.purge = self.vnodes.purge_number(vnode);
            }
            match self.bring(set, replica, &kept.place.path, carried).await {
                Ok(()) => return Ok(Unchanged::Own(Some(record))),
                Err(PeerFailure::Refused(Refusal::StalePurge(number))) => {
                    let met = match vnode == kept.place.vnode {
                        true => self.meet_purge_number(vnode, number).await,
                        false => self.adopt_purge_number(vnode, number).await,
                    };
                    if met.is_err() {
                        return Err(Replayed::Failed);
                    }
                }
                Err(_) => return Err(Replayed::Failed),
            }
        }
        Err(Replayed::Failed)
    }

    async fn bring(
        self: &Arc<Self>,
        set: &ReplicaSet,
        replica: ReplicaIndex,
        path: &KeyPath,
        record: Carried,
    ) -> Result<(), PeerFailure> {
        let table = set.vnode_at(replica).table;
        let request = Request::Merge { path: path.clone(), table, record, answers: false };
        let deadline = Instant::now() + REPLAY_TIMEOUT;
        match self.call(&set.at, set.peer(replica), request, deadline, None).await? {
            Answer::Merged(_) => Ok(()),
            _ => Err(PeerFailure::WrongAnswer),
        }
    }

    /// Removes a hint under its key's lock, unless it stands for something newer by now.
    async fn remove_hint(self: &Arc<Self>, kept: &KeptHint, unchanged: Unchanged) -> Replayed {
        let _guard = self.locks.lock(kept.place.key()).await;
        let is_unchanged = match unchanged {
            Unchanged::Hint => {
                let now = self.store.get(Space::Hints, kept.key.clone()).await;
                matches!(now, Ok(Some(now)) if now == kept.value)
            }
            Unchanged::Own(sent) => {
                let now = self.carried(&kept.place).await.ok().flatten();
                now.map(|now| now.record) == sent
            }
        };
        if !is_unchanged {
            return Replayed::Brought;
        }
        let _writing = self.hints.writing.read().await;
        let mut batch = Batch::default();
        batch.delete(Space::Hints, kept.key.clone());
        // One that is there again after a power cut is brought once more, which changes nothing.
        // Whoever says that none is kept fsyncs first.
        match self.store.commit(batch, Syncing::Later).await {
            Ok(()) => {
                self.hints.remove(&kept.target, (kept.key.len() + kept.value.len()) as u64);
                Replayed::Brought
            }
            // It is brought once more, which changes nothing.
            Err(_) => {
                self.hints.doubt();
                Replayed::Failed
            }
        }
    }

    /// Drops hints that are too old. Never one that was counted.
    async fn drop_old_hints(self: &Arc<Self>, entries: Vec<(Bytes, Bytes)>) {
        let max_age_ms = self.settings.hints.max_age.as_millis() as u64;
        let now_ms = self.clock.wall_ms();
        for (key, value) in entries {
            let Some((kept, hint)) = KeptHint::parse(key, value) else { continue };
            let may_go = !hint.is_counted || self.instruments.has(PlantedBug::CountedHintDropped);
            if !may_go || now_ms.saturating_sub(hint.since_ms) <= max_age_ms {
                continue;
            }
            self.remove_hint(&kept, Unchanged::Hint).await;
            if let Some(target) = &kept.target {
                self.drop_hint(target);
            }
        }
    }
}
