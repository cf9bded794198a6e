//! A deliberately naive second implementation: every replica holds the explicit set of all write
//! events that it knows of, and every event the set of those that it had seen.
//!
//! An event survives where no known event has seen it and it was not stripped. Nothing else is
//! needed: no counters, no contexts, no folding.

use std::collections::{BTreeMap, BTreeSet};

use super::super::Dot;

/// The events, by the order of their minting.
pub(super) type Events = BTreeSet<usize>;

/// One write.
pub(super) struct Event {
    pub(super) dot: Dot,
    pub(super) seen: Events,
    pub(super) is_tombstone: bool,
}

/// All writes there ever were.
#[derive(Default)]
pub(super) struct History {
    events: Vec<Event>,
    by_dot: BTreeMap<Dot, usize>,
}

/// What one replica knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) events: Events,
    /// Tombstones that were stripped, and whatever else was purged.
    pub(super) stripped: Events,
}

impl History {
    /// Notes a write. Its dot must be new: one dot, one value.
    pub(super) fn add(&mut self, dot: Dot, seen: Events, is_tombstone: bool) -> usize {
        let event = self.events.len();
        assert_eq!(self.by_dot.insert(dot, event), None, "{dot} was minted twice");
        self.events.push(Event { dot, seen, is_tombstone });
        event
    }

    pub(super) fn get(&self, event: usize) -> &Event {
        &self.events[event]
    }

    pub(super) fn len(&self) -> usize {
        self.events.len()
    }

    pub(super) fn event_of(&self, dot: Dot) -> usize {
        self.by_dot[&dot]
    }

    /// The events whose dots satisfy this.
    pub(super) fn events_where(&self, holds: impl Fn(Dot) -> bool) -> Events {
        (0..self.len()).filter(|event| holds(self.events[*event].dot)).collect()
    }

    /// What survives for who knows these events.
    pub(super) fn survivors(&self, known: &Known) -> Events {
        let is_seen = |event: &usize| {
            known.events.iter().any(|later| self.events[*later].seen.contains(event))
        };
        let survives = |event: &usize| !is_seen(event) && !known.stripped.contains(event);
        known.events.iter().copied().filter(survives).collect()
    }
}

impl Known {
    pub(super) fn merge(&mut self, other: &Self) {
        self.events.extend(&other.events);
        self.stripped.extend(&other.stripped);
    }
}
