//! A disk is lost right after its node has voted, while nobody can tell the node that comes back what
//! it voted for: whoever counts its vote again decides an epoch twice.
//!
//! ```text
//!           node 1                node 2                node 3
//!   9 s     begins a change       votes for it          is cut off
//!  13 s     is cut off            loses its disk
//!  14 s                           comes back, empty     is back
//!  22 s                                                 begins another change: no majority
//!  45 s     is back
//! ```

use rand::RngExt;
use rand::rngs::StdRng;

use super::{Action, Fault, PlannedAction, PlannedFault, Scenario, Weather};
use crate::storage::Durability;

/// Makes a scenario one of these.
pub(super) fn turn(scenario: &mut Scenario, random: &mut StdRng) {
    let nodes = 3;
    let mut fault = |at_ms: u64, for_ms: u64, fault| {
        let at_ms = at_ms + random.random_range(0..400);
        PlannedFault { at_ms, for_ms, fault }
    };
    scenario.faults = vec![
        fault(7_000, 6_500, Fault::Isolate { node: 2 }),
        fault(12_500, 32_500, Fault::Isolate { node: 0 }),
        fault(13_000, 500, Fault::LoseDisk { node: 1 }),
    ];
    let weigh = |at_ms, through, node, thousandths| PlannedAction {
        at_ms,
        through,
        action: Action::Weigh { node, thousandths },
        is_in_turn: false,
    };
    scenario.operators = vec![weigh(9_000, 0, 0, 2_000), weigh(22_000, 2, 2, 500)];
    scenario.nodes = nodes;
    scenario.spares = 0;
    scenario.replication_factor = 3;
    scenario.victim = 1;
    scenario.durability = Durability::Sync;
    scenario.weather = Weather::FAIR;
    scenario.clocks.truncate(nodes);
    let steps = scenario.clients.iter_mut().flat_map(|client| &mut client.steps);
    steps.for_each(|step| step.node %= nodes);
}
