//! One minted write on its way to the replicas.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use smallvec::SmallVec;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::put::{Outcome, WriteJob};
use super::{Reports, required_of};
use crate::node::calls::PeerFailure;
use crate::node::instruments::PlantedBug;
use crate::node::layout::{Layout, Peer, ReplicaSet};
use crate::node::replica::{Minted, Place};
use crate::node::{Node, Phase};
use crate::peer::messages::{Answer, Carried, Refusal, Request, WriteFailure};
use crate::protocol::causality::{Context, ContextToken, Dot, Summary, token_cover_after_write};
use crate::protocol::cluster::StateStamp;
use crate::protocol::operation::{
    Acks, EtagSet, OperationError, ReplicaOutcome, Seen, WriteAnswer,
};
use crate::protocol::quorum::{Put, PutProgress, ReplicaIndex};
use crate::storage::BoxFuture;
use crate::types::{NodeId, PurgeNumber, RequestId};

/// How soon a replica that has just been taken in is asked again.
const NEW_REPLICA_AFTER: Duration = Duration::from_millis(20);

/// Who has the write now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sending {
    /// The replica.
    Taken,
    /// A fallback keeps it for the replica.
    Kept,
}

type Sent = (ReplicaIndex, Result<Sending, PeerFailure>);

/// One round of sends, in one epoch. See the module's head.
struct Replication<'a> {
    node: &'a Arc<Node>,
    layout: Arc<Layout>,
    set: ReplicaSet,
    job: &'a WriteJob,
    minted: &'a mut Minted,
    /// Who is sent to.
    up: SmallVec<[ReplicaIndex; 5]>,
    put: Put,
    /// W of the present set.
    required: u8,
    reports: Reports,
    is_own_copy_done: bool,
    /// The key's bucket has gone to another vnode than the one that minted the write.
    is_elsewhere: bool,
    /// Who may stand in for replicas that do not take the write; empty unless it is sloppy.
    fallbacks: VecDeque<Arc<Peer>>,
    /// Replicas for which the write is kept elsewhere, by a fallback.
    kept: SmallVec<[ReplicaIndex; 5]>,
}

/// How a round ended.
enum Round {
    /// Every send has ended, or the node stops.
    Over,
    /// The level was not reached, and the cluster has gone on to another epoch: the same record is
    /// sent in that one.
    Overtaken,
}

/// Sends a minted record to all replicas that are up; answers as soon as the level is reached or
/// out of reach, or the deadline has passed; returns when every send has ended, or, once it has
/// answered and its own copy is done, when the node stops. An answer counts acknowledgements of one
/// epoch only.
pub(super) async fn replicate(
    node: &Arc<Node>,
    layout: &Arc<Layout>,
    set: &ReplicaSet,
    job: &WriteJob,
    mut minted: Minted,
    answer: oneshot::Sender<Outcome>,
) {
    let place = Place::new(set.vnode, job.path.clone());
    let _sending = node.sending.begin(&place);
    let mut answer = Some(answer);
    let (mut layout, mut set) = (Arc::clone(layout), set.clone());
    let (untaken, late) = loop {
        if set.vnode != place.vnode {
            // Purge numbers are of one vnode: the other one's is heard from its replicas.
            minted.stored.purge = PurgeNumber::default();
        }
        let mut round = Replication::new(node, layout, set, job, &mut minted);
        round.is_elsewhere = round.set.vnode != place.vnode;
        match round.send_everywhere(&mut answer).await {
            Round::Over => break (round.untaken(), round.untaken_lately()),
            Round::Overtaken => {
                layout = node.layout().expect("a node that has gone on has a layout");
                set = layout.replica_set(&job.path);
            }
        }
    };
    let (dot, is_stored_here) = (minted.dot, minted.is_stored_here());
    drop(minted);
    // Kept for the replicas that did not take it and for which nobody else keeps it.
    if (late.is_empty() || node.keep_for(&place, &late).await) && is_stored_here {
        node.note_untaken(&untaken, &place.path, dot);
    }
}

impl<'a> Replication<'a> {
    fn new(
        node: &'a Arc<Node>,
        layout: Arc<Layout>,
        set: ReplicaSet,
        job: &'a WriteJob,
        minted: &'a mut Minted,
    ) -> Self {
        // Looked at once: who goes down meanwhile is sent to all the same.
        let up: SmallVec<[ReplicaIndex; 5]> =
            set.indices().filter(|replica| set.is_up(*replica)).collect();
        let fallbacks: VecDeque<Arc<Peer>> = match job.sloppy {
            true => layout.fallbacks(&set).into(),
            false => VecDeque::new(),
        };
        let mut groups = set.write_groups(job.level);
        let required = required_of(&groups);
        if node.instruments.has(PlantedBug::EarlyAcknowledgement) && required > 1 {
            groups.iter_mut().for_each(|group| group.required -= 1);
        }
        let down = set.indices().filter(|replica| !up.contains(replica));
        let hopeless: SmallVec<[ReplicaIndex; 5]> = down.skip(fallbacks.len()).collect();
        let put = Put::start(groups, set.places(), |replica| hopeless.contains(&replica));
        let reports = Reports::new(&set);
        let (is_own_copy_done, kept) = (false, SmallVec::new());
        Self {
            node,
            layout,
            set,
            job,
            minted,
            up,
            put,
            required,
            reports,
            is_own_copy_done,
            is_elsewhere: false,
            fallbacks,
            kept,
        }
    }

    /// The replicas that do not have the write, and for which nobody else keeps it.
    fn untaken(&self) -> Vec<NodeId> {
        let took = |replica: &ReplicaIndex| {
            self.put.has(*replica) || self.kept.contains(replica) || self.set.is_here(*replica)
        };
        let untaken = self.set.indices().filter(|replica| !took(replica));
        untaken.map(|replica| self.set.peer(replica).id.clone()).collect()
    }

    /// The same, without those for which the mint's own batch keeps it.
    fn untaken_lately(&self) -> Vec<NodeId> {
        let mut untaken = self.untaken();
        untaken.retain(|target| !self.minted.absent.contains(target));
        untaken
    }

    async fn send_everywhere(&mut self, answer: &mut Option<oneshot::Sender<Outcome>>) -> Round {
        let mut sends = self.send_all();
        let deadline = tokio::time::sleep_until(self.job.deadline);
        tokio::pin!(deadline);
        let phase = self.node.phase();
        loop {
            let outcome = tokio::select! {
                biased;
                sent = sends.next() => match sent {
                    // Beyond the level there is nothing to answer any more.
                    Some(sent) => match self.next_fallback(&sent) {
                        Some(send) => {
                            sends.push(send);
                            None
                        }
                        None => self.take(sent).filter(|_| answer.is_some()).map(|progress| {
                            self.outcome(progress)
                        }),
                    },
                    None if answer.is_some() => Some(self.outcome(PutProgress::OutOfReach)),
                    None => return Round::Over,
                },
                () = &mut deadline, if answer.is_some() => Some(Err(self.timed_out())),
                _ = phase.wait_for(|phase| *phase == Phase::Stopping),
                    if answer.is_none() && self.is_own_copy_done => return Round::Over,
            };
            let is_failure = outcome.as_ref().is_some_and(Result::is_err);
            if is_failure && self.node.is_past(&self.set.at) && Instant::now() < self.job.deadline {
                // What is on its way goes on; what it comes to counts no more.
                self.node.tasks.spawn(async move { while sends.next().await.is_some() {} });
                return Round::Overtaken;
            }
            if let Some((outcome, answer)) =
                outcome.and_then(|outcome| Some((outcome, answer.take()?)))
            {
                // Whoever asked may be gone; the write is done all the same.
                drop(answer.send(outcome));
            }
        }
    }

    fn send_all(&mut self) -> FuturesUnordered<BoxFuture<'static, Sent>> {
        let sends = FuturesUnordered::new();
        for replica in self.up.clone() {
            self.reports.set(replica, ReplicaOutcome::Timeout);
            sends.push(if self.is_minters(replica) {
                self.own_copy(replica)
            } else if self.set.is_here(replica) {
                self.merge_here(replica)
            } else {
                self.send(replica)
            });
        }
        for replica in self.set.indices() {
            if self.up.contains(&replica) {
                continue;
            }
            if let Some(fallback) = self.fallbacks.pop_front() {
                sends.push(self.send_to_fallback(replica, fallback));
            }
        }
        sends
    }

    /// Whether the mint's own batch is the copy of this place.
    fn is_minters(&self, replica: ReplicaIndex) -> bool {
        self.set.local == Some(replica) && self.minted.has_committed()
    }

    /// Another copy on this node: in the vnode that the key goes to, or in a later epoch.
    fn merge_here(&self, replica: ReplicaIndex) -> BoxFuture<'static, Sent> {
        let node = Arc::clone(self.node);
        let place = Place::new(self.set.vnode_at(replica), self.job.path.clone());
        let (at, record) = (self.set.at, self.minted.stored.clone());
        let deadline = self.job.deadline;
        let merging = self.node.tasks.spawn(async move {
            let me = node.settings.id.clone();
            let merged = node.merge(&at, &place, record.clone(), &me, deadline).await;
            let Err(Refusal::StalePurge(number)) = merged else { return merged };
            // A purge of this vnode that began after the mint: the write was not part of it.
            let again = Carried { purge: number, ..record };
            node.merge(&at, &place, again, &me, deadline).await
        });
        Box::pin(async move {
            let merged = merging.await.unwrap_or(Err(Refusal::StoreFailed));
            (replica, merged.map(|_| Sending::Taken).map_err(PeerFailure::Refused))
        })
    }

    /// After a failed send: the same to a node that stands in for the replica.
    fn next_fallback(&mut self, (replica, sent): &Sent) -> Option<BoxFuture<'static, Sent>> {
        if sent.is_ok() || self.set.is_here(*replica) {
            return None;
        }
        let fallback = self.fallbacks.pop_front()?;
        Some(self.send_to_fallback(*replica, fallback))
    }

    fn send_to_fallback(
        &mut self,
        replica: ReplicaIndex,
        fallback: Arc<Peer>,
    ) -> BoxFuture<'static, Sent> {
        let node = Arc::clone(self.node);
        let (path, record) = (self.job.path.clone(), self.minted.stored.clone());
        let target = self.set.peer(replica).id.clone();
        let (deadline, request_id) = (self.job.deadline, self.job.request_id.clone());
        let at = self.set.at;
        Box::pin(async move {
            let request = Request::Hint { target, path, record };
            let answer = node.call(&at, &fallback, request, deadline, Some(request_id)).await;
            let kept = answer.and_then(|answer| match answer {
                Answer::Kept => Ok(Sending::Kept),
                _ => Err(PeerFailure::WrongAnswer),
            });
            (replica, kept)
        })
    }

    fn own_copy(&mut self, replica: ReplicaIndex) -> BoxFuture<'static, Sent> {
        let committed = self.minted.take_committed();
        Box::pin(async move {
            let stored = committed.await;
            let stored = stored.map(|()| Sending::Taken);
            (replica, stored.map_err(|_| PeerFailure::Refused(Refusal::StoreFailed)))
        })
    }

    fn send(&self, replica: ReplicaIndex) -> BoxFuture<'static, Sent> {
        let node = Arc::clone(self.node);
        let peer = Arc::clone(self.set.peer(replica));
        let place = Place::new(self.set.vnode, self.job.path.clone());
        let (at, table) = (self.set.at, self.set.vnode_at(replica).table);
        let (mut record, dot) = (self.minted.stored.clone(), self.minted.dot);
        let (deadline, request_id) = (self.job.deadline, self.job.request_id.clone());
        let is_new = replica.0 >= self.set.n();
        // In an epoch in which former holders have something of the partition, nothing of it is purged.
        let is_unpurged =
            self.is_elsewhere && self.layout.state.has_former(self.set.vnode.partition);
        let is_replica = self.set.indices().any(|replica| self.set.is_here(replica));
        Box::pin(async move {
            loop {
                let (path, sent) = (place.path.clone(), record.clone());
                let request = Request::Merge { path, table, record: sent, answers: false };
                let request_id = request_id.clone();
                let answer =
                    node.call_replica(&at, (&peer, is_new), request, deadline, request_id).await;
                let number = match answer {
                    Ok(Answer::Merged(_)) => return (replica, Ok(Sending::Taken)),
                    Ok(_) => return (replica, Err(PeerFailure::WrongAnswer)),
                    Err(PeerFailure::Refused(Refusal::StalePurge(number))) => number,
                    Err(failure) => return (replica, Err(failure)),
                };
                if is_unpurged {
                    record.purge = number;
                    continue;
                }
                if !is_replica {
                    // There is nothing here to read again, and no number to meet.
                    let stale = Refusal::StalePurge(number);
                    return (replica, Err(PeerFailure::Refused(stale)));
                }
                // Purged meanwhile: what is read again holds the write, or what replaced it; unless
                // this replica's own copy has failed.
                match node.carried_after(&place, number).await {
                    Ok(Some(again)) if has_seen(&again, dot) => record = again,
                    Ok(_) => {
                        let stale = Refusal::StalePurge(number);
                        return (replica, Err(PeerFailure::Refused(stale)));
                    }
                    Err(refusal) => return (replica, Err(PeerFailure::Refused(refusal))),
                }
            }
        })
    }

    /// Takes the end of one send; where the write stands, if it is no longer open.
    fn take(&mut self, (replica, sent): Sent) -> Option<PutProgress> {
        self.is_own_copy_done |= self.set.is_here(replica);
        let progress = match sent {
            Ok(sending) => {
                if sending == Sending::Kept {
                    self.kept.push(replica);
                }
                self.reports.set(replica, ReplicaOutcome::Ok);
                self.put.acknowledged(replica)
            }
            Err(failure) => {
                self.reports.set(replica, failure.outcome());
                self.put.failed(replica)
            }
        };
        (progress != PutProgress::Waiting).then_some(progress)
    }

    /// What to answer.
    fn outcome(&self, progress: PutProgress) -> Outcome {
        match progress {
            PutProgress::Reached => Ok(self.written()),
            // Sends end at the deadline too: then it is the time that was too short.
            PutProgress::OutOfReach | PutProgress::Waiting
                if Instant::now() >= self.job.deadline =>
            {
                Err(self.timed_out())
            }
            PutProgress::OutOfReach | PutProgress::Waiting => Err(self.out_of_reach()),
        }
    }

    fn written(&self) -> WriteAnswer {
        let record = &self.minted.record;
        let policy = self.node.bucket_settings(&self.layout, &self.job.path.bucket).resolve;
        let siblings = record.shown(policy).sibling_count();
        self.node.metrics.siblings_after_write(siblings);
        WriteAnswer {
            version: self.minted.dot,
            siblings,
            set: (siblings == 1).then(|| EtagSet(record.etag_set())),
            context: self.context(),
            acks: self.acks(),
            epoch: self.layout.state.epoch,
        }
    }

    fn timed_out(&self) -> WriteFailure {
        begun(OperationError::Timeout {
            reached: self.reports.reached(&self.set, self.put.got(), self.required),
            maybe_applied: true,
            context: Some(self.context()),
        })
    }

    fn out_of_reach(&self) -> WriteFailure {
        begun(OperationError::LevelNotReached {
            reached: self.reports.reached(&self.set, self.put.got(), self.required),
            maybe_applied: true,
            context: Some(self.context()),
        })
    }

    fn acks(&self) -> Acks {
        Acks { got: self.put.got(), required: self.required, n: self.set.n() }
    }

    /// The token for the writer: what it has seen by this write, and nothing that it has not.
    fn context(&self) -> String {
        let seen_by_client = match &self.job.seen {
            Seen::Token(context) => context.clone(),
            Seen::Nothing | Seen::OwnRead => Context::empty(),
        };
        let minted = &*self.minted;
        let cover =
            token_cover_after_write(&minted.record, &seen_by_client, &minted.replaced, minted.dot);
        ContextToken::seal(&cover, &self.job.path, self.node.token_key_of(&self.layout))
    }
}

impl Node {
    /// Calls a replica for a write or a repair. A new one has just been taken in and comes to serve in
    /// a moment: it is asked again, until the deadline.
    pub(super) async fn call_replica(
        self: &Arc<Self>,
        at: &StateStamp,
        (peer, is_new): (&Peer, bool),
        request: Request,
        deadline: Instant,
        request_id: RequestId,
    ) -> Result<Answer, PeerFailure> {
        if !is_new {
            return self.call(at, peer, request, deadline, Some(request_id)).await;
        }
        let is_in_time = || Instant::now() + NEW_REPLICA_AFTER < deadline;
        loop {
            let request_id = Some(request_id.clone());
            match self.call(at, peer, request.clone(), deadline, request_id).await {
                Err(failure) if is_not_there_yet(&failure) && is_in_time() => {
                    tokio::time::sleep(NEW_REPLICA_AFTER).await;
                }
                answer => return answer,
            }
        }
    }
}

/// Whether a node may just not serve yet.
fn is_not_there_yet(failure: &PeerFailure) -> bool {
    match failure {
        PeerFailure::Transport(error) => error.is_not_sent(),
        PeerFailure::Refused(refusal) => *refusal == Refusal::NotServing,
        PeerFailure::WrongAnswer => false,
    }
}

/// Whether a record holds a write, or what replaced it.
fn has_seen(carried: &Carried, dot: Dot) -> bool {
    Summary::from_stored_bytes(&carried.record).is_ok_and(|record| record.context().contains(dot))
}

fn begun(error: OperationError) -> WriteFailure {
    WriteFailure { error: Box::new(error), is_unbegun: false }
}
