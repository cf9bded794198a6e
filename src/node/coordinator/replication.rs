//! One minted write on its way to the replicas.

use std::collections::VecDeque;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use smallvec::SmallVec;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Reports;
use super::put::{Outcome, WriteJob};
use crate::node::calls::PeerFailure;
use crate::node::instruments::PlantedBug;
use crate::node::layout::{Layout, Peer, ReplicaSet};
use crate::node::replica::{Minted, Place};
use crate::node::{Node, Phase};
use crate::peer::messages::{Answer, Carried, Refusal, Request, WriteFailure};
use crate::protocol::causality::{Context, ContextToken, Dot, Summary, token_cover_after_write};
use crate::protocol::operation::{
    Acks, EtagSet, OperationError, ReplicaOutcome, Seen, WriteAnswer,
};
use crate::protocol::quorum::{Put, PutProgress, ReplicaIndex};
use crate::storage::BoxFuture;
use crate::types::{NodeId, WriteLevel};

/// Who has the write now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sending {
    /// The replica.
    Taken,
    /// A fallback keeps it for the replica.
    Kept,
}

type Sent = (ReplicaIndex, Result<Sending, PeerFailure>);

/// See the module's head.
pub(super) struct Replication<'a> {
    node: &'a Arc<Node>,
    layout: &'a Layout,
    set: &'a ReplicaSet,
    job: &'a WriteJob,
    level: WriteLevel,
    minted: Minted,
    /// Who is sent to.
    up: SmallVec<[ReplicaIndex; 5]>,
    put: Put,
    reports: Reports,
    is_own_copy_done: bool,
    /// Who may stand in for replicas that do not take the write; empty unless it is sloppy.
    fallbacks: VecDeque<Arc<Peer>>,
    /// Replicas for which the write is kept elsewhere, by a fallback.
    kept: SmallVec<[ReplicaIndex; 5]>,
}

impl<'a> Replication<'a> {
    pub(super) fn new(
        node: &'a Arc<Node>,
        layout: &'a Layout,
        set: &'a ReplicaSet,
        job: &'a WriteJob,
        level: WriteLevel,
        minted: Minted,
    ) -> Self {
        // Looked at once: who goes down meanwhile is sent to all the same.
        let up: SmallVec<[ReplicaIndex; 5]> =
            set.indices().filter(|replica| set.is_up(*replica)).collect();
        let fallbacks: VecDeque<Arc<Peer>> = match job.sloppy {
            true => layout.fallbacks(set.vnode).cloned().collect(),
            false => VecDeque::new(),
        };
        let early = node.instruments.has(PlantedBug::EarlyAcknowledgement) && level.get() > 1;
        let required = level.get() - u8::from(early);
        let down = set.indices().filter(|replica| !up.contains(replica));
        let hopeless: SmallVec<[ReplicaIndex; 5]> = down.skip(fallbacks.len()).collect();
        let put = Put::start(required, set.n(), |replica| hopeless.contains(&replica));
        let reports = Reports::new(set);
        let (is_own_copy_done, kept) = (false, SmallVec::new());
        Self {
            node,
            layout,
            set,
            job,
            level,
            minted,
            up,
            put,
            reports,
            is_own_copy_done,
            fallbacks,
            kept,
        }
    }

    /// Sends the record to all replicas that are up; answers as soon as the level is reached or
    /// out of reach, or the deadline has passed; returns when every send has ended, or, once it
    /// has answered and its own copy is done, when the node stops.
    pub(super) async fn run(mut self, answer: oneshot::Sender<Outcome>) {
        let place = Place::new(self.set.vnode, self.job.path.clone());
        let _sending = self.node.sending.begin(&place);
        self.send_everywhere(answer).await;
        let (node, untaken, late) = (Arc::clone(self.node), self.untaken(), self.untaken_lately());
        let (dot, is_stored_here) = (self.minted.dot, self.minted.is_stored_here());
        drop(self);
        // Kept for the replicas that did not take it and for which nobody else keeps it.
        if (late.is_empty() || node.keep_for(&place, &late).await) && is_stored_here {
            node.note_untaken(&untaken, &place.path, dot);
        }
    }

    /// The replicas that do not have the write, and for which nobody else keeps it.
    fn untaken(&self) -> Vec<NodeId> {
        let took = |replica: &ReplicaIndex| {
            self.put.has(*replica)
                || self.kept.contains(replica)
                || self.set.local == Some(*replica)
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

    async fn send_everywhere(&mut self, answer: oneshot::Sender<Outcome>) {
        let mut answer = Some(answer);
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
                    None => return,
                },
                () = &mut deadline, if answer.is_some() => Some(Err(self.timed_out())),
                _ = phase.wait_for(|phase| *phase == Phase::Stopping),
                    if answer.is_none() && self.is_own_copy_done => return,
            };
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
            sends.push(if self.set.local == Some(replica) {
                self.own_copy(replica)
            } else {
                self.send(replica)
            });
        }
        let set = self.set;
        for replica in set.indices() {
            if self.up.contains(&replica) {
                continue;
            }
            if let Some(fallback) = self.fallbacks.pop_front() {
                sends.push(self.send_to_fallback(replica, fallback));
            }
        }
        sends
    }

    /// After a failed send: the same to a node that stands in for the replica.
    fn next_fallback(&mut self, (replica, sent): &Sent) -> Option<BoxFuture<'static, Sent>> {
        if sent.is_ok() || self.set.local == Some(*replica) {
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
        Box::pin(async move {
            let request = Request::Hint { target, path, record };
            let answer = node.call(&fallback, request, deadline, Some(request_id)).await;
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
        let (mut record, dot) = (self.minted.stored.clone(), self.minted.dot);
        let (deadline, request_id) = (self.job.deadline, self.job.request_id.clone());
        Box::pin(async move {
            loop {
                let path = place.path.clone();
                let request = Request::Merge { path, record, answers: false };
                let answer = node.call(&peer, request, deadline, Some(request_id.clone())).await;
                let number = match answer {
                    Ok(Answer::Merged(_)) => return (replica, Ok(Sending::Taken)),
                    Ok(_) => return (replica, Err(PeerFailure::WrongAnswer)),
                    Err(PeerFailure::Refused(Refusal::StalePurge(number))) => number,
                    Err(failure) => return (replica, Err(failure)),
                };
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
        self.is_own_copy_done |= self.set.local == Some(replica);
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
        let policy = self.node.settings.bucket(&self.job.path.bucket).resolve;
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
            reached: self.reports.reached(self.set, self.put.got(), self.level.get()),
            maybe_applied: true,
            context: Some(self.context()),
        })
    }

    fn out_of_reach(&self) -> WriteFailure {
        begun(OperationError::LevelNotReached {
            reached: self.reports.reached(self.set, self.put.got(), self.level.get()),
            maybe_applied: true,
            context: Some(self.context()),
        })
    }

    fn acks(&self) -> Acks {
        Acks { got: self.put.got(), required: self.level.get(), n: self.set.n() }
    }

    /// The token for the writer: what it has seen by this write, and nothing that it has not.
    fn context(&self) -> String {
        let seen_by_client = match &self.job.seen {
            Seen::Token(context) => context.clone(),
            Seen::Nothing | Seen::OwnRead => Context::empty(),
        };
        let minted = &self.minted;
        let cover =
            token_cover_after_write(&minted.record, &seen_by_client, &minted.replaced, minted.dot);
        ContextToken::seal(&cover, &self.job.path, self.node.token_key_of(self.layout))
    }
}

/// Whether a record holds a write, or what replaced it.
fn has_seen(carried: &Carried, dot: Dot) -> bool {
    Summary::from_stored_bytes(&carried.record).is_ok_and(|record| record.context().contains(dot))
}

fn begun(error: OperationError) -> WriteFailure {
    WriteFailure { error: Box::new(error), is_unbegun: false }
}
