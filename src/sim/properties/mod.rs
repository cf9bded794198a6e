//! The properties of the design's table (correctness, section 9), each in a file of its own.
//!
//! Those that are checked here follow from what was recorded; convergence, quiet, trees, drained hints
//! and bounds (P7, P9 to P11) are looked at while the world still runs, in `phases.rs`.

mod linearizable_registers;
mod p01_no_acknowledged_write_lost;
mod p02_quorum_visibility;
mod p03_monotonic_quorum_reads;
mod p04_no_resurrection;
mod p05_no_false_supersession;
mod p06_no_false_sibling;
mod p08_one_history_of_states;
mod p10_hints_drain;
mod p12_one_dot_one_value;

use super::evidence::{Evidence, Violation};
use super::observer::Observer;

/// Checks them all.
pub fn check(evidence: &Evidence, observer: &Observer) -> Vec<Violation> {
    let by_key = [
        p01_no_acknowledged_write_lost::check,
        p02_quorum_visibility::check,
        p03_monotonic_quorum_reads::check,
        p04_no_resurrection::check,
        p05_no_false_supersession::check,
        p06_no_false_sibling::check,
        linearizable_registers::check,
    ];
    let mut violations = Vec::new();
    for key in &evidence.keys {
        for check in by_key {
            check(key, evidence.promises, &mut violations);
        }
    }
    p04_no_resurrection::check_purged(evidence, observer, &mut violations);
    p08_one_history_of_states::check(observer, &mut violations);
    p10_hints_drain::check(observer, &mut violations);
    p12_one_dot_one_value::check(evidence, observer, &mut violations);
    violations
}
