//! One write: how many replicas have it, and whether the level can still be reached.

use smallvec::SmallVec;

use super::{Group, Places, ReplicaIndex};

/// Where a write stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutProgress {
    /// The level may still be reached.
    Waiting,
    /// It was reached.
    Reached,
    /// It can no longer be reached.
    OutOfReach,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Sent,
    Acknowledged,
    Failed,
}

/// The state of one write that was sent to replicas.
#[derive(Debug)]
pub struct Put {
    groups: SmallVec<[Group; 2]>,
    fates: SmallVec<[Fate; 5]>,
}

impl Put {
    /// A write that is being sent to all of `places` replicas but those that `is_down` names, and
    /// is done when it has reached each group's level.
    pub fn start(
        groups: SmallVec<[Group; 2]>,
        places: u8,
        is_down: impl Fn(ReplicaIndex) -> bool,
    ) -> Self {
        let fate = |i| if is_down(ReplicaIndex(i)) { Fate::Failed } else { Fate::Sent };
        Self { groups, fates: (0..places).map(fate).collect() }
    }

    /// A replica has it, durable to the level of `durability`.
    pub fn acknowledged(&mut self, replica: ReplicaIndex) -> PutProgress {
        self.fates[replica.index()] = Fate::Acknowledged;
        self.progress()
    }

    /// A replica does not have it, or did not say so.
    pub fn failed(&mut self, replica: ReplicaIndex) -> PutProgress {
        self.fates[replica.index()] = Fate::Failed;
        self.progress()
    }

    /// How many replicas of the first group have it.
    pub fn got(&self) -> u8 {
        self.groups.first().map_or(0, |group| self.count(group.members, Fate::Acknowledged))
    }

    /// Whether a replica has it.
    pub fn has(&self, replica: ReplicaIndex) -> bool {
        self.fates[replica.index()] == Fate::Acknowledged
    }

    /// Where it stands.
    pub fn progress(&self) -> PutProgress {
        let got = |group: &Group| self.count(group.members, Fate::Acknowledged);
        let open = |group: &Group| self.count(group.members, Fate::Sent);
        if self.groups.iter().all(|group| got(group) >= group.required) {
            PutProgress::Reached
        } else if self.groups.iter().any(|group| got(group) + open(group) < group.required) {
            PutProgress::OutOfReach
        } else {
            PutProgress::Waiting
        }
    }

    fn count(&self, of: Places, fate: Fate) -> u8 {
        let fates = self.fates.iter().enumerate();
        fates.filter(|(i, f)| **f == fate && of.has(ReplicaIndex(*i as u8))).count() as u8
    }
}

#[cfg(test)]
mod tests {
    use smallvec::smallvec;

    use super::*;

    const NONE_DOWN: fn(ReplicaIndex) -> bool = |_| false;

    #[test]
    fn a_write_is_done_when_w_replicas_have_it() {
        let mut put = Put::start(smallvec![Group::of(2, 3)], 3, NONE_DOWN);
        assert_eq!(put.acknowledged(ReplicaIndex(2)), PutProgress::Waiting);
        assert_eq!(put.failed(ReplicaIndex(1)), PutProgress::Waiting);
        assert_eq!(put.acknowledged(ReplicaIndex(0)), PutProgress::Reached);
        assert_eq!(put.got(), 2);
    }

    #[test]
    fn a_write_fails_as_soon_as_too_few_are_left() {
        let mut put = Put::start(smallvec![Group::of(2, 3)], 3, |r| r == ReplicaIndex(1));
        assert_eq!(put.progress(), PutProgress::Waiting);
        assert_eq!(put.failed(ReplicaIndex(2)), PutProgress::OutOfReach);
    }

    #[test]
    fn while_the_ring_changes_both_sets_must_have_it() {
        let new = [1, 2, 3].map(ReplicaIndex).into_iter().fold(Places::default(), |mut set, r| {
            set.insert(r);
            set
        });
        let groups = smallvec![Group::of(2, 3), Group { members: new, required: 2 }];
        let mut put = Put::start(groups, 4, NONE_DOWN);
        assert_eq!(put.acknowledged(ReplicaIndex(0)), PutProgress::Waiting);
        assert_eq!(put.acknowledged(ReplicaIndex(1)), PutProgress::Waiting, "one of the new set");
        assert_eq!(put.failed(ReplicaIndex(2)), PutProgress::Waiting);
        assert_eq!(put.failed(ReplicaIndex(3)), PutProgress::OutOfReach);
    }
}
