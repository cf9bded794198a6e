//! What operators do to the ring, drawn before the run.

use std::fmt;

use rand::RngExt;
use rand::rngs::StdRng;

use super::SAFETY_PHASE;

/// The bucket whose n operators change; in some worlds that of another one too.
pub(super) const RESIZED_BUCKET: &str = "free";

/// One thing that an operator asks for. Nodes are counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A node that waits to be applied is taken in.
    Join {
        /// Which.
        node: usize,
    },
    /// Two at once.
    JoinBoth {
        /// One.
        node: usize,
        /// The other.
        other: usize,
    },
    /// A node is sent away.
    Leave {
        /// Which.
        node: usize,
    },
    /// One node takes another's place.
    Replace {
        /// Who goes.
        old: usize,
        /// Who comes.
        new: usize,
    },
    /// A node takes another share.
    Weigh {
        /// Which.
        node: usize,
        /// In thousandths.
        thousandths: u32,
    },
    /// A bucket gets another n.
    Resize {
        /// Which.
        bucket: &'static str,
        /// How many replicas its keys have.
        n: u8,
    },
    /// Whatever runs is given up.
    Abort,
}

/// An action with its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlannedAction {
    /// In ms of virtual time.
    pub at_ms: u64,
    /// Through which node, if it serves.
    pub through: usize,
    /// What.
    pub action: Action,
    /// It is asked for until it has begun, once all before it that are in turn are done.
    pub is_in_turn: bool,
}

impl fmt::Display for PlannedAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>6} ms, through node-{}: {:?}", self.at_ms, self.through + 1, self.action)?;
        if self.is_in_turn { f.write_str(", in turn") } else { Ok(()) }
    }
}

/// How many nodes wait to be applied, and what operators do, by time.
pub(super) fn plan(random: &mut StdRng, nodes: usize) -> (usize, Vec<PlannedAction>) {
    if random.random_bool(0.4) {
        return (0, Vec::new());
    }
    let spares = random.random_range(1..=2);
    let count = random.random_range(1..=7);
    let end = SAFETY_PHASE.as_millis() as u64;
    let mut actions: Vec<PlannedAction> = (0..count)
        .map(|_| PlannedAction {
            at_ms: random.random_range(4_000..end - 2_000),
            through: random.random_range(0..nodes),
            action: draw(random, nodes, spares),
            is_in_turn: false,
        })
        .collect();
    actions.sort_by_key(|planned| planned.at_ms);
    (spares, actions)
}

fn draw(random: &mut StdRng, nodes: usize, spares: usize) -> Action {
    let node = random.random_range(0..nodes);
    let spare = nodes + random.random_range(0..spares);
    match random.random_range(0..16) {
        0..=4 => Action::Join { node: spare },
        5 if spares > 1 => Action::JoinBoth { node: nodes, other: nodes + 1 },
        5 | 6 => Action::Leave { node: spare },
        7 | 8 => Action::Leave { node },
        9 | 10 => Action::Replace { old: node, new: spare },
        11 => {
            Action::Weigh { node, thousandths: [0, 500, 2_000, 3_000][random.random_range(0..4)] }
        }
        12..=14 => {
            Action::Resize { bucket: RESIZED_BUCKET, n: [1, 3, 5][random.random_range(0..3)] }
        }
        _ => Action::Abort,
    }
}
