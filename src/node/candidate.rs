//! A node that is in no layout yet: it shows itself to the nodes that it was told of, waits until it
//! is applied, or applies for itself (correctness, section 7, rule 8 and "Transitions").
//!
//! A node whose data directory is empty while the cluster lists it with another one is a candidate
//! too: it asks to be replaced by itself.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::calls::Outgoing;
use super::directory::Directory;
use super::start::StartError;
use super::{Node, Phase};
use crate::peer::PeerAddress;
use crate::peer::messages::{Answer, Candidate, Refusal, Reply, Request};
use crate::protocol::cluster::{Change, ClusterState, Joiner};
use crate::storage::{KeyRange, ScanLimit, Space};

/// How often a candidate shows itself.
const SHOW_EVERY: Duration = Duration::from_secs(1);

/// How long a node has to answer it.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a node has to begin what a candidate applies for.
const APPLY_TIMEOUT: Duration = Duration::from_secs(20);

impl Node {
    /// Waits until a state lists this node; persists it.
    pub(super) async fn wait_to_be_applied(
        self: &Arc<Self>,
        applies: bool,
    ) -> Result<ClusterState, StartError> {
        let mut addresses: BTreeSet<PeerAddress> = self.known_addresses();
        let mut why = "waiting to be applied: see `starling cluster plan` and `apply`".to_string();
        loop {
            if self.phase.borrow().is_over() {
                // The process ends: it must not look as if it had been applied.
                std::future::pending::<()>().await;
            }
            self.say(&why);
            let known = self.show_to(&addresses).await;
            let told = self.epochs.take_offered();
            let newest = known.into_iter().chain(told).max_by_key(|s| (s.recovery, s.epoch));
            if let Some(state) = newest {
                let identity = &self.opened.identity;
                if state.lists(&identity.node, identity.incarnation) {
                    Directory::new(&*self.store).adopt(&state).await?;
                    tracing::info!(epoch = %state.epoch, "applied: this node is in the cluster");
                    return Ok(state);
                }
                let nodes = state.all_nodes().filter_map(|node| PeerAddress::new(&node.peer).ok());
                addresses.extend(nodes.filter(|peer| *peer != self.settings.advertise_peer));
                if applies && state.transition.is_none() {
                    why = match self.apply_for_itself(&state, &addresses).await {
                        Ok(()) => "applied; waiting for the cluster state".into(),
                        Err(error) => format!("it could not be applied yet: {error}"),
                    };
                } else if applies {
                    why = "waiting for the running transition to end".into();
                }
            } else {
                let names: Vec<String> = addresses.iter().map(ToString::to_string).collect();
                why = format!("none of {} answers", names.join(", "));
            }
            // What is told is taken up at once: writes wait for this node.
            drop(tokio::time::timeout(SHOW_EVERY, self.epochs.is_offered.notified()).await);
        }
    }

    fn known_addresses(&self) -> BTreeSet<PeerAddress> {
        let initial = self.settings.initial_nodes.iter().map(|node| node.peer.clone());
        let named = initial.chain(self.settings.join.iter().cloned());
        named.filter(|peer| *peer != self.settings.advertise_peer).collect()
    }

    /// Why this node does not serve yet.
    pub(super) fn say(&self, why: &str) {
        self.phase.change(|phase| {
            let next = Phase::Starting(why.into());
            let is_news = matches!(phase, Phase::Starting(_)) && *phase != next;
            if is_news {
                tracing::info!(why, "not serving yet");
                *phase = next;
            }
            is_news
        });
    }

    /// Shows this node to others; the states that they answer with.
    async fn show_to(self: &Arc<Self>, addresses: &BTreeSet<PeerAddress>) -> Vec<ClusterState> {
        let candidate = self.candidate().await;
        let shown = addresses.iter().map(|address| {
            let join = Request::Join(Box::new(candidate.clone()));
            let outgoing = Outgoing::control(join, Instant::now() + ASK_TIMEOUT);
            async move { self.call_address(address, outgoing).await }
        });
        let answers = futures_util::future::join_all(shown).await;
        let states = answers.into_iter().filter_map(|answer| match answer {
            Ok(Answer::State(state)) => Some(*state),
            _ => None,
        });
        states.collect()
    }

    /// Asks one node after the other to begin the change that takes this one in.
    async fn apply_for_itself(
        self: &Arc<Self>,
        state: &ClusterState,
        addresses: &BTreeSet<PeerAddress>,
    ) -> Result<(), String> {
        let me = self.joiner();
        let change = match state.node(&me.id) {
            Some(_) => Change { replace: [(me.id.clone(), me)].into(), ..Change::default() },
            None => Change { join: vec![me], ..Change::default() },
        };
        let mut refused = "nobody answers".to_string();
        for address in addresses {
            let apply = Request::Apply(Box::new(change.clone()));
            let outgoing = Outgoing::control(apply, Instant::now() + APPLY_TIMEOUT);
            match self.call_address(address, outgoing).await {
                Ok(Answer::Applied(Ok(()))) => return Ok(()),
                Ok(Answer::Applied(Err(why))) => refused = why,
                Ok(_) => {}
                Err(failure) => refused = failure.to_string(),
            }
        }
        Err(refused)
    }

    fn joiner(&self) -> Joiner {
        let identity = &self.opened.identity;
        Joiner {
            id: identity.node.clone(),
            incarnation: identity.incarnation,
            peer: self.settings.advertise_peer.to_string(),
            zone: self.settings.zone.clone(),
            weight: self.settings.weight,
        }
    }

    async fn candidate(&self) -> Candidate {
        let one = ScanLimit { entries: 1, bytes: 1 };
        let page = self.store.scan(Space::Records, KeyRange::all(), one).await;
        let hello = self.hello();
        Candidate {
            joiner: self.joiner(),
            http: hello.http,
            software: hello.software,
            is_empty: page.is_ok_and(|page| page.entries.is_empty()),
        }
    }

    /// Says who this node is, if it wants to be taken in.
    pub(super) async fn answer_describe(&self) -> Reply {
        if self.layout().is_some() || self.phase.borrow().is_over() {
            return Err(Refusal::NotServing);
        }
        Ok(Answer::Candidate(Box::new(self.candidate().await)))
    }

    /// Tells the cluster state to whoever asks.
    pub(super) fn answer_state(&self) -> Reply {
        let layout = self.layout().ok_or(Refusal::NotServing)?;
        Ok(Answer::State(Box::new(layout.state.clone())))
    }
}
