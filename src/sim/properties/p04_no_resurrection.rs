//! P4: what a write covers that all replicas have acknowledged never reappears in a
//! strict read, at any level; and
//! what was deleted for good never comes to any disk again.

use crate::sim::evidence::{Evidence, KeyEvidence, Promises, Violation};
use crate::sim::observer::Observer;

const NAME: &str = "P4 no resurrection";

pub(super) fn check(key: &KeyEvidence, promises: Promises, violations: &mut Vec<Violation>) {
    if !promises.are_visible() {
        return;
    }
    for write in key.acknowledged().filter(|write| write.reach.is_all()) {
        let Some(mint) = key.mints.iter().find(|mint| mint.dot == write.dot) else { continue };
        // What a node keeps for a replica may be older than what that one has by now.
        let risen = key.answered().filter(|read| read.reach.is_strict).find(|read| {
            write.attempt.ended.is_some_and(|ended| ended < read.attempt.begun)
                && read.shown.iter().any(|(dot, _)| mint.seen.contains(*dot))
        });
        if let Some(read) = risen {
            let text = format!(
                "#{} was acknowledged by all, and the later read #{} shows what it covers\n{}",
                write.number,
                read.number,
                key.story(|number, _| number == write.number || number == read.number)
            );
            return violations.push(Violation::new(NAME, text));
        }
    }
}

/// What was purged stays purged.
pub(super) fn check_purged(
    evidence: &Evidence,
    observer: &Observer,
    violations: &mut Vec<Violation>,
) {
    if evidence.promises.is_honest {
        violations.extend(observer.risen().into_iter().map(|text| Violation::new(NAME, text)));
    }
}
