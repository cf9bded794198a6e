//! A key that one client writes and others read, all at quorum, is an atomic register (Attiya,
//! Bar-Noy, Dolev, *Sharing Memory Robustly in Message-Passing Systems*, 1995): P2 and P3 together.

use crate::sim::evidence::{KeyEvidence, Promises, Violation};
use crate::sim::history::{Attempt, Moment, Outcome, Request, ValueId};
use crate::sim::linearizability::{Call, Register, RegisterCall, is_linearizable};
use crate::sim::scenario::KeyKind;

pub(super) fn check(key: &KeyEvidence, promises: Promises, violations: &mut Vec<Violation>) {
    let is_register = matches!(key.plan.kind, KeyKind::Register { .. });
    if !is_register || !promises.are_visible() || key.is_thin() {
        return;
    }
    let calls: Vec<Call<Moment, RegisterCall<ValueId>>> =
        key.attempts.iter().filter_map(|(_, attempt)| call(attempt)).collect();
    if !is_linearizable(&Register::default(), &calls) {
        let text = format!("no order explains it\n{}", key.story(|_, _| true));
        violations.push(Violation::new("P2 and P3: linearizable registers", text));
    }
}

/// What the checker has to place; failed requests have no effect.
fn call(attempt: &Attempt) -> Option<Call<Moment, RegisterCall<ValueId>>> {
    let (what, ended) = match (&attempt.request, &attempt.outcome) {
        (Request::Read, Outcome::Read { shown, .. }) => {
            // More than one value after the writer lost track of its own: either is right.
            let values = shown.iter().filter_map(|(_, value)| *value).collect();
            (RegisterCall::Read(values), attempt.ended)
        }
        (Request::Write { value: Some(value), .. }, Outcome::Written { .. }) => {
            (RegisterCall::Write(*value), attempt.ended)
        }
        (Request::Write { value: Some(value), .. }, Outcome::InDoubt(_) | Outcome::Unknown) => {
            (RegisterCall::Write(*value), None)
        }
        _ => return None,
    };
    Some(Call { begun: attempt.begun, ended, what })
}
