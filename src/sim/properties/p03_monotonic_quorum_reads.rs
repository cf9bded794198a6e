//! P3: with blocking repair a later quorum read never shows less.

use crate::sim::evidence::{Answered, KeyEvidence, Promises, Violation};

pub(super) fn check(key: &KeyEvidence, promises: Promises, violations: &mut Vec<Violation>) {
    if !promises.are_visible() {
        return;
    }
    let reads: Vec<Answered<'_>> = key.answered().filter(|read| read.reach.is_quorum()).collect();
    for later in &reads {
        let context = key.settled(later.context);
        let less = reads.iter().find(|earlier| {
            earlier.attempt.ended.is_some_and(|ended| ended < later.attempt.begun)
                && earlier.shown.iter().any(|(dot, _)| !context.contains(*dot))
        });
        if let Some(earlier) = less {
            let text = format!(
                "the read #{} shows less than #{} had shown before it began\n{}",
                later.number,
                earlier.number,
                key.story(|number, _| number == earlier.number || number == later.number)
            );
            return violations.push(Violation::new("P3 monotonic quorum reads", text));
        }
    }
}
