//! A ring that changes while its replicas differ, and nothing but the transition itself brings them
//! together (see [`lopsided`]). The transition has to wait for the network, as some passes can't be
//! made.

use rand::RngExt;
use rand::rngs::StdRng;

use super::operators::RESIZED_BUCKET;
use super::{Action, PlannedAction, Scenario, lopsided};

const SPARES: usize = 2;

/// Makes a scenario one of these.
pub(super) fn turn(scenario: &mut Scenario, random: &mut StdRng) {
    let shrinks = random.random_bool(0.5);
    let nodes = if shrinks { 5 } else { 3 };
    lopsided::turn(scenario, random, (nodes, SPARES), |scenario, random, roles| {
        let action = match random.random_range(0..3) {
            _ if shrinks => Action::Resize { bucket: RESIZED_BUCKET, n: 3 },
            0 => Action::Replace { old: roles.writer, new: nodes },
            _ => Action::JoinBoth { node: nodes, other: nodes + 1 },
        };
        let at_ms = lopsided::THEN_AT_MS;
        scenario.operators = vec![PlannedAction { at_ms, through: 0, action, is_in_turn: false }];
    });
}
