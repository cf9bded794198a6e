//! One read: whom to ask for what, when it is enough, whom to mend.
//!
//! ```text
//!            failure: a spare                differing digests: their records
//!            slow: a spare                  ┌───────────────┐
//!  Ask ─────────────────────────▶ collect ──┴─▶ all merged ──┴─▶ stale replicas? ──no──▶ Finish
//!  (record of one, digests of                                        │ yes, blocking
//!   others)                                                          ▼
//!                                                     Repair, until a majority has the merge
//! ```
//!
//! Every event ends in [`Get::step`], which looks at what each replica has said and derives what
//! is to be done: there is no other state than that.

use smallvec::SmallVec;

use super::{Group, Places, ReplicaIndex, majority};

/// What replicas hold of a key and a read merges: a record, or its heads.
pub trait Mergeable {
    /// Joins another replica's into this one.
    fn merge_in(&mut self, other: &Self);
    /// Equal contents have equal digests.
    fn digest(&self) -> u64;
    /// Whether replicas that lack it are to be sent it: not where it is but the memory of a
    /// deletion that is being purged.
    fn is_pushed(&self) -> bool {
        true
    }
}

/// What to ask a replica for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// All that is merged.
    Full,
    /// Its digest.
    Digest,
}

/// What a replica answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer<D> {
    /// All of it.
    Full(D),
    /// The digest of it.
    Digest(u64),
}

/// When stale replicas are mended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RepairMode {
    /// From a majority up, the read waits until the merge stands on a majority.
    Blocking,
    /// After the answer.
    Async,
    /// Not at all.
    Off,
}

/// How a read is to be done.
#[derive(Clone, Debug)]
pub struct GetPlan {
    /// The sets that are read, each with its R.
    pub groups: SmallVec<[Group; 2]>,
    /// The sets on whose majorities a merge must stand once it had to be sent anywhere.
    pub mended: SmallVec<[Places; 2]>,
    /// How many replicas all sets have.
    pub places: u8,
    /// Replicas that may be asked, and sent the merge, the best first. Those known to be down are
    /// not among them.
    pub candidates: SmallVec<[ReplicaIndex; 5]>,
    /// Whether all but one are asked for digests only.
    pub digests: bool,
    /// What to do about stale replicas.
    pub repair: RepairMode,
}

/// What the coordinator is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GetCommand {
    /// Ask this replica.
    Ask(ReplicaIndex, Want),
    /// Send the merge to this replica and tell [`Get::repaired`] or [`Get::repair_failed`].
    Repair(ReplicaIndex),
    /// Answer the client; [`Get::finish`] has what.
    Finish,
    /// The level can no longer be reached.
    Fail,
}

/// What a read came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished<D> {
    /// The merge of all answers that count.
    pub merged: D,
    /// How many those are.
    pub got: u8,
    /// Replicas that lack some of it and are not being mended yet.
    pub stale: SmallVec<[ReplicaIndex; 5]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Heard {
    Nothing,
    Asked(Want),
    Digest(u64),
    /// Its contents are in the merge; this was their digest.
    Merged(u64),
    Repairing,
    Failed,
}

/// The state of one read. See the module's head.
#[derive(Debug)]
pub struct Get<D> {
    plan: GetPlan,
    heard: SmallVec<[Heard; 5]>,
    merged: Option<D>,
    /// How many answers count, once that is fixed: what follows is repair.
    settled: Option<u8>,
    /// The merge was sent to a replica that lacked some of it.
    was_sent: bool,
    done: bool,
}

impl<D: Mergeable> Get<D> {
    /// Begins a read; the commands ask as many of the first candidates as the levels need.
    pub fn start(plan: GetPlan) -> (Self, Vec<GetCommand>) {
        let heard = SmallVec::from_elem(Heard::Nothing, plan.places as usize);
        let mut get =
            Self { plan, heard, merged: None, settled: None, was_sent: false, done: false };
        let commands = get.step();
        (get, commands)
    }

    /// A replica answered.
    pub fn answered(&mut self, from: ReplicaIndex, answer: Answer<D>) -> Vec<GetCommand> {
        if self.settled.is_some() || !matches!(self.heard[from.index()], Heard::Asked(_)) {
            return Vec::new();
        }
        self.heard[from.index()] = match answer {
            Answer::Digest(digest) => Heard::Digest(digest),
            Answer::Full(contents) => {
                let digest = contents.digest();
                match &mut self.merged {
                    Some(merged) => merged.merge_in(&contents),
                    none => *none = Some(contents),
                }
                Heard::Merged(digest)
            }
        };
        self.step()
    }

    /// A replica failed to answer. It counts no more.
    pub fn failed(&mut self, from: ReplicaIndex) -> Vec<GetCommand> {
        if !matches!(self.heard[from.index()], Heard::Asked(_)) {
            return Vec::new();
        }
        self.heard[from.index()] = Heard::Failed;
        self.step()
    }

    /// A replica did not take the merge.
    pub fn repair_failed(&mut self, replica: ReplicaIndex) -> Vec<GetCommand> {
        if self.heard[replica.index()] != Heard::Repairing {
            return Vec::new();
        }
        self.heard[replica.index()] = Heard::Failed;
        self.step()
    }

    /// A replica took the merge.
    pub fn repaired(&mut self, replica: ReplicaIndex) -> Vec<GetCommand> {
        if self.heard[replica.index()] != Heard::Repairing {
            return Vec::new();
        }
        self.heard[replica.index()] = Heard::Merged(self.merged_digest());
        self.step()
    }

    /// The replicas asked are slow: asks one more, if there is one. Replicas that are slow to take
    /// the merge: sends it to one that was not asked.
    pub fn hedge(&mut self) -> Vec<GetCommand> {
        if self.settled.is_some() {
            return self.mend_spare().into_iter().collect();
        }
        // A record that is only on its way may be what is slow.
        let read = self.plan.groups.iter().map(|group| group.members);
        let read = read.fold(Places::default(), Places::and);
        self.ask_spare(read, self.merged.is_some()).into_iter().collect()
    }

    /// The answers that count so far, of the first set.
    pub fn got(&self) -> u8 {
        self.plan.groups.first().map_or(0, |group| self.got_of(group.members))
    }

    fn got_of(&self, set: Places) -> u8 {
        self.count(set, |heard| matches!(heard, Heard::Digest(_) | Heard::Merged(_)))
    }

    /// What to answer, after [`GetCommand::Finish`].
    pub fn finish(self) -> Finished<D> {
        let got = self.settled.expect("a read finishes once its answers are fixed");
        let mut stale = SmallVec::new();
        if self.plan.repair != RepairMode::Off && self.merged.as_ref().is_some_and(D::is_pushed) {
            stale = self.stale();
            // Their repair was begun, and may end with this read: sent again, it changes nothing.
            stale.extend(self.replicas(|heard| *heard == Heard::Repairing));
        }
        let merged = self.merged.expect("a read finishes on at least one merged answer");
        Finished { merged, got, stale }
    }

    /// The merge, once a repair was asked for.
    pub fn merged(&self) -> Option<&D> {
        self.merged.as_ref()
    }

    fn step(&mut self) -> Vec<GetCommand> {
        if self.done {
            return Vec::new();
        }
        if self.settled.is_none() {
            let commands = self.collect();
            if self.settled.is_none() {
                return commands;
            }
        }
        self.mend()
    }

    /// Gathers answers until as many as each level needs are in the merge.
    fn collect(&mut self) -> Vec<GetCommand> {
        let mut commands = Vec::new();
        for group in self.plan.groups.clone() {
            while self.got_of(group.members) + self.outstanding(group.members) < group.required {
                let is_on_its_way = self.heard.contains(&Heard::Asked(Want::Full));
                let has_full = self.merged.is_some() || is_on_its_way;
                match self.ask_spare(group.members, has_full) {
                    Some(command) => commands.push(command),
                    None => return self.end(GetCommand::Fail),
                }
            }
        }
        if self.plan.groups.iter().any(|group| self.got_of(group.members) < group.required) {
            return commands;
        }
        let unmerged = self.unmerged();
        if unmerged.is_empty() {
            self.settled = self.merged.is_some().then(|| self.got());
            return commands;
        }
        for replica in unmerged {
            self.heard[replica.index()] = Heard::Asked(Want::Full);
            commands.push(GetCommand::Ask(replica, Want::Full));
        }
        commands
    }

    /// Answers that are known by digest only and must be fetched: those that differ from every
    /// merged one; where nothing was merged and no record is on its way, the first.
    fn unmerged(&self) -> SmallVec<[ReplicaIndex; 5]> {
        let merged = |digest: &u64| self.heard.contains(&Heard::Merged(*digest));
        let differing = self.replicas(|heard| match heard {
            Heard::Digest(digest) => !merged(digest),
            _ => false,
        });
        if self.merged.is_some() {
            return differing;
        }
        if self.heard.contains(&Heard::Asked(Want::Full)) {
            // A spare was asked in place of a failed one: its record will settle most of these.
            return SmallVec::new();
        }
        differing.into_iter().take(1).collect()
    }

    /// Mends stale replicas, as far as the answer has to wait for it.
    fn mend(&mut self) -> Vec<GetCommand> {
        let is_quorum = |group: &Group| group.required >= majority(group.members.count());
        let blocking = self.plan.repair == RepairMode::Blocking;
        let is_waited_for = blocking && self.plan.groups.iter().all(is_quorum);
        let is_pushed = self.merged.as_ref().is_some_and(D::is_pushed);
        if !is_waited_for || !is_pushed || self.stands() {
            return self.end(GetCommand::Finish);
        }
        let mut targets = self.stale();
        for set in self.plan.mended.clone() {
            let enough = majority(set.count());
            let mut expected = self.standing(set)
                + self.count(set, |heard| *heard == Heard::Repairing)
                + targets.iter().filter(|target| set.has(**target)).count() as u8;
            for candidate in self.plan.candidates.clone() {
                let unasked =
                    matches!(self.heard[candidate.index()], Heard::Nothing | Heard::Asked(_));
                let is_open = set.has(candidate) && unasked && !targets.contains(&candidate);
                if expected < enough && is_open {
                    targets.push(candidate);
                    expected += 1;
                }
            }
            if expected < enough {
                return self.end(GetCommand::Fail);
            }
        }
        self.was_sent |= !targets.is_empty();
        for replica in &targets {
            self.heard[replica.index()] = Heard::Repairing;
        }
        targets.into_iter().map(GetCommand::Repair).collect()
    }

    /// Whether the merge stands where it has to: on majorities of all that was read, without having
    /// been sent anywhere; or else of all sets that are mended.
    fn stands(&self) -> bool {
        let is_on = |set: Places| self.standing(set) >= majority(set.count());
        (!self.was_sent && self.plan.groups.iter().all(|group| is_on(group.members)))
            || self.plan.mended.iter().all(|set| is_on(*set))
    }

    fn ask_spare(&mut self, of: Places, has_full: bool) -> Option<GetCommand> {
        let unasked = |r: &&ReplicaIndex| of.has(**r) && self.heard[r.index()] == Heard::Nothing;
        let spare = *self.plan.candidates.iter().find(unasked)?;
        let want = if self.plan.digests && has_full { Want::Digest } else { Want::Full };
        self.heard[spare.index()] = Heard::Asked(want);
        Some(GetCommand::Ask(spare, want))
    }

    fn mend_spare(&mut self) -> Option<GetCommand> {
        if self.done || !self.heard.contains(&Heard::Repairing) {
            return None;
        }
        let is_short = |set: &Places| self.standing(*set) < majority(set.count());
        let is_spare = |r: &&ReplicaIndex| {
            matches!(self.heard[r.index()], Heard::Nothing | Heard::Asked(_))
                && self.plan.mended.iter().any(|set| set.has(**r) && is_short(set))
        };
        let spare = *self.plan.candidates.iter().find(is_spare)?;
        self.heard[spare.index()] = Heard::Repairing;
        Some(GetCommand::Repair(spare))
    }

    fn end(&mut self, command: GetCommand) -> Vec<GetCommand> {
        self.done = true;
        vec![command]
    }

    fn merged_digest(&self) -> u64 {
        self.merged.as_ref().expect("only a merge is repaired from").digest()
    }

    /// Replicas of a set known to hold all of the merge.
    fn standing(&self, set: Places) -> u8 {
        let digest = self.merged_digest();
        let holds =
            |heard: &Heard| matches!(heard, Heard::Merged(d) | Heard::Digest(d) if *d == digest);
        self.count(set, holds)
    }

    fn stale(&self) -> SmallVec<[ReplicaIndex; 5]> {
        let digest = self.merged_digest();
        self.replicas(|heard| matches!(heard, Heard::Merged(d) | Heard::Digest(d) if *d != digest))
    }

    fn outstanding(&self, set: Places) -> u8 {
        self.count(set, |heard| matches!(heard, Heard::Asked(_)))
    }

    fn count(&self, of: Places, is: impl Fn(&Heard) -> bool) -> u8 {
        let heard = self.heard.iter().enumerate();
        heard.filter(|(i, heard)| of.has(ReplicaIndex(*i as u8)) && is(heard)).count() as u8
    }

    fn replicas(&self, is: impl Fn(&Heard) -> bool) -> SmallVec<[ReplicaIndex; 5]> {
        let indexed = self.heard.iter().enumerate();
        indexed.filter(|(_, heard)| is(heard)).map(|(i, _)| ReplicaIndex(i as u8)).collect()
    }
}

#[cfg(test)]
mod tests;
