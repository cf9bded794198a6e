use std::collections::BTreeSet;

use proptest::prelude::{Just, Strategy, any, proptest};
use proptest::{prop_assert, prop_assert_eq, prop_oneof};
use smallvec::smallvec;

use super::{Answer, Get, GetCommand, GetPlan, Mergeable, RepairMode, Want};
use crate::protocol::quorum::{Group, Places, ReplicaIndex, majority};

/// A naive stand-in for a record: the set of writes that it holds; merging is union.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Writes(BTreeSet<u8>);

impl Writes {
    fn of(writes: &[u8]) -> Self {
        Self(writes.iter().copied().collect())
    }
}

impl Mergeable for Writes {
    fn merge_in(&mut self, other: &Self) {
        self.0.extend(&other.0);
    }

    fn digest(&self) -> u64 {
        self.0.iter().fold(0, |bits, write| bits | 1 << write)
    }
}

fn plan(required: u8, n: u8, repair: RepairMode) -> GetPlan {
    let candidates = (0..n).map(ReplicaIndex).collect();
    let mended = smallvec![Places::first(n)];
    let groups = smallvec![Group::of(required, n)];
    GetPlan { groups, mended, places: n, candidates, digests: true, repair }
}

const fn r(index: u8) -> ReplicaIndex {
    ReplicaIndex(index)
}

#[test]
fn equal_replicas_cost_one_record_and_digests() {
    let (mut get, commands) = Get::start(plan(2, 3, RepairMode::Blocking));
    let asks = [GetCommand::Ask(r(0), Want::Full), GetCommand::Ask(r(1), Want::Digest)];
    assert_eq!(commands, asks);
    assert_eq!(get.answered(r(1), Answer::Digest(Writes::of(&[3]).digest())), []);
    let done = get.answered(r(0), Answer::Full(Writes::of(&[3])));
    assert_eq!(done, [GetCommand::Finish]);
    let finished = get.finish();
    assert_eq!((finished.merged, finished.got), (Writes::of(&[3]), 2));
    assert!(finished.stale.is_empty());
}

#[test]
fn a_differing_digest_is_fetched_and_the_stale_one_mended_before_the_answer() {
    let (mut get, _) = Get::start(plan(2, 3, RepairMode::Blocking));
    get.answered(r(0), Answer::Full(Writes::of(&[1])));
    let fetch = get.answered(r(1), Answer::Digest(Writes::of(&[1, 2]).digest()));
    assert_eq!(fetch, [GetCommand::Ask(r(1), Want::Full)]);
    let mend = get.answered(r(1), Answer::Full(Writes::of(&[1, 2])));
    assert_eq!(mend, [GetCommand::Repair(r(0))]);
    assert_eq!(get.repaired(r(0)), [GetCommand::Finish]);
    assert!(get.finish().stale.is_empty());
}

#[test]
fn a_repair_that_fails_goes_to_a_replica_that_was_not_asked() {
    let (mut get, _) = Get::start(plan(2, 3, RepairMode::Blocking));
    get.answered(r(0), Answer::Full(Writes::of(&[1])));
    get.answered(r(1), Answer::Digest(Writes::of(&[1, 2]).digest()));
    get.answered(r(1), Answer::Full(Writes::of(&[1, 2])));
    assert_eq!(get.repair_failed(r(0)), [GetCommand::Repair(r(2))]);
    assert_eq!(get.failed(r(0)), [], "its answer to the read counted long ago");
    assert_eq!(get.repair_failed(r(2)), [GetCommand::Fail]);
}

#[test]
fn a_replica_that_is_silent_about_its_repair_is_passed_over() {
    let (mut get, _) = Get::start(plan(2, 3, RepairMode::Blocking));
    get.answered(r(0), Answer::Full(Writes::of(&[1])));
    get.answered(r(1), Answer::Digest(Writes::of(&[1, 2]).digest()));
    get.answered(r(1), Answer::Full(Writes::of(&[1, 2])));
    assert_eq!(get.hedge(), [GetCommand::Repair(r(2))]);
    assert_eq!(get.repaired(r(2)), [GetCommand::Finish]);
}

#[test]
fn at_level_all_one_stale_replica_of_three_does_not_hold_up_the_answer() {
    let (mut get, _) = Get::start(plan(3, 3, RepairMode::Blocking));
    let new = Writes::of(&[1, 2]);
    get.answered(r(1), Answer::Digest(new.digest()));
    get.answered(r(2), Answer::Digest(new.digest()));
    let fetch = get.answered(r(0), Answer::Full(Writes::of(&[1])));
    assert_eq!(fetch, [GetCommand::Ask(r(1), Want::Full), GetCommand::Ask(r(2), Want::Full)]);
    get.answered(r(1), Answer::Full(new.clone()));
    assert_eq!(get.answered(r(2), Answer::Full(new.clone())), [GetCommand::Finish]);
    let finished = get.finish();
    assert_eq!(finished.stale.as_slice(), [r(0)], "left to a repair after the answer");
    assert_eq!(finished.merged, new);
}

#[test]
fn a_failed_replica_is_replaced_and_the_last_failure_is_told_at_once() {
    let (mut get, _) = Get::<Writes>::start(plan(2, 3, RepairMode::Blocking));
    assert_eq!(get.failed(r(0)), [GetCommand::Ask(r(2), Want::Full)]);
    assert_eq!(get.failed(r(2)), [GetCommand::Fail]);
    assert_eq!(get.failed(r(1)), [], "it is over");
}

#[test]
fn a_hedge_asks_for_the_record_while_none_has_come() {
    let (mut get, _) = Get::start(plan(2, 3, RepairMode::Blocking));
    let held = Writes::of(&[5]);
    get.answered(r(1), Answer::Digest(held.digest()));
    assert_eq!(get.hedge(), [GetCommand::Ask(r(2), Want::Full)]);
    assert_eq!(get.failed(r(0)), [], "another record is on its way");
    assert_eq!(get.answered(r(2), Answer::Full(held)), [GetCommand::Finish]);
}

/// Old set 0, 1, 2; new set 1, 2, 3.
fn changing(is_switched: bool) -> GetPlan {
    let mut new = Places::default();
    [r(1), r(2), r(3)].into_iter().for_each(|replica| new.insert(replica));
    let mut groups = smallvec![Group::of(2, 3)];
    if is_switched {
        groups.push(Group { members: new, required: 2 });
    }
    let mended = smallvec![Places::first(3), new];
    let candidates = (0..4).map(r).collect();
    GetPlan { groups, mended, places: 4, candidates, digests: true, repair: RepairMode::Blocking }
}

#[test]
fn before_the_switch_the_old_set_is_read_and_a_repair_stands_on_both() {
    let (mut get, commands) = Get::start(changing(false));
    assert_eq!(commands.len(), 2, "two of the old set");
    get.answered(r(0), Answer::Full(Writes::of(&[1])));
    get.answered(r(1), Answer::Digest(Writes::of(&[]).digest()));
    let mend = get.answered(r(1), Answer::Full(Writes::of(&[])));
    assert_eq!(mend, [GetCommand::Repair(r(1)), GetCommand::Repair(r(2))]);
    assert_eq!(get.repaired(r(1)), [], "the old set has it, the new one not yet");
    assert_eq!(get.repaired(r(2)), [GetCommand::Finish]);
}

#[test]
fn after_the_switch_both_sets_are_read() {
    let (mut get, commands) = Get::start(changing(true));
    let asked = [(0, Want::Full), (1, Want::Digest), (2, Want::Digest)];
    assert_eq!(commands, asked.map(|(i, want)| GetCommand::Ask(r(i), want)));
    let held = Writes::of(&[7]);
    get.answered(r(1), Answer::Digest(held.digest()));
    assert_eq!(
        get.answered(r(0), Answer::Full(held.clone())),
        [],
        "one of the new set is no level"
    );
    assert_eq!(get.answered(r(2), Answer::Digest(held.digest())), [GetCommand::Finish]);
}

#[test]
fn below_a_majority_nothing_is_waited_for() {
    let mut plan = plan(1, 3, RepairMode::Blocking);
    plan.candidates = smallvec![r(2), r(0), r(1)];
    let (mut get, commands) = Get::start(plan);
    assert_eq!(commands, [GetCommand::Ask(r(2), Want::Full)]);
    assert_eq!(get.answered(r(2), Answer::Full(Writes::of(&[]))), [GetCommand::Finish]);
}

#[derive(Clone, Copy, Debug)]
enum Luck {
    Answers,
    Fails,
    Slow,
}

fn luck() -> impl Strategy<Value = Luck> {
    prop_oneof![4 => Just(Luck::Answers), 1 => Just(Luck::Fails), 1 => Just(Luck::Slow)]
}

proptest! {
    /// Whatever fails, and in whatever order answers come: a read ends; if it succeeds, its merge
    /// holds all that some `required` replicas held, and stands on a majority where it must.
    #[test]
    fn a_read_ends_and_shows_all_that_its_replicas_held(
        n in 1u8..=5,
        level in 1u8..=5,
        held in proptest::collection::vec(proptest::collection::btree_set(0u8..6, 0..4), 5),
        lucks in proptest::collection::vec(luck(), 64),
        order in proptest::collection::vec(any::<u16>(), 64),
        blocking in any::<bool>(),
        digests in any::<bool>(),
    ) {
        let required = level.min(n);
        let repair = if blocking { RepairMode::Blocking } else { RepairMode::Async };
        let mut store: Vec<Writes> = held.into_iter().map(Writes).collect();
        store.truncate(n as usize);
        let before = store.clone();
        let mut plan = plan(required, n, repair);
        plan.digests = digests;
        let (mut get, mut pending) = Get::start(plan);
        let mut answered = BTreeSet::new();
        let mut steps = 0;
        let outcome = loop {
            prop_assert!(steps < 64 && !pending.is_empty(), "it hangs");
            let command = pending.remove(order[steps] as usize % pending.len());
            let luck = lucks[steps];
            steps += 1;
            let next = match (command, luck) {
                (GetCommand::Finish, _) => break true,
                (GetCommand::Fail, _) => break false,
                (GetCommand::Ask(replica, _), Luck::Fails) => get.failed(replica),
                (GetCommand::Repair(replica), Luck::Fails) => get.repair_failed(replica),
                (ask @ GetCommand::Ask(..), Luck::Slow) => {
                    pending.push(ask);
                    get.hedge()
                }
                (GetCommand::Ask(replica, want), Luck::Answers) => {
                    answered.insert(replica.index());
                    let held = store[replica.index()].clone();
                    get.answered(replica, match want {
                        Want::Full => Answer::Full(held),
                        Want::Digest => Answer::Digest(held.digest()),
                    })
                }
                (GetCommand::Repair(replica), _) => {
                    store[replica.index()] = get.merged().expect("repairs follow a merge").clone();
                    get.repaired(replica)
                }
            };
            pending.extend(next);
        };
        if outcome {
            let finished = get.finish();
            let shown = |i: &usize| before[*i].0.is_subset(&finished.merged.0);
            let counted = answered.iter().filter(|i| shown(i)).count();
            prop_assert!(counted >= required as usize, "fewer than R replicas are in the merge");
            prop_assert_eq!(finished.got >= required, true);
            if blocking && required >= majority(n) {
                let stands = store.iter().filter(|held| **held == finished.merged).count();
                prop_assert!(stands >= majority(n) as usize, "the merge stands on {stands} of {n}");
            }
        }
    }
}
