//! Each property can fail: a bug that is planted in the node is found.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use starling::node::PlantedBug;
use starling::sim::scenario::Scenario;
use starling::sim::{Options, run};

/// Within so many seeds.
const SEEDS: u64 = 200;

/// Broken where a node itself notices that something is wrong: no proof of the other properties.
const ALARM: &str = "no false alarm";

/// The bug that harms nothing but by false alarms.
const ALARMING: PlantedBug = PlantedBug::LeftoversTakenIn;

/// The first seed that finds the bug, and the properties that it breaks.
fn find(bug: PlantedBug) -> Option<(u64, Vec<&'static str>)> {
    let options = Options { bug: Some(bug), ..Options::default() };
    (0..SEEDS).find_map(|seed| {
        let outcome = run(Scenario::from_seed(seed), &options);
        let mut broken: Vec<_> = outcome.violations.iter().map(|broken| broken.property).collect();
        broken.retain(|property| *property != ALARM || bug == ALARMING);
        broken.dedup();
        (!broken.is_empty()).then_some((seed, broken))
    })
}

#[test]
fn every_planted_bug_is_found() {
    let next = AtomicU64::new(0);
    let search = || {
        let mut missed = Vec::new();
        while let Some(bug) = PlantedBug::ALL.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
            match find(*bug) {
                Some((seed, broken)) => {
                    println!("{bug:?}: found after {} seeds, by {}", seed + 1, broken.join(", "));
                }
                None => missed.push(*bug),
            }
        }
        missed
    };
    let missed: Vec<PlantedBug> = thread::scope(|scope| {
        let searches = [0, 1].map(|_| scope.spawn(search));
        searches.into_iter().flat_map(|search| search.join().expect("it does not panic")).collect()
    });
    assert!(missed.is_empty(), "not found within {SEEDS} seeds: {missed:?}");
}
