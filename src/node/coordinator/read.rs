//! Driving one read core: asking replicas, racing slow ones, mending stale ones.

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use smallvec::SmallVec;
use tokio::time::Instant;

use super::{FAIL_OVER_AFTER, Reports, refuse_unavailable, required_of};
use crate::node::calls::PeerFailure;
use crate::node::handler::comparable_digest;
use crate::node::instruments::PlantedBug;
use crate::node::layout::ReplicaSet;
use crate::node::replica::Place;
use crate::node::{Node, Phase};
use crate::peer::messages::{Answer as PeerAnswer, Carried, Part, Refusal, Request};
use crate::protocol::causality::{Record, Summary};
use crate::protocol::cluster::StateStamp;
use crate::protocol::operation::{OperationError, Reached, ReplicaOutcome};
use crate::protocol::quorum::{
    Answer, Finished, Get, GetCommand, GetPlan, Group, Mergeable, RepairMode, ReplicaIndex, Want,
};
use crate::storage::BoxFuture;
use crate::types::{KeyPath, Level, PurgeNumber, RequestId};

/// A record that was read, for a read that shows it and mends what is stale.
#[derive(Clone, Debug)]
pub(super) struct ReadRecord {
    pub(super) record: Record,
    /// Under which number it was read; of a merge the least.
    purge: PurgeNumber,
}

/// What a read can fetch from a replica: whole records, or heads without the values.
pub(super) trait Fetched: Mergeable + Clone + Send + Sized + 'static {
    /// Whether replicas but the first are asked for digests.
    const DIGESTS: bool;
    /// What to ask a peer for.
    const PART: Part;
    /// Reads this node's own copy.
    fn local(
        node: &Arc<Node>,
        at: &StateStamp,
        place: &Place,
    ) -> impl Future<Output = Result<Self, Refusal>> + Send;
    /// Reads what this node keeps for replicas that it stands in for.
    fn hinted(
        node: &Arc<Node>,
        path: &KeyPath,
    ) -> impl Future<Output = Result<Self, Refusal>> + Send;
    /// Takes a peer's answer; `None`: it is not what was asked for.
    fn parse(answer: PeerAnswer) -> Option<Self>;
    /// In its stored form, for a repair; `None`: it can't mend anything.
    fn stored(&self) -> Option<Carried>;
}

impl Mergeable for ReadRecord {
    fn merge_in(&mut self, other: &Self) {
        // Two values under one dot are counted where a replica stores them.
        let _ = self.record.merge(&other.record);
        self.purge = self.purge.min(other.purge);
    }

    fn digest(&self) -> u64 {
        comparable_digest(&self.record)
    }

    fn is_pushed(&self) -> bool {
        !self.record.is_husk()
    }
}

impl Mergeable for Summary {
    fn merge_in(&mut self, other: &Self) {
        let _ = self.merge(other);
    }

    fn digest(&self) -> u64 {
        comparable_digest(self)
    }

    fn is_pushed(&self) -> bool {
        false
    }
}

impl Fetched for ReadRecord {
    const DIGESTS: bool = true;
    const PART: Part = Part::Record;

    async fn local(node: &Arc<Node>, at: &StateStamp, place: &Place) -> Result<Self, Refusal> {
        let (record, purge) = node.record(at, place).await?;
        Ok(Self { record, purge })
    }

    async fn hinted(node: &Arc<Node>, path: &KeyPath) -> Result<Self, Refusal> {
        let (record, purge) = node.hinted_record(path).await?;
        Ok(Self { record, purge })
    }

    fn parse(answer: PeerAnswer) -> Option<Self> {
        let (record, purge) = match answer {
            PeerAnswer::Record(None, purge) => (Record::absent(), purge),
            PeerAnswer::Record(Some(bytes), purge) => {
                (Record::from_stored_bytes(bytes).ok()?, purge)
            }
            _ => return None,
        };
        Some(Self { record, purge })
    }

    fn stored(&self) -> Option<Carried> {
        Some(Carried { record: self.record.to_stored_bytes(), purge: self.purge })
    }
}

impl Fetched for Summary {
    const DIGESTS: bool = false;
    const PART: Part = Part::Heads;

    async fn local(node: &Arc<Node>, at: &StateStamp, place: &Place) -> Result<Self, Refusal> {
        node.summary(at, place).await
    }

    async fn hinted(node: &Arc<Node>, path: &KeyPath) -> Result<Self, Refusal> {
        node.hinted_record(path).await.map(|(record, _)| Self::from(&record))
    }

    fn parse(answer: PeerAnswer) -> Option<Self> {
        match answer {
            PeerAnswer::Heads(None) => Some(Self::absent()),
            PeerAnswer::Heads(Some(bytes)) => Self::from_bytes(&bytes).ok(),
            _ => None,
        }
    }

    fn stored(&self) -> Option<Carried> {
        None
    }
}

/// A read to be done.
#[derive(Clone, Debug)]
pub(super) struct ReadJob {
    pub(super) path: KeyPath,
    /// The sets that are read, each with its R.
    pub(super) groups: SmallVec<[Group; 2]>,
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
    /// What was read is older than a purge that a replica knows of.
    is_overtaken: bool,
    /// How many replicas have only a damaged copy.
    damaged: u8,
    /// How many of the set's spare nodes were asked in a replica's place.
    spares_asked: usize,
}

enum Ended {
    Finished,
    Failed,
    TimedOut,
}

impl Node {
    /// The sets that a read must reach, each with its level.
    pub(super) fn read_groups(&self, set: &ReplicaSet, level: Level) -> SmallVec<[Group; 2]> {
        let mut groups = set.read_groups(level);
        if self.instruments.has(PlantedBug::ReadFromNewTooEarly) {
            groups = set.write_groups(level);
            groups.drain(..groups.len() - 1);
        }
        groups
    }

    /// Reads a key from its replicas at a level.
    pub(super) async fn read<D: Fetched>(
        self: &Arc<Self>,
        set: &ReplicaSet,
        job: &ReadJob,
    ) -> Result<(Finished<D>, Reached), OperationError> {
        refuse_unavailable(set, &job.groups)?;
        loop {
            let (ended, is_overtaken) = self.read_once(set, job).await;
            // A purge overtook the read between its answers and the repair: it reads again.
            let is_over = ended.is_ok() || !is_overtaken || self.is_past(&set.at);
            if is_over || Instant::now() >= job.deadline {
                return ended;
            }
        }
    }

    /// Reads; says too whether a repair was refused because of a purge.
    async fn read_once<D: Fetched>(
        self: &Arc<Self>,
        set: &ReplicaSet,
        job: &ReadJob,
    ) -> (Result<(Finished<D>, Reached), OperationError>, bool) {
        let plan = GetPlan {
            groups: job.groups.clone(),
            mended: set.mended(),
            places: set.places(),
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
            is_overtaken: false,
            damaged: 0,
            spares_asked: 0,
        };
        let ended = reading.drive(commands).await;
        let is_overtaken = reading.is_overtaken;
        (reading.conclude(ended), is_overtaken)
    }

    /// Sends stale replicas the merge after the answer.
    pub(super) fn repair_in_background(
        self: &Arc<Self>,
        set: &ReplicaSet,
        stale: &[ReplicaIndex],
        stored: &Carried,
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
        stored: Carried,
        job: &ReadJob,
    ) -> BoxFuture<'static, Result<(), PeerFailure>> {
        let node = Arc::clone(self);
        let peer = Arc::clone(set.peer(replica));
        let (at, place) = (set.at, Place::new(set.vnode_at(replica), job.path.clone()));
        let (deadline, request_id) = (job.deadline, job.request_id.clone());
        let (is_local, is_new) = (set.is_here(replica), replica.0 >= set.n());
        Box::pin(async move {
            let outcome = if is_local {
                // Runs to its end even if the read does not wait for it.
                let merging = Arc::clone(&node);
                let merged = node.tasks.spawn(async move {
                    merging.merge(&at, &place, stored, &peer.id, deadline).await
                });
                let merged = merged.await.unwrap_or(Err(Refusal::StoreFailed));
                merged.map(drop).map_err(PeerFailure::Refused)
            } else {
                let (table, path) = (place.vnode.table, place.path);
                let request = Request::Merge { path, table, record: stored, answers: false };
                let peer = (&*peer, is_new);
                let answer = node.call_replica(&at, peer, request, deadline, request_id).await;
                answer.and_then(|answer| match answer {
                    PeerAnswer::Merged(_) => Ok(()),
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
        let is_stand_in = self.set.is_stand_in(replica);
        if self.set.is_here(replica) {
            // A disk may be silent too.
            self.race_at = self.race_at.min(Instant::now() + FAIL_OVER_AFTER);
            let place = Place::new(self.set.vnode_at(replica), path);
            let at = self.set.at;
            self.events.push(Box::pin(async move {
                let read = match is_stand_in {
                    true => D::hinted(&node, &place.path).await,
                    false => D::local(&node, &at, &place).await,
                };
                let answer = read.map(Answer::Full).map_err(PeerFailure::Refused);
                Event::Answered(replica, answer)
            }));
            return;
        }
        if self.is_hedge {
            self.race_at = self.race_at.min(Instant::now() + peer.latency.hedge_after());
        }
        let (deadline, request_id) = (self.job.deadline, Some(self.job.request_id.clone()));
        let (at, table) = (self.set.at, self.set.vnode_at(replica).table);
        self.events.push(Box::pin(async move {
            let part = if want == Want::Full { D::PART } else { Part::Digest };
            let request = Request::Read { path, table, part, hinted: is_stand_in };
            let answer = node.call(&at, &peer, request, deadline, request_id).await;
            let answer = answer.and_then(|answer| match answer {
                PeerAnswer::Digest(digest) if part == Part::Digest => Ok(Answer::Digest(digest)),
                other => D::parse(other).map(Answer::Full).ok_or(PeerFailure::WrongAnswer),
            });
            Event::Answered(replica, answer)
        }));
    }

    /// Asks a node that stands in for a replica which does not answer, if there is one.
    fn ask_spare(&mut self, replica: ReplicaIndex) -> bool {
        let Some(spare) = self.set.spares().get(self.spares_asked).cloned() else { return false };
        self.spares_asked += 1;
        let (node, path) = (Arc::clone(self.node), self.job.path.clone());
        let (deadline, request_id) = (self.job.deadline, Some(self.job.request_id.clone()));
        let (at, table) = (self.set.at, self.set.vnode.table);
        self.events.push(Box::pin(async move {
            let request = Request::Read { path, table, part: D::PART, hinted: true };
            let answer = node.call(&at, &spare, request, deadline, request_id).await;
            let answer = answer
                .and_then(|answer| D::parse(answer).ok_or(PeerFailure::WrongAnswer))
                .map(Answer::Full);
            Event::Answered(replica, answer)
        }));
        true
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
            Event::Answered(replica, Err(PeerFailure::Transport(_))) if self.ask_spare(replica) => {
                Vec::new()
            }
            Event::Answered(replica, Err(failure)) => {
                let is_damaged = matches!(failure, PeerFailure::Refused(Refusal::Quarantined));
                self.damaged += u8::from(is_damaged);
                self.reports.set(replica, failure.outcome());
                self.core.failed(replica)
            }
            Event::Repaired(replica, Ok(())) => self.core.repaired(replica),
            Event::Repaired(replica, Err(failure)) => {
                self.is_overtaken |=
                    matches!(failure, PeerFailure::Refused(Refusal::StalePurge(_)));
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
        let reached = |got: u8| self.reports.reached(self.set, got, required_of(&self.job.groups));
        match ended {
            Ended::Finished => {
                let finished = self.core.finish();
                let reached = reached(finished.got);
                Ok((finished, reached))
            }
            Ended::Failed if self.damaged > 0 => {
                Err(OperationError::Damaged(reached(self.core.got())))
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
