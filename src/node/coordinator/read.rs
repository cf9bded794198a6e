//! Driving one read core: asking replicas, racing slow ones, mending stale ones.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;

use super::{FAIL_OVER_AFTER, Reports, refuse_unavailable};
use crate::node::calls::PeerFailure;
use crate::node::layout::ReplicaSet;
use crate::node::replica::Place;
use crate::node::{Node, Phase};
use crate::peer::messages::{Answer as PeerAnswer, Part, Refusal, Request};
use crate::protocol::causality::{Record, Summary};
use crate::protocol::operation::{OperationError, Reached, ReplicaOutcome};
use crate::protocol::quorum::{
    Answer, Finished, Get, GetCommand, GetPlan, Mergeable, RepairMode, ReplicaIndex, Want,
};
use crate::storage::BoxFuture;
use crate::types::{KeyPath, RequestId};

/// What a read can fetch from a replica: whole records, or heads without the values.
pub(super) trait Fetched: Mergeable + Clone + Send + Sized + 'static {
    /// Whether replicas but the first are asked for digests.
    const DIGESTS: bool;
    /// What to ask a peer for.
    const PART: Part;
    /// Reads this node's own copy.
    fn local(node: &Arc<Node>, place: &Place)
    -> impl Future<Output = Result<Self, Refusal>> + Send;
    /// Takes a peer's answer; `None`: it is not what was asked for.
    fn parse(answer: PeerAnswer) -> Option<Self>;
    /// In its stored form, for a repair; `None`: it can't mend anything.
    fn stored(&self) -> Option<Bytes>;
}

impl Mergeable for Record {
    fn merge_in(&mut self, other: &Self) {
        // Two values under one dot are counted where a replica stores them.
        let _ = self.merge(other);
    }

    fn digest(&self) -> u64 {
        self.digest()
    }
}

impl Mergeable for Summary {
    fn merge_in(&mut self, other: &Self) {
        let _ = self.merge(other);
    }

    fn digest(&self) -> u64 {
        self.digest()
    }
}

impl Fetched for Record {
    const DIGESTS: bool = true;
    const PART: Part = Part::Record;

    async fn local(node: &Arc<Node>, place: &Place) -> Result<Self, Refusal> {
        node.record(place).await
    }

    fn parse(answer: PeerAnswer) -> Option<Self> {
        match answer {
            PeerAnswer::Record(None) => Some(Self::absent()),
            PeerAnswer::Record(Some(bytes)) => Self::from_stored_bytes(bytes).ok(),
            _ => None,
        }
    }

    fn stored(&self) -> Option<Bytes> {
        Some(self.to_stored_bytes())
    }
}

impl Fetched for Summary {
    const DIGESTS: bool = false;
    const PART: Part = Part::Heads;

    async fn local(node: &Arc<Node>, place: &Place) -> Result<Self, Refusal> {
        node.summary(place).await
    }

    fn parse(answer: PeerAnswer) -> Option<Self> {
        match answer {
            PeerAnswer::Heads(None) => Some(Self::absent()),
            PeerAnswer::Heads(Some(bytes)) => Self::from_bytes(&bytes).ok(),
            _ => None,
        }
    }

    fn stored(&self) -> Option<Bytes> {
        None
    }
}

/// A read to be done.
#[derive(Clone, Debug)]
pub(super) struct ReadJob {
    pub(super) path: KeyPath,
    pub(super) required: u8,
    pub(super) repair: RepairMode,
    pub(super) deadline: Instant,
    pub(super) request_id: RequestId,
}

enum Event<D> {
    Answered(ReplicaIndex, Result<Answer<D>, PeerFailure>),
    Repaired(ReplicaIndex, Result<(), PeerFailure>),
}

/// One read under way.
struct Reading<'a, D> {
    node: &'a Arc<Node>,
    set: &'a ReplicaSet,
    job: &'a ReadJob,
    core: Get<D>,
    reports: Reports,
    events: FuturesUnordered<BoxFuture<'static, Event<D>>>,
    /// When to race the replicas that are waited for.
    race_at: Instant,
    /// Whether the next race is a hedge, which the budget has to allow.
    is_hedge: bool,
}

enum Ended {
    Finished,
    Failed,
    TimedOut,
}

impl Node {
    /// Reads a key from its replicas at a level.
    pub(super) async fn read<D: Fetched>(
        self: &Arc<Self>,
        set: &ReplicaSet,
        job: &ReadJob,
    ) -> Result<(Finished<D>, Reached), OperationError> {
        refuse_unavailable(set, job.required)?;
        let plan = GetPlan {
            required: job.required,
            n: set.n(),
            candidates: self.candidates(set),
            digests: D::DIGESTS,
            repair: job.repair,
        };
        self.hedging.earn();
        let (core, commands) = Get::start(plan);
        let mut reading = Reading {
            node: self,
            set,
            job,
            core,
            reports: Reports::new(set),
            events: FuturesUnordered::new(),
            race_at: job.deadline,
            is_hedge: true,
        };
        let ended = reading.drive(commands).await;
        reading.conclude(ended)
    }

    /// Sends stale replicas the merge after the answer.
    pub(super) fn repair_in_background(
        self: &Arc<Self>,
        set: &ReplicaSet,
        stale: &[ReplicaIndex],
        stored: &Bytes,
        job: &ReadJob,
    ) {
        for replica in stale {
            let repair = self.repair(set, *replica, stored.clone(), job);
            let phase = self.phase();
            self.tasks.spawn(async move {
                tokio::select! {
                    biased;
                    _ = repair => {}
                    _ = phase.wait_for(|phase| *phase == Phase::Stopping) => {}
                }
            });
        }
    }

    /// Sends one replica a merged record.
    fn repair(
        self: &Arc<Self>,
        set: &ReplicaSet,
        replica: ReplicaIndex,
        stored: Bytes,
        job: &ReadJob,
    ) -> BoxFuture<'static, Result<(), PeerFailure>> {
        let node = Arc::clone(self);
        let peer = Arc::clone(set.peer(replica));
        let place = Place::new(set.vnode, job.path.clone());
        let (deadline, request_id) = (job.deadline, job.request_id.clone());
        let is_local = set.local == Some(replica);
        Box::pin(async move {
            let outcome = if is_local {
                // Runs to its end even if the read does not wait for it.
                let merging = Arc::clone(&node);
                let merged = node
                    .tasks
                    .spawn(async move { merging.merge(&place, stored, &peer.id, deadline).await });
                let merged = merged.await.unwrap_or(Err(Refusal::StoreFailed));
                merged.map_err(PeerFailure::Refused)
            } else {
                let request = Request::Merge { path: place.path, record: stored };
                let answer = node.call(&peer, request, deadline, Some(request_id)).await;
                answer.and_then(|answer| match answer {
                    PeerAnswer::Merged => Ok(()),
                    _ => Err(PeerFailure::WrongAnswer),
                })
            };
            node.metrics.read_repair(if outcome.is_ok() { "ok" } else { "failed" });
            outcome
        })
    }
}

impl<D: Fetched> Reading<'_, D> {
    async fn drive(&mut self, commands: Vec<GetCommand>) -> Ended {
        let mut commands = commands;
        loop {
            if let Some(ended) = self.carry_out(&commands) {
                return ended;
            }
            commands = tokio::select! {
                biased;
                event = self.events.next() => match event {
                    Some(event) => self.take(event),
                    // Nothing is under way and nothing was asked for: it can't go on.
                    None => return Ended::Failed,
                },
                () = tokio::time::sleep_until(self.race_at.min(self.job.deadline)) => {
                    if Instant::now() >= self.job.deadline {
                        return Ended::TimedOut;
                    }
                    self.race()
                }
            };
        }
    }

    fn carry_out(&mut self, commands: &[GetCommand]) -> Option<Ended> {
        for command in commands {
            match *command {
                GetCommand::Ask(replica, want) => self.ask(replica, want),
                GetCommand::Repair(replica) => self.mend(replica),
                GetCommand::Finish => return Some(Ended::Finished),
                // Calls end at the deadline too: then it is the time that was too short.
                GetCommand::Fail if Instant::now() >= self.job.deadline => {
                    return Some(Ended::TimedOut);
                }
                GetCommand::Fail => return Some(Ended::Failed),
            }
        }
        None
    }

    fn ask(&mut self, replica: ReplicaIndex, want: Want) {
        self.reports.set(replica, ReplicaOutcome::Timeout);
        let node = Arc::clone(self.node);
        let peer = Arc::clone(self.set.peer(replica));
        let path = self.job.path.clone();
        if self.set.local == Some(replica) {
            // A disk may be silent too.
            self.race_at = self.race_at.min(Instant::now() + FAIL_OVER_AFTER);
            let place = Place::new(self.set.vnode, path);
            self.events.push(Box::pin(async move {
                let read = D::local(&node, &place).await;
                let answer = read.map(Answer::Full).map_err(PeerFailure::Refused);
                Event::Answered(replica, answer)
            }));
            return;
        }
        if self.is_hedge {
            self.race_at = self.race_at.min(Instant::now() + peer.latency.hedge_after());
        }
        let (deadline, request_id) = (self.job.deadline, Some(self.job.request_id.clone()));
        self.events.push(Box::pin(async move {
            let part = if want == Want::Full { D::PART } else { Part::Digest };
            let request = Request::Read { path, part };
            let answer = node.call(&peer, request, deadline, request_id).await;
            let answer = answer.and_then(|answer| match answer {
                PeerAnswer::Digest(digest) if part == Part::Digest => Ok(Answer::Digest(digest)),
                other => D::parse(other).map(Answer::Full).ok_or(PeerFailure::WrongAnswer),
            });
            Event::Answered(replica, answer)
        }));
    }

    fn mend(&mut self, replica: ReplicaIndex) {
        self.race_at = self.race_at.min(Instant::now() + FAIL_OVER_AFTER);
        let merged = self.core.merged().and_then(D::stored);
        let stored = merged.expect("only reads of whole records mend");
        let repair = self.node.repair(self.set, replica, stored, self.job);
        self.events.push(Box::pin(async move { Event::Repaired(replica, repair.await) }));
    }

    fn take(&mut self, event: Event<D>) -> Vec<GetCommand> {
        match event {
            Event::Answered(replica, Ok(answer)) => {
                self.reports.set(replica, ReplicaOutcome::Ok);
                self.core.answered(replica, answer)
            }
            Event::Answered(replica, Err(failure)) => {
                self.reports.set(replica, failure.outcome());
                self.core.failed(replica)
            }
            Event::Repaired(replica, Ok(())) => self.core.repaired(replica),
            Event::Repaired(replica, Err(failure)) => {
                self.reports.set(replica, failure.outcome());
                self.core.repair_failed(replica)
            }
        }
    }

    /// Replicas are slow: asks one more. First as a hedge, if the budget has one; then, when a
    /// replica is not slow but silent, in any case.
    fn race(&mut self) -> Vec<GetCommand> {
        self.race_at = Instant::now() + FAIL_OVER_AFTER;
        let is_hedge = std::mem::replace(&mut self.is_hedge, false);
        if is_hedge && !self.node.hedging.spend() {
            return Vec::new();
        }
        let commands = self.core.hedge();
        match (commands.is_empty(), is_hedge) {
            (true, _) => {}
            (false, true) => self.node.metrics.hedged_read(),
            (false, false) => self.node.metrics.failed_over_read(),
        }
        commands
    }

    fn conclude(self, ended: Ended) -> Result<(Finished<D>, Reached), OperationError> {
        let reached = |got: u8| self.reports.reached(self.set, got, self.job.required);
        match ended {
            Ended::Finished => {
                let finished = self.core.finish();
                let reached = reached(finished.got);
                Ok((finished, reached))
            }
            Ended::Failed => Err(OperationError::LevelNotReached {
                reached: reached(self.core.got()),
                maybe_applied: false,
                context: None,
            }),
            Ended::TimedOut => Err(OperationError::Timeout {
                reached: reached(self.core.got()),
                maybe_applied: false,
                context: None,
            }),
        }
    }
}
