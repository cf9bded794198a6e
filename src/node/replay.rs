//! Bringing hints to a target that is back: several of one vnode in one message where that can be,
//! else one by one.
//!
//! A hint is removed under the lock of its key, and only if it does not stand for something newer by
//! then.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use tokio::time::Instant;

use super::Node;
use super::calls::PeerFailure;
use super::hints::{Hint, Target};
use super::layout::{Layout, ReplicaSet};
use super::replica::Place;
use crate::peer::messages::{Answer, Carried, Refusal, Request};
use crate::protocol::quorum::ReplicaIndex;
use crate::storage::schema::parse_hint_key;
use crate::storage::{Batch, Space, Syncing};
use crate::types::{KeyPath, NodeId};

/// How many messages are on their way at once.
const CONCURRENT: usize = 64;

/// How many hints one message has at most.
const TOGETHER: usize = 64;

/// No record is added to a message that has so many bytes.
const RECORD_BYTES: usize = 256 << 10;

/// How long a target has to take a message.
const REPLAY_TIMEOUT: Duration = Duration::from_secs(5);

/// How often a record is read again because of a purge.
const TRIES: u32 = 3;

/// What became of a hint that was to be brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Replayed {
    /// The target has it; the hint is gone, or stands for something newer.
    Brought,
    /// It is of no use any more.
    Pointless,
    /// The target did not take it.
    Failed,
}

/// A hint as it was read.
pub(super) struct KeptHint {
    pub(super) target: Target,
    place: Place,
    key: Bytes,
    value: Bytes,
}

/// What shows that a hint stands for nothing newer.
pub(super) enum Unchanged {
    /// The hint is still the same.
    Hint,
    /// The hint stands for what this node holds itself, and that is still what was brought.
    Own(Option<Bytes>),
    /// Both: the hint is still the same, and so is what this node holds itself.
    Both(Option<Bytes>),
}

impl KeptHint {
    pub(super) fn parse(key: Bytes, value: Bytes) -> Option<(Self, Hint)> {
        let (target, vnode, path) = parse_hint_key(&key).ok()?;
        let hint = Hint::decode(&value).ok()?;
        let place = Place::new(vnode, path);
        Some((Self { target, place, key, value }, hint))
    }
}

impl Node {
    /// Brings some hints, sorted by target and vnode; whether all went.
    pub(super) async fn replay_piece(self: &Arc<Self>, entries: &[(Bytes, Bytes)]) -> bool {
        let mut groups: Vec<Vec<(KeptHint, Hint)>> = Vec::new();
        for (key, value) in entries {
            let Some(next) = self.parse_kept(key, value) else { continue };
            match groups.last_mut() {
                Some(group) if goes_along(group, &next) => group.push(next),
                _ => groups.push(vec![next]),
            }
        }
        let has_failed = Arc::new(AtomicBool::new(false));
        let replays = groups.into_iter().map(|group| {
            let (node, has_failed) = (Arc::clone(self), Arc::clone(&has_failed));
            async move {
                if !has_failed.load(Ordering::Relaxed) && !node.replay_group(&group).await {
                    has_failed.store(true, Ordering::Relaxed);
                }
            }
        });
        // What was begun is ended: a hint that is removed on disk has to be removed from the counts.
        futures_util::stream::iter(replays).buffer_unordered(CONCURRENT).collect::<()>().await;
        !has_failed.load(Ordering::Relaxed)
    }

    fn parse_kept(&self, key: &Bytes, value: &Bytes) -> Option<(KeptHint, Hint)> {
        let parsed = KeptHint::parse(key.clone(), value.clone());
        if parsed.is_none() {
            let path = parse_hint_key(key).ok().map(|(_, _, path)| path);
            tracing::error!(key = ?path, "a hint is damaged, and stays until its loss is accepted with `starling cluster repair --accept-loss`");
            self.metrics.alarm("corrupt-hint");
        }
        parsed
    }

    /// Brings hints of one vnode, together if there are several; whether all went.
    async fn replay_group(self: &Arc<Self>, group: &[(KeptHint, Hint)]) -> bool {
        let paths: Vec<KeyPath> = group.iter().map(|(kept, _)| kept.place.path.clone()).collect();
        if let [(first, _), _, ..] = group {
            self.warm(first.place.vnode, &paths).await;
        }
        let (mut left, mut most) = (group, group.len());
        while let Some((kept, hint)) = left.first() {
            most = most.min(left.len());
            if most > 1 {
                match self.bring_together(&left[..most]).await {
                    Some(brought) => {
                        self.metrics.hints_replayed(brought as u64);
                        left = &left[brought..];
                    }
                    // Closer to the one that can't go with others.
                    None => most /= 2,
                }
                continue;
            }
            match self.replay_hint(kept, hint).await {
                Replayed::Brought => self.metrics.hints_replayed(1),
                Replayed::Pointless => {}
                Replayed::Failed => return false,
            }
            (left, most) = (&left[1..], group.len());
        }
        true
    }

    /// Brings the records that this node holds itself of some hints in one message. How many of them,
    /// from the first on, are done with; `None` where these have to go one by one: because the target
    /// is not the one replica to bring them to, a record can't be read, or the target refuses one.
    async fn bring_together(self: &Arc<Self>, group: &[(KeptHint, Hint)]) -> Option<usize> {
        let layout = self.layout().expect("hints are of a layout");
        let (first, _) = group.first()?;
        let vnode = first.place.vnode;
        let (mut records, mut bytes) = (Vec::with_capacity(group.len()), 0);
        for (kept, _) in group {
            if !is_replica(&layout, kept) {
                return None;
            }
            let carried = self.carried_when_settled(&kept.place).await.ok()??;
            bytes += carried.record.len();
            records.push((kept.place.path.clone(), carried));
            if bytes >= RECORD_BYTES {
                break;
            }
        }
        let sent: Vec<Bytes> = records.iter().map(|(_, c)| c.record.clone()).collect();
        let peer = layout.peer(first.target.as_ref()?)?;
        let request = Request::Push { vnode, records };
        let deadline = Instant::now() + REPLAY_TIMEOUT;
        let pushed = self.call(&layout.stamp, peer, request, deadline, None).await;
        // What the target has beside it, anti-entropy brings here.
        let Ok(Answer::Pushed(_)) = pushed else { return None };
        let brought =
            group.iter().zip(sent).map(|((kept, _), sent)| (kept, Unchanged::Own(Some(sent))));
        let brought: Vec<_> = brought.collect();
        match self.remove_hints(&brought).await {
            Replayed::Failed => None,
            Replayed::Brought | Replayed::Pointless => Some(brought.len()),
        }
    }

    async fn replay_hint(self: &Arc<Self>, kept: &KeptHint, hint: &Hint) -> Replayed {
        let layout = self.layout().expect("hints are of a layout");
        let set = layout.replica_set(&kept.place.path);
        let may_take =
            |replica: &ReplicaIndex| !set.is_here(*replica) && !set.peer(*replica).is_gone();
        let others: Vec<ReplicaIndex> = set.indices().filter(may_take).collect();
        let Some(id) = &kept.target else {
            return self.bring_to_any(&set, &others, kept, hint).await;
        };
        let mut takers = takers_of(&set, &others, id);
        if takers.is_empty() {
            // Whoever it was kept for holds the key no more: those who do now must have it, not those
            // alone that are only coming to.
            takers = others.into_iter().chain(set.local).collect();
            if takers.iter().all(|replica| replica.0 >= set.n()) {
                return Replayed::Failed;
            }
        }
        self.bring_to_all(&set, &takers, kept, hint).await
    }

    /// Brings a hint to the first replica that takes it: one of the present set, and this node itself if it
    /// has become one and no other takes it; with n = 1 there is no other. What a replica of the
    /// next set alone holds is gone if the transition is aborted; and what one of the present set holds
    /// comes to the next set, with the transition or from a former holder.
    async fn bring_to_any(
        self: &Arc<Self>,
        set: &ReplicaSet,
        others: &[ReplicaIndex],
        kept: &KeptHint,
        hint: &Hint,
    ) -> Replayed {
        let is_asked = |replica: &ReplicaIndex| replica.0 < set.n() && set.peer(*replica).is_up();
        let asked = others.iter().copied().filter(is_asked);
        for replica in asked.chain(set.local) {
            let brought = self.bring_to_all(set, &[replica], kept, hint).await;
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
                Some(record) => match self.bring_kept(to, kept, record).await {
                    Ok(_) if kept.target.is_some() => self.bring_beside(to, kept).await,
                    brought => brought,
                },
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
            self.hints.note_told(vnode, purge);
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

    /// Brings what this node holds itself beside a record that it kept before it became a replica:
    /// both are under one hint.
    async fn bring_beside(
        self: &Arc<Self>,
        to: (&ReplicaSet, ReplicaIndex),
        kept: &KeptHint,
    ) -> Result<Unchanged, Replayed> {
        match self.carried_when_settled(&kept.place).await {
            Ok(None) => Ok(Unchanged::Both(None)),
            Ok(Some(_)) => match self.bring_own(to, kept).await? {
                Unchanged::Own(sent) => Ok(Unchanged::Both(sent)),
                other => Ok(other),
            },
            Err(_) => Err(Replayed::Failed),
        }
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
        let deadline = Instant::now() + REPLAY_TIMEOUT;
        if set.is_here(replica) {
            let (node, at, from) = (Arc::clone(self), set.at, set.peer(replica).id.clone());
            let place = Place::new(set.vnode_at(replica), path.clone());
            let merging = async move { node.merge(&at, &place, record, &from, deadline).await };
            let merged = self.tasks.in_foreground(merging).await;
            return merged.map(drop).map_err(PeerFailure::Refused);
        }
        let request = Request::Merge { path: path.clone(), table, record, answers: false };
        match self.call(&set.at, set.peer(replica), request, deadline, None).await? {
            Answer::Merged(_) => Ok(()),
            _ => Err(PeerFailure::WrongAnswer),
        }
    }

    /// Removes a hint under its key's lock, unless it stands for something newer by now.
    pub(super) async fn remove_hint(
        self: &Arc<Self>,
        kept: &KeptHint,
        unchanged: Unchanged,
    ) -> Replayed {
        self.remove_hints(&[(kept, unchanged)]).await
    }

    /// The same for several, in one batch.
    async fn remove_hints(self: &Arc<Self>, brought: &[(&KeptHint, Unchanged)]) -> Replayed {
        let keys = brought.iter().map(|(kept, _)| &kept.place.key()[..]);
        let _guard = self.locks.lock_all(keys).await;
        let mut gone = Vec::with_capacity(brought.len());
        for (kept, unchanged) in brought {
            if self.is_unchanged(kept, unchanged).await {
                gone.push(*kept);
            }
        }
        if gone.is_empty() {
            return Replayed::Brought;
        }
        let _writing = self.hints.writing.read().await;
        let mut batch = Batch::default();
        gone.iter().for_each(|kept| batch.delete(Space::Hints, kept.key.clone()));
        // One that is there again after a power cut is brought once more, which changes nothing.
        // Whoever says that none is kept fsyncs first.
        match self.store.commit(batch, Syncing::Later).await {
            Ok(()) => {
                for kept in gone {
                    self.hints.remove(&kept.target, (kept.key.len() + kept.value.len()) as u64);
                }
                Replayed::Brought
            }
            // They are brought once more, which changes nothing.
            Err(_) => {
                self.hints.doubt();
                Replayed::Failed
            }
        }
    }

    /// Whether a hint stands for nothing newer than what was brought. Under its key's lock.
    async fn is_unchanged(self: &Arc<Self>, kept: &KeptHint, unchanged: &Unchanged) -> bool {
        let stored = self.store.get(Space::Hints, kept.key.clone()).await;
        let Ok(Some(stored)) = stored else { return false };
        let is_same = stored == kept.value;
        match unchanged {
            Unchanged::Hint => is_same,
            Unchanged::Own(sent) => {
                // Once this node is no replica any more, it may keep a record there for an answer.
                let is_own = Hint::decode(&stored).is_ok_and(|hint| hint.record.is_none());
                is_own && self.holds(&kept.place, sent).await
            }
            Unchanged::Both(sent) => is_same && self.holds(&kept.place, sent).await,
        }
    }

    async fn holds(self: &Arc<Self>, place: &Place, record: &Option<Bytes>) -> bool {
        let now = self.carried(place).await.ok().flatten();
        now.map(|now| now.record) == *record
    }
}

/// Whether a hint may be in one message with those of a group: all of records that this node holds
/// itself.
fn goes_along(group: &[(KeptHint, Hint)], (next, hint): &(KeptHint, Hint)) -> bool {
    let (first, first_hint) = &group[0];
    let is_own = first_hint.record.is_none() && hint.record.is_none();
    let is_of_them = first.target == next.target && first.place.vnode == next.place.vnode;
    is_own && is_of_them && group.len() < TOGETHER
}

/// Where a hint's target holds the key. Nowhere, if it lost its disk and its new one is only coming to
/// hold the key: what was brought there is gone if the transition is aborted, and the present set may
/// never have had it.
fn takers_of(set: &ReplicaSet, others: &[ReplicaIndex], target: &NodeId) -> Vec<ReplicaIndex> {
    let is_target = |replica: &ReplicaIndex| set.peer(*replica).id == *target;
    let is_lost = |replica: ReplicaIndex| {
        replica.0 < set.n() && is_target(&replica) && set.peer(replica).is_gone()
    };
    if set.indices().any(is_lost) {
        return Vec::new();
    }
    others.iter().copied().filter(is_target).collect()
}

/// Whether a hint's target is another replica of its key, under this vnode alone where a transition
/// runs.
fn is_replica(layout: &Layout, kept: &KeptHint) -> bool {
    let set = layout.replica_set(&kept.place.path);
    let is_target = |replica: &ReplicaIndex| Some(&set.peer(*replica).id) == kept.target.as_ref();
    let mut places = set.indices().filter(is_target).peekable();
    places.peek().is_some()
        && places.all(|replica| {
            let is_elsewhere = !set.is_here(replica) && !set.peer(replica).is_gone();
            is_elsewhere && set.vnode_at(replica) == kept.place.vnode
        })
}
