use starling::sim::scenario::Scenario;
use starling::sim::{Detail, Options, Outcome, run};

const SEEDS: u64 = 50;

fn play(seed: u64, detail: Detail) -> Outcome {
    run(Scenario::from_seed(seed), &Options { detail, ..Options::default() })
}

#[test]
fn the_same_seed_run_twice_gives_the_same_trace_byte_for_byte() {
    for seed in 0..SEEDS {
        let [first, second] = [0, 1].map(|_| play(seed, Detail::Everything).traced);
        assert!(!first.text.is_empty());
        if let Some((a, b)) = first.text.lines().zip(second.text.lines()).find(|(a, b)| a != b) {
            panic!("seed {seed} differs:\n  {a}\n  {b}");
        }
        assert!(first == second, "seed {seed} differs");
    }
}

#[test]
fn what_is_kept_as_text_does_not_change_a_run() {
    for seed in 0..3 {
        let hashes = [Detail::Hash, Detail::Timeline].map(|detail| play(seed, detail).traced.hash);
        assert_eq!(hashes[0], hashes[1], "seed {seed}");
    }
}

#[test]
fn runs_are_as_large_as_promised() {
    let (mut operations, mut succeeded) = (0, 0);
    for seed in 0..20 {
        let scenario = Scenario::from_seed(seed);
        assert!((3..=7).contains(&scenario.nodes));
        assert!((16..=64).contains(&scenario.partitions));
        assert!(scenario.operations() >= 2_000);
        let outcome = play(seed, Detail::Hash);
        assert!(outcome.virtual_ms >= 60_000, "seed {seed}: {} ms", outcome.virtual_ms);
        assert!(outcome.operations >= 2_000, "seed {seed}: {}", outcome.operations);
        operations += outcome.operations;
        succeeded += outcome.succeeded;
    }
    // Some worlds are so hostile that little gets through; on the whole most does.
    assert!(succeeded * 2 > operations, "{succeeded} of {operations}");
}
