//! Carrying out what the quorum cores decide: reads in [`get`], writes in [`put`].
//!
//! The cores (`protocol/quorum`) say whom to ask for what; here are the calls, the deadlines and
//! the races against slow replicas.

mod forward;
mod get;
mod put;
mod read;
mod replication;

use std::time::Duration;

use smallvec::SmallVec;

use super::layout::ReplicaSet;
use crate::peer::Condition;
use crate::protocol::operation::{Acks, OperationError, Reached, ReplicaOutcome, ReplicaReport};
use crate::protocol::quorum::{Group, ReplicaIndex};

use super::Node;

/// A read that has waited this long for a replica asks another one, whatever the hedging budget
/// says: the replica is not slow but silent.
const FAIL_OVER_AFTER: Duration = Duration::from_millis(250);

/// What each replica of a set has said so far, for the answer.
#[derive(Clone, Debug)]
struct Reports {
    outcomes: SmallVec<[ReplicaOutcome; 5]>,
}

impl Reports {
    /// Nothing was sent yet; replicas that are down are said to be.
    fn new(set: &ReplicaSet) -> Self {
        let outcome = |replica| match set.is_up(replica) {
            true => ReplicaOutcome::NotSent,
            false => ReplicaOutcome::Down,
        };
        Self { outcomes: set.indices().map(outcome).collect() }
    }

    fn set(&mut self, replica: ReplicaIndex, outcome: ReplicaOutcome) {
        self.outcomes[replica.index()] = outcome;
    }

    fn reached(&self, set: &ReplicaSet, got: u8, required: u8) -> Reached {
        let report = |(peer, outcome): (&std::sync::Arc<super::layout::Peer>, _)| ReplicaReport {
            node: peer.id.clone(),
            outcome,
        };
        let outcomes = self.outcomes.iter().copied();
        Reached {
            acks: Acks { got, required, n: set.n() },
            replicas: set.peers.iter().zip(outcomes).map(report).collect(),
        }
    }
}

impl Node {
    /// The replicas that may be asked, the best first: this node, then peers in good condition,
    /// then the others, each in the order of the set, which spreads reads over all nodes as it
    /// differs by partition. Those known to be down are left out.
    fn candidates(&self, set: &ReplicaSet) -> SmallVec<[ReplicaIndex; 5]> {
        let mut up: SmallVec<[ReplicaIndex; 5]> =
            set.indices().filter(|replica| set.is_up(*replica)).collect();
        up.sort_by_cached_key(|replica| {
            if set.is_here(*replica) {
                return 0;
            }
            match self.transport.condition(&set.peer(*replica).address) {
                Condition::Good => 1,
                Condition::Failing | Condition::Stalled => 2,
            }
        });
        up
    }
}

/// Refuses levels that too few replicas are up for, before anything is sent.
fn refuse_unavailable(set: &ReplicaSet, groups: &[Group]) -> Result<(), OperationError> {
    let up = |group: &Group| {
        let up = set.indices().filter(|r| group.members.has(*r) && set.is_up(*r));
        up.count() as u8
    };
    if groups.iter().any(|group| up(group) < group.required) {
        let required = required_of(groups);
        return Err(OperationError::Unavailable(Reports::new(set).reached(set, 0, required)));
    }
    Ok(())
}

/// The level that is told: that of the present set.
fn required_of(groups: &[Group]) -> u8 {
    groups.first().map_or(0, |group| group.required)
}
