//! A ring that changes while its replicas differ, and nothing but the transition itself brings them
//! together: no hints, seldom a comparison, and no read of a key before the new sets answer.
//!
//! ```text
//!  14 s   one node's messages to some replicas are swallowed; all writes go through that node
//!  27 s   an operator changes the ring
//!  30 s   reads at quorum, through all nodes
//!  52 s   the network is well again
//! ```
//!
//! Indirect probes keep the replicas that are not reached from being taken for down: what a return
//! sets off does not happen. The transition has to wait for the network, as some passes can't be made.

use rand::RngExt;
use rand::rngs::StdRng;

use super::{
    Action, Call, ClientPlan, Fault, KeyKind, PlannedAction, PlannedFault, Scenario, Weather, With,
};
use crate::storage::Durability;
use crate::types::Level;

const SPARES: usize = 2;

const CUT_FROM_MS: u64 = 14_000;
const WRITES_UNTIL_MS: u64 = 26_000;
const CHANGE_AT_MS: u64 = 27_000;
const READS_FROM_MS: u64 = 30_000;
const CUT_UNTIL_MS: u64 = 52_000;
const ENDS_MS: u64 = 60_000;

/// Makes a scenario one of these.
pub(super) fn turn(scenario: &mut Scenario, random: &mut StdRng) {
    let shrinks = random.random_bool(0.5);
    let (nodes, n) = if shrinks { (5, 5) } else { (3, 3) };
    // The first node brings transitions to their ends, and reaches all.
    let writer = random.random_range(1..nodes);
    // A quorum is still reached.
    let others = (0..nodes - 2).map(|i| 1 + (writer + i) % (nodes - 1));
    scenario.faults = others
        .take(n / 2)
        .map(|to| PlannedFault {
            at_ms: CUT_FROM_MS,
            for_ms: CUT_UNTIL_MS - CUT_FROM_MS,
            fault: Fault::Cut { from: writer, to },
        })
        .collect();
    let action = match random.random_range(0..3) {
        _ if shrinks => Action::Resize { n: 3 },
        0 => Action::Replace { old: writer, new: nodes },
        _ => Action::JoinBoth { node: nodes, other: nodes + 1 },
    };
    scenario.operators = vec![PlannedAction { at_ms: CHANGE_AT_MS, through: 0, action }];
    scenario.nodes = nodes;
    scenario.spares = SPARES;
    scenario.replication_factor = n as u8;
    scenario.victim = 0;
    scenario.is_lazy = true;
    scenario.durability = Durability::Sync;
    scenario.weather = Weather::FAIR;
    scenario.clocks = vec![(0, 0); nodes + SPARES];
    let kinds: Vec<KeyKind> = scenario.keys.iter().map(|key| key.kind.clone()).collect();
    for (client, plan) in scenario.clients.iter_mut().enumerate() {
        rewrite(plan, client, &kinds, (writer, nodes), random);
    }
}

/// Has a script write through one node before the change, and read after it.
fn rewrite(
    plan: &mut ClientPlan,
    client: usize,
    kinds: &[KeyKind],
    (writer, nodes): (usize, usize),
    random: &mut StdRng,
) {
    let writes = plan.steps.len() / 3;
    let reads = plan.steps.len() - writes;
    for (number, step) in plan.steps.iter_mut().enumerate() {
        let is_write = matches!(step.call, Call::Put(_) | Call::Delete(_));
        let builds_on_itself = match &kinds[step.key] {
            KeyKind::Register { writer } => *writer == client,
            KeyKind::Chains { writers } => writers.contains(&client),
            KeyKind::Free | KeyKind::Lww => false,
        };
        let (from_ms, until_ms, count) = match number < writes {
            true => (CUT_FROM_MS, WRITES_UNTIL_MS, writes),
            false => (READS_FROM_MS, ENDS_MS, reads),
        };
        let mean_ms = (until_ms - from_ms) / count as u64;
        step.think_ms = random.random_range(0..2 * mean_ms);
        if number == 0 {
            step.think_ms += CUT_FROM_MS;
        } else if number == writes {
            step.think_ms += READS_FROM_MS - WRITES_UNTIL_MS;
        }
        let is_in_place = if number < writes { is_write } else { !builds_on_itself };
        if !is_in_place {
            // What nobody builds on: those keys come first.
            step.key %= kinds.iter().take_while(|kind| **kind == KeyKind::Free).count();
        }
        (step.call, step.node) = match number < writes {
            true if is_write => (step.call, writer),
            true => (Call::Put(With::OwnRead), writer),
            false => (Call::GetTwice, random.random_range(0..nodes)),
        };
        (step.level, step.sloppy, step.hangs_up_ms) = (Level::Quorum, false, None);
        step.timeout_ms = 3_000;
    }
}
