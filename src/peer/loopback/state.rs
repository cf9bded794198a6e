//! Who is attached, which faults hold, what was counted.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::peer::address::PeerAddress;
use crate::peer::transport::{Condition, Handler, PeerStatistics};

/// As for the real transport.
const STALLED_AFTER: Duration = Duration::from_millis(500);

/// From one node to another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Direction {
    pub(super) from: PeerAddress,
    pub(super) to: PeerAddress,
}

impl Direction {
    pub(super) fn back(&self) -> Self {
        Self { from: self.to.clone(), to: self.from.clone() }
    }
}

/// What becomes of a message when it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// No connection.
    Refused,
    Lost,
    /// After that time, unless a cut swallows it meanwhile.
    Arrives(Duration),
}

/// The faults of one direction.
#[derive(Debug)]
pub(super) struct Faults {
    pub(super) cut: bool,
    pub(super) refused: bool,
    pub(super) delay: RangeInclusive<Duration>,
    pub(super) loss: f64,
}

impl Default for Faults {
    fn default() -> Self {
        let delay = Duration::ZERO..=Duration::ZERO;
        Self { cut: false, refused: false, delay, loss: 0.0 }
    }
}

/// What was counted in one direction, and the calls in flight.
#[derive(Debug, Default)]
struct Figures {
    calls: u64,
    failures: u64,
    in_flight: u64,
    dropped: u64,
    bytes_sent: u64,
    bytes_received: u64,
    /// The last attempt was refused.
    refused: bool,
    refusals: u64,
    /// The latest of: the last answer, the first call in flight.
    quiet_since: Option<Instant>,
    /// Told when the calls in flight break.
    breaks: watch::Sender<()>,
}

/// See the module.
pub(super) struct State {
    nodes: BTreeMap<PeerAddress, Arc<dyn Handler>>,
    faults: BTreeMap<Direction, Faults>,
    pub(super) isolated: BTreeSet<PeerAddress>,
    figures: BTreeMap<Direction, Figures>,
    random: StdRng,
}

impl State {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            nodes: BTreeMap::new(),
            faults: BTreeMap::new(),
            isolated: BTreeSet::new(),
            figures: BTreeMap::new(),
            random: StdRng::seed_from_u64(seed),
        }
    }

    pub(super) fn attach(&mut self, address: PeerAddress, handler: Arc<dyn Handler>) {
        self.detach(&address);
        self.nodes.insert(address, handler);
    }

    pub(super) fn detach(&mut self, address: &PeerAddress) {
        self.nodes.remove(address);
        for (direction, figures) in &self.figures {
            if direction.to == *address || direction.from == *address {
                figures.breaks.send_replace(());
            }
        }
    }

    pub(super) fn faults(&mut self, from: &PeerAddress, to: &PeerAddress) -> &mut Faults {
        let direction = Direction { from: from.clone(), to: to.clone() };
        self.faults.entry(direction).or_default()
    }

    pub(super) fn break_calls(&mut self, from: &PeerAddress, to: &PeerAddress) {
        let direction = Direction { from: from.clone(), to: to.clone() };
        self.figures.entry(direction).or_default().breaks.send_replace(());
    }

    pub(super) fn heal(&mut self, from: &PeerAddress, to: &PeerAddress) {
        self.faults.remove(&Direction { from: from.clone(), to: to.clone() });
    }

    pub(super) fn heal_all(&mut self) {
        self.faults.clear();
        self.isolated.clear();
    }

    fn is_cut(&self, direction: &Direction) -> bool {
        let apart = direction.from != direction.to
            && (self.isolated.contains(&direction.from) || self.isolated.contains(&direction.to));
        apart || self.faults.get(direction).is_some_and(|faults| faults.cut)
    }

    fn is_refused(&self, direction: &Direction) -> bool {
        // Whether somebody listens behind a cut cannot be known.
        let absent = !self.nodes.contains_key(&direction.to) && !self.is_cut(direction);
        absent || self.faults.get(direction).is_some_and(|faults| faults.refused)
    }

    /// Decides on a message that is sent now.
    pub(super) fn route(&mut self, direction: &Direction) -> Route {
        if self.is_refused(direction) {
            return Route::Refused;
        }
        if self.is_cut(direction) {
            return Route::Lost;
        }
        let Some(faults) = self.faults.get(direction) else {
            return Route::Arrives(Duration::ZERO);
        };
        if faults.loss > 0.0 && self.random.random_bool(faults.loss) {
            return Route::Lost;
        }
        let (least, most) = (*faults.delay.start(), *faults.delay.end());
        let spread = most.saturating_sub(least);
        let share = if spread.is_zero() { 0.0 } else { self.random.random_range(0.0..=1.0) };
        Route::Arrives(least + spread.mul_f64(share))
    }

    /// Who takes a message that arrives now. Nobody behind a cut.
    pub(super) fn arrival(&self, direction: &Direction) -> Option<Arc<dyn Handler>> {
        let handler = self.nodes.get(&direction.to)?;
        (!self.is_cut(direction)).then(|| Arc::clone(handler))
    }

    /// Counts and routes a one-way message.
    pub(super) fn begin_send(&mut self, direction: &Direction, bytes: usize) -> Route {
        let route = self.route(direction);
        let figures = self.figures.entry(direction.clone()).or_default();
        if route == Route::Refused {
            figures.dropped += 1;
        } else {
            figures.bytes_sent += bytes as u64;
        }
        route
    }

    /// Counts and routes a request. What is given with the route changes when the calls break.
    pub(super) fn begin_call(
        &mut self,
        direction: &Direction,
        bytes: usize,
        now: Instant,
    ) -> (Route, watch::Receiver<()>) {
        let route = self.route(direction);
        let figures = self.figures.entry(direction.clone()).or_default();
        if figures.in_flight == 0 {
            figures.quiet_since = Some(now);
        }
        figures.calls += 1;
        figures.in_flight += 1;
        figures.refused = route == Route::Refused;
        if figures.refused {
            figures.refusals += 1;
        } else {
            figures.bytes_sent += bytes as u64;
        }
        (route, figures.breaks.subscribe())
    }

    /// Counts the end of a call, with the size of its answer if there was one.
    pub(super) fn end_call(&mut self, direction: &Direction, answer: Option<usize>, now: Instant) {
        let figures = self.figures.entry(direction.clone()).or_default();
        figures.in_flight -= 1;
        if let Some(bytes) = answer {
            figures.bytes_received += bytes as u64;
            figures.quiet_since = Some(now);
        } else {
            figures.failures += 1;
        }
    }

    pub(super) fn condition(&self, direction: &Direction, now: Instant) -> Condition {
        let Some(figures) = self.figures.get(direction) else { return Condition::Good };
        if figures.refused && self.is_refused(direction) {
            return Condition::Failing;
        }
        let quiet = figures.quiet_since.is_some_and(|since| now - since >= STALLED_AFTER);
        if figures.in_flight > 0 && quiet { Condition::Stalled } else { Condition::Good }
    }

    pub(super) fn statistics(&self, from: &PeerAddress, now: Instant) -> Vec<PeerStatistics> {
        let of_node = self.figures.iter().filter(|(direction, _)| direction.from == *from);
        let statistics = of_node.map(|(direction, figures)| PeerStatistics {
            address: direction.to.clone(),
            condition: self.condition(direction, now),
            calls: figures.calls,
            failures: figures.failures,
            in_flight: figures.in_flight,
            dropped: figures.dropped,
            bytes_sent: figures.bytes_sent,
            bytes_received: figures.bytes_received,
            connects: 0,
            connect_failures: figures.refusals,
        });
        statistics.collect()
    }
}
