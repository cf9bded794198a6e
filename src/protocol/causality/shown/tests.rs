//! The table "Answers to GET".

use super::super::tests::{actor, put, value};
use super::super::{Content, Context, Record, Summary};
use super::{Resolve, Shown};
use crate::types::HlcStamp;

fn delete_unseen(record: &mut Record, by: u64, at_ms: u64) {
    let stamp = HlcStamp::new(at_ms, 0);
    record.update(&Context::new(), Content::Tombstone, stamp, actor(by), 0);
}

fn put_unseen(record: &mut Record, by: u64, text: &str, at_ms: u64) {
    put(record, &Context::new(), by, text, at_ms);
}

fn siblings(record: &Record) -> Vec<Content> {
    match record.shown(Resolve::Siblings) {
        Shown::Siblings(versions) => versions.into_iter().map(|v| v.content().clone()).collect(),
        other => panic!("no siblings: {other:?}"),
    }
}

fn one(shown: Shown) -> Content {
    match shown {
        Shown::One(version) => version.into_content(),
        other => panic!("not one value: {other:?}"),
    }
}

#[test]
fn nothing_is_shown_of_what_was_never_written_or_is_a_husk() {
    let mut record = Record::absent();
    for policy in [Resolve::Siblings, Resolve::Lww] {
        assert_eq!(record.shown(policy), Shown::Nothing { deleted: false });
    }
    delete_unseen(&mut record, 1, 0);
    let husk = record.stripped().expect("a tombstone alone");
    assert_eq!(husk.shown(Resolve::Siblings), Shown::Nothing { deleted: false });
}

#[test]
fn tombstones_on_all_sides_are_a_deleted_key() {
    let mut record = Record::absent();
    delete_unseen(&mut record, 1, 0);
    delete_unseen(&mut record, 2, 0);
    assert_eq!(record.shown(Resolve::Siblings), Shown::Nothing { deleted: true });
}

#[test]
fn one_live_version_alone_is_that_value() {
    let mut record = Record::absent();
    put_unseen(&mut record, 1, "a", 0);
    assert_eq!(one(record.shown(Resolve::Siblings)), value("a"));
}

#[test]
fn a_live_value_beside_a_tombstone_is_two_siblings() {
    let mut record = Record::absent();
    put_unseen(&mut record, 1, "a", 0);
    delete_unseen(&mut record, 2, 0);
    delete_unseen(&mut record, 3, 0);
    assert_eq!(siblings(&record), [value("a"), Content::Tombstone]);
}

#[test]
fn twins_are_shown_as_one_by_the_later_of_them() {
    let mut record = Record::absent();
    put_unseen(&mut record, 1, "same", 7);
    put_unseen(&mut record, 2, "same", 9);
    put_unseen(&mut record, 3, "same", 8);
    let Shown::One(version) = record.shown(Resolve::Siblings) else { panic!("twins are one") };
    assert_eq!(version.dot().actor(), actor(2));
    put_unseen(&mut record, 0, "other", 8);
    assert_eq!(siblings(&record), [value("other"), value("same")]);
    assert_eq!(Summary::from(&record).sibling_count(), 2);
    assert_eq!(record.shown(Resolve::Siblings).sibling_count(), 2);
}

#[test]
fn lww_shows_the_latest_alone_even_if_that_is_a_tombstone() {
    let mut record = Record::absent();
    put_unseen(&mut record, 1, "later", 9);
    put_unseen(&mut record, 2, "sooner", 8);
    assert_eq!(one(record.shown(Resolve::Lww)), value("later"));
    put_unseen(&mut record, 3, "as late, greater actor", 9);
    assert_eq!(one(record.shown(Resolve::Lww)), value("as late, greater actor"));
    delete_unseen(&mut record, 4, 10);
    assert_eq!(record.shown(Resolve::Lww), Shown::Nothing { deleted: true });
}

#[test]
fn policies_have_the_names_of_the_api() {
    let name = |policy: Resolve| serde_json::to_string(&policy).expect("a plain name");
    assert_eq!([name(Resolve::Siblings), name(Resolve::Lww)], ["\"siblings\"", "\"lww\""]);
}
