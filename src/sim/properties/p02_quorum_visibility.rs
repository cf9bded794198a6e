//! P2: with R+W > n a completed write, or one that covers it, is in every read that starts later;
//! also in the read that a write without a context does at its own level.

use crate::sim::evidence::{Acknowledged, KeyEvidence, Promises, Violation};
use crate::sim::history::{Claim, Outcome};

const NAME: &str = "P2 quorum visibility";

pub(super) fn check(key: &KeyEvidence, promises: Promises, violations: &mut Vec<Violation>) {
    if !promises.are_visible() {
        return;
    }
    let writes: Vec<Acknowledged<'_>> =
        key.acknowledged().filter(|write| promises.keep(write.reach)).collect();
    for read in key.answered() {
        let missed = writes.iter().find(|write| {
            write.attempt.ended.is_some_and(|ended| ended < read.attempt.begun)
                && write.reach.meets(read.reach)
                && !key.settled(read.context).contains(write.dot)
        });
        if let Some(write) = missed {
            return violations.push(missed_by(key, write, read.number, "the read"));
        }
    }
    blind_writes(key, &writes, violations);
}

/// What the read before a blind write has missed.
fn blind_writes(key: &KeyEvidence, writes: &[Acknowledged<'_>], violations: &mut Vec<Violation>) {
    for mint in key.mints.iter().filter(|mint| key.claim(mint) == Some(&Claim::OwnRead)) {
        let blind = key.attempts.iter().find(|(number, _)| *number == mint.attempt);
        let Some((number, attempt)) = blind else { continue };
        let Outcome::Written { reach, .. } = attempt.outcome else { continue };
        let missed = writes.iter().find(|write| {
            write.attempt.ended.is_some_and(|ended| ended < attempt.begun)
                && write.reach.meets(reach)
                && !key.settled(&mint.seen).contains(write.dot)
        });
        if let Some(write) = missed {
            return violations.push(missed_by(key, write, *number, "the read of the blind write"));
        }
    }
}

fn missed_by(key: &KeyEvidence, write: &Acknowledged<'_>, number: usize, what: &str) -> Violation {
    let text = format!(
        "{what} #{number} began after the write #{} had completed as {}, and does not show it\n{}",
        write.number,
        write.dot,
        key.story(|other, _| other == write.number || other == number)
    );
    Violation::new(NAME, text)
}
