//! Replicas of one key: their real records and, beside them, what the model says they know.

use super::super::{Content, Context, Dot, Record};
use super::model::{Events, History, Known};
use super::{actor, value};
use crate::types::{ActorId, HlcStamp};

pub(super) const REPLICAS: usize = 3;

/// A record, and the same in the model.
#[derive(Clone, Default)]
pub(super) struct Copy {
    pub(super) record: Record,
    pub(super) known: Known,
}

pub(super) struct Replica {
    pub(super) copy: Copy,
    actor: ActorId,
    floor: u64,
}

pub(super) struct World {
    pub(super) history: History,
    pub(super) replicas: Vec<Replica>,
    /// The covers of the tokens given out, and what they should cover.
    pub(super) tokens: Vec<(Context, Events)>,
    pub(super) in_flight: Vec<Copy>,
    actors: u64,
}

impl World {
    pub(super) fn new() -> Self {
        let ids = 0..REPLICAS as u64;
        let fresh = |id| Replica { copy: Copy::default(), actor: actor(id), floor: 0 };
        Self {
            history: History::default(),
            replicas: ids.map(fresh).collect(),
            tokens: Vec::new(),
            in_flight: Vec::new(),
            actors: REPLICAS as u64,
        }
    }

    /// What a read of two replicas shows.
    pub(super) fn read(&self, at: usize, other: usize) -> Copy {
        let mut read = self.replicas[at].copy.clone();
        read.merge(&self.replicas[other].copy);
        read
    }

    pub(super) fn deliver(&mut self, nth: usize, into: usize) {
        if let Some(last) = self.in_flight.len().checked_sub(1) {
            let copy = self.in_flight[nth % (last + 1)].clone();
            self.replicas[into].copy.merge(&copy);
        }
    }

    pub(super) fn retire(&mut self, at: usize) {
        let replica = &mut self.replicas[at];
        (replica.actor, replica.floor) = (actor(self.actors), 0);
        self.actors += 1;
    }

    pub(super) fn mint(&mut self, at: usize, seen: (Context, Events), deletes: bool) -> Dot {
        let Replica { copy: Copy { record, known }, actor, floor } = &mut self.replicas[at];
        let (actor, floor, (seen, seen_events)) = (*actor, *floor, seen);
        assert!(!record.lacks_history_of(actor, floor, &seen), "an honest history has no gap");
        let serial = self.history.len();
        let content =
            if deletes { Content::Tombstone } else { value(&format!("value of write {serial}")) };
        if record.is_absent() {
            let is_purged = |dot: Dot| dot.actor() == actor && dot.counter() <= floor;
            let purged = self.history.events_where(is_purged);
            known.events.extend(&purged);
            known.stripped.extend(&purged);
        }
        let dot = record.update(&seen, content, HlcStamp::new(serial as u64, 0), actor, floor);
        known.events.extend(&seen_events);
        known.events.insert(self.history.add(dot, seen_events, deletes));
        dot
    }

    pub(super) fn strip(&mut self, who: u8) {
        let first = self.replicas[0].copy.record.clone();
        let agreed = self.replicas.iter().all(|replica| replica.copy.record == first);
        let Some(husk) = first.stripped().filter(|_| agreed) else { return };
        for copy in chosen(&mut self.replicas, who).map(|replica| &mut replica.copy) {
            copy.known.stripped.extend(self.history.survivors(&copy.known));
            copy.record = husk.clone();
        }
    }

    pub(super) fn purge(&mut self, who: u8) {
        let records = self.replicas.iter().map(|replica| &replica.copy.record);
        let mut present = records.filter(|record| !record.is_absent());
        let Some(husk) = present.next().filter(|record| record.is_husk()) else { return };
        if present.any(|other| other != husk) {
            return;
        }
        for replica in chosen(&mut self.replicas, who) {
            let highest = replica.copy.record.context().max_counter(replica.actor);
            replica.floor = replica.floor.max(highest);
            replica.copy = Copy::default();
        }
        // The fence: what was read before is refused from now on.
        self.in_flight.clear();
    }

    /// Every replica holds, and every token covers, what the model says.
    pub(super) fn check(&self) {
        for replica in &self.replicas {
            replica.copy.check(&self.history);
        }
        for (token, events) in &self.tokens {
            let covered = self.history.events_where(|dot| token.contains(dot));
            assert_eq!(&covered, events, "a token covers what it should");
        }
    }

    /// Merged in any order, the replicas come to the same record, which is the model's.
    pub(super) fn check_convergence(&self) {
        let (mut forwards, mut backwards) = (Copy::default(), Copy::default());
        self.replicas.iter().for_each(|replica| forwards.merge(&replica.copy));
        self.replicas.iter().rev().for_each(|replica| backwards.merge(&replica.copy));
        forwards.check(&self.history);
        assert_eq!(forwards.record, backwards.record);
    }
}

fn chosen(replicas: &mut [Replica], who: u8) -> impl Iterator<Item = &mut Replica> {
    replicas.iter_mut().enumerate().filter(move |(id, _)| who >> id & 1 == 1).map(|(_, r)| r)
}

impl Copy {
    pub(super) fn merge(&mut self, other: &Self) {
        assert_eq!(self.record.merge(&other.record).alarms, []);
        self.known.merge(&other.known);
    }

    fn check(&self, history: &History) {
        let context = self.record.context();
        assert_eq!(history.events_where(|dot| context.contains(dot)), self.known.events);
        let survivors: Events = self.record.dots().map(|dot| history.event_of(dot)).collect();
        assert_eq!(survivors, history.survivors(&self.known));
        for version in self.record.versions() {
            let event = history.get(history.event_of(version.dot()));
            assert_eq!(version.is_tombstone(), event.is_tombstone);
        }
    }
}
