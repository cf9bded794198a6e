//! PUT and DELETE: reads first where the write has to see something, mints at this replica, sends
//! the record to the others while this one makes its own copy durable, and answers when the level
//! is reached (correctness, sections 2 and 3).
//!
//! A write runs in its own task: a client that hangs up changes nothing, and the sends that the
//! client did not wait for go on until the deadline.

use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::read::ReadJob;
use super::replication::replicate;
use super::{Reports, refuse_unavailable, required_of};
use crate::node::Node;
use crate::node::calls::PeerFailure;
use crate::node::layout::{Layout, ReplicaSet};
use crate::node::operation::Write;
use crate::node::replica::{Mint, MintError, Minted, Place, check_conditions};
use crate::peer::messages::{ForwardedWrite, Refusal, WriteFailure};
use crate::protocol::causality::{Content, ContextToken, Summary, token_cover_for_get};
use crate::protocol::cluster::StateStamp;
use crate::protocol::operation::{
    Acks, Condition, EtagSet, OperationError, Reached, ReplicaOutcome, Seen, WriteAnswer,
};
use crate::protocol::quorum::RepairMode;
use crate::types::{KeyPath, Level, NodeId, OperationId, RequestId};

/// A write with everything resolved that can be before a replica takes it.
#[derive(Clone, Debug)]
pub(super) struct WriteJob {
    pub(super) operation: OperationId,
    pub(super) path: KeyPath,
    pub(super) content: Content,
    pub(super) seen: Seen,
    pub(super) conditions: Vec<Condition>,
    pub(super) level: Level,
    /// Fallbacks may stand in for replicas.
    pub(super) sloppy: bool,
    pub(super) deadline: Instant,
    pub(super) request_id: RequestId,
}

/// How a write that was coordinated here went.
pub(super) type Outcome = Result<WriteAnswer, WriteFailure>;

/// Nothing was minted.
pub(super) fn unbegun(error: OperationError) -> WriteFailure {
    WriteFailure { error: Box::new(error), is_unbegun: true }
}

impl Node {
    /// Writes a key for a client.
    pub(in crate::node) async fn coordinate_write(
        self: &Arc<Self>,
        write: Write,
    ) -> Result<WriteAnswer, OperationError> {
        let layout = self.serving()?;
        let bucket = self.bucket_settings(&layout, &write.path.bucket);
        let _serving = self.clients.serve();
        let level = write.terms.level.unwrap_or(bucket.w);
        let sloppy = write.terms.sloppy.unwrap_or(bucket.sloppy) || level == Level::Any;
        let set = layout.replica_set(&write.path);
        level.for_write(set.n())?;
        let job = WriteJob {
            operation: OperationId::new(self.random.u128()),
            path: write.path,
            content: write.content,
            seen: write.seen,
            conditions: write.conditions,
            level,
            sloppy,
            deadline: write.terms.deadline,
            request_id: write.terms.request_id,
        };
        let (answer, answered) = oneshot::channel();
        let node = Arc::clone(self);
        self.tasks.spawn(async move { node.write_anywhere(job, answer).await });
        match answered.await {
            Ok(outcome) => outcome.map_err(|failure| *failure.error),
            Err(_) => Err(*died().error),
        }
    }

    /// Writes here or has a replica write. What was not begun when the cluster went on to another
    /// epoch starts over in that one.
    async fn write_anywhere(
        self: &Arc<Self>,
        mut job: WriteJob,
        mut answer: oneshot::Sender<Outcome>,
    ) {
        loop {
            let layout = match self.serving() {
                Ok(layout) => layout,
                Err(error) => return drop(answer.send(Err(unbegun(error)))),
            };
            let set = layout.replica_set(&job.path);
            let outcome = match set.local {
                Some(_) => match self.write_here(&layout, &set, &job, answer).await {
                    None => return,
                    Some((failure, again)) => {
                        answer = again;
                        Err(failure)
                    }
                },
                None => self.write_elsewhere(&layout, &set, &job).await,
            };
            let is_unbegun = outcome.as_ref().is_err_and(|failure| failure.is_unbegun);
            let is_overtaken = is_unbegun && self.is_past(&layout.stamp);
            if !is_overtaken || Instant::now() >= job.deadline {
                return drop(answer.send(outcome));
            }
            // The one before was refused for good wherever it may still come to.
            job.operation = OperationId::new(self.random.u128());
        }
    }

    /// Coordinates a write that another node forwarded.
    pub(in crate::node) async fn coordinate_forwarded(
        self: &Arc<Self>,
        at: &StateStamp,
        write: ForwardedWrite,
        deadline: Instant,
        request_id: Option<RequestId>,
    ) -> Result<Outcome, Refusal> {
        let layout = self.serving().map_err(|_| Refusal::NotServing)?;
        if layout.stamp != *at {
            return Err(Refusal::StaleEpoch);
        }
        let set = layout.replica_set(&write.path);
        if set.local.is_none() {
            return Err(Refusal::NoReplica);
        }
        let job = WriteJob {
            operation: write.operation,
            path: write.path,
            content: write.content,
            seen: write.seen,
            conditions: write.conditions,
            level: write.level,
            sloppy: write.sloppy,
            deadline,
            request_id: request_id.unwrap_or_else(|| RequestId::from_random(self.random.u128())),
        };
        let (answer, answered) = oneshot::channel();
        let node = Arc::clone(self);
        self.tasks.spawn(async move {
            if let Some((failure, answer)) = node.write_here(&layout, &set, &job, answer).await {
                drop(answer.send(Err(failure)));
            }
        });
        match answered.await {
            // Its coordinator starts over.
            Ok(Err(failure)) if failure.is_unbegun && self.is_past(at) => Err(Refusal::StaleEpoch),
            Ok(outcome) => Ok(outcome),
            Err(_) => Ok(Err(died())),
        }
    }

    /// Mints a write at this replica and sends it to the others; answers when the level is
    /// reached, and returns when all is done. If nothing was minted it returns why, with whom to
    /// answer.
    async fn write_here(
        self: &Arc<Self>,
        layout: &Arc<Layout>,
        set: &ReplicaSet,
        job: &WriteJob,
        answer: oneshot::Sender<Outcome>,
    ) -> Option<(WriteFailure, oneshot::Sender<Outcome>)> {
        match self.begin(layout, set, job).await {
            Ok(minted) => {
                replicate(self, layout, set, job, minted, answer).await;
                None
            }
            Err(error) => Some((unbegun(error), answer)),
        }
    }

    /// Everything up to the mint.
    async fn begin(
        self: &Arc<Self>,
        layout: &Layout,
        set: &ReplicaSet,
        job: &WriteJob,
    ) -> Result<Minted, OperationError> {
        let level = job.level.for_write(set.n())?;
        let reachable = if job.sloppy { &layout.with_stand_ins(set) } else { set };
        refuse_unavailable(reachable, &set.write_groups(job.level))?;
        let read = self.read_before(layout, set, job).await?;
        let mint = Mint {
            content: job.content.clone(),
            seen: job.seen.clone(),
            read: read.as_ref().map(|(summary, _)| summary.clone()),
            conditions: job.conditions.clone(),
            absent: self.absent_for_good(layout, set, job),
            at: set.at,
            deadline: job.deadline,
            request_id: job.request_id.clone(),
        };
        // A write that read nothing elsewhere has asked this replica alone.
        let reached = match read {
            Some((_, reached)) => reached,
            None => only_here(set, ReplicaOutcome::Ok, 1, level.get()),
        };
        let place = Place::new(set.vnode, job.path.clone());
        let minted = self.mint(&place, mint).await;
        let minted = minted.map_err(|error| self.mint_failed(layout, set, job, reached, error))?;
        tracing::trace!(operation = %job.operation, request_id = %job.request_id, dot = %minted.dot, "minted");
        Ok(minted)
    }

    /// The replicas that are down and for which no fallback will keep the write.
    fn absent_for_good(&self, layout: &Layout, set: &ReplicaSet, job: &WriteJob) -> Vec<NodeId> {
        let kept_elsewhere = if job.sloppy { layout.fallbacks(set).len() } else { 0 };
        let down = set.indices().filter(|replica| !set.is_up(*replica)).skip(kept_elsewhere);
        down.map(|replica| set.peer(replica).id.clone()).collect()
    }

    /// The read that a write without a context, or with conditions, does first at its own level.
    /// Not needed where this replica alone is the level: the mint reads it under the lock.
    async fn read_before(
        self: &Arc<Self>,
        layout: &Layout,
        set: &ReplicaSet,
        job: &WriteJob,
    ) -> Result<Option<(Summary, Reached)>, OperationError> {
        let is_needed = job.seen == Seen::OwnRead || !job.conditions.is_empty();
        let place = Place::new(set.vnode, job.path.clone());
        let is_whole = !self.vnodes.is_incomplete(set.vnode) && !self.quarantine.has(&place);
        let groups = self.read_groups(set, job.level);
        let local_suffices = groups.len() == 1 && required_of(&groups) == 1 && is_whole;
        if !is_needed || local_suffices {
            return Ok(None);
        }
        let read = ReadJob {
            path: job.path.clone(),
            groups,
            repair: RepairMode::Off,
            deadline: job.deadline,
            request_id: job.request_id.clone(),
        };
        let asked = if job.sloppy { &layout.with_stand_ins(set) } else { set };
        let read = self.read::<Summary>(asked, &read).await;
        let (finished, reached) = read.map_err(|error| error.of_a_write())?;
        if let Err(error) = check_conditions(&finished.merged, &job.conditions) {
            return Err(self.mint_failed(layout, set, job, reached, error));
        }
        Ok(Some((finished.merged, reached)))
    }

    /// What to tell of a write that was not minted.
    fn mint_failed(
        &self,
        layout: &Layout,
        set: &ReplicaSet,
        job: &WriteJob,
        reached: Reached,
        error: MintError,
    ) -> OperationError {
        let epoch = layout.state.epoch;
        let key = self.token_key_of(layout);
        let seal =
            |there: &Summary| ContextToken::seal(&token_cover_for_get(there), &job.path, key);
        match error {
            MintError::Condition(there) => OperationError::PreconditionFailed {
                set: (!there.is_absent()).then(|| EtagSet(there.etag_set())),
                context: seal(&there),
                reached,
                epoch,
            },
            MintError::TooManySiblings(there) => OperationError::TooManySiblings {
                count: there.versions().len(),
                context: seal(&there),
                reached,
                epoch,
            },
            MintError::Refused(refusal) => self.refused_here(set, &refusal, reached.acks),
        }
    }

    /// What to tell of a write that this replica itself refused to mint.
    fn refused_here(&self, set: &ReplicaSet, refusal: &Refusal, acks: Acks) -> OperationError {
        let report = |outcome| only_here(set, outcome, 0, acks.required);
        match refusal {
            Refusal::DiskFull => OperationError::DiskFull { node: self.settings.id.clone() },
            Refusal::NotServing => OperationError::NotReady("the node is stopping".into()),
            Refusal::TooLate => OperationError::Timeout {
                reached: report(ReplicaOutcome::Timeout),
                maybe_applied: false,
                context: None,
            },
            Refusal::Quarantined => OperationError::Damaged(report(ReplicaOutcome::Incomplete)),
            other => OperationError::LevelNotReached {
                reached: report(PeerFailure::Refused(other.clone()).outcome()),
                maybe_applied: false,
                context: None,
            },
        }
    }
}

/// Nothing was sent to any replica but this one.
fn only_here(set: &ReplicaSet, outcome: ReplicaOutcome, got: u8, required: u8) -> Reached {
    let mut reports = Reports::new(set);
    if let Some(local) = set.local {
        reports.set(local, outcome);
    }
    reports.reached(set, got, required)
}

/// The task of a write ended without an answer: it panicked.
fn died() -> WriteFailure {
    let message = "the write ended unexpectedly; see the log of the node".into();
    WriteFailure {
        error: Box::new(OperationError::Internal { message, maybe_applied: true }),
        is_unbegun: false,
    }
}
