//! Buckets whose n is changed again and again, one transition after the other, while all else that
//! was drawn goes on: one bucket there and back (3, 5, 3, 1), or two by turns, of which the second
//! comes to where the first has gone.
//!
//! A change that comes right after another meets what that one has left: records that wait to be
//! brought and dropped, in vnodes that stay for others; purge numbers of two vnodes of a partition;
//! actors of vnodes that a bucket leaves and comes back to. Where nothing is torn down meanwhile,
//! keys are deleted and purged between two changes; where all is, they are not: both are drawn.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::operators::RESIZED_BUCKET;
use super::{Action, Fault, KeyKind, PlannedAction, PlannedFault, Scenario};

/// Sets these draws apart from all others of a seed. Which seeds come to be such worlds follows from
/// it: none of those that were kept in `tests/simulator/seeds.txt` before there were any.
const APART: u64 = 0x5acc_e551_051c;

/// How many seeds in a hundred, of those that are led nowhere else.
const PERCENT: u32 = 15;

/// Half of the keys that are used in every way come to it.
const OTHER_BUCKET: &str = "other";

/// By then the last change is asked for.
const LAST_AT_MS: u64 = 50_000;

/// Makes some scenarios one of these.
pub(super) fn turn_some(scenario: &mut Scenario) {
    let mut random = StdRng::seed_from_u64(scenario.seed ^ APART);
    if random.random_ratio(PERCENT, 100) {
        turn(scenario, &mut random);
    }
}

fn turn(scenario: &mut Scenario, random: &mut StdRng) {
    if random.random_bool(0.5) {
        calm_down(scenario, random);
    }
    let buckets = match random.random_range(0..8) {
        0 => vec![RESIZED_BUCKET],
        1 => vec![RESIZED_BUCKET, "registers"],
        2 => vec![RESIZED_BUCKET, "chains"],
        3 => vec![RESIZED_BUCKET, "lww"],
        _ => vec![RESIZED_BUCKET, OTHER_BUCKET],
    };
    if buckets.contains(&OTHER_BUCKET) {
        divide(scenario);
    }
    let changes = match (buckets.as_slice(), random.random_range(0..10)) {
        ([first, second], 0..=2) => in_its_place(scenario, random, [*first, *second]),
        ([first, second], 3..=5) => on_its_heels(scenario, random, [*first, *second]),
        _ => changes(scenario, random, &buckets),
    };
    scenario.operators.extend(changes);
    // In one order with the others; those in turn keep theirs.
    scenario.operators.sort_by_key(|planned| planned.at_ms);
}

/// Leaves a few of the faults, none of which takes anything from a disk: transitions come to their
/// ends, and there is time for purging between them.
fn calm_down(scenario: &mut Scenario, random: &mut StdRng) {
    scenario.faults.retain(|planned| {
        let is_lasting = matches!(planned.fault, Fault::Weather(_) | Fault::ClockJump { .. });
        !planned.fault.loses_data() && !is_lasting && random.random_bool(0.3)
    });
    scenario.operators.retain(|planned| {
        matches!(planned.action, Action::Join { .. } | Action::Leave { .. })
            && random.random_bool(0.3)
    });
}

/// Every other key that is used in every way is in another bucket.
fn divide(scenario: &mut Scenario) {
    let free = scenario.keys.iter_mut().filter(|key| key.kind == KeyKind::Free);
    for key in free.skip(1).step_by(2) {
        key.bucket = OTHER_BUCKET;
    }
}

/// One bucket comes to a table of its own and leaves it again; another one takes its place at once,
/// before what is left there is dropped, and goes away as well once keys were purged.
fn in_its_place(
    scenario: &Scenario,
    random: &mut StdRng,
    [first, second]: [&'static str; 2],
) -> Vec<PlannedAction> {
    let (home, away) = (scenario.replication_factor, size_of_its_own(scenario, random));
    let there = random.random_range(4_000..10_000);
    let back = there + random.random_range(1_000..10_000);
    let gone = back + random.random_range(9_000..20_000);
    vec![
        resize(there, second, away),
        resize(back, second, home),
        resize(back, first, away),
        resize(gone, first, home),
        resize(gone, second, away),
    ]
}

/// One bucket follows another to its new table while some nodes, whose disks are slow, have yet to
/// drop what the first one left; keys were purged before, so the numbers of the two tables differ.
fn on_its_heels(
    scenario: &mut Scenario,
    random: &mut StdRng,
    [first, second]: [&'static str; 2],
) -> Vec<PlannedAction> {
    let (home, away) = (scenario.replication_factor, size_of_its_own(scenario, random));
    let at_ms = random.random_range(15_000..20_000);
    let slow = random.random_range(0..scenario.nodes);
    let slow = [slow, (slow + 1) % scenario.nodes];
    let slow_disk = |node| PlannedFault { at_ms, for_ms: 35_000, fault: Fault::SlowDisk { node } };
    scenario.faults = slow.into_iter().map(slow_disk).collect();
    scenario.gc_grace = Duration::from_secs(2);
    // A slow disk is done with them in time.
    scenario.partitions = 16;
    vec![
        resize(at_ms, first, away),
        resize(at_ms, second, away),
        resize(at_ms, first, home),
        resize(at_ms, second, home),
    ]
}

/// An n whose table only those buckets have whose n is changed.
fn size_of_its_own(scenario: &Scenario, random: &mut StdRng) -> u8 {
    let others: Vec<u8> =
        [1, 2, 5].into_iter().filter(|n| *n != scenario.replication_factor).collect();
    others[random.random_range(0..others.len())]
}

fn resize(at_ms: u64, bucket: &'static str, n: u8) -> PlannedAction {
    let action = Action::Resize { bucket, n };
    // Whoever is up is asked.
    PlannedAction { at_ms, through: 0, action, is_in_turn: true }
}

/// The changes, by time: each to an n that the bucket has not, if all before it come about.
fn changes(
    scenario: &Scenario,
    random: &mut StdRng,
    buckets: &[&'static str],
) -> Vec<PlannedAction> {
    let mut sizes = vec![scenario.replication_factor; buckets.len()];
    let mut at_ms = random.random_range(4_000..25_000);
    let mut which = 0;
    let mut changes = Vec::new();
    for _ in 0..random.random_range(3..=7) {
        let n = next_size(random, &sizes, which);
        sizes[which] = n;
        let through = random.random_range(0..scenario.nodes);
        changes.push(PlannedAction { through, ..resize(at_ms, buckets[which], n) });
        // Mostly the other one, and right behind it.
        if random.random_bool(0.7) {
            which = (which + 1) % buckets.len();
        }
        if random.random_bool(0.4) {
            at_ms = (at_ms + random.random_range(1_000..10_000)).min(LAST_AT_MS);
        }
    }
    changes
}

/// Another n for a bucket: often the one that another bucket has by now.
fn next_size(random: &mut StdRng, sizes: &[u8], which: usize) -> u8 {
    let elsewhere = sizes[(which + 1) % sizes.len()];
    if elsewhere != sizes[which] && random.random_bool(0.6) {
        return elsewhere;
    }
    let others: Vec<u8> = [1, 2, 3, 5].into_iter().filter(|n| *n != sizes[which]).collect();
    others[random.random_range(0..others.len())]
}
