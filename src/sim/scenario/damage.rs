//! A disk is damaged that holds what another replica has missed (see [`lopsided`]): whoever takes the
//! damaged replica's word for it misses the write. For a while the writer's messages do not get to that
//! replica either: else it is mended before anybody reads.

use rand::rngs::StdRng;

use super::{Fault, PlannedFault, Scenario, lopsided};

/// How often it is damaged: each time, only some of the records are.
const TIMES: u64 = 4;

/// The time between.
const EVERY_MS: u64 = 4_000;

/// How long it can't be mended.
const UNMENDED_MS: u64 = 2_000;

/// Makes a scenario one of these.
pub(super) fn turn(scenario: &mut Scenario, random: &mut StdRng) {
    let nodes = 3;
    lopsided::turn(scenario, random, (nodes, 0), |scenario, _, roles| {
        let is_holder = |node: &usize| *node != roles.writer && !roles.missing.contains(node);
        let node = (0..nodes).find(is_holder).expect("a quorum is reached");
        scenario.victim = node;
        for at_ms in (0..TIMES).map(|time| lopsided::THEN_AT_MS + time * EVERY_MS) {
            let cut = Fault::Cut { from: roles.writer, to: node };
            let damage = Fault::Corrupt { node };
            scenario.faults.extend([
                PlannedFault { at_ms, for_ms: UNMENDED_MS, fault: cut },
                PlannedFault { at_ms, for_ms: 1_000, fault: damage },
            ]);
        }
    });
}
