//! Operators: they change the ring while all goes on, and help where a cluster can't help itself.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::machine::Running;
use super::scenario::{Action, PlannedAction, SAFETY_PHASE};
use super::world::{World, address, node_id};
use crate::node::operation::{BucketChange, ChangeRequest, JoinRequest, Service, TopologyError};
use crate::node::{Node, Phase};
use crate::protocol::cluster::Role;
use crate::types::{Bucket, Weight};

/// After so long without a later state, a transition is given up by its operators.
const PATIENCE: Duration = Duration::from_secs(20);

/// The least that a cluster shrinks to.
const FEWEST: usize = 3;

/// How long an operator waits before asking again for what comes in turn: less than a former holder
/// needs to let go of what it held.
const ASKS_AGAIN_AFTER: Duration = Duration::from_millis(50);

/// Does what is planned, each at its time.
pub async fn run(world: Arc<World>) {
    let planned = world.scenario.operators.iter().enumerate();
    let planned = planned.filter(|(number, _)| world.only.has_action(*number));
    let planned = planned.map(|(_, planned)| *planned);
    let (in_turn, alone): (Vec<_>, Vec<_>) = planned.partition(|planned| planned.is_in_turn);
    let alone = alone.into_iter().map(|planned| {
        let world = Arc::clone(&world);
        tokio::spawn(async move {
            sleep(Duration::from_millis(planned.at_ms)).await;
            act(&world, planned).await;
        })
    });
    let mut done: Vec<_> = alone.collect();
    if !in_turn.is_empty() {
        let until = Instant::now() + SAFETY_PHASE;
        done.push(tokio::spawn(act_in_turn(Arc::clone(&world), in_turn, until)));
    }
    for done in done {
        done.await.expect("an operator does not panic");
    }
}

/// Asks for one thing after the other, each until it has begun: as soon as no transition runs.
async fn act_in_turn(world: Arc<World>, planned: Vec<PlannedAction>, until: Instant) {
    let begun = Instant::now();
    for planned in planned {
        sleep_until(begun + Duration::from_millis(planned.at_ms)).await;
        while !(is_settled(&world) && act(&world, planned).await) {
            if Instant::now() >= until {
                return world.common.trace.note("operator", &format!("{planned}: never begun"));
            }
            sleep(ASKS_AGAIN_AFTER).await;
        }
    }
}

/// Whether no transition runs, as far as anybody knows.
fn is_settled(world: &World) -> bool {
    world.observer.latest_state().is_some_and(|state| state.transition.is_none())
}

/// Does what is planned; whether it has begun.
async fn act(world: &Arc<World>, planned: PlannedAction) -> bool {
    let Some((running, node)) = asked(world, planned.through) else { return false };
    let members = node
        .cluster_state()
        .map_or(0, |state| state.nodes.iter().filter(|node| node.role == Role::Member).count());
    let join = |number: usize| JoinRequest {
        id: node_id(number),
        peer: Some(address(number).to_string()),
        zone: None,
        weight: None,
    };
    let mut request = ChangeRequest::default();
    match planned.action {
        Action::Join { node } => request.join = vec![join(node)],
        Action::JoinBoth { node, other } => request.join = vec![join(node), join(other)],
        Action::Leave { .. } if members <= FEWEST => return false,
        Action::Leave { node } => request.leave = [node_id(node)].into(),
        Action::Replace { old, new } => {
            request.join = vec![join(new)];
            request.replace = [(node_id(old), node_id(new))].into();
        }
        Action::Weigh { node, thousandths } => {
            let weight = Weight::from_thousandths(thousandths).expect("a small weight");
            request.weight = [(node_id(node), weight)].into();
        }
        Action::Resize { .. } | Action::Abort => {}
    }
    let world = Arc::clone(world);
    let work = async move {
        let outcome = match planned.action {
            Action::Resize { bucket, n } => {
                let bucket = Bucket::new(bucket).expect("a valid bucket");
                let change = BucketChange { n: Some(n), ..BucketChange::default() };
                Service::change_bucket(&node, bucket, Some(change)).await.map(drop)
            }
            Action::Abort => Service::abort(&node).await,
            _ => Service::apply(&node, request).await.map(drop),
        };
        let has_begun = outcome.is_ok();
        let told = outcome.map_or_else(|error| error.to_string(), |()| "begun".into());
        if has_begun || !planned.is_in_turn {
            world.common.trace.note("operator", &format!("{planned}: {told}"));
        }
        has_begun
    };
    in_process(&running, work).await.unwrap_or(false)
}

/// What an operator's request comes to; `None` if its process ends or it takes too long.
async fn in_process<T: Send + 'static>(
    running: &Running,
    work: impl Future<Output = T> + Send + 'static,
) -> Option<T> {
    let working = tokio::spawn(running.process.run(work));
    let abort = working.abort_handle();
    tokio::select! {
        biased;
        done = working => return done.ok(),
        () = running.process.killed() => abort.abort(),
        () = sleep(Duration::from_secs(30)) => abort.abort(),
    }
    None
}

/// A node that serves: this one, or another.
fn asked(world: &World, first: usize) -> Option<(Running, Arc<Node>)> {
    let machines = world.machines.iter().cycle().skip(first).take(world.machines.len());
    let serving = machines.filter_map(|machine| {
        let running = machine.running()?;
        let node = running.serving()?;
        Some((running, node))
    });
    serving.into_iter().next()
}

/// What operators do where a cluster does not get on: see [`Helper::look`].
pub struct Helper {
    seen: Option<(u64, Instant)>,
    waiting_since: Option<Instant>,
}

impl Helper {
    /// One that has seen nothing yet.
    pub fn new() -> Self {
        Self { seen: None, waiting_since: None }
    }

    /// A transition that needs a disk which was lost is given up; a node whose disk was lost is
    /// replaced by itself even where nobody else holds what it held.
    pub async fn look(&mut self, world: &Arc<World>) {
        let Some((running, node)) = asked(world, 0) else { return };
        let Some(state) = node.cluster_state() else { return };
        let epoch = state.epoch.get();
        let now = Instant::now();
        match self.seen {
            Some((seen, _)) if seen == epoch => {}
            _ => self.seen = Some((epoch, now)),
        }
        let candidates: BTreeSet<usize> = world
            .machines
            .iter()
            .filter(|machine| state.nodes.iter().any(|n| n.id == node_id(machine.number)))
            .filter(|machine| machine.running().and_then(|r| r.node()).is_some_and(waits))
            .map(|machine| machine.number)
            .collect();
        let is_lost = !candidates.is_empty();
        self.waiting_since = is_lost.then(|| self.waiting_since.unwrap_or(now));
        let is_stuck = self.seen.is_some_and(|(_, since)| since.elapsed() > PATIENCE);
        let world = Arc::clone(world);
        if state.transition.is_some() && is_stuck {
            self.seen = Some((epoch, now));
            let work = async move {
                let aborted = Service::abort(&node).await;
                world.common.trace.note("operator", &format!("gives up: {aborted:?}"));
            };
            in_process(&running, work).await;
        } else if self.waiting_since.is_some_and(|since| since.elapsed() > PATIENCE) {
            self.waiting_since = Some(now);
            let itself = candidates.iter().map(|number| (node_id(*number), node_id(*number)));
            let replace = itself.collect();
            let request = ChangeRequest { replace, accept_loss: true, ..Default::default() };
            let work = async move {
                let applied: Result<_, TopologyError> = Service::apply(&node, request).await;
                let told = applied.map_or_else(|error| error.to_string(), |_| "begun".into());
                world.common.trace.note("operator", &format!("replaces what is lost: {told}"));
            };
            in_process(&running, work).await;
        }
    }
}

impl Default for Helper {
    fn default() -> Self {
        Self::new()
    }
}

/// Whether a node waits to be applied.
fn waits(node: Arc<Node>) -> bool {
    matches!(*node.phase().borrow(), Phase::Starting(_)) && node.cluster_state().is_none()
}
