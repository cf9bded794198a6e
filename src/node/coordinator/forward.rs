//! A write at a node that holds no replica of the key: a replica coordinates it.
//!
//! A write is minted once. So a second replica is asked only if the first provably did not begin
//! it: nothing reached its connection, or it refused before minting. In every other case the
//! client is told that the write may have been applied.

use std::sync::Arc;

use super::put::{Outcome, WriteJob, unbegun};
use super::{Reports, refuse_unavailable};
use crate::node::Node;
use crate::node::calls::PeerFailure;
use crate::node::instruments::{MintedWrite, PlantedBug};
use crate::node::layout::{Layout, ReplicaSet};
use crate::node::replica::Place;
use crate::peer::messages::{Answer, Carried, ForwardedWrite, Refusal, Request, WriteFailure};
use crate::protocol::causality::{Context, ContextToken, Record, token_cover_after_write};
use crate::protocol::operation::{Acks, OperationError, ReplicaOutcome, Seen, WriteAnswer};
use crate::protocol::quorum::ReplicaIndex;
use crate::types::{ActorId, Level, OperationId};

impl Node {
    /// Writes a key of which this node holds no replica.
    pub(super) async fn write_elsewhere(
        self: &Arc<Self>,
        layout: &Layout,
        set: &ReplicaSet,
        job: &WriteJob,
    ) -> Outcome {
        let forwarded = self.forward(layout, set, job).await;
        match forwarded {
            Err(failure)
                if failure.is_unbegun
                    && job.level == Level::Any
                    && may_be_kept_here(&failure.error, job)
                    && !self.is_past(&layout.stamp) =>
            {
                self.keep_for_any(layout, set, job).await
            }
            outcome => outcome,
        }
    }

    /// `any`, and no replica can mint: mints here, under an actor that is used this once, having
    /// seen what the token covers or nothing, and keeps the record for the first replica to be
    /// back.
    async fn keep_for_any(
        self: &Arc<Self>,
        layout: &Layout,
        set: &ReplicaSet,
        job: &WriteJob,
    ) -> Outcome {
        let seen = match &job.seen {
            Seen::Token(context) => context.clone(),
            Seen::Nothing | Seen::OwnRead => Context::empty(),
        };
        let mut record = Record::absent();
        let actor = ActorId::new(self.random.u64());
        let dot = record.update(&seen, job.content.clone(), self.next_stamp(), actor, 0);
        let place = Place::new(set.vnode, job.path.clone());
        let purge = self.vnodes.purge_number(set.vnode);
        let carried = Carried { record: record.to_stored_bytes(), purge };
        let (request_id, path) = (job.request_id.clone(), job.path.clone());
        self.instruments.minted(|| MintedWrite { request_id, path, dot, seen: seen.clone() });
        let kept = self.keep_record(&place, None, carried, job.deadline).await;
        let cover = token_cover_after_write(&record, &seen, &[], dot);
        let context = ContextToken::seal(&cover, &job.path, self.token_key_of(layout));
        match kept {
            Ok(()) => Ok(WriteAnswer {
                version: dot,
                siblings: 1,
                set: None,
                context,
                acks: Acks { got: 1, required: 1, n: set.n() },
                epoch: layout.state.epoch,
            }),
            Err(Refusal::StoreFailed) => Err(WriteFailure {
                error: Box::new(OperationError::LevelNotReached {
                    reached: Reports::new(set).reached(set, 0, 1),
                    maybe_applied: true,
                    context: Some(context),
                }),
                is_unbegun: false,
            }),
            Err(Refusal::DiskFull) => {
                Err(unbegun(OperationError::DiskFull { node: self.settings.id.clone() }))
            }
            Err(_) => {
                Err(unbegun(OperationError::Unavailable(Reports::new(set).reached(set, 0, 1))))
            }
        }
    }

    /// Has a replica coordinate a write.
    async fn forward(
        self: &Arc<Self>,
        layout: &Layout,
        set: &ReplicaSet,
        job: &WriteJob,
    ) -> Outcome {
        let required = job.level.for_write(set.n()).map_err(|error| unbegun(error.into()))?.get();
        let reachable = if job.sloppy { &layout.with_stand_ins(set) } else { set };
        refuse_unavailable(reachable, &set.write_groups(job.level)).map_err(unbegun)?;
        let mut reports = Reports::new(set);
        let mut refusal = None;
        for replica in self.candidates(set) {
            if replica.0 >= set.n() {
                continue;
            }
            match self.forward_to(set, replica, job).await {
                Ok(Answer::Written(outcome)) => match *outcome {
                    Err(failure) if failure.is_unbegun && may_differ_elsewhere(&failure.error) => {
                        reports.set(replica, outcome_of(&failure.error));
                        refusal = Some(*failure.error);
                    }
                    outcome => return outcome,
                },
                Ok(_) => return Err(maybe_begun(reports, set, required)),
                Err(failure) => {
                    reports.set(replica, failure.outcome());
                    let goes_on = self.instruments.has(PlantedBug::MintTwiceOnStartingOver);
                    if !failure.is_unbegun() && !goes_on {
                        return Err(maybe_begun(reports, set, required));
                    }
                }
            }
        }
        Err(unbegun(refusal.unwrap_or_else(|| OperationError::LevelNotReached {
            reached: reports.reached(set, 0, required),
            maybe_applied: false,
            context: None,
        })))
    }

    /// Has one replica coordinate a write; once more if it had to be told the cluster state first.
    async fn forward_to(
        self: &Arc<Self>,
        set: &ReplicaSet,
        replica: ReplicaIndex,
        job: &WriteJob,
    ) -> Result<Answer, PeerFailure> {
        let mut operation = job.operation;
        loop {
            let write = ForwardedWrite {
                operation,
                path: job.path.clone(),
                content: job.content.clone(),
                seen: job.seen.clone(),
                conditions: job.conditions.clone(),
                level: job.level,
                sloppy: job.sloppy,
            };
            let request = Request::Write(Box::new(write));
            let request_id = Some(job.request_id.clone());
            let peer = set.peer(replica);
            let answer = self.call(&set.at, peer, request, job.deadline, request_id).await;
            let is_told = matches!(answer, Err(PeerFailure::Refused(Refusal::Unlearnt)));
            if !is_told || operation != job.operation {
                return answer;
            }
            // What was refused is refused for good, should it come again.
            operation = OperationId::new(self.random.u128());
        }
    }
}

/// Whether a write that no replica has begun may be kept here: one with conditions has to be read
/// first, and nobody can.
fn may_be_kept_here(error: &OperationError, job: &WriteJob) -> bool {
    let is_out_of_reach = matches!(
        error,
        OperationError::Unavailable(_)
            | OperationError::LevelNotReached { .. }
            | OperationError::NotReady(_)
            | OperationError::DiskFull { .. }
    );
    is_out_of_reach && job.conditions.is_empty()
}

/// Whether another replica may do what this one could not.
fn may_differ_elsewhere(error: &OperationError) -> bool {
    match error {
        OperationError::DiskFull { .. } | OperationError::NotReady(_) => true,
        // It refused itself: its store failed, or its vnode is not what it should be.
        OperationError::LevelNotReached { reached, .. } => reached.acks.got == 0,
        _ => false,
    }
}

fn outcome_of(error: &OperationError) -> ReplicaOutcome {
    match error {
        OperationError::DiskFull { .. } => ReplicaOutcome::DiskFull,
        _ => ReplicaOutcome::Error,
    }
}

/// The replica that was asked may have sent the write to all others before it was lost.
fn maybe_begun(mut reports: Reports, set: &ReplicaSet, required: u8) -> WriteFailure {
    for replica in set.indices().filter(|replica| set.is_up(*replica)) {
        reports.set(replica, ReplicaOutcome::Timeout);
    }
    let reached = reports.reached(set, 0, required);
    WriteFailure {
        error: Box::new(OperationError::Timeout { reached, maybe_applied: true, context: None }),
        is_unbegun: false,
    }
}
