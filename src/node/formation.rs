//! Forming epoch 1 with the other founding nodes: the exchange around
//! [`protocol::cluster::formation`](crate::protocol::cluster::formation).

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::calls::Outgoing;
use super::directory::Directory;
use super::start::StartError;
use super::{Node, Phase};
use crate::config::InitialNode;
use crate::peer::PeerAddress;
use crate::peer::messages::{Answer, Refusal, Reply, Request};
use crate::protocol::cluster::ClusterState;
use crate::protocol::cluster::formation::{
    Formation, FormationError, Founder, FoundingTerms, Next, Offer,
};
use crate::types::NodeId;

/// How often the other founding nodes are asked.
const ASK_EVERY: Duration = Duration::from_millis(200);

/// How long one of them has to answer.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

impl Node {
    /// Agrees on epoch 1 with the other founding nodes, and persists it. Waits for ever for those
    /// that do not answer: nobody serves before all have confirmed.
    pub(super) async fn form(self: &Arc<Self>) -> Result<ClusterState, StartError> {
        let founders = self.founders();
        let terms = FoundingTerms::new(
            founders,
            self.settings.partitions,
            self.settings.replication_factor,
        );
        let identity = &self.opened.identity;
        let formation = Formation::new(
            identity.node.clone(),
            identity.incarnation,
            terms,
            self.opened.promised,
        );
        *self.formation.lock().unwrap_or_else(PoisonError::into_inner) = Some(formation);
        let directory = Directory::new(&*self.store);
        let mut asked = Vec::new();
        loop {
            match self.with_formation(|formation| formation.next()) {
                Next::Promise(cluster) => {
                    directory.promise(cluster).await?;
                    self.with_formation(|formation| formation.promised(cluster));
                }
                Next::Formed(state) => {
                    directory.adopt(&state).await?;
                    tracing::info!(cluster = %state.cluster, nodes = state.nodes.len(), "formed");
                    return Ok(*state);
                }
                Next::Ask(nodes) => {
                    if nodes == asked {
                        tokio::time::sleep(ASK_EVERY).await;
                    }
                    self.wait_for(&nodes);
                    self.ask_founders(&nodes).await?;
                    asked = nodes;
                }
            }
        }
    }

    /// Answers another founding node with one's own offer; one that has formed answers with the
    /// same promise for ever.
    pub(super) async fn answer_offer(&self, offer: &Offer) -> Reply {
        let Some(layout) = self.layout() else {
            let mut formation = self.formation.lock().unwrap_or_else(PoisonError::into_inner);
            let formation = formation.as_mut().ok_or(Refusal::NotServing)?;
            if let Err(error) = formation.take(offer) {
                tracing::error!(from = %offer.from, %error, "a founding node does not fit");
            }
            return Ok(Answer::Offer(Box::new(formation.offer())));
        };
        let founder = |node: &crate::protocol::cluster::ClusterNode| Founder {
            id: node.id.clone(),
            peer: node.peer.clone(),
            zone: node.zone.clone(),
            weight: node.weight,
        };
        let state = &layout.state;
        let founders = state.nodes.iter().map(founder).collect();
        let terms = FoundingTerms::new(founders, state.partitions, state.replication_factor);
        Ok(Answer::Offer(Box::new(Offer {
            from: self.opened.identity.node.clone(),
            incarnation: self.opened.identity.incarnation,
            terms,
            promised: Some(state.cluster),
            is_formed: true,
        })))
    }

    /// The list of the settings; without one, this node alone.
    fn founders(&self) -> Vec<Founder> {
        let settings = &self.settings;
        let founder = |node: &InitialNode| Founder {
            id: node.id.clone(),
            peer: node.peer.to_string(),
            zone: node.zone.clone(),
            weight: node.weight,
        };
        if settings.initial_nodes.is_empty() {
            return vec![Founder {
                id: settings.id.clone(),
                peer: settings.advertise_peer.to_string(),
                zone: settings.zone.clone(),
                weight: settings.weight,
            }];
        }
        settings.initial_nodes.iter().map(founder).collect()
    }

    /// Asks nodes for their offers.
    async fn ask_founders(self: &Arc<Self>, nodes: &[NodeId]) -> Result<(), FormationError> {
        let deadline = Instant::now() + ASK_TIMEOUT;
        let asks: Vec<_> = self
            .settings
            .initial_nodes
            .iter()
            .filter(|node| nodes.contains(&node.id))
            .map(|node| async {
                let offer = self.ask_founder(node.peer.clone(), deadline).await;
                offer.map(|offer| (node.id.clone(), offer))
            })
            .collect();
        for (asked, offer) in futures_util::future::join_all(asks).await.into_iter().flatten() {
            if offer.from != asked {
                return Err(FormationError::Stranger(offer.from));
            }
            self.with_formation(|formation| formation.take(&offer))?;
        }
        Ok(())
    }

    async fn ask_founder(self: &Arc<Self>, peer: PeerAddress, deadline: Instant) -> Option<Offer> {
        let offer = self.with_formation(|formation| formation.offer());
        let request = Request::Found(Box::new(offer));
        match self.call_address(&peer, Outgoing::control(request, deadline)).await {
            Ok(Answer::Offer(offer)) => Some(*offer),
            Ok(_) => None,
            Err(failure) => {
                tracing::debug!(%peer, %failure, "a founding node did not answer");
                None
            }
        }
    }

    fn wait_for(&self, nodes: &[NodeId]) {
        let names: Vec<&str> = nodes.iter().map(NodeId::as_str).collect();
        let text = format!("the cluster is forming; waiting for {}", names.join(", "));
        self.phase.change(|phase| {
            let next = Phase::Starting(text);
            let is_news = *phase != next;
            if is_news {
                tracing::info!(waiting_for = names.join(", "), "forming the cluster");
                *phase = next;
            }
            is_news
        });
    }

    fn with_formation<T>(&self, work: impl FnOnce(&mut Formation) -> T) -> T {
        let mut formation = self.formation.lock().unwrap_or_else(PoisonError::into_inner);
        work(formation.as_mut().expect("set before the first offer is made"))
    }
}
