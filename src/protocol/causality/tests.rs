//! The laws of merging, and whole schedules against a naive model.

mod laws;
mod model;
mod schedule;
mod world;

use bytes::Bytes;
use proptest::prelude::Strategy;

use super::{Content, Context, Dot, Record, Value};
use crate::types::{ActorId, HlcStamp};

pub(super) fn actor(raw: u64) -> ActorId {
    ActorId::new(raw)
}

pub(super) fn dot(actor: u64, counter: u64) -> Dot {
    Dot::new(ActorId::new(actor), counter).expect("in range")
}

pub(super) fn value(text: &str) -> Content {
    Content::Value(Value { body: Bytes::copy_from_slice(text.as_bytes()), ..Value::default() })
}

/// Writes with the stamp that wall time would give at this millisecond.
pub(super) fn put(record: &mut Record, seen: &Context, by: u64, text: &str, at_ms: u64) -> Dot {
    record.update(seen, value(text), HlcStamp::new(at_ms, 0), actor(by), 0)
}

/// Records as histories leave them: three replicas write (with or without having seen what they
/// hold) and exchange at random; one of the replicas' records comes out. All are made by actors of
/// one universe, so that two of them share parts of their history.
pub(super) fn histories(replicas: usize) -> impl Strategy<Value = Vec<Record>> {
    let step = (0..replicas, 0..replicas, 0u8..5);
    proptest::collection::vec(step, 0..24).prop_map(move |steps| {
        let mut records = vec![Record::absent(); replicas];
        for (time, (at, other, kind)) in steps.into_iter().enumerate() {
            let seen = match kind {
                0 => Context::new(),
                1 => records[other].context().clone(),
                _ => records[at].context().clone(),
            };
            let content = match kind {
                2 => Content::Tombstone,
                // Some values repeat, so that there are twins.
                _ => value(&format!("value {}", time % 7)),
            };
            if kind < 4 {
                let stamp = HlcStamp::new(time as u64 % 5, 0);
                records[at].update(&seen, content, stamp, actor(at as u64), 0);
            } else {
                let from = records[other].clone();
                let _ = records[at].merge(&from);
            }
        }
        records
    })
}
