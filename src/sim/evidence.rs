//! All that is known after a run, by key: what the properties are checked against.

use std::collections::BTreeMap;

use super::history::{Attempt, Claim, Mint, Outcome, Reach, Recorded, Request, ValueId};
use super::observer::SeenVersion;
use super::scenario::{KeyPlan, Scenario};
use crate::protocol::causality::{Context, Dot, Record};
use crate::storage::Durability;

/// A rule that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which, as in the table of properties.
    pub property: &'static str,
    /// How; with the history that shows it.
    pub text: String,
}

impl Violation {
    /// One.
    pub fn new(property: &'static str, text: impl Into<String>) -> Self {
        Self { property, text: text.into() }
    }
}

/// What is known of one key.
#[derive(Debug)]
pub struct KeyEvidence {
    /// Its use.
    pub plan: KeyPlan,
    /// The requests for it, in order, with their numbers.
    pub attempts: Vec<(usize, Attempt)>,
    /// The mints of it, in order.
    pub mints: Vec<Mint>,
    /// Every version that came to any disk.
    pub versions: BTreeMap<Dot, SeenVersion>,
    /// What replicas hold in the end, by node: those that can serve.
    pub finals: Vec<(usize, Record)>,
    /// What was deleted for good.
    pub purged: Context,
}

/// What the faults of a run leave of the promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promises {
    /// Acknowledged means durable (`durability = sync`).
    pub is_durable: bool,
    /// One disk may lose what it had acknowledged.
    pub may_lose_a_disk: bool,
    /// No disk lies or goes back in time: what it has lost is known.
    pub is_honest: bool,
}

impl Promises {
    /// Those of a scenario.
    pub fn of(scenario: &Scenario) -> Self {
        Self {
            is_durable: scenario.durability == Durability::Sync,
            may_lose_a_disk: scenario.loses_data(),
            is_honest: !scenario.deceives(),
        }
    }

    /// Whether an acknowledgement of so many replicas outlives the faults.
    pub fn keep(&self, reach: Reach) -> bool {
        let outlives_a_disk = reach.required >= 2 && !reach.is_thin;
        self.is_durable && (!self.may_lose_a_disk || outlives_a_disk)
    }

    /// Whether quorums see what was acknowledged.
    pub fn are_visible(&self) -> bool {
        self.is_durable && self.is_honest
    }
}

/// See the module's head.
#[derive(Debug)]
pub struct Evidence {
    /// What holds under the faults of the run.
    pub promises: Promises,
    /// By key.
    pub keys: Vec<KeyEvidence>,
}

impl Evidence {
    /// Sorts what was recorded by key.
    pub fn new(scenario: &Scenario, recorded: Recorded, mut keys: Vec<KeyEvidence>) -> Self {
        for (number, attempt) in recorded.attempts.iter().enumerate() {
            keys[attempt.key].attempts.push((number, attempt.clone()));
        }
        for mint in recorded.mints {
            keys[recorded.attempts[mint.attempt].key].mints.push(mint);
        }
        Self { promises: Promises::of(scenario), keys }
    }
}

/// A write that was acknowledged.
#[derive(Clone, Copy, Debug)]
pub struct Acknowledged<'a> {
    /// The number of the request.
    pub number: usize,
    /// The request.
    pub attempt: &'a Attempt,
    /// The version.
    pub dot: Dot,
    /// How many replicas.
    pub reach: Reach,
}

/// A read that was answered.
#[derive(Clone, Copy, Debug)]
pub struct Answered<'a> {
    /// The number of the request.
    pub number: usize,
    /// The request.
    pub attempt: &'a Attempt,
    /// The versions shown.
    pub shown: &'a [(Dot, Option<ValueId>)],
    /// What its token covers.
    pub context: &'a Context,
    /// How many replicas.
    pub reach: Reach,
}

impl KeyEvidence {
    /// `bucket/name`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.plan.bucket, self.plan.name)
    }

    /// The acknowledged writes, by begin.
    pub fn acknowledged(&self) -> impl Iterator<Item = Acknowledged<'_>> {
        self.attempts.iter().filter_map(|(number, attempt)| match attempt.outcome {
            Outcome::Written { dot, reach, .. } => {
                Some(Acknowledged { number: *number, attempt, dot, reach })
            }
            _ => None,
        })
    }

    /// The answered reads, by begin.
    pub fn answered(&self) -> impl Iterator<Item = Answered<'_>> {
        self.attempts.iter().filter_map(|(number, attempt)| match &attempt.outcome {
            Outcome::Read { shown, context, reach } => {
                Some(Answered { number: *number, attempt, shown, context, reach: *reach })
            }
            _ => None,
        })
    }

    /// Whether it may come to have a single replica, while a disk may be lost.
    pub fn is_thin(&self) -> bool {
        let of_writes = self.acknowledged().map(|write| write.reach);
        of_writes.chain(self.answered().map(|read| read.reach)).any(|reach| reach.is_thin)
    }

    /// What the write of a mint said it has seen.
    pub fn claim(&self, mint: &Mint) -> Option<&Claim> {
        let at = self.attempts.binary_search_by_key(&mint.attempt, |(number, _)| *number).ok()?;
        match &self.attempts[at].1.request {
            Request::Write { claim, .. } => Some(claim),
            Request::Read => None,
        }
    }

    /// Whether a mint may replace a version: its writer had seen it.
    pub fn may_replace(&self, mint: &Mint, dot: Dot) -> bool {
        if !mint.seen.contains(dot) || dot == mint.dot {
            return false;
        }
        match self.claim(mint) {
            Some(Claim::OwnRead) => true,
            Some(Claim::Token(known)) => {
                let value = self.versions.get(&dot).map(|version| version.value);
                known.covers_all
                    || known.dots.contains(&dot)
                    || value.is_some_and(|value| known.values.contains(&value))
            }
            Some(Claim::Nothing) | None => false,
        }
    }

    /// What somebody who has seen this need not see any more: that, and what was deleted for good.
    pub fn settled(&self, context: &Context) -> Context {
        let mut settled = context.clone();
        settled.join(&self.purged);
        settled
    }

    /// Whether two versions show the same.
    pub fn are_twins(&self, a: Dot, b: Dot) -> bool {
        let value = |dot| self.versions.get(&dot).map(|version| version.value);
        value(a).is_some() && value(a) == value(b)
    }

    /// The requests and mints around a version or a request, for a report.
    pub fn story(&self, about: impl Fn(usize, &Attempt) -> bool) -> String {
        let mut lines = vec![format!("history of {}:", self.name())];
        for (number, attempt) in &self.attempts {
            if about(*number, attempt) {
                lines.push(format!("  #{number} {attempt:?}"));
                let mints = self.mints.iter().filter(|mint| mint.attempt == *number);
                lines.extend(mints.map(|mint| {
                    format!("    minted as {} on node-{}: {mint:?}", mint.dot, mint.node + 1)
                }));
            }
        }
        for (node, record) in &self.finals {
            let dots: Vec<String> = record.dots().map(|dot| dot.to_string()).collect();
            lines.push(format!(
                "  in the end node-{} holds [{}] under {:?}",
                node + 1,
                dots.join(", "),
                record.context()
            ));
        }
        lines.join("\n")
    }
}
