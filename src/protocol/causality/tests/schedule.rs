//! Random schedules of replicas, clients, retired actors and purges, run against the model.

use proptest::collection::vec;
use proptest::prelude::{ProptestConfig, Strategy, any, prop_oneof, proptest};

use super::super::{
    Context, token_cover_after_write, token_cover_for_get, token_cover_for_version,
};
use super::model::Events;
use super::world::{REPLICAS, World};

#[derive(Clone, Debug)]
enum Step {
    /// Mints at a replica, with one of the tokens given out (or, beyond them, none).
    Write { at: usize, token: usize, deletes: bool },
    /// Mints at a replica, having seen what it and another one hold.
    WriteOverRead { at: usize, other: usize, deletes: bool },
    /// Gives out the token of what these two replicas hold.
    Read { at: usize, other: usize },
    /// Gives out the token of one version that a replica holds.
    ReadVersion { at: usize, nth: usize },
    /// Merges one replica's record into another's.
    Merge { from: usize, into: usize },
    /// Sets a replica's record aside, as a hint or a slow message does.
    Send { from: usize },
    /// Delivers something that was set aside, perhaps not for the last time.
    Deliver { nth: usize, into: usize },
    /// Draws a new actor at a replica.
    Retire { at: usize },
    /// If all replicas hold the same tombstones: some of them strip theirs.
    Strip { who: u8 },
    /// If all replicas hold the same husk or nothing: some of them delete theirs.
    Purge { who: u8 },
}

fn any_step() -> impl Strategy<Value = Step> {
    let replica = || 0..REPLICAS;
    prop_oneof![
        4 => (replica(), any::<usize>(), any::<bool>())
            .prop_map(|(at, token, deletes)| Step::Write { at, token, deletes }),
        3 => (replica(), replica(), any::<bool>())
            .prop_map(|(at, other, deletes)| Step::WriteOverRead { at, other, deletes }),
        2 => (replica(), replica()).prop_map(|(at, other)| Step::Read { at, other }),
        2 => (replica(), any::<usize>()).prop_map(|(at, nth)| Step::ReadVersion { at, nth }),
        6 => (replica(), replica()).prop_map(|(from, into)| Step::Merge { from, into }),
        1 => replica().prop_map(|from| Step::Send { from }),
        1 => (any::<usize>(), replica()).prop_map(|(nth, into)| Step::Deliver { nth, into }),
        1 => replica().prop_map(|at| Step::Retire { at }),
        2 => (1u8..8).prop_map(|who| Step::Strip { who }),
        2 => (1u8..8).prop_map(|who| Step::Purge { who }),
    ]
}

/// A delete that reaches all replicas, and what a purge of it takes: random steps alone would
/// rarely get that far.
fn any_purge() -> impl Strategy<Value = Vec<Step>> {
    (0..REPLICAS, 1u8..8, 1u8..8).prop_map(|(at, strips, purges)| {
        let others = || (0..REPLICAS).filter(|other| *other != at);
        let gather = || others().map(|from| Step::Merge { from, into: at });
        let spread = || others().map(|into| Step::Merge { from: at, into });
        let delete = Step::WriteOverRead { at, other: at, deletes: true };
        let delete = gather().chain([delete]).chain(spread());
        let strip = [Step::Strip { who: strips }].into_iter().chain(gather()).chain(spread());
        delete.chain(strip).chain([Step::Purge { who: purges }]).collect()
    })
}

fn any_schedule() -> impl Strategy<Value = Vec<Step>> {
    let part = prop_oneof![8 => any_step().prop_map(|step| vec![step]), 1 => any_purge()];
    vec(part, 1..60).prop_map(|parts| parts.concat())
}

fn run(world: &mut World, step: &Step) {
    match *step {
        Step::Write { at, token, deletes } => write_with_token(world, at, token, deletes),
        Step::WriteOverRead { at, other, deletes } => {
            let read = world.read(at, other);
            let seen = (read.record.context().clone(), read.known.events);
            world.mint(at, seen, deletes);
        }
        Step::Read { at, other } => {
            let read = world.read(at, other);
            world.tokens.push((token_cover_for_get(&read.record), read.known.events));
        }
        Step::ReadVersion { at, nth } => read_version(world, at, nth),
        Step::Merge { from, into } => {
            let copy = world.replicas[from].copy.clone();
            world.replicas[into].copy.merge(&copy);
        }
        Step::Send { from } => world.in_flight.push(world.replicas[from].copy.clone()),
        Step::Deliver { nth, into } => world.deliver(nth, into),
        Step::Retire { at } => world.retire(at),
        Step::Strip { who } => world.strip(who),
        Step::Purge { who } => world.purge(who),
    }
}

fn read_version(world: &mut World, at: usize, nth: usize) {
    let (history, copy) = (&world.history, &world.replicas[at].copy);
    let survivors: Vec<usize> = history.survivors(&copy.known).into_iter().collect();
    if survivors.is_empty() {
        return;
    }
    let shown = survivors[nth % survivors.len()];
    let dot = history.get(shown).dot;
    let cover = token_cover_for_version(&copy.record, dot).expect("it survives there");
    // No two values here are equal; tombstones are all alike, and so are seen together.
    let is_deleted = |event: usize| history.get(event).is_tombstone;
    let is_shown = |event: &usize| *event == shown || (is_deleted(*event) && is_deleted(shown));
    let hidden: Events = survivors.into_iter().filter(|event| !is_shown(event)).collect();
    let seen = &copy.known.events - &hidden;
    world.tokens.push((cover, seen));
}

fn write_with_token(world: &mut World, at: usize, token: usize, deletes: bool) {
    let none = (Context::new(), Events::new());
    let (token, seen) = match token % (world.tokens.len() + 1) {
        0 => none,
        nth => world.tokens[nth - 1].clone(),
    };
    let replaced = world.replicas[at].copy.record.dots_in(&token);
    let own = world.mint(at, (token.clone(), seen.clone()), deletes);
    let (history, copy) = (&world.history, &world.replicas[at].copy);
    let cover = token_cover_after_write(&copy.record, &token, &replaced, own);
    let is_unseen = |event: &usize| !seen.contains(event) && history.get(*event).dot != own;
    let unseen: Events = history.survivors(&copy.known).into_iter().filter(is_unseen).collect();
    let seen = &copy.known.events - &unseen;
    world.tokens.push((cover, seen));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    /// No false supersession, no false sibling, one dot one value, no resurrection after a purge.
    #[test]
    fn records_hold_what_the_whole_history_says(schedule in any_schedule()) {
        let mut world = World::new();
        for step in &schedule {
            run(&mut world, step);
            world.check();
        }
        world.check_convergence();
    }
}
