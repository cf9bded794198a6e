//! Records come back from their bytes, have one form, and garbage is an error.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::{Strategy, any, proptest};
use proptest::sample::Index;

use super::super::tests::{actor, histories, put, value};
use super::super::{Content, Context, Record, Summary, Text, Value};
use super::{DecodeError, FORMAT, Malformed};
use crate::types::HlcStamp;

fn any_text() -> impl Strategy<Value = Text> {
    ".{0,12}".prop_map(Text::from)
}

fn any_value() -> impl Strategy<Value = Value> {
    let meta = vec((any_text(), any_text()), 0..3);
    let body = vec(any::<u8>(), 0..300).prop_map(Bytes::from);
    (option::of(any_text()), option::of(any_text()), meta, body).prop_map(
        |(content_type, content_encoding, meta, body)| Value {
            content_type,
            content_encoding,
            meta,
            body,
        },
    )
}

/// A history and one rich value on top.
fn any_record() -> impl Strategy<Value = Record> {
    (histories(2), option::of(any_value()), any::<u64>(), any::<u32>()).prop_map(
        |(mut records, value, wall_ms, logical)| {
            let mut record = records.swap_remove(0);
            if let Some(value) = value {
                let stamp = HlcStamp::new(wall_ms, logical);
                let by = actor(u64::MAX);
                record.update(&Context::new(), Content::Value(value), stamp, by, 1 << 40);
            }
            record
        },
    )
}

proptest! {
    #[test]
    fn records_come_back(record in any_record()) {
        let (sent, stored) = (record.to_bytes(), record.to_stored_bytes());
        assert_eq!(stored.slice(..sent.len()), sent);
        assert_eq!(Record::from_bytes(sent).as_ref(), Ok(&record));
        assert_eq!(Record::from_stored_bytes(stored.clone()).as_ref(), Ok(&record));
        let digest = record.digest();
        assert_eq!(record.to_stored_with_digest(), (stored.clone(), digest));
        assert_eq!(Record::from_stored_with_digest(stored.clone()).map(|(_, d)| d), Ok(digest));
        let summary = Summary::from(&record);
        assert_eq!(Summary::from_stored_bytes(&stored).as_ref(), Ok(&summary));
        assert_eq!(Summary::from_bytes(&summary.to_bytes()), Ok(summary));
    }

    #[test]
    fn no_byte_of_a_stored_record_can_change(record in any_record(), at in any::<Index>(), flip in 1u8..) {
        let mut bytes = record.to_stored_bytes().to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        let (read, summed) = (Record::from_stored_bytes(bytes.clone().into()), Summary::from_stored_bytes(&bytes));
        assert_eq!(read, Err(DecodeError::Checksum));
        assert_eq!(summed, Err(DecodeError::Checksum));
    }

    #[test]
    fn what_decodes_has_one_form(record in any_record(), at in any::<Index>(), new in any::<u8>(), cut in any::<bool>()) {
        let mut bytes = record.to_bytes().to_vec();
        let at = at.index(bytes.len());
        if cut { bytes.truncate(at) } else { bytes[at] = new }
        if let Ok(other) = Record::from_bytes(bytes.clone().into()) {
            assert_eq!(other.to_bytes(), bytes);
        }
        if let Ok(other) = Summary::from_bytes(&bytes) {
            assert_eq!(other.to_bytes(), bytes);
        }
    }

    #[test]
    fn garbage_never_panics(mut bytes in vec(any::<u8>(), 0..200)) {
        let _ = Record::from_stored_bytes(bytes.clone().into());
        for format in [0, FORMAT] {
            if let Some(first) = bytes.first_mut() {
                *first = format;
            }
            let _ = Summary::from_bytes(&bytes);
            if let Ok(record) = Record::from_bytes(bytes.clone().into()) {
                assert_eq!(record.to_bytes(), bytes);
            }
        }
    }
}

fn stored(whole: &[u8]) -> Bytes {
    let checksum = xxhash_rust::xxh3::xxh3_64(whole);
    [whole, &checksum.to_be_bytes()].concat().into()
}

#[test]
fn newer_damaged_and_malformed_are_told_apart() {
    let newer = stored(&[FORMAT + 1, 0, 0]);
    let expected = DecodeError::NewerFormat { found: FORMAT + 1 };
    assert_eq!(Record::from_stored_bytes(newer.clone()), Err(expected));
    assert_eq!(Summary::from_stored_bytes(&newer), Err(expected));
    let mut damaged = newer.to_vec();
    damaged[0] = FORMAT;
    assert_eq!(Record::from_stored_bytes(damaged.into()), Err(DecodeError::Checksum));
    let malformed = stored(&[FORMAT, 0, 0, 0]);
    let expected = DecodeError::Malformed(Malformed::TrailingBytes);
    assert_eq!(Record::from_stored_bytes(malformed), Err(expected));
    let short = Bytes::from_static(&[FORMAT]);
    let expected = DecodeError::Malformed(Malformed::Truncated);
    assert_eq!(Record::from_stored_bytes(short), Err(expected));
}

#[test]
fn a_sent_value_that_changed_on_the_way_is_refused() {
    let mut record = Record::absent();
    put(&mut record, &Context::new(), 1, "value", 0);
    let mut bytes = record.to_bytes().to_vec();
    *bytes.last_mut().expect("not empty") ^= 1;
    let expected = DecodeError::Malformed(Malformed::VersionChecksum);
    assert_eq!(Record::from_bytes(bytes.into()), Err(expected));
}

#[test]
fn a_version_outside_its_context_is_refused() {
    let mut record = Record::absent();
    put(&mut record, &Context::new(), 1, "value", 0);
    record.context = Context::new();
    let expected = DecodeError::Malformed(Malformed::UncoveredVersion);
    assert_eq!(Record::from_bytes(record.to_bytes()), Err(expected));
}

#[test]
fn values_are_not_copied_when_decoded() {
    let mut record = Record::absent();
    put(&mut record, &Context::new(), 1, "a value", 0);
    let bytes = record.to_stored_bytes();
    let range = bytes.as_ptr_range();
    let decoded = Record::from_stored_bytes(bytes).expect("whole");
    let body = decoded.versions()[0].value().expect("a value").body.clone();
    assert!(range.contains(&body.as_ptr()));
    assert_eq!(Content::Value(Value { body, ..Value::default() }), value("a value"));
}

/// Stored data outlives releases: this must read for as long as format 1 is read.
#[test]
fn format_1_stays_what_it_is() {
    let mut record = Record::absent();
    let content = Content::Value(Value {
        content_type: Some("a/b".into()),
        content_encoding: None,
        meta: vec![("m".into(), "n".into())],
        body: Bytes::from_static(b"xyz"),
    });
    record.update(&Context::new(), content, HlcStamp::new(300, 2), actor(0xa), 0);
    let hex: String = record.to_stored_bytes().iter().map(|b| format!("{b:02x}")).collect();
    let state = "01000000000000000a0201000000000000000a01ac020210edfe508e6a828d00";
    let value = "04612f620001016d016e0378797a";
    assert_eq!(hex, format!("01{state}{value}ed8ed83402641d72"));
}
