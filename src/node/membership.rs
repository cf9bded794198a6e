//! Who is probably up: SWIM (Das, Gupta, Motivala, DSN 2002) over the control lane.
//!
//! The protocol is `foca`'s, which does no I/O: one task here hands it messages and timers, and
//! carries out what it asks for. The task also announces this node, every second, to every peer
//! that SWIM does not know as active: so nodes find one another after a start, a long silence or a
//! healed partition without any seed list. Failure detection only says who is probably up; it
//! never changes the layout.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::num::{NonZeroU8, NonZeroUsize};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use foca::{
    Config, Foca, Identity, NoCustomBroadcast, Notification, PostcardCodec, Runtime, State, Timer,
};
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Node;
use super::layout::{Layout, Peer};
use super::view::NodeState;
use crate::peer::messages::{Gossip, encode};
use crate::peer::{Condition, Lane, PeerAddress, Transport};
use crate::telemetry::Metrics;
use crate::types::{BootNumber, DataIncarnation, NodeId};

/// How often peers that are not known as active hear of this node.
const ANNOUNCE_EVERY: Duration = Duration::from_secs(1);

/// How long after a start a peer of which nothing was heard still counts as up.
const UNHEARD_GRACE: Duration = Duration::from_secs(4);

/// Messages that wait for the task; more are dropped, which SWIM expects of a network.
const INBOX: usize = 1_024;

/// The largest message, in bytes: they travel over streams, not in datagrams.
const MAX_PACKET_BYTES: usize = 16 * 1024;

/// What a node is called in SWIM. A later start, or a later return from being declared down, wins
/// over an earlier one of the same node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Swimmer {
    node: NodeId,
    disk: DataIncarnation,
    address: PeerAddress,
    http: String,
    software: String,
    boot: BootNumber,
    returns: u32,
}

impl Identity for Swimmer {
    /// A node whose disk was lost is another one: its starts are counted anew.
    type Addr = (NodeId, DataIncarnation);

    fn renew(&self) -> Option<Self> {
        Some(Self { returns: self.returns + 1, ..self.clone() })
    }

    fn addr(&self) -> Self::Addr {
        (self.node.clone(), self.disk)
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        (self.boot, self.returns) > (adversary.boot, adversary.returns)
    }
}

/// What nodes tell of themselves through SWIM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) http: String,
    pub(super) software: String,
}

/// The node's side of the membership task.
#[derive(Debug)]
pub(super) struct Membership {
    inbox: mpsc::Sender<Gossip>,
    outlet: Mutex<Option<mpsc::Receiver<Gossip>>>,
    told: Mutex<BTreeMap<NodeId, Told>>,
}

impl Membership {
    pub(super) fn new() -> Self {
        let (inbox, outlet) = mpsc::channel(INBOX);
        Self { inbox, outlet: Mutex::new(Some(outlet)), told: Mutex::default() }
    }

    /// Takes a SWIM message from a peer.
    pub(super) fn receive(&self, message: Gossip) {
        // A full inbox drops it.
        drop(self.inbox.try_send(message));
    }

    /// What a node told of itself, once it was heard of.
    pub(super) fn told(&self, node: &NodeId) -> Option<Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).get(node).cloned()
    }
}

/// What foca asks for in one step.
#[derive(Default)]
struct Asked {
    sends: Vec<(PeerAddress, Bytes)>,
    timers: Vec<(Timer<Swimmer>, Duration)>,
}

impl Runtime<Swimmer> for &mut Asked {
    fn notify(&mut self, notification: Notification<'_, Swimmer>) {
        tracing::debug!(?notification, "membership");
    }

    fn send_to(&mut self, to: Swimmer, data: &[u8]) {
        self.sends.push((to.address, Bytes::copy_from_slice(data)));
    }

    fn submit_after(&mut self, event: Timer<Swimmer>, after: Duration) {
        self.timers.push((event, after));
    }
}

/// The membership task.
struct Swim {
    node: Arc<Node>,
    transport: Arc<dyn Transport>,
    metrics: Arc<Metrics>,
    foca: Foca<Swimmer, PostcardCodec, StdRng, NoCustomBroadcast>,
    /// When which timer is due; the number keeps those of one moment in order.
    due: BinaryHeap<Reverse<(Instant, u64)>>,
    timers: BTreeMap<u64, Timer<Swimmer>>,
    next_timer: u64,
    begun: Instant,
    /// Since when nodes that nothing was heard of are in the layout.
    unheard: Mutex<BTreeMap<NodeId, Instant>>,
    /// How many nodes the protocol is set up for.
    nodes: usize,
}

impl Node {
    /// Begins to watch the peers.
    pub(super) fn begin_membership(self: &Arc<Self>) {
        let outlet = self.membership.outlet.lock().unwrap_or_else(PoisonError::into_inner).take();
        let inbox = outlet.expect("membership begins once");
        let layout = self.layout().expect("membership begins in a layout");
        let me = Swimmer {
            node: self.settings.id.clone(),
            disk: self.opened.identity.incarnation,
            address: self.settings.advertise_peer.clone(),
            http: self.settings.advertise_http.to_string(),
            software: env!("CARGO_PKG_VERSION").into(),
            boot: self.opened.boot.this.number,
            returns: 0,
        };
        let config = self.swim_config(layout.peers.len());
        let swim = Swim {
            node: Arc::clone(self),
            transport: Arc::clone(&self.transport),
            metrics: Arc::clone(&self.metrics),
            foca: Foca::new(me, config, self.random.fork(), PostcardCodec),
            due: BinaryHeap::new(),
            timers: BTreeMap::new(),
            next_timer: 0,
            begun: Instant::now(),
            unheard: Mutex::default(),
            nodes: layout.peers.len(),
        };
        self.tasks.spawn(swim.run(inbox));
    }

    fn swim_config(&self, nodes: usize) -> Config {
        let membership = &self.settings.membership;
        let spread = (nodes.ilog2() as u8 + 1) * 4;
        let mut config = Config::simple();
        config.probe_period = membership.probe_period;
        config.probe_rtt = membership.probe_timeout;
        config.suspect_to_down_after = membership.suspicion;
        config.num_indirect_probes = NonZeroUsize::new(3).expect("3 is not 0");
        config.max_transmissions = NonZeroU8::new(spread).unwrap_or(NonZeroU8::MAX);
        config.max_packet_size = NonZeroUsize::new(MAX_PACKET_BYTES).expect("not 0");
        config.notify_down_members = true;
        config.periodic_gossip = Some(foca::PeriodicParams {
            frequency: Duration::from_millis(200),
            num_members: NonZeroUsize::new(3).expect("3 is not 0"),
        });
        config
    }
}

impl Swim {
    /// Runs until the node stops or refuses to serve, and then tells the others that it goes.
    async fn run(mut self, mut inbox: mpsc::Receiver<Gossip>) {
        let phase = self.node.phase();
        let mut announce = tokio::time::interval(ANNOUNCE_EVERY);
        announce.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let next = self.due.peek().map(|Reverse((at, _))| *at);
            let idle = self.begun + Duration::from_secs(60 * 60 * 24 * 365);
            tokio::select! {
                biased;
                _ = phase.wait_for(|phase| phase.is_over()) => return self.leave(),
                () = tokio::time::sleep_until(next.unwrap_or(idle)), if next.is_some() => {
                    self.fire();
                }
                message = inbox.recv() => match message {
                    Some(gossip) => self.take(&gossip),
                    None => return self.leave(),
                },
                _ = announce.tick() => {
                    self.fit_to_size();
                    self.announce();
                }
            }
            self.publish();
        }
    }

    fn layout(&self) -> Arc<Layout> {
        self.node.layout().expect("membership begins in a layout")
    }

    /// News spreads further in a larger cluster.
    fn fit_to_size(&mut self) {
        let nodes = self.layout().peers.len();
        if nodes != self.nodes {
            self.nodes = nodes;
            let config = self.node.swim_config(nodes);
            if let Err(error) = self.foca.set_config(config) {
                tracing::debug!(%error, "membership");
            }
        }
    }

    fn take(&mut self, gossip: &Gossip) {
        if gossip.stamp.cluster == self.layout().state.cluster {
            self.step(|foca, asked| foca.handle_data(&gossip.data, asked));
        } else {
            tracing::debug!("a membership message of another cluster was dropped");
        }
    }

    /// Hands foca every timer that is due.
    fn fire(&mut self) {
        let now = Instant::now();
        while self.due.peek().is_some_and(|Reverse((at, _))| *at <= now) {
            let Some(Reverse((_, number))) = self.due.pop() else { return };
            if let Some(timer) = self.timers.remove(&number) {
                self.step(|foca, asked| foca.handle_timer(timer, asked));
            }
        }
    }

    fn announce(&mut self) {
        let active: Vec<(NodeId, DataIncarnation)> =
            self.foca.iter_members().map(|member| member.id().addr()).collect();
        let unknown = |peer: &&Arc<Peer>| !active.contains(&(peer.id.clone(), peer.incarnation));
        let layout = self.layout();
        let targets: Vec<Arc<Peer>> = layout.others().filter(unknown).cloned().collect();
        for peer in targets {
            let stranger = Swimmer {
                node: peer.id.clone(),
                disk: peer.incarnation,
                address: peer.address.clone(),
                http: String::new(),
                software: String::new(),
                boot: BootNumber::default(),
                returns: 0,
            };
            self.step(|foca, asked| foca.announce(stranger, asked));
        }
    }

    fn leave(mut self) {
        self.step(|foca, asked| foca.leave_cluster(asked));
    }

    fn step(
        &mut self,
        work: impl FnOnce(
            &mut Foca<Swimmer, PostcardCodec, StdRng, NoCustomBroadcast>,
            &mut Asked,
        ) -> Result<(), foca::Error>,
    ) {
        let mut asked = Asked::default();
        if let Err(error) = work(&mut self.foca, &mut asked) {
            tracing::debug!(%error, "membership");
        }
        let stamp = self.layout().stamp;
        let mine = self.node.settings.advertise_peer.to_string();
        for (address, data) in asked.sends {
            let gossip = Gossip { stamp, address: mine.clone(), data };
            self.transport.send(&address, Lane::Control, encode(&gossip));
        }
        let now = Instant::now();
        for (timer, after) in asked.timers {
            self.due.push(Reverse((now + after, self.next_timer)));
            self.timers.insert(self.next_timer, timer);
            self.next_timer += 1;
        }
    }

    /// A peer that was down is heard from again, over its own connection, while connecting to it
    /// is still paused: it counts as up once requests can be sent to it.
    fn is_out_of_reach(&self, peer: &Peer) -> bool {
        let was_down = peer.state() == NodeState::Down;
        let is_paused = was_down && self.transport.condition(&peer.address) == Condition::Failing;
        if is_paused {
            self.transport.heard_from(&peer.address);
        }
        is_paused
    }

    /// Since when a node is in the layout without having been heard of.
    fn unheard_since(&self, node: &NodeId) -> Instant {
        let mut unheard = self.unheard.lock().unwrap_or_else(PoisonError::into_inner);
        *unheard.entry(node.clone()).or_insert_with(Instant::now)
    }

    /// Tells the node what is thought of its peers now.
    fn publish(&self) {
        let members: BTreeMap<(NodeId, DataIncarnation), (State, &Swimmer)> = self
            .foca
            .iter_membership_state()
            .map(|member| (member.id().addr(), (member.state(), member.id())))
            .collect();
        let mut told = self.node.membership.told.lock().unwrap_or_else(PoisonError::into_inner);
        for peer in self.layout().others() {
            let member = members.get(&(peer.id.clone(), peer.incarnation));
            let state = match member {
                Some((State::Alive, _)) => NodeState::Up,
                Some((State::Suspect, _)) => NodeState::Suspect,
                Some((State::Down, _)) => NodeState::Down,
                None if self.unheard_since(&peer.id).elapsed() < UNHEARD_GRACE => NodeState::Up,
                None => NodeState::Down,
            };
            if let Some((_, swimmer)) = member {
                let tells = Told { http: swimmer.http.clone(), software: swimmer.software.clone() };
                if told.get(&peer.id) != Some(&tells) {
                    told.insert(peer.id.clone(), tells);
                }
            }
            if state == NodeState::Up && self.is_out_of_reach(peer) {
                continue;
            }
            if peer.set_state(state) {
                tracing::info!(peer = %peer.id, state = state.name(), "a peer changed");
                if state == NodeState::Up {
                    self.node.hints.wake();
                    self.node.repair.request(Some(&peer.id));
                }
            }
            self.metrics.member_state(&peer.id, state.name());
        }
    }
}
