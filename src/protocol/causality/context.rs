//! A context: the set of write events that something has seen.

use std::fmt;

use ::bytes::Bytes;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use super::dot::{Dot, MAX_COUNTER};
use crate::types::ActorId;

mod bytes;
#[cfg(test)]
mod tests;

/// Consecutive dots of one actor: first to last, both included, from 1 up.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Run {
    actor: ActorId,
    first: u64,
    last: u64,
}

impl Run {
    fn of(dot: Dot) -> Self {
        Self { actor: dot.actor(), first: dot.counter(), last: dot.counter() }
    }

    /// Whether this one ends before the other begins, with a dot between them that is in neither.
    fn ends_apart_before(&self, other: &Self) -> bool {
        (self.actor, self.last + 1) < (other.actor, other.first)
    }

    fn contains(&self, other: &Self) -> bool {
        self.actor == other.actor && self.first <= other.first && other.last <= self.last
    }
}

/// A set of dots: a version vector and the single dots that it does not cover.
///
/// It is kept as the longest possible runs of consecutive counters, sorted by actor and counter. A
/// run that starts at 1 is the actor's entry in the version vector; the others are the single dots
/// above it, folded together where they adjoin. That form is unique, so equal sets are equal
/// values with equal bytes, and a long chain of single dots takes no more room than one of them.
/// (Intervals in place of vectors: Mukund, Shenoy R., Suresh, *Optimized OR-Sets Without Ordering
/// Constraints*, 2014, section 4.)
#[derive(Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Bytes", into = "Bytes")]
pub struct Context {
    runs: SmallVec<[Run; 3]>,
}

impl Context {
    /// The context that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same as [`Context::new`], for where "seen nothing" is what is meant.
    pub fn empty() -> Self {
        Self::default()
    }

    /// Whether nothing was seen.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Whether this event was seen.
    pub fn contains(&self, dot: Dot) -> bool {
        self.run_up_to(dot).is_some_and(|at| self.runs[at].contains(&Run::of(dot)))
    }

    /// Adds one event; says whether it was new.
    pub fn insert(&mut self, dot: Dot) -> bool {
        self.add(Run::of(dot))
    }

    /// Removes one event; says whether it was there.
    pub fn remove(&mut self, dot: Dot) -> bool {
        let Some(at) = self.run_up_to(dot).filter(|at| self.runs[*at].contains(&Run::of(dot)))
        else {
            return false;
        };
        let run = self.runs.remove(at);
        let below = Run { last: dot.counter() - 1, ..run };
        let above = Run { first: dot.counter() + 1, ..run };
        self.runs.insert_many(at, [below, above].into_iter().filter(|r| r.first <= r.last));
        true
    }

    /// Adds all that the other has seen; says whether anything was new.
    pub fn join(&mut self, other: &Self) -> bool {
        if self.covers(other) {
            return false;
        }
        if other.covers(self) {
            self.runs.clone_from(&other.runs);
            return true;
        }
        let mut joined: SmallVec<[Run; 3]> =
            SmallVec::with_capacity(self.runs.len() + other.runs.len());
        let (mut ours, mut theirs) = (self.runs.iter().peekable(), other.runs.iter().peekable());
        while let Some(next) = match (ours.peek(), theirs.peek()) {
            (Some(a), Some(b)) if a <= b => ours.next(),
            (Some(_), None) => ours.next(),
            _ => theirs.next(),
        } {
            match joined.last_mut().filter(|last| !last.ends_apart_before(next)) {
                Some(last) => last.last = last.last.max(next.last),
                None => joined.push(*next),
            }
        }
        self.runs = joined;
        true
    }

    /// Whether all that the other has seen was seen here too.
    pub fn covers(&self, other: &Self) -> bool {
        let mut ours = self.runs.iter().peekable();
        other.runs.iter().all(|theirs| {
            // Runs are maximal, so one of theirs lies within one of ours or is not covered.
            while ours.next_if(|run| (run.actor, run.last) < (theirs.actor, theirs.last)).is_some()
            {
            }
            ours.peek().is_some_and(|run| run.contains(theirs))
        })
    }

    /// The greatest counter of this actor, in the vector or among the single dots; 0 if there is
    /// none.
    pub fn max_counter(&self, actor: ActorId) -> u64 {
        let after = self.runs.partition_point(|run| run.actor <= actor);
        self.runs[..after].last().filter(|run| run.actor == actor).map_or(0, |run| run.last)
    }

    /// Raises the actor's entry in the vector to at least this floor (the events up to it count as
    /// seen).
    ///
    /// # Panics
    /// Where the floor is above [`MAX_COUNTER`]: no dot is, so no floor can be.
    pub fn seed(&mut self, actor: ActorId, floor: u64) {
        assert!(floor <= MAX_COUNTER, "a floor is the counter of some dot");
        if floor > 0 {
            self.add(Run { actor, first: 1, last: floor });
        }
    }

    /// The actors of which something was seen, in ascending order.
    pub fn actors(&self) -> impl Iterator<Item = ActorId> {
        self.groups().map(|runs| runs[0].actor)
    }

    /// How many entries the canonical form has: those of the vector, and the runs of single dots
    /// above them. What the size of tokens and records grows with.
    pub fn entries(&self) -> usize {
        self.runs.len()
    }

    /// Index of the last run that begins at or before this dot, of whatever actor.
    fn run_up_to(&self, dot: Dot) -> Option<usize> {
        let up_to = |run: &Run| (run.actor, run.first) <= (dot.actor(), dot.counter());
        self.runs.partition_point(up_to).checked_sub(1)
    }

    fn add(&mut self, new: Run) -> bool {
        let start = self.runs.partition_point(|run| run.ends_apart_before(&new));
        let touched =
            self.runs[start..].iter().take_while(|run| !new.ends_apart_before(run)).count();
        if touched == 0 {
            self.runs.insert(start, new);
            return true;
        }
        let (first, last) = (self.runs[start], self.runs[start + touched - 1]);
        if first.contains(&new) {
            return false;
        }
        self.runs.drain(start + 1..start + touched);
        self.runs[start] =
            Run { first: first.first.min(new.first), last: last.last.max(new.last), ..new };
        true
    }

    /// The runs of each actor.
    fn groups(&self) -> impl Iterator<Item = &[Run]> {
        self.runs.chunk_by(|a, b| a.actor == b.actor)
    }
}

impl Extend<Dot> for Context {
    fn extend<I: IntoIterator<Item = Dot>>(&mut self, dots: I) {
        for dot in dots {
            self.insert(dot);
        }
    }
}

impl FromIterator<Dot> for Context {
    fn from_iter<I: IntoIterator<Item = Dot>>(dots: I) -> Self {
        let mut context = Self::new();
        context.extend(dots);
        context
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let runs = self.runs.iter().map(|run| format!("{}:{}-{}", run.actor, run.first, run.last));
        f.debug_set().entries(runs).finish()
    }
}
