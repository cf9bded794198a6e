//! Who is attached, which faults hold, what was counted.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;
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
    /// Unless a cut swallows it meanwhile.
    Arrives(Passage),
}

/// How a message that is not lost travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Passage {
    pub(super) delay: Duration,
    /// It arrives a second time, after that time.
    pub(super) again: Option<Duration>,
    pub(super) breaks: Option<Breaks>,
}

/// When the connection breaks under a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Breaks {
    /// It reached nobody.
    Before,
    /// It was worked off.
    After,
}

/// What befalls the messages of one direction. Probabilities are from 0 to 1, of each message.
#[derive(Clone, Debug, PartialEq)]
pub struct Link {
    /// Swallows everything.
    pub cut: bool,
    /// Refuses connections.
    pub refused: bool,
    /// How long most messages travel.
    pub delay: RangeInclusive<Duration>,
    /// The probability of being lost.
    pub loss: f64,
    /// The probability of travelling for a time of [`Link::late_by`] instead.
    pub late: f64,
    /// How long late ones travel; may be beyond every timeout.
    pub late_by: RangeInclusive<Duration>,
    /// The probability of arriving twice.
    pub duplication: f64,
    /// How long after the first the second arrives.
    pub again_after: RangeInclusive<Duration>,
    /// The probability that the connection breaks before a request reaches its peer.
    pub break_before: f64,
    /// The probability that it breaks after the peer has worked it off.
    pub break_after: f64,
}

impl Default for Link {
    fn default() -> Self {
        let none = Duration::ZERO..=Duration::ZERO;
        Self {
            cut: false,
            refused: false,
            delay: none.clone(),
            loss: 0.0,
            late: 0.0,
            late_by: none.clone(),
            duplication: 0.0,
            again_after: none,
            break_before: 0.0,
            break_after: 0.0,
        }
    }
}

impl Link {
    /// Draws what becomes of one message.
    fn pass(&self, random: &mut StdRng) -> Route {
        let mut happens = |probability: f64| probability > 0.0 && random.random_bool(probability);
        if happens(self.loss) {
            return Route::Lost;
        }
        let is_late = happens(self.late);
        let is_twice = happens(self.duplication);
        let breaks = match (happens(self.break_before), happens(self.break_after)) {
            (true, _) => Some(Breaks::Before),
            (false, true) => Some(Breaks::After),
            (false, false) => None,
        };
        let delay = within(if is_late { &self.late_by } else { &self.delay }, random);
        let again = is_twice.then(|| delay + within(&self.again_after, random));
        Route::Arrives(Passage { delay, again, breaks })
    }
}

/// A time of the range; draws nothing where there is no choice.
fn within(range: &RangeInclusive<Duration>, random: &mut StdRng) -> Duration {
    let (least, most) = (*range.start(), *range.end());
    let spread = most.saturating_sub(least);
    let share = if spread.is_zero() { 0.0 } else { random.random_range(0.0..=1.0) };
    least + spread.mul_f64(share)
}

/// What a witness is told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Happening {
    /// A request or a one-way message set out.
    Sent,
    /// It set out and will not arrive.
    Lost,
    /// There was no connection to send it on.
    Refused,
    /// It arrived.
    Arrived,
    /// The answer to a request arrived.
    Answered,
    /// A request or its answer was swallowed on the way.
    Swallowed,
    /// The connection broke under a request.
    Broken,
}

/// Told of everything that happens on the network, in order.
pub type Witness = Arc<dyn Fn(&PeerAddress, &PeerAddress, Happening, &[u8]) + Send + Sync>;

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
    breaks: Arc<Notify>,
}

/// One attachment of a node; a later one to the same address is another process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Attachment(u64);

struct Attached {
    handler: Arc<dyn Handler>,
    attachment: Attachment,
}

/// See the module.
pub(super) struct State {
    nodes: BTreeMap<PeerAddress, Attached>,
    attachments: u64,
    /// Of directions without faults of their own.
    climate: Link,
    faults: BTreeMap<Direction, Link>,
    pub(super) isolated: BTreeSet<PeerAddress>,
    figures: BTreeMap<Direction, Figures>,
    random: StdRng,
    witness: Option<Witness>,
    /// Told when long journeys are to end.
    hurry: Arc<Notify>,
}

impl State {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            nodes: BTreeMap::new(),
            attachments: 0,
            climate: Link::default(),
            faults: BTreeMap::new(),
            isolated: BTreeSet::new(),
            figures: BTreeMap::new(),
            random: StdRng::seed_from_u64(seed),
            witness: None,
            hurry: Arc::default(),
        }
    }

    pub(super) fn attach(&mut self, address: PeerAddress, handler: Arc<dyn Handler>) {
        self.detach(&address);
        self.attachments += 1;
        let attachment = Attachment(self.attachments);
        self.nodes.insert(address, Attached { handler, attachment });
    }

    pub(super) fn detach(&mut self, address: &PeerAddress) {
        self.nodes.remove(address);
        for (direction, figures) in &self.figures {
            if direction.to == *address || direction.from == *address {
                figures.breaks.notify_waiters();
            }
        }
    }

    pub(super) fn faults(&mut self, from: &PeerAddress, to: &PeerAddress) -> &mut Link {
        let direction = Direction { from: from.clone(), to: to.clone() };
        let climate = &self.climate;
        self.faults.entry(direction).or_insert_with(|| climate.clone())
    }

    pub(super) fn set_climate(&mut self, climate: Link) {
        self.climate = climate;
    }

    pub(super) fn set_witness(&mut self, witness: Witness) {
        self.witness = Some(witness);
    }

    pub(super) fn hurry(&self) {
        self.hurry.notify_waiters();
    }

    pub(super) fn hurried(&self) -> OwnedNotified {
        Arc::clone(&self.hurry).notified_owned()
    }

    /// Tells the witness, if there is one.
    pub(super) fn saw(&self, direction: &Direction, what: Happening, bytes: &[u8]) {
        if let Some(witness) = &self.witness {
            witness(&direction.from, &direction.to, what, bytes);
        }
    }

    pub(super) fn break_calls(&mut self, from: &PeerAddress, to: &PeerAddress) {
        let direction = Direction { from: from.clone(), to: to.clone() };
        self.figures.entry(direction).or_default().breaks.notify_waiters();
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
        self.faults.get(direction).unwrap_or(&self.climate).pass(&mut self.random)
    }

    /// Who takes a message that arrives now. Nobody behind a cut.
    pub(super) fn arrival(&self, direction: &Direction) -> Option<Arc<dyn Handler>> {
        let attached = self.nodes.get(&direction.to)?;
        (!self.is_cut(direction)).then(|| Arc::clone(&attached.handler))
    }

    /// Which attachment has an address now.
    pub(super) fn attachment(&self, address: &PeerAddress) -> Option<Attachment> {
        self.nodes.get(address).map(|attached| attached.attachment)
    }

    /// Counts and routes a one-way message.
    pub(super) fn begin_send(&mut self, direction: &Direction, message: &[u8]) -> Route {
        let route = self.route(direction);
        self.saw(direction, set_out(route), message);
        let figures = self.figures.entry(direction.clone()).or_default();
        if route == Route::Refused {
            figures.dropped += 1;
        } else {
            figures.bytes_sent += message.len() as u64;
        }
        route
    }

    /// Counts and routes a request. What is given with the route changes when the calls break.
    pub(super) fn begin_call(
        &mut self,
        direction: &Direction,
        request: &[u8],
        now: Instant,
    ) -> (Route, OwnedNotified) {
        let route = self.route(direction);
        self.saw(direction, set_out(route), request);
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
            figures.bytes_sent += request.len() as u64;
        }
        (route, Arc::clone(&figures.breaks).notified_owned())
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

const fn set_out(route: Route) -> Happening {
    match route {
        Route::Refused => Happening::Refused,
        Route::Lost => Happening::Lost,
        Route::Arrives(_) => Happening::Sent,
    }
}
