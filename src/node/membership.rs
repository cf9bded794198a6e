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
use crate::peer::messages::{Gossip, decode, encode};
use crate::peer::{Condition, Lane, PeerAddress, Transport};
use crate::telemetry::Metrics;
use crate::types::{BootNumber, NodeId};

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
    address: PeerAddress,
    http: String,
    software: String,
    boot: BootNumber,
    returns: u32,
}

impl Identity for Swimmer {
    type Addr = NodeId;

    fn renew(&self) -> Option<Self> {
        Some(Self { returns: self.returns + 1, ..self.clone() })
    }

    fn addr(&self) -> NodeId {
        self.node.clone()
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
    inbox: mpsc::Sender<Bytes>,
    outlet: Mutex<Option<mpsc::Receiver<Bytes>>>,
    told: Mutex<BTreeMap<NodeId, Told>>,
}

impl Membership {
    pub(super) fn new() -> Self {
        let (inbox, outlet) = mpsc::channel(INBOX);
        Self { inbox, outlet: Mutex::new(Some(outlet)), told: Mutex::default() }
    }

    /// Takes a SWIM message from a peer.
    pub(super) fn receive(&self, message: Bytes) {
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
    layout: Arc<Layout>,
    transport: Arc<dyn Transport>,
    metrics: Arc<Metrics>,
    foca: Foca<Swimmer, PostcardCodec, StdRng, NoCustomBroadcast>,
    /// When which timer is due; the number keeps those of one moment in order.
    due: BinaryHeap<Reverse<(Instant, u64)>>,
    timers: BTreeMap<u64, Timer<Swimmer>>,
    next_timer: u64,
    begun: Instant,
}

impl Node {
    /// Begins to watch the peers.
    pub(super) fn begin_membership(self: &Arc<Self>) {
        let outlet = self.membership.outlet.lock().unwrap_or_else(PoisonError::into_inner).take();
        let inbox = outlet.expect("membership begins once");
        let layout = self.layout().expect("membership begins in a layout");
        if layout.peers.len() == 1 {
            return;
        }
        let me = Swimmer {
            node: self.settings.id.clone(),
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
            layout,
            due: BinaryHeap::new(),
            timers: BTreeMap::new(),
            next_timer: 0,
            begun: Instant::now(),
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
    async fn run(mut self, mut inbox: mpsc::Receiver<Bytes>) {
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
                    Some(message) => self.take(&message),
                    None => return self.leave(),
                },
                _ = announce.tick() => self.announce(),
            }
            self.publish();
        }
    }

    fn take(&mut self, message: &[u8]) {
        match decode::<Gossip>(message) {
            Ok(gossip) if gossip.cluster == self.layout.state.cluster => {
                self.step(|foca, asked| foca.handle_data(&gossip.data, asked));
            }
            Ok(_) => tracing::debug!("a membership message of another cluster was dropped"),
            Err(error) => tracing::debug!(%error, "a membership message was dropped"),
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
        let active: Vec<NodeId> =
            self.foca.iter_members().map(|member| member.id().node.clone()).collect();
        let unknown = |peer: &&Arc<Peer>| !active.contains(&peer.id);
        let targets: Vec<Arc<Peer>> = self.layout.others().filter(unknown).cloned().collect();
        for peer in targets {
            let stranger = Swimmer {
                node: peer.id.clone(),
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
        for (address, data) in asked.sends {
            let gossip = Gossip { cluster: self.layout.state.cluster, data };
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

    /// Tells the node what is thought of its peers now.
    fn publish(&self) {
        let members: BTreeMap<&NodeId, (State, &Swimmer)> = self
            .foca
            .iter_membership_state()
            .map(|member| (&member.id().node, (member.state(), member.id())))
            .collect();
        let mut told = self.node.membership.told.lock().unwrap_or_else(PoisonError::into_inner);
        for peer in self.layout.others() {
            let state = match members.get(&peer.id) {
                Some((State::Alive, _)) => NodeState::Up,
                Some((State::Suspect, _)) => NodeState::Suspect,
                Some((State::Down, _)) => NodeState::Down,
                None if self.begun.elapsed() < UNHEARD_GRACE => NodeState::Up,
                None => NodeState::Down,
            };
            if let Some((_, swimmer)) = members.get(&peer.id) {
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
