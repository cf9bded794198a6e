//! The two phases of a run: faults and load together, in which nothing may be lost; then no faults,
//! in which the cluster has to come together within a bound, and then to be quiet.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::client::Client;
use super::disk::DiskFaults;
use super::evidence::{KeyEvidence, Violation};
use super::machine::Machine;
use super::nemesis;
use super::operators::{self, Helper};
use super::scenario::{SAFETY_PHASE, Weather};
use super::world::{World, node_id, node_number};
use crate::node::operation::{Get, Service, Terms};
use crate::node::{Node, Phase};
use crate::protocol::causality::Record;
use crate::protocol::cluster::Role;
use crate::storage::schema::{parse_hint_key, parse_record_key, record_key};
use crate::storage::{Cached, Durability, Space, Store};
use crate::types::{KeyPath, Level, NodeId, RequestId, VnodeId};

/// From the end of all faults until every node that can serve does, and knows all others as up. A
/// node whose disk fails tries for 30 s before it gives up and is started again; a transition ends or
/// is given up, and a node whose disk was lost is replaced by itself.
const RECOVERED_WITHIN: Duration = Duration::from_secs(180);

/// From then on until every vnode is complete, all hints are brought, and replicas are the same.
const MENDED_WITHIN: Duration = Duration::from_secs(90);

/// From then on until what was deleted is purged; wall clocks that were off by minutes count.
const PURGED_WITHIN: Duration = Duration::from_secs(600);

/// After so long keys in quarantine have no other copy anywhere.
const LOSS_ACCEPTED_AFTER: Duration = Duration::from_secs(45);

/// How long nothing may be written then.
const QUIET_FOR: Duration = Duration::from_secs(12);

/// What any operation may take.
const LONGEST_OPERATION: Duration = Duration::from_secs(6);

/// From the end of all faults until the last client is done.
const CLIENTS_DONE_WITHIN: Duration = Duration::from_secs(300);

const CONVERGES: &str = "P7 convergence";
const QUIET: &str = "P7 quiet";
const BOUNDED: &str = "P11 bounded";
const NO_FALSE_ALARM: &str = "no false alarm";

/// Plays a whole scenario; returns what was broken while it ran, and the last state of the keys.
pub async fn play(world: &Arc<World>) -> (Vec<Violation>, Vec<KeyEvidence>) {
    for number in 0..world.machines.len() {
        let world = Arc::clone(world);
        tokio::spawn(async move { world.power_on(number).await });
    }
    let clients: Vec<_> = (0..world.scenario.clients.len())
        .map(|number| tokio::spawn(Client::new(number, Arc::clone(world)).run()))
        .collect();
    let until = Instant::now() + SAFETY_PHASE;
    let operators = tokio::spawn(operators::run(Arc::clone(world)));
    nemesis::run(Arc::clone(world)).await;
    operators.await.expect("operators do not panic");
    tokio::time::sleep_until(until).await;

    let mut violations = Vec::new();
    world.common.trace.note("phase", "no faults from now on");
    calm(world);
    recover(world, &mut violations).await;
    world.hurry();
    let done = timeout(CLIENTS_DONE_WITHIN, futures_util::future::join_all(clients)).await;
    match done {
        Ok(done) => done.into_iter().for_each(|client| client.expect("a client does not panic")),
        Err(_) => violations.push(Violation::new(CONVERGES, "a client was never answered")),
    }
    sleep(LONGEST_OPERATION).await;
    if violations.is_empty() {
        converge(world, &mut violations).await;
    }
    false_alarms(world, &mut violations);
    (violations, last_state(world))
}

/// Nobody says that it has lost what no disk has lost: it would give up its actors, and its replicas
/// would count for nothing until they are mended, for no reason.
fn false_alarms(world: &World, violations: &mut Vec<Violation>) {
    let scenario = &world.scenario;
    let may_have_lost = |machine: &Machine| {
        scenario.durability != Durability::Sync
            || (scenario.loses_data() && machine.number == scenario.victim)
    };
    for machine in world.machines.iter().filter(|machine| !may_have_lost(machine)) {
        let losses = machine.losses();
        if losses > 0 {
            let name = &machine.name;
            let text = format!("{name} says {losses} times that it has lost history");
            violations.push(Violation::new(NO_FALSE_ALARM, text));
        }
    }
}

/// Ends every fault there may be.
fn calm(world: &World) {
    let network = &world.common.network;
    network.heal_all();
    network.set_climate(Weather::FAIR.link());
    for machine in &world.machines {
        machine.set_disk_faults(|faults| *faults = DiskFaults::default());
        machine.clock.set_right();
        if let Some(running) = machine.running() {
            running.process.resume();
        }
    }
}

/// Starts what is off, as operators do, and waits for all to serve.
async fn recover(world: &Arc<World>, violations: &mut Vec<Violation>) {
    let deadline = Instant::now() + RECOVERED_WITHIN;
    let mut helper = Helper::new();
    loop {
        helper.look(world).await;
        for machine in world.in_service() {
            restart_if_needed(world, machine).await;
        }
        let waits_for: Vec<String> =
            world.in_service().filter_map(|machine| what_is_missing(world, machine)).collect();
        let waits_for: Vec<String> = waits_for.into_iter().chain(what_changes(world)).collect();
        if waits_for.is_empty() {
            return;
        }
        if Instant::now() >= deadline {
            let text = format!("{RECOVERED_WITHIN:?} after the faults: {}", waits_for.join("; "));
            return violations.push(Violation::new(CONVERGES, text));
        }
        sleep(Duration::from_millis(500)).await;
    }
}

/// A node that is off is switched on; one that refuses to serve is started again once. If it still
/// refuses then, its disk is not the one it had.
async fn restart_if_needed(world: &Arc<World>, machine: &Arc<Machine>) {
    let refuses =
        machine.running().and_then(|running| running.node()).and_then(|node| {
            match &*node.phase().borrow() {
                Phase::Refusing(why) => Some(why.clone()),
                _ => None,
            }
        });
    if let Some(why) = refuses {
        machine.end(super::disk::Ending::ProcessDied, &world.common);
        if machine.number == world.scenario.victim && why.contains("data directory") {
            machine.rebuild_at_next_start();
        }
    }
    if machine.running().is_none() {
        let (world, number) = (Arc::clone(world), machine.number);
        tokio::spawn(async move { world.power_on(number).await });
        // Begun before the next look at it.
        tokio::task::yield_now().await;
    }
}

/// What keeps a machine from being one of a healthy cluster.
fn what_is_missing(world: &World, machine: &Machine) -> Option<String> {
    let name = &machine.name;
    let Some(running) = machine.running() else { return Some(format!("{name} is off")) };
    let Some(node) = running.serving() else {
        return Some(format!("{name} does not serve"));
    };
    if running.disk.is_wedged() {
        return Some(format!("the disk of {name} fails until it is started again"));
    }
    let down = node.peers_taken_for_down();
    let wrongly = down.iter().find(|id| world.is_in_service(node_number(id)));
    wrongly.map(|id| format!("{name} takes {id} for down"))
}

/// What of the ring is still changing.
fn what_changes(world: &World) -> Option<String> {
    let state = world.observer.latest_state()?;
    if let Some(transition) = &state.transition {
        let view = serving(world).next().and_then(|(_, node)| node.cluster().ok()?.transition);
        let waits_for = view.map(|view| view.waiting_for);
        return Some(format!("the transition of epoch {} runs: {waits_for:?}", transition.begun));
    }
    if let Some(former) = state.former.first() {
        return Some(format!("{} still holds what it held before", former.node));
    }
    let leaves = state.nodes.iter().find(|node| node.role == Role::Leaving);
    if let Some(node) = leaves {
        let running = world.machines[node_number(&node.id)].running();
        let count = |space| running.as_ref().map(|r| r.disk.memory().entries(space).len());
        let (records, hints) = (count(Space::Records), count(Space::Hints));
        return Some(format!("{} still leaves: {records:?} records, {hints:?} hints", node.id));
    }
    let (late, _) = serving(world)
        .find(|(_, node)| node.cluster_state().is_none_or(|known| known.epoch != state.epoch))?;
    Some(format!("node-{} does not know epoch {}", late + 1, state.epoch))
}

/// Waits until the replicas have come together by their own means, and what was deleted is purged;
/// then looks whether nothing more is done.
async fn converge(world: &Arc<World>, violations: &mut Vec<Violation>) {
    if let Err(text) = settled(world).await {
        return violations.push(Violation::new(CONVERGES, text));
    }
    // What was late, by hours, arrives at last: after what was deleted is gone for good.
    world.common.trace.note("phase", "late messages arrive");
    world.common.network.hurry();
    sleep(LONGEST_OPERATION).await;
    if let Err(text) = settled(world).await {
        let text = format!("late messages arrived, and {text}");
        return violations.push(Violation::new(CONVERGES, text));
    }
    // What goes on behind.
    sleep(LONGEST_OPERATION).await;
    equal(world, violations);
    trees_are_right(world, violations).await;
    // What an operator asked for in vain may be decided late: then all of it comes once more.
    for _ in 0..3 {
        let epoch = epoch(world);
        let found = quiet(world).await;
        if epoch == self::epoch(world) {
            violations.extend(found);
            break;
        }
        recover(world, violations).await;
        if let Err(text) = settled(world).await {
            return violations.push(Violation::new(CONVERGES, text));
        }
        sleep(LONGEST_OPERATION).await;
    }
    bounded(world, violations);
}

/// The latest epoch that was decided.
fn epoch(world: &World) -> Option<u64> {
    world.observer.latest_state().map(|state| state.epoch.get())
}

/// Whether nothing more is done when all is equal: reads of all replicas, and all that goes on by
/// itself, have nothing to do.
async fn quiet(world: &Arc<World>) -> Vec<Violation> {
    let mut violations = Vec::new();
    // Who has left may still try to write down that it has, on a disk that fails.
    let numbers: Vec<usize> = world.in_service().map(|machine| machine.number).collect();
    let batches =
        || -> u64 { numbers.iter().map(|number| world.observer.batches_of(*number)).sum() };
    for (number, node) in serving(world) {
        if let Some(path) = left_over(world, number, &node) {
            let text = format!("node-{} holds {path:?}, which is not its own", number + 1);
            violations.push(Violation::new(QUIET, text));
        }
    }
    let before = batches();
    if let Err(text) = sweep(world).await {
        violations.push(Violation::new(QUIET, text));
    }
    sleep(QUIET_FOR).await;
    let written = batches() - before;
    if written > 0 {
        let text = format!("{written} batches were written when all was equal");
        violations.push(Violation::new(QUIET, text));
    }
    violations
}

/// Waits until replicas are the same and what was deleted is gone; what is left, if that takes too
/// long.
async fn settled(world: &Arc<World>) -> Result<(), String> {
    if timeout(MENDED_WITHIN, come_together(world)).await.is_err() {
        return Err(format!("{MENDED_WITHIN:?} later {}", what_is_open(world).await));
    }
    if timeout(PURGED_WITHIN, purged(world)).await.is_err() {
        let left: Vec<String> =
            serving(world).map(|(number, _)| format!("{:?}", deleted(world, number))).collect();
        return Err(format!("{PURGED_WITHIN:?} later there is left: {}", left.join("; ")));
    }
    Ok(())
}

/// Waits until all vnodes are complete, no hints are left, and all replicas are the same.
async fn come_together(world: &Arc<World>) {
    let begun = Instant::now();
    let mut is_accepted = false;
    while !what_is_open(world).await.is_empty() {
        sleep(Duration::from_millis(500)).await;
        // What no replica has an undamaged record of by then, operators give up; once, and so not before the
        // scrub has found all that is damaged.
        let is_all_found = serving(world).all(|(number, _)| damaged(world, number).is_none());
        let is_due = is_all_found && begun.elapsed() > LOSS_ACCEPTED_AFTER;
        if is_due && !std::mem::replace(&mut is_accepted, true) {
            world.common.trace.note("phase", "losses are accepted");
            for (_, node) in serving(world) {
                drop(Service::begin_repair(&node, true).await);
            }
        }
    }
}

/// What keeps the replicas from being together; an empty text if nothing does.
async fn what_is_open(world: &World) -> String {
    for (number, node) in serving(world) {
        let incomplete = node.incomplete_vnodes();
        let open =
            incomplete.iter().filter(|(_, replicas)| replicas.iter().all(|id| is_there(world, id)));
        if let Some((vnode, _)) = open.clone().next() {
            return format!("{} of node-{} is incomplete", vnode, number + 1);
        }
        if let Some(path) = damaged(world, number) {
            return format!("the record of {path:?} on node-{} is damaged", number + 1);
        }
        if let Some(path) = left_over(world, number, &node).filter(|_| world.scenario.deceives()) {
            return format!("node-{} holds {path:?}, left by an earlier layout", number + 1);
        }
        let quarantined = quarantined(world, number);
        if quarantined > 0 {
            return format!("node-{} has {quarantined} damaged keys", number + 1);
        }
        let hints = hints(world, number);
        if let Some(target) = hints.first() {
            return format!("node-{} keeps {} hints, one for {target}", number + 1, hints.len());
        }
    }
    let mut differing = Vec::new();
    equal(world, &mut differing);
    differing.pop().map_or(String::new(), |violation| violation.text)
}

/// A key whose record on a machine can't be read; found by whoever reads it, the scrub at last.
fn damaged(world: &World, number: usize) -> Option<KeyPath> {
    let running = world.machines[number].running()?;
    let records = running.disk.memory().entries(Space::Records);
    let is_damaged = |stored: &bytes::Bytes| Record::from_stored_bytes(stored.clone()).is_err();
    let (key, _) = records.into_iter().find(|(_, stored)| is_damaged(stored))?;
    parse_record_key(&key).ok().map(|(_, path)| path)
}

/// A key that lies where it is not at home any more. A disk that went back in time can bring one; the scrub
/// drops it.
fn left_over(world: &World, number: usize, node: &Node) -> Option<KeyPath> {
    let running = world.machines[number].running()?;
    let records = running.disk.memory().entries(Space::Records);
    let mut places = records.iter().filter_map(|(key, _)| parse_record_key(key).ok());
    places.find(|(vnode, path)| node.is_left_over(*vnode, path)).map(|(_, path)| path)
}

/// How many keys of a machine count for nothing, as their record was damaged.
fn quarantined(world: &World, number: usize) -> usize {
    let running = world.machines[number].running();
    running.map_or(0, |running| running.disk.memory().entries(Space::Quarantine).len())
}

/// For whom a machine keeps hints that could be brought.
fn hints(world: &World, number: usize) -> Vec<String> {
    let Some(running) = world.machines[number].running() else { return Vec::new() };
    let entries = running.disk.memory().entries(Space::Hints);
    let targets = entries.iter().filter_map(|(key, _)| {
        let (target, _, path) = parse_hint_key(key).expect("nodes write keys of the schema");
        match target {
            Some(target) if is_there(world, &target) => Some(format!("{target}: {path:?}")),
            Some(_) => None,
            None => Some(format!("any: {path:?}")),
        }
    });
    targets.collect()
}

/// The deleted keys of a machine.
fn deleted(world: &World, number: usize) -> Vec<bytes::Bytes> {
    let Some(running) = world.machines[number].running() else { return Vec::new() };
    running.disk.memory().entries(Space::Deletes).into_iter().map(|(key, _)| key).collect()
}

/// Waits until nothing deleted is left; with a node that is gone for good that never happens.
async fn purged(world: &World) {
    if world.machines.iter().any(|machine| machine.retired().is_some()) {
        return;
    }
    while serving(world).any(|(number, _)| !deleted(world, number).is_empty()) {
        sleep(Duration::from_secs(1)).await;
    }
}

/// P9: the trees are what the records make.
async fn trees_are_right(world: &World, violations: &mut Vec<Violation>) {
    for (number, node) in serving(world) {
        if let Some(wrong) = node.wrong_trees().await.first() {
            let text = format!("node-{}: {wrong}", number + 1);
            return violations.push(Violation::new("P9 tree = data", text));
        }
    }
}

/// Whether a node can serve.
fn is_there(world: &World, id: &NodeId) -> bool {
    world.is_in_service(node_number(id))
}

/// Where some replica is incomplete and can't be mended: one that it lacks is gone for good.
fn is_beyond_mending(world: &World, vnode: VnodeId) -> bool {
    serving(world).any(|(_, node)| {
        node.incomplete_vnodes().iter().any(|(incomplete, _)| *incomplete == vnode)
    })
}

fn serving(world: &World) -> impl Iterator<Item = (usize, Arc<Node>)> {
    world.in_service().filter_map(|machine| {
        let node = machine.running().and_then(|running| running.serving())?;
        Some((machine.number, node))
    })
}

/// Reads every key through every node at the level of all its replicas that are there.
async fn sweep(world: &Arc<World>) -> Result<(), String> {
    let nodes: Vec<(usize, Arc<Node>)> = serving(world).collect();
    for key in 0..world.scenario.keys.len() {
        let path = world.path(key);
        for (number, node) in &nodes {
            let Some((vnode, replicas)) = node.place_of(&path) else { continue };
            if is_beyond_mending(world, vnode) {
                continue;
            }
            let there = replicas.iter().filter(|id| is_there(world, id)).count();
            let Some(level) = std::num::NonZeroU8::new(there as u8) else { continue };
            let terms = Terms {
                level: Some(Level::Count(level)),
                sloppy: None,
                deadline: Instant::now() + Duration::from_secs(5),
                request_id: RequestId::from_random(u128::MAX),
            };
            let get = Get { path: path.clone(), version: None, terms };
            if let Err(error) = node.get(get).await {
                let name = world.key_name(key);
                let node = node_id(*number);
                return Err(format!("a read of {name} through {node} fails: {error}"));
            }
        }
    }
    Ok(())
}

/// Whether the replicas of each key are the same, byte for byte.
fn equal(world: &World, violations: &mut Vec<Violation>) {
    for key in last_state(world) {
        let Some((first, record)) = key.finals.first() else { continue };
        if let Some((other, _)) = key.finals.iter().find(|(_, other)| other != record) {
            let (first, other) = (node_id(*first), node_id(*other));
            let text = format!("{first} and {other} differ\n{}", key.story(|_, _| false));
            return violations.push(Violation::new(CONVERGES, text));
        }
    }
}

/// Whether what may grow has stayed small.
fn bounded(world: &World, violations: &mut Vec<Violation>) {
    // Loops that run for ever: membership and its like.
    const IDLE_TASKS: usize = 8;
    for (number, node) in serving(world) {
        let tasks = node.tasks_under_way();
        if tasks > IDLE_TASKS {
            let text = format!("{} has {tasks} tasks under way when idle", node_id(number));
            violations.push(Violation::new(BOUNDED, text));
        }
    }
    // Each write adds an entry at most where its actor is new; actors change with starts.
    let most = 40 * world.machines.len();
    for key in last_state(world) {
        let entries = key.finals.iter().map(|(_, record)| record.context().entries()).max();
        if entries.is_some_and(|entries| entries > most) {
            let text = format!("the context of {} has {entries:?} entries", key.name());
            violations.push(Violation::new(BOUNDED, text));
        }
    }
}

/// What the replicas of each key hold.
fn last_state(world: &World) -> Vec<KeyEvidence> {
    let mut versions = world.observer.versions();
    let mut purged = world.observer.purged();
    let nodes: Vec<(usize, Arc<Node>)> = serving(world).collect();
    let key = |key: usize| {
        let path = world.path(key);
        let place = nodes.first().and_then(|(_, node)| node.place_of(&path));
        let finals = nodes.iter().filter_map(|(number, _)| {
            let (vnode, replicas) = place.as_ref()?;
            let counts = replicas.contains(&node_id(*number)) && !is_beyond_mending(world, *vnode);
            counts.then_some(())?;
            let running = world.machines[*number].running()?;
            let stored =
                running.disk.memory().get_cached(Space::Records, &record_key(*vnode, &path));
            let record = match stored {
                Ok(Cached::Hit(Some(bytes))) => Record::from_stored_bytes(bytes).ok()?,
                _ => Record::absent(),
            };
            Some((*number, record))
        });
        KeyEvidence {
            plan: world.scenario.keys[key].clone(),
            attempts: Vec::new(),
            mints: Vec::new(),
            finals: finals.collect(),
            versions: versions.remove(&path).unwrap_or_default(),
            purged: purged.remove(&path).unwrap_or_default(),
        }
    };
    (0..world.scenario.keys.len()).map(key).collect()
}
