//! Replicas that differ for half a minute, with nothing that brings them together: one node's messages
//! to some replicas are swallowed while all writes go through it; hints are off, comparisons seldom,
//! and nobody reads before what was written last has been overtaken by something else.
//!
//! ```text
//!  14 s   one node's messages to some replicas are swallowed; all writes go through that node
//!  27 s   whatever the world is about: [`THEN_AT_MS`]
//!  30 s   reads at quorum, through all nodes
//!  52 s   the network is well again
//! ```
//!
//! Indirect probes keep the replicas that are not reached from being taken for down: what a return
//! sets off does not happen.

use rand::RngExt;
use rand::rngs::StdRng;

use super::workload::FREE_KEYS;
use super::{Call, ClientPlan, Fault, KeyKind, PlannedFault, Scenario, Step, Weather};
use crate::storage::Durability;
use crate::types::Level;

/// When whatever the world is about happens.
pub(super) const THEN_AT_MS: u64 = 27_000;

const CUT_FROM_MS: u64 = 14_000;
const WRITES_UNTIL_MS: u64 = 26_000;
const READS_FROM_MS: u64 = 30_000;
const CUT_UNTIL_MS: u64 = 52_000;

/// Who is who.
pub(super) struct Roles {
    pub(super) writer: usize,
    /// Who may miss what is written.
    pub(super) missing: Vec<usize>,
}

/// Makes a scenario one of these: so many nodes that all hold every key, and so many that wait; `then`
/// says what it is about.
pub(super) fn turn(
    scenario: &mut Scenario,
    random: &mut StdRng,
    (nodes, spares): (usize, usize),
    then: impl FnOnce(&mut Scenario, &mut StdRng, &Roles),
) {
    // The first node brings transitions to their ends, and reaches all.
    let writer = random.random_range(1..nodes);
    // A quorum is still reached.
    let others = (0..nodes - 2).map(|i| 1 + (writer + i) % (nodes - 1));
    let missing: Vec<usize> = others.take(nodes / 2).collect();
    let cut = |to: &usize| PlannedFault {
        at_ms: CUT_FROM_MS,
        for_ms: CUT_UNTIL_MS - CUT_FROM_MS,
        fault: Fault::Cut { from: writer, to: *to },
    };
    scenario.faults = missing.iter().map(cut).collect();
    scenario.operators = Vec::new();
    scenario.nodes = nodes;
    scenario.spares = spares;
    scenario.replication_factor = nodes as u8;
    scenario.victim = 0;
    scenario.is_lazy = true;
    scenario.durability = Durability::Sync;
    scenario.weather = Weather::FAIR;
    scenario.clocks = vec![(0, 0); nodes + spares];
    then(scenario, random, &Roles { writer, missing });
    for client in 0..scenario.clients.len() {
        let kind = |step: &Step| &scenario.keys[step.key].kind;
        let steps = script(&scenario.clients[client], client, kind, (writer, nodes), random);
        scenario.clients[client] = ClientPlan { steps };
    }
}

/// The writes of a script through one node at first, its reads later.
fn script<'a>(
    plan: &ClientPlan,
    client: usize,
    kind: impl Fn(&Step) -> &'a KeyKind,
    (writer, nodes): (usize, usize),
    random: &mut StdRng,
) -> Vec<Step> {
    let (mut steps, mut at_ms, mut think_ms) = (Vec::new(), 0, 0);
    for step in &plan.steps {
        at_ms += step.think_ms;
        think_ms += step.think_ms;
        let is_anybodys = matches!(kind(step), KeyKind::Free | KeyKind::Lww);
        let is_own = match kind(step) {
            KeyKind::Register { writer } => *writer == client,
            KeyKind::Chains { writers } => writers.contains(&client),
            KeyKind::Free | KeyKind::Lww => false,
        };
        let is_write = matches!(step.call, Call::Put(_) | Call::Delete(_));
        let (call, node) = match at_ms {
            CUT_FROM_MS..WRITES_UNTIL_MS if is_write => (step.call, writer),
            READS_FROM_MS.. if is_anybodys || !is_own => {
                (Call::GetTwice, random.random_range(0..nodes))
            }
            _ => continue,
        };
        let think_ms = std::mem::take(&mut think_ms);
        let (level, sloppy, hangs_up_ms) = (Level::Quorum, false, None);
        let timeout_ms = 3_000;
        steps.push(Step {
            think_ms,
            key: step.key,
            node,
            call,
            level,
            sloppy,
            timeout_ms,
            hangs_up_ms,
        });
    }
    // As many as elsewhere: what did not fit is read in the end.
    for number in steps.len()..plan.steps.len() {
        let (key, node, call) = (number % FREE_KEYS, number % nodes, Call::GetTwice);
        let (level, sloppy, hangs_up_ms) = (Level::Quorum, false, None);
        let (think_ms, timeout_ms) = (100, 3_000);
        let step = Step { think_ms, key, node, call, level, sloppy, timeout_ms, hangs_up_ms };
        steps.push(step);
    }
    steps
}
