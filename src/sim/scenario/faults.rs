//! Faults, and plans of them.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;

use super::SAFETY_PHASE;
use crate::peer::loopback::Link;

/// How the network is as a whole.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Weather {
    /// The longest usual delay of a message, in ms.
    pub delay_ms: u32,
    /// The probability of a message being lost.
    pub loss: f64,
    /// Of being late: by up to `late_ms`.
    pub late: f64,
    /// The longest time by which a message is late, in ms; hours are not unheard of.
    pub late_ms: u32,
    /// Of arriving twice.
    pub duplication: f64,
    /// Of the connection breaking, before or after the request was worked off.
    pub breaks: f64,
}

impl Weather {
    /// Without faults.
    pub const FAIR: Self =
        Self { delay_ms: 1, loss: 0.0, late: 0.0, late_ms: 0, duplication: 0.0, breaks: 0.0 };

    pub(super) fn draw(random: &mut StdRng) -> Self {
        let rarely = |random: &mut StdRng, most: f64| match random.random_range(0..3) {
            0 => random.random_range(0.0..most),
            _ => 0.0,
        };
        Self {
            delay_ms: [1, 2, 5, 20][random.random_range(0..4)],
            loss: rarely(random, 0.02),
            late: rarely(random, 0.01),
            late_ms: [500, 5_000, 30_000, 7_200_000][random.random_range(0..4)],
            duplication: rarely(random, 0.02),
            breaks: rarely(random, 0.01),
        }
    }

    fn storm(random: &mut StdRng) -> Self {
        Self {
            delay_ms: random.random_range(5..300),
            loss: random.random_range(0.0..0.3),
            late: random.random_range(0.0..0.05),
            late_ms: [5_000, 30_000, 7_200_000][random.random_range(0..3)],
            duplication: random.random_range(0.0..0.1),
            breaks: random.random_range(0.0..0.1),
        }
    }

    /// The same for one direction of a network.
    pub fn link(&self) -> Link {
        let ms = |least, most| Duration::from_millis(least)..=Duration::from_millis(most);
        Link {
            delay: ms(0, u64::from(self.delay_ms)),
            loss: self.loss,
            late: self.late,
            late_by: ms(u64::from(self.delay_ms), u64::from(self.late_ms.max(self.delay_ms))),
            duplication: self.duplication,
            // Within the time for which nodes remember what was forwarded to them.
            again_after: ms(0, 60_000),
            break_before: self.breaks,
            break_after: self.breaks,
            ..Link::default()
        }
    }
}

/// One fault. Nodes are counted from 0.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// The process is killed, and started again after a while.
    Kill {
        /// Which.
        node: usize,
        /// The machine loses power: what was not synced is gone.
        power: bool,
    },
    /// All machines lose power at once.
    PowerCutOfAll,
    /// The node is stopped cleanly, and started again after a while.
    Stop {
        /// Which.
        node: usize,
    },
    /// The process is stopped as by SIGSTOP, and resumed after a while.
    Pause {
        /// Which.
        node: usize,
    },
    /// The process gets little time on its processor.
    Slow {
        /// Which.
        node: usize,
    },
    /// Messages of one direction are swallowed.
    Cut {
        /// Whose.
        from: usize,
        /// To whom.
        to: usize,
    },
    /// A node is cut off from all others, both ways.
    Isolate {
        /// Which.
        node: usize,
    },
    /// Two groups can't reach each other.
    Split {
        /// How many of the nodes, from the first, are in one of them.
        first: usize,
    },
    /// Each node reaches a majority, and each another one: its neighbours in a ring.
    RingOfMajorities,
    /// Connections of one direction are refused.
    Refuse {
        /// Whose.
        from: usize,
        /// To whom.
        to: usize,
    },
    /// The connection of one node to another breaks.
    Break {
        /// Whose.
        from: usize,
        /// To whom.
        to: usize,
    },
    /// The whole network changes.
    Weather(Weather),
    /// One direction becomes slow.
    SlowLink {
        /// Whose.
        from: usize,
        /// To whom.
        to: usize,
        /// The longest delay, in ms.
        delay_ms: u32,
    },
    /// Writes to a disk fail now and then, in doubt; maybe all after the first.
    DiskErrors {
        /// Whose.
        node: usize,
        /// All after the first.
        wedges: bool,
    },
    /// Reads from a disk fail now and then.
    ReadErrors {
        /// Whose.
        node: usize,
    },
    /// A disk takes long to sync.
    SlowDisk {
        /// Whose.
        node: usize,
    },
    /// A disk is full.
    FullDisk {
        /// Whose.
        node: usize,
    },
    /// Some records of a disk are damaged.
    Corrupt {
        /// Whose.
        node: usize,
    },
    /// The disk is lost with its machine, which comes back with an empty one.
    LoseDisk {
        /// Whose.
        node: usize,
    },
    /// A copy of the disk is made, and put back when the fault ends.
    OldCopy {
        /// Whose.
        node: usize,
    },
    /// A disk says that it synced what it did not; it loses power when the fault ends.
    LyingDisk {
        /// Whose.
        node: usize,
    },
    /// A wall clock jumps, by so many ms, for good.
    ClockJump {
        /// Whose.
        node: usize,
        /// By how much.
        by_ms: i64,
    },
}

impl Fault {
    /// Whether a disk may lose what was acknowledged.
    pub fn loses_data(&self) -> bool {
        matches!(self, Self::Corrupt { .. } | Self::LoseDisk { .. }) || self.deceives()
    }

    pub(super) fn deceives(&self) -> bool {
        matches!(self, Self::OldCopy { .. } | Self::LyingDisk { .. })
    }
}

/// A fault with its time.
#[derive(Clone, Debug, PartialEq)]
pub struct PlannedFault {
    /// When it begins, in ms of virtual time.
    pub at_ms: u64,
    /// How long it lasts.
    pub for_ms: u64,
    /// What it is.
    pub fault: Fault,
}

impl fmt::Display for PlannedFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>6} ms, for {:>5} ms: {:?}", self.at_ms, self.for_ms, self.fault)
    }
}

/// A clock's offset in ms and its drift in parts in a million.
pub(super) fn clock(random: &mut StdRng) -> (i64, i64) {
    match random.random_range(0..3) {
        0 => (random.random_range(-60_000..60_000), random.random_range(-200..200)),
        _ => (random.random_range(-20..20), random.random_range(-20..20)),
    }
}

/// The faults of one run, by time.
pub(super) fn plan(random: &mut StdRng, nodes: usize, victim: usize) -> Vec<PlannedFault> {
    let count = random.random_range(3..=24);
    let end = SAFETY_PHASE.as_millis() as u64;
    let may_lose_data = random.random_bool(0.5);
    let mut faults = Vec::new();
    for _ in 0..count {
        // Now and then while the cluster is still forming.
        let at_ms = random.random_range(0..end - 2_000);
        let for_ms = match random.random_range(0..4) {
            0 => random.random_range(50..1_000),
            1 => random.random_range(5_000..20_000),
            _ => random.random_range(500..6_000),
        };
        let for_ms = for_ms.min(end - at_ms);
        let fault = draw(random, nodes, victim, may_lose_data);
        faults.push(PlannedFault { at_ms, for_ms, fault });
    }
    faults.sort_by_key(|planned| planned.at_ms);
    faults
}

/// Faults of the nodes that join later.
pub(super) fn of_spares(random: &mut StdRng, nodes: usize, spares: usize) -> Vec<PlannedFault> {
    let end = SAFETY_PHASE.as_millis() as u64;
    let count = if spares == 0 { 0 } else { random.random_range(0..=4) };
    let mut faults = Vec::new();
    for _ in 0..count {
        let node = nodes + random.random_range(0..spares);
        let at_ms = random.random_range(4_000..end - 2_000);
        let for_ms = random.random_range(200..8_000).min(end - at_ms);
        let fault = match random.random_range(0..8) {
            0 | 1 => Fault::Kill { node, power: false },
            2 | 3 => Fault::Kill { node, power: true },
            4 => Fault::Stop { node },
            5 => Fault::Pause { node },
            6 => Fault::Isolate { node },
            _ => Fault::DiskErrors { node, wedges: random.random_bool(0.3) },
        };
        faults.push(PlannedFault { at_ms, for_ms, fault });
    }
    faults
}

fn draw(random: &mut StdRng, nodes: usize, victim: usize, may_lose_data: bool) -> Fault {
    let node = random.random_range(0..nodes);
    let (from, to) = (node, (node + random.random_range(1..nodes)) % nodes);
    let kinds: RangeInclusive<u32> = if may_lose_data { 0..=28 } else { 0..=22 };
    match random.random_range(kinds) {
        0 | 1 => Fault::Kill { node, power: false },
        2..=4 => Fault::Kill { node, power: true },
        5 => Fault::PowerCutOfAll,
        6 | 7 => Fault::Stop { node },
        8 | 9 => Fault::Pause { node },
        10 => Fault::Slow { node },
        11 | 12 => Fault::Cut { from, to },
        13 => Fault::Isolate { node },
        14 => Fault::Split { first: random.random_range(1..nodes) },
        15 if nodes > 3 => Fault::RingOfMajorities,
        15 => Fault::Refuse { from, to },
        16 => Fault::Break { from, to },
        17 => Fault::Weather(Weather::storm(random)),
        18 => Fault::SlowLink { from, to, delay_ms: random.random_range(50..3_000) },
        19 | 20 => Fault::DiskErrors { node, wedges: random.random_bool(0.3) },
        21 => match random.random_range(0..3) {
            0 => Fault::ReadErrors { node },
            1 => Fault::SlowDisk { node },
            _ => Fault::FullDisk { node },
        },
        22 => Fault::ClockJump { node, by_ms: random.random_range(-100_000..100_000) },
        23..=26 => Fault::Corrupt { node: victim },
        27 => Fault::LoseDisk { node: victim },
        _ if random.random_bool(0.5) => Fault::OldCopy { node: victim },
        _ => Fault::LyingDisk { node: victim },
    }
}
