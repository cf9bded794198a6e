//! P6: a write is minted once; a chain of contextual writes never yields siblings, and two of them
//! on one key end in exactly two, with retries and all.

use std::collections::BTreeSet;

use crate::sim::client::value_id;
use crate::sim::evidence::{KeyEvidence, Promises, Violation};
use crate::sim::history::{Outcome, Request};
use crate::sim::scenario::KeyKind;

const NAME: &str = "P6 no false sibling";

pub(super) fn check(key: &KeyEvidence, promises: Promises, violations: &mut Vec<Violation>) {
    minted_once(key, violations);
    match &key.plan.kind {
        KeyKind::Chains { writers } => chains(key, promises, writers, violations),
        KeyKind::Register { writer } => chains(key, promises, &[*writer], violations),
        KeyKind::Free | KeyKind::Lww => {}
    }
}

fn minted_once(key: &KeyEvidence, violations: &mut Vec<Violation>) {
    let mut minted = BTreeSet::new();
    if let Some(second) = key.mints.iter().find(|mint| !minted.insert(mint.attempt)) {
        let number = second.attempt;
        let text = format!("#{number} was minted twice\n{}", key.story(|other, _| other == number));
        violations.push(Violation::new(NAME, text));
    }
}

/// Every chain ends in its last value; unless a writer lost track, and stopped.
fn chains(
    key: &KeyEvidence,
    promises: Promises,
    writers: &[usize],
    violations: &mut Vec<Violation>,
) {
    // A write that was acknowledged by one replica alone may be lost with that one's disk.
    if !promises.is_durable || promises.may_lose_a_disk || has_lost_track(key) {
        return;
    }
    let is_write = |request: &Request| matches!(request, Request::Write { .. });
    let wrote = |writer: &&usize| {
        key.attempts.iter().any(|(_, attempt)| {
            attempt.client == **writer
                && is_write(&attempt.request)
                && matches!(attempt.outcome, Outcome::Written { .. })
        })
    };
    let expected = writers.iter().filter(wrote).count();
    for (node, record) in &key.finals {
        let values: BTreeSet<_> = record.versions().iter().map(value_id).collect();
        if values.len() != expected {
            let text = format!(
                "{expected} chains ended in {} values on node-{}\n{}",
                values.len(),
                node + 1,
                key.story(|_, attempt| is_write(&attempt.request))
            );
            return violations.push(Violation::new(NAME, text));
        }
    }
}

/// Whether some write was never answered, or stayed in doubt to the end.
fn has_lost_track(key: &KeyEvidence) -> bool {
    key.attempts.iter().enumerate().any(|(at, (_, attempt))| {
        let Request::Write { value, .. } = &attempt.request else { return false };
        match attempt.outcome {
            Outcome::Unknown => true,
            Outcome::InDoubt(_) => !key.attempts[at + 1..].iter().any(|(_, later)| {
                let is_retry = matches!(&later.request,
                    Request::Write { value: again, attempt, .. } if again == value && *attempt > 1);
                is_retry && matches!(later.outcome, Outcome::Written { .. })
            }),
            _ => false,
        }
    })
}
