//! P12: no dot of a key is ever minted twice.

use std::collections::BTreeMap;

use crate::sim::evidence::{Evidence, Violation};
use crate::sim::observer::Observer;

const NAME: &str = "P12 one dot, one value";

pub(super) fn check(evidence: &Evidence, observer: &Observer, violations: &mut Vec<Violation>) {
    for key in &evidence.keys {
        let mut minted = BTreeMap::new();
        for mint in &key.mints {
            if let Some(first) = minted.insert(mint.dot, mint.attempt) {
                let (dot, second) = (mint.dot, mint.attempt);
                let text = format!(
                    "{dot} was minted for #{first} and for #{second}\n{}",
                    key.story(|number, _| number == first || number == second)
                );
                violations.push(Violation::new(NAME, text));
            }
        }
    }
    violations.extend(observer.contradictions().into_iter().map(|text| Violation::new(NAME, text)));
}
