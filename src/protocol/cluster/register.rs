//! Which state the next epoch has: one instance of single-decree Paxos for each (Lamport, *Paxos
//! Made Simple*, 2001; correctness, section 7, rule 6).
//!
//! ```text
//! proposer                        voters of the present epoch
//!   Prepare(ballot)       ─────▶  promise to take nothing lower; tell what was accepted
//!   Accept(ballot, state) ─────▶  accept, unless a higher ballot was promised
//!   a majority accepted: decided; told to everybody
//! ```
//!
//! An instance is named by the stamp of the present state, so two nodes that vote in one agree on
//! what the next state follows. What was promised and accepted is on disk before it is answered,
//! and stays until the decided state is.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::state::{ClusterState, StateStamp};
use crate::types::NodeId;

/// Orders the attempts of all proposers: by round, then by name. No two attempts have the same: what
/// was accepted under a ballot is one state.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Ballot {
    /// Higher than any that the proposer has seen.
    pub round: u64,
    /// Whose it is.
    pub proposer: NodeId,
    /// Drawn at random for each attempt: a node may make several at once, and remembers none of
    /// them when it is started again.
    pub attempt: u64,
}

/// What a proposer asks of a voter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// Promise to take nothing lower.
    Prepare(Ballot),
    /// Accept this state.
    Accept(Ballot, Box<ClusterState>),
}

/// What a voter answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Vote {
    /// It promises, and has accepted this before.
    Promised(Option<(Ballot, Box<ClusterState>)>),
    /// It has accepted.
    Accepted,
    /// It has promised a higher one.
    Outbid(Ballot),
}

/// A voter's part in one instance, as it is persisted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acceptor {
    /// The state that the instance follows.
    pub base: StateStamp,
    promised: Option<Ballot>,
    accepted: Option<(Ballot, Box<ClusterState>)>,
}

impl Acceptor {
    /// One that has promised nothing.
    pub const fn new(base: StateStamp) -> Self {
        Self { base, promised: None, accepted: None }
    }

    /// One with what it had promised and accepted.
    pub const fn restored(
        base: StateStamp,
        promised: Option<Ballot>,
        accepted: Option<(Ballot, Box<ClusterState>)>,
    ) -> Self {
        Self { base, promised, accepted }
    }

    /// What it has accepted.
    pub fn accepted(&self) -> Option<&ClusterState> {
        self.accepted.as_ref().map(|(_, state)| &**state)
    }

    /// The highest round that it has seen.
    pub fn round(&self) -> u64 {
        self.promised.as_ref().map_or(0, |ballot| ballot.round)
    }

    /// Answers a proposer. What it says holds only once this is on disk.
    pub fn vote(&mut self, ask: Ask) -> Vote {
        let ballot = match &ask {
            Ask::Prepare(ballot) | Ask::Accept(ballot, _) => ballot,
        };
        if let Some(promised) = &self.promised
            && ballot < promised
        {
            return Vote::Outbid(promised.clone());
        }
        self.promised = Some(ballot.clone());
        match ask {
            Ask::Prepare(_) => Vote::Promised(self.accepted.clone()),
            Ask::Accept(ballot, state) => {
                self.accepted = Some((ballot, state));
                Vote::Accepted
            }
        }
    }
}

/// Where a proposal stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proposed {
    /// More answers are needed.
    Waiting,
    /// Ask all voters to accept this.
    Accept(Box<ClusterState>),
    /// This is the next state.
    Decided(Box<ClusterState>),
    /// It can't be brought through any more; a round above this one may.
    Lost(u64),
}

/// One attempt of one proposer.
#[derive(Clone, Debug)]
pub struct Proposal {
    ballot: Ballot,
    voters: BTreeSet<NodeId>,
    value: Box<ClusterState>,
    /// Who promised; the highest that any of them had accepted.
    promised: BTreeSet<NodeId>,
    bound_to: Option<Ballot>,
    is_accepting: bool,
    accepted: BTreeSet<NodeId>,
    failed: BTreeMap<NodeId, u64>,
}

impl Proposal {
    /// An attempt to make `value` the next state.
    pub fn new(ballot: Ballot, voters: BTreeSet<NodeId>, value: ClusterState) -> Self {
        Self {
            ballot,
            voters,
            value: Box::new(value),
            promised: BTreeSet::new(),
            bound_to: None,
            is_accepting: false,
            accepted: BTreeSet::new(),
            failed: BTreeMap::new(),
        }
    }

    /// What to ask all voters first.
    pub fn prepare(&self) -> Ask {
        Ask::Prepare(self.ballot.clone())
    }

    /// What to ask all voters after [`Proposed::Accept`].
    pub fn accept(&self) -> Ask {
        Ask::Accept(self.ballot.clone(), self.value.clone())
    }

    /// A voter's answer to the present question.
    pub fn take(&mut self, from: &NodeId, vote: Vote) -> Proposed {
        if !self.voters.contains(from) {
            return Proposed::Waiting;
        }
        match vote {
            Vote::Promised(accepted) if !self.is_accepting => {
                self.promised.insert(from.clone());
                if let Some((ballot, state)) = accepted
                    && self.bound_to.as_ref().is_none_or(|bound| *bound < ballot)
                {
                    // It may have been decided.
                    (self.bound_to, self.value) = (Some(ballot), state);
                }
            }
            Vote::Accepted if self.is_accepting => drop(self.accepted.insert(from.clone())),
            Vote::Promised(_) | Vote::Accepted => return Proposed::Waiting,
            Vote::Outbid(ballot) => drop(self.failed.insert(from.clone(), ballot.round)),
        }
        self.stand()
    }

    /// A voter did not answer.
    pub fn failed(&mut self, from: &NodeId) -> Proposed {
        self.failed.entry(from.clone()).or_default();
        self.stand()
    }

    fn stand(&mut self) -> Proposed {
        let majority = self.voters.len() / 2 + 1;
        if self.accepted.len() >= majority {
            return Proposed::Decided(self.value.clone());
        }
        if !self.is_accepting && self.promised.len() >= majority {
            self.is_accepting = true;
            self.failed.clear();
            return Proposed::Accept(self.value.clone());
        }
        if self.voters.len() - self.failed.len() < majority {
            let highest = self.failed.values().copied().max().unwrap_or_default();
            return Proposed::Lost(highest.max(self.ballot.round));
        }
        Proposed::Waiting
    }
}

#[cfg(test)]
mod tests;
