//! Merge is a join; a summary is a homomorphism; update removes what was seen and nothing else.

use proptest::prelude::proptest;

use super::super::version::Version;
use super::super::{Content, Context, Record, Summary};
use super::{actor, dot, histories, put, value};
use crate::types::HlcStamp;

fn merged(a: &Record, b: &Record) -> Record {
    let mut merged = a.clone();
    let merge = merged.merge(b);
    assert_eq!(merge.alarms, [], "honest histories raise no alarm");
    assert_eq!(merge.changed, merged != *a, "`changed` says whether it did");
    merged
}

proptest! {
    #[test]
    fn merge_is_commutative_associative_and_idempotent(records in histories(3)) {
        let [a, b, c] = &records[..] else { unreachable!("three were asked for") };
        assert_eq!(merged(a, b), merged(b, a));
        assert_eq!(merged(&merged(a, b), c), merged(a, &merged(b, c)));
        assert_eq!(merged(a, a), *a);
        assert_eq!(merged(&merged(a, b), b), merged(a, b));
        assert_eq!(merged(&Record::absent(), a), *a);
    }

    #[test]
    fn the_summary_of_a_merge_is_the_merge_of_the_summaries(records in histories(2)) {
        let (a, b) = (&records[0], &records[1]);
        let mut summary = Summary::from(a);
        let merge = summary.merge(&Summary::from(b));
        let both = merged(a, b);
        assert_eq!(summary, Summary::from(&both));
        assert_eq!(merge.changed, both != *a);
        assert_eq!((summary.digest(), summary.etag_set()), (both.digest(), both.etag_set()));
        assert_eq!(summary.has_live_value(), both.live().next().is_some());
        assert_eq!(summary.all_tombstones(), both.all_tombstones());
    }

    #[test]
    fn digests_are_equal_where_records_are(records in histories(2)) {
        let (a, b) = (&records[0], &records[1]);
        assert_eq!(a.digest() == b.digest(), a == b);
        let same_versions = a.dots().eq(b.dots());
        assert_eq!(a.etag_set() == b.etag_set(), same_versions);
    }

    #[test]
    fn an_update_removes_exactly_what_it_has_seen(records in histories(3), floor in 0u64..9) {
        let [before, other, _] = &records[..] else { unreachable!("three were asked for") };
        let mut after = before.clone();
        let seen = other.context();
        let dot = after.update(seen, value("new"), HlcStamp::new(9, 9), actor(7), floor);
        assert!(!before.context().contains(dot) && dot.counter() == floor + 1);
        let mut expected: Vec<_> = before.dots().filter(|d| !seen.contains(*d)).collect();
        expected.push(dot);
        assert_eq!(after.dots().collect::<Vec<_>>(), expected);
        let mut context = before.context().clone();
        if before.is_absent() {
            context.seed(actor(7), floor);
        }
        context.join(seen);
        context.insert(dot);
        assert_eq!(after.context(), &context);
    }
}

fn holding(by: u64, counter: u64, text: &str, at_ms: u64) -> Record {
    let version = Version::new(dot(by, counter), HlcStamp::new(at_ms, 0), value(text));
    let context = (1..=counter).map(|counter| dot(by, counter)).collect();
    Record { context, versions: [version].into() }
}

/// A DELETE that has seen all that the record holds.
fn delete(record: &mut Record, by: u64) {
    let seen = record.context().clone();
    record.update(&seen, Content::Tombstone, HlcStamp::default(), actor(by), 0);
}

#[test]
fn one_dot_with_two_checksums_is_an_alarm_and_both_sides_keep_the_same() {
    let (mut a, mut b) = (holding(1, 1, "a", 5), holding(1, 1, "b", 5));
    let greater = if value("a").checksum() > value("b").checksum() { a.clone() } else { b.clone() };
    let before = a.clone();
    let into_a = a.merge(&b);
    let into_b = b.merge(&before);
    assert_eq!((&into_a.alarms, &into_b.alarms), (&vec![dot(1, 1)], &vec![dot(1, 1)]));
    assert!(into_a.changed != into_b.changed, "one of the two had the greater one already");
    assert_eq!((&a, &b), (&greater, &greater));
}

#[test]
fn one_dot_with_two_stamps_is_an_alarm_too() {
    let (mut a, mut b) = (holding(1, 1, "same", 5), holding(1, 1, "same", 6));
    assert_ne!(a.digest(), b.digest());
    let before = a.clone();
    assert_eq!(a.merge(&b).alarms, [dot(1, 1)]);
    assert_eq!(b.merge(&before).alarms, [dot(1, 1)]);
    assert_eq!(a, b);
    assert_eq!(a.versions()[0].stamp(), HlcStamp::new(6, 0));
}

#[test]
fn counters_go_on_from_single_dots_as_well_as_from_the_vector() {
    let mut record = Record::absent();
    let seen: Context = [dot(1, 1), dot(1, 5)].into_iter().collect();
    assert_eq!(put(&mut record, &seen, 1, "x", 0), dot(1, 6));
    assert_eq!(put(&mut record, &Context::new(), 1, "y", 0), dot(1, 7));
}

#[test]
fn a_floor_seeds_only_the_record_that_is_absent() {
    let mint = |record: &mut Record, by: u64| {
        record.update(&Context::new(), value("new"), HlcStamp::default(), actor(by), 10)
    };
    let mut absent = Record::absent();
    assert_eq!(mint(&mut absent, 1), dot(1, 11));
    assert!(absent.context().contains(dot(1, 3)));
    let mut present = holding(2, 1, "there", 0);
    assert_eq!(mint(&mut present, 1), dot(1, 11));
    assert!(!present.context().contains(dot(1, 3)));
    // A husk is present: it has a context.
    delete(&mut present, 2);
    let mut husk = present.stripped().expect("only a tombstone");
    assert!(husk.is_husk() && !husk.is_absent());
    assert_eq!(mint(&mut husk, 3), dot(3, 11));
    assert!(!husk.context().contains(dot(3, 3)));
}

#[test]
fn what_is_ahead_of_an_actors_own_record_and_floor_is_noticed() {
    let record = holding(1, 4, "mine", 0);
    let elsewhere = |counter| [dot(1, counter)].into_iter().collect::<Context>();
    assert!(!record.lacks_history_of(actor(1), 0, &elsewhere(4)));
    assert!(record.lacks_history_of(actor(1), 0, &elsewhere(5)));
    assert!(!record.lacks_history_of(actor(1), 5, &elsewhere(5)), "purged, so below the floor");
}

#[test]
fn a_record_that_holds_a_live_value_is_not_stripped() {
    let mut record = holding(1, 1, "live", 0);
    record.update(&Context::new(), Content::Tombstone, HlcStamp::default(), actor(2), 0);
    assert_eq!(record.stripped(), None);
    delete(&mut record, 2);
    let husk = record.stripped().expect("only a tombstone is left");
    assert_eq!((husk.context(), husk.versions().len()), (record.context(), 0));
    assert_eq!(husk.stripped(), None, "there is nothing left to strip");
    let mut behind = record.clone();
    assert!(behind.merge(&husk).changed && behind == husk, "a husk spreads by merging");
}
