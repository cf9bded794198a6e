//! What clients asked and were told, and what replicas minted: the ground for all checks.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::node::MintedWrite;
use crate::protocol::causality::{Context, Dot};
use crate::types::RequestId;

/// A moment in the order of all that clients send and are told; no two are the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(u64);

/// Names what a write writes: the number of the first attempt at it, which its value carries.
/// A retry has the same. Deletes write none.
pub type ValueId = usize;

/// What a client knows of a key: what the answers that it works from have shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// The versions.
    pub dots: Vec<Dot>,
    /// Their values; `None` for a tombstone. Twins of a version are known with it.
    pub values: Vec<Option<ValueId>>,
    /// Every version of the key at that time, shown or not (`lww`).
    pub covers_all: bool,
}

/// What a write said it has seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Nothing was said: its own read decides.
    OwnRead,
    /// `none`.
    Nothing,
    /// A token, behind which stands this.
    Token(Known),
}

/// What was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// A read.
    Read,
    /// A write of a value, or of a tombstone.
    Write {
        /// What; `None`: a tombstone.
        value: Option<ValueId>,
        /// What the client says it has seen.
        claim: Claim,
        /// Which attempt at this write: 1, and more for retries.
        attempt: u32,
    },
}

/// How many replicas answered, and of how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    /// R or W.
    pub required: u8,
    /// The size of the replica set.
    pub n: u8,
    /// Only replicas were counted, and no nodes in their place.
    pub is_strict: bool,
    /// The key may come to have a single replica, while a disk may be lost.
    pub is_thin: bool,
}

impl Reach {
    /// Whether two operations on one key must have met on a replica.
    pub fn meets(self, other: Self) -> bool {
        if self.n != other.n {
            return self.is_quorum() && other.is_quorum();
        }
        self.is_strict && other.is_strict && self.required + other.required > self.n
    }

    /// Whether it is all replicas.
    pub fn is_all(self) -> bool {
        self.is_strict && self.required == self.n
    }

    /// Whether it is a majority.
    pub fn is_quorum(self) -> bool {
        self.is_strict && self.required > self.n / 2
    }
}

/// What the client was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing yet, or never: the write may have been applied.
    Unknown,
    /// What a read has shown.
    Read {
        /// The versions and their values (`None`: a tombstone).
        shown: Vec<(Dot, Option<ValueId>)>,
        /// What the answer's token covers.
        context: Context,
        /// How many replicas.
        reach: Reach,
    },
    /// A write was acknowledged.
    Written {
        /// The version it made.
        dot: Dot,
        /// How many siblings the key has after it.
        siblings: usize,
        /// How many replicas.
        reach: Reach,
    },
    /// The write failed, and surely nothing was written; or the read failed.
    Failed(String),
    /// The write failed, and may have been applied.
    InDoubt(String),
}

/// One request of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Who asked.
    pub client: usize,
    /// Which key, by its place in the scenario.
    pub key: usize,
    /// When it set out.
    pub begun: Moment,
    /// When it was answered.
    pub ended: Option<Moment>,
    /// What was asked.
    pub request: Request,
    /// What was told.
    pub outcome: Outcome,
}

/// A mint, as the replica that did it saw it.
#[derive(Clone, Debug)]
pub struct Mint {
    /// On which node, from 0 up.
    pub node: usize,
    /// Which attempt it is of.
    pub attempt: usize,
    /// The version.
    pub dot: Dot,
    /// What it replaces.
    pub seen: Context,
}

/// All of it, in order. Clones are the same one.
#[derive(Clone, Default)]
pub struct History {
    state: Arc<Mutex<Recorded>>,
}

/// What was recorded.
#[derive(Clone, Debug, Default)]
pub struct Recorded {
    /// Every request.
    pub attempts: Vec<Attempt>,
    /// Every mint.
    pub mints: Vec<Mint>,
    clock: u64,
}

impl Recorded {
    fn now(&mut self) -> Moment {
        self.clock += 1;
        Moment(self.clock)
    }
}

impl History {
    /// A request sets out; its number.
    pub fn begin(&self, client: usize, key: usize, request: Request) -> usize {
        let mut state = self.lock();
        let begun = state.now();
        let outcome = Outcome::Unknown;
        state.attempts.push(Attempt { client, key, begun, ended: None, request, outcome });
        state.attempts.len() - 1
    }

    /// The number that the next request will have.
    pub fn next_number(&self) -> usize {
        self.lock().attempts.len()
    }

    /// A request was answered.
    pub fn end(&self, number: usize, outcome: Outcome) {
        let mut state = self.lock();
        let ended = state.now();
        let attempt = &mut state.attempts[number];
        attempt.ended = Some(ended);
        attempt.outcome = outcome;
    }

    /// A replica minted.
    pub fn mint(&self, node: usize, write: &MintedWrite) {
        let attempt = attempt_of(&write.request_id);
        let mut state = self.lock();
        let MintedWrite { dot, seen, .. } = write;
        state.mints.push(Mint { node, attempt, dot: *dot, seen: seen.clone() });
    }

    /// All that was recorded.
    pub fn recorded(&self) -> Recorded {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Recorded> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The request id that an attempt goes by.
pub fn request_id(attempt: usize) -> RequestId {
    RequestId::from_random(attempt as u128)
}

fn attempt_of(id: &RequestId) -> usize {
    let number = u128::from_str_radix(id.as_str(), 16);
    number.expect("only requests of the simulation are made") as usize
}
