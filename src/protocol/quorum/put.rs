//! One write: how many replicas have it, and whether the level can still be reached.

use smallvec::SmallVec;

use super::ReplicaIndex;

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
    required: u8,
    fates: SmallVec<[Fate; 5]>,
}

impl Put {
    /// A write that is being sent to all of `n` replicas but those that `is_down` names.
    pub fn start(required: u8, n: u8, is_down: impl Fn(ReplicaIndex) -> bool) -> Self {
        let fate = |i| if is_down(ReplicaIndex(i)) { Fate::Failed } else { Fate::Sent };
        Self { required, fates: (0..n).map(fate).collect() }
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

    /// How many replicas have it.
    pub fn got(&self) -> u8 {
        self.count(Fate::Acknowledged)
    }

    /// Whether a replica has it.
    pub fn has(&self, replica: ReplicaIndex) -> bool {
        self.fates[replica.index()] == Fate::Acknowledged
    }

    /// Where it stands.
    pub fn progress(&self) -> PutProgress {
        if self.got() >= self.required {
            PutProgress::Reached
        } else if self.got() + self.count(Fate::Sent) < self.required {
            PutProgress::OutOfReach
        } else {
            PutProgress::Waiting
        }
    }

    fn count(&self, fate: Fate) -> u8 {
        self.fates.iter().filter(|f| **f == fate).count() as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE_DOWN: fn(ReplicaIndex) -> bool = |_| false;

    #[test]
    fn a_write_is_done_when_w_replicas_have_it() {
        let mut put = Put::start(2, 3, NONE_DOWN);
        assert_eq!(put.acknowledged(ReplicaIndex(2)), PutProgress::Waiting);
        assert_eq!(put.failed(ReplicaIndex(1)), PutProgress::Waiting);
        assert_eq!(put.acknowledged(ReplicaIndex(0)), PutProgress::Reached);
        assert_eq!(put.got(), 2);
    }

    #[test]
    fn a_write_fails_as_soon_as_too_few_are_left() {
        let mut put = Put::start(2, 3, |r| r == ReplicaIndex(1));
        assert_eq!(put.progress(), PutProgress::Waiting);
        assert_eq!(put.failed(ReplicaIndex(2)), PutProgress::OutOfReach);
    }
}
