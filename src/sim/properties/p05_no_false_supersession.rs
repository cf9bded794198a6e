//! P5: a version disappears only under a write that had seen it.

use crate::protocol::causality::{Context, Dot};
use crate::sim::evidence::{KeyEvidence, Promises, Violation};
use crate::sim::history::Mint;
use crate::sim::scenario::KeyKind;

const NAME: &str = "P5 no false supersession";

pub(super) fn check(key: &KeyEvidence, _promises: Promises, violations: &mut Vec<Violation>) {
    claims(key, violations);
    in_the_end(key, violations);
    reads(key, violations);
}

/// What a write replaces, its writer has seen; or it was replaced before.
fn claims(key: &KeyEvidence, violations: &mut Vec<Violation>) {
    for (at, mint) in key.mints.iter().enumerate() {
        let replaced = key.versions.keys().filter(|dot| **dot != mint.dot);
        let replaced = replaced.filter(|dot| mint.seen.contains(**dot));
        let is_unseen = |dot: &&Dot| {
            // What was purged counts as seen by whoever mints after it: the floor says so.
            !key.purged.contains(**dot)
                && !key.may_replace(mint, **dot)
                && !key.mints[..at].iter().any(|earlier| key.may_replace(earlier, **dot))
        };
        if let Some(dot) = replaced.copied().find(|dot| is_unseen(&dot)) {
            let text = format!(
                "the write #{}, minted as {}, replaces {dot}, which it had not seen\n{}",
                mint.attempt,
                mint.dot,
                key.story(|number, _| number == mint.attempt || is_of(key, number, dot))
            );
            return violations.push(Violation::new(NAME, text));
        }
    }
}

/// What is gone in the end went under a write that is known there.
fn in_the_end(key: &KeyEvidence, violations: &mut Vec<Violation>) {
    for (node, record) in &key.finals {
        let gone = |dot: &&Dot| record.context().contains(**dot) && record.version(**dot).is_none();
        let settled = key.settled(record.context());
        let unexplained =
            |dot: &&Dot| !was_purged(key, **dot) && !went_under(&key.mints, **dot, &settled);
        if let Some(dot) = key.versions.keys().filter(gone).find(unexplained) {
            let text = format!(
                "{dot} is gone from node-{}, and no write that had seen it is known there\n{}",
                node + 1,
                key.story(|number, _| is_of(key, number, *dot))
            );
            return violations.push(Violation::new(NAME, text));
        }
    }
}

/// What a read says it has seen and does not show went under a write that it has seen too.
fn reads(key: &KeyEvidence, violations: &mut Vec<Violation>) {
    if key.plan.kind == KeyKind::Lww {
        return;
    }
    for read in key.answered() {
        let is_shown = |dot: Dot| {
            let is_hidden_tombstone = read.shown.is_empty()
                && key.versions.get(&dot).is_some_and(|version| version.value.is_none());
            let twin = read.shown.iter().any(|(shown, _)| key.are_twins(*shown, dot));
            twin || is_hidden_tombstone
        };
        let hidden = |dot: &&Dot| read.context.contains(**dot) && !is_shown(**dot);
        let settled = key.settled(read.context);
        let unexplained =
            |dot: &&Dot| !was_purged(key, **dot) && !went_under(&key.mints, **dot, &settled);
        if let Some(dot) = key.versions.keys().filter(hidden).find(unexplained) {
            let text = format!(
                "the read #{} has seen {dot}, does not show it, and has seen no write over it\n{}",
                read.number,
                key.story(|number, _| number == read.number || is_of(key, number, *dot))
            );
            return violations.push(Violation::new(NAME, text));
        }
    }
}

/// Whether it is a tombstone that was deleted for good.
fn was_purged(key: &KeyEvidence, dot: Dot) -> bool {
    let is_tombstone = key.versions.get(&dot).is_some_and(|version| version.value.is_none());
    is_tombstone && key.purged.contains(dot)
}

fn went_under(mints: &[Mint], dot: Dot, context: &Context) -> bool {
    mints
        .iter()
        .any(|mint| mint.dot != dot && mint.seen.contains(dot) && context.contains(mint.dot))
}

fn is_of(key: &KeyEvidence, number: usize, dot: Dot) -> bool {
    key.mints.iter().any(|mint| mint.attempt == number && mint.dot == dot)
}
