//! The simulated world: machines, network, keys, and what is observed of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::sleep;

use super::history::History;
use super::machine::{Common, KeptWitness, Machine, MachineWitness};
use super::observer::Observer;
use super::scenario::{KeyKind, Scenario};
use super::trace::Trace;
use crate::config::{InitialNode, Overrides, Settings};
use crate::node::{PlantedBug, StartError};
use crate::peer::PeerAddress;
use crate::peer::loopback::{Happening, LoopbackNetwork};
use crate::protocol::causality::Resolve;
use crate::types::{Bucket, Key, KeyPath, NodeId, PartitionCount, ReplicationFactor, Weight, Zone};

/// Which faults and steps of a scenario are played; by default all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// The numbers of the faults.
    pub faults: Option<Vec<usize>>,
    /// Client and step.
    pub steps: Option<Vec<(usize, usize)>>,
    /// The numbers of the operators' actions.
    pub actions: Option<Vec<usize>>,
}

impl Selection {
    /// Whether this fault is made.
    pub fn has_fault(&self, fault: usize) -> bool {
        self.faults.as_ref().is_none_or(|faults| faults.contains(&fault))
    }

    /// Whether operators do this.
    pub fn has_action(&self, action: usize) -> bool {
        self.actions.as_ref().is_none_or(|actions| actions.contains(&action))
    }

    /// Whether this step is taken.
    pub fn has_step(&self, client: usize, step: usize) -> bool {
        self.steps.as_ref().is_none_or(|steps| steps.binary_search(&(client, step)).is_ok())
    }
}

/// See the module's head.
pub struct World {
    /// What is played.
    pub scenario: Scenario,
    /// Which parts of it.
    pub only: Selection,
    /// By number.
    pub machines: Vec<Arc<Machine>>,
    /// What they have in common.
    pub common: Common,
    /// What clients asked and were told.
    pub history: History,
    /// What was seen on disks.
    pub observer: Arc<Observer>,
    paths: Vec<KeyPath>,
    template: Settings,
    /// Clients do not think any more.
    hurries: AtomicBool,
}

impl World {
    /// A world in which nothing runs yet.
    pub fn new(
        scenario: Scenario,
        only: Selection,
        bug: Option<PlantedBug>,
        trace: Trace,
    ) -> Arc<Self> {
        let history = History::default();
        let observer = Arc::new(Observer::default());
        let network = LoopbackNetwork::new(scenario.seed ^ 0x4e74);
        network.set_climate(scenario.weather.link());
        watch_network(&network, &trace);
        let common = Common {
            network,
            history: history.clone(),
            trace: trace.clone(),
            on_batch: watch_disks(&observer, &trace),
            on_untaken: watch_hints(&observer, scenario.is_lazy),
            bug,
            durability: scenario.durability,
            seed: scenario.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15),
        };
        let machine = |(number, clock): (usize, &(i64, i64))| {
            Arc::new(Machine::new(number, address(number), *clock))
        };
        Arc::new(Self {
            machines: scenario.clocks.iter().enumerate().map(machine).collect(),
            paths: scenario.keys.iter().map(|key| path(key.bucket, &key.name)).collect(),
            template: settings(&scenario),
            common,
            history,
            observer,
            only,
            scenario,
            hurries: AtomicBool::new(false),
        })
    }

    /// Where a key is.
    pub fn path(&self, key: usize) -> KeyPath {
        self.paths[key].clone()
    }

    /// How a key is used.
    pub fn kind(&self, key: usize) -> &KeyKind {
        &self.scenario.keys[key].kind
    }

    /// A key's bucket and name.
    pub fn key_name(&self, key: usize) -> String {
        let plan = &self.scenario.keys[key];
        format!("{}/{}", plan.bucket, plan.name)
    }

    /// A line of a client's.
    pub fn note(&self, client: usize, attempt: usize, what: &str) {
        self.common.trace.note(&format!("client{client}"), &format!("#{attempt} {what}"));
    }

    /// A client thinks; once all are in a hurry, it does not.
    pub async fn pause(&self, pause: Duration) {
        let pause = match self.hurries.load(Ordering::Relaxed) {
            true => pause / 50,
            false => pause,
        };
        sleep(pause).await;
    }

    /// From now on clients do not think.
    pub fn hurry(&self) {
        self.hurries.store(true, Ordering::Relaxed);
    }

    /// Switches a machine on and sees to it that it stays so: a start that fails because of a
    /// failing disk is tried again, as a supervisor would.
    pub async fn power_on(&self, number: usize) {
        let machine = &self.machines[number];
        for _ in 0..30 {
            self.common.trace.note(&machine.name, "starts");
            let started = machine.start(self.settings(number), &self.common).await;
            let Err(error) = started else { return };
            self.common.trace.note(&machine.name, &format!("could not start: {error}"));
            match error {
                StartError::Write(_) | StartError::Directory(_) | StartError::Roles(_) => {
                    sleep(Duration::from_secs(1)).await;
                }
                // As operators do where a directory is lost or is not the one it was.
                StartError::RolledBack { .. } => {
                    machine.rebuild_at_next_start();
                    sleep(Duration::from_secs(1)).await;
                }
                error => return machine.retire(&error.to_string()),
            }
        }
    }

    /// Those that can serve, whether they do or not: the cluster's nodes.
    pub fn in_service(&self) -> impl Iterator<Item = &Arc<Machine>> {
        let state = self.observer.latest_state();
        let is_listed = move |number: usize| match &state {
            Some(state) => {
                let id = node_id(number);
                state.nodes.iter().chain(state.joining()).any(|node| node.id == id)
            }
            None => number < self.scenario.nodes,
        };
        self.machines
            .iter()
            .filter(move |machine| machine.retired().is_none() && is_listed(machine.number))
    }

    /// Whether a machine is one of the cluster's nodes.
    pub fn is_in_service(&self, number: usize) -> bool {
        self.in_service().any(|machine| machine.number == number)
    }

    fn settings(&self, number: usize) -> Settings {
        let mut settings = self.template.clone();
        settings.id = node_id(number);
        settings.advertise_peer = address(number);
        if number >= self.scenario.nodes {
            settings.join = settings.initial_nodes.drain(..).map(|node| node.peer).collect();
        }
        settings
    }
}

/// The name of a node.
pub fn node_id(number: usize) -> NodeId {
    NodeId::new(&format!("node-{}", number + 1)).expect("a valid name")
}

/// The number of a node.
pub fn node_number(id: &NodeId) -> usize {
    let number = id.as_str().strip_prefix("node-").and_then(|text| text.parse::<usize>().ok());
    number.expect("only our own nodes are there") - 1
}

/// The address of a node.
pub fn address(number: usize) -> PeerAddress {
    PeerAddress::new(&format!("127.0.0.1:{}", 9001 + number)).expect("a valid address")
}

fn path(bucket: &str, key: &str) -> KeyPath {
    let bucket = Bucket::new(bucket).expect("a valid bucket");
    KeyPath { bucket, key: Key::new(key.as_bytes().to_vec()).expect("a valid key") }
}

fn settings(scenario: &Scenario) -> Settings {
    let loaded = Settings::load(None, std::iter::empty(), Overrides::default());
    let mut settings = loaded.expect("the defaults are right").settings;
    settings.partitions = PartitionCount::new(scenario.partitions).expect("a power of two");
    settings.replication_factor =
        ReplicationFactor::new(scenario.replication_factor).expect("from 1 to 16");
    settings.durability = scenario.durability;
    // All that goes on in the background comes about within a run.
    settings.gc_grace = scenario.gc_grace;
    settings.repair.interval = Duration::from_secs(5);
    settings.repair.scrub_interval = Duration::from_secs(60);
    settings.hints.max_age = Duration::from_secs(10);
    if scenario.is_lazy {
        settings.repair.interval = Duration::from_secs(50);
        settings.hints.max_bytes = 0;
    }
    settings.initial_nodes = (0..scenario.nodes)
        .map(|number| InitialNode {
            id: node_id(number),
            peer: address(number),
            zone: Zone::default(),
            weight: Weight::default(),
        })
        .collect();
    let lww = crate::config::BucketSettings { resolve: Resolve::Lww, ..settings.default_bucket };
    settings.buckets.insert(Bucket::new("lww").expect("a valid bucket"), lww);
    settings
}

fn watch_network(network: &LoopbackNetwork, trace: &Trace) {
    let trace = trace.clone();
    network.set_witness(Arc::new(move |from, to, happening, bytes| {
        let who = match happening {
            Happening::Sent => "sent",
            Happening::Lost => "lost",
            Happening::Refused => "refused",
            Happening::Arrived => "arrived",
            Happening::Answered => "answered",
            Happening::Swallowed => "swallow",
            Happening::Broken => "broken",
        };
        trace.fine(who, bytes, || super::describe::message(from, to, bytes));
    }));
}

fn watch_hints(observer: &Arc<Observer>, keeps_none: bool) -> KeptWitness {
    let observer = Arc::clone(observer);
    Arc::new(move |node, target, path, dot| {
        if !keeps_none {
            observer.untaken(node, target, path, dot);
        }
    })
}

fn watch_disks(observer: &Arc<Observer>, trace: &Trace) -> MachineWitness {
    let (observer, trace) = (Arc::clone(observer), trace.clone());
    Arc::new(move |node, batch| {
        observer.saw(node, batch);
        trace.fine("disk", &[node as u8], || super::describe::batch(node, batch));
    })
}
