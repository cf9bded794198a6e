//! P4: what a write covers that all replicas have acknowledged never reappears, at any level.

use crate::sim::evidence::{KeyEvidence, Promises, Violation};

pub(super) fn check(key: &KeyEvidence, promises: Promises, violations: &mut Vec<Violation>) {
    if !promises.are_visible() {
        return;
    }
    for write in key.acknowledged().filter(|write| write.reach.required == write.reach.n) {
        let Some(mint) = key.mints.iter().find(|mint| mint.dot == write.dot) else { continue };
        let risen = key.answered().find(|read| {
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
            return violations.push(Violation::new("P4 no resurrection", text));
        }
    }
}
