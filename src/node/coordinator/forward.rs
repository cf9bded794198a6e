//! A write at a node that holds no replica of the key: a replica coordinates it.
//!
//! A write is minted once. So a second replica is asked only if the first provably did not begin
//! it: nothing reached its connection, or it refused before minting. In every other case the
//! client is told that the write may have been applied.

use std::sync::Arc;

use super::put::{Outcome, WriteJob, unbegun};
use super::{Reports, refuse_unavailable};
use crate::node::Node;
use crate::node::instruments::PlantedBug;
use crate::node::layout::ReplicaSet;
use crate::peer::messages::{Answer, ForwardedWrite, Request, WriteFailure};
use crate::protocol::operation::{OperationError, ReplicaOutcome};

impl Node {
    /// Has a replica coordinate a write.
    pub(super) async fn forward(self: &Arc<Self>, set: &ReplicaSet, job: WriteJob) -> Outcome {
        let required = job.level.for_write(set.n()).map_err(|error| unbegun(error.into()))?.get();
        refuse_unavailable(set, required).map_err(unbegun)?;
        let mut reports = Reports::new(set);
        let mut refusal = None;
        for replica in self.candidates(set) {
            let write = ForwardedWrite {
                operation: job.operation,
                path: job.path.clone(),
                content: job.content.clone(),
                seen: job.seen.clone(),
                conditions: job.conditions.clone(),
                level: job.level,
            };
            let request = Request::Write(Box::new(write));
            let peer = set.peer(replica);
            let request_id = Some(job.request_id.clone());
            match self.call(peer, request, job.deadline, request_id).await {
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
