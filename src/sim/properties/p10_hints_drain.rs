//! P10: a write that a replica did not take is kept for it. That hints drain is looked at in
//! `phases.rs`, when no faults are made any more.

use crate::sim::evidence::Violation;
use crate::sim::observer::Observer;

pub(super) const NAME: &str = "P10 hints drain";

pub(super) fn check(observer: &Observer, violations: &mut Vec<Violation>) {
    violations.extend(observer.skipped_hints().into_iter().map(|text| Violation::new(NAME, text)));
}
