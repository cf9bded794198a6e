//! Deciding the next state with the other voters: the calls, the disk and the waiting around
//! [`protocol::cluster::register`](crate::protocol::cluster::register).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;

use super::Node;
use super::calls::{Outgoing, PeerFailure};
use super::directory::Directory;
use super::layout::{Layout, Peer};
use crate::peer::PeerAddress;
use crate::peer::messages::{Answer, Refusal, Reply, Request};
use crate::protocol::cluster::register::{Acceptor, Ask, Ballot, Proposal, Proposed, Vote};
use crate::protocol::cluster::{ChangeError, ClusterState, StateStamp};
use crate::types::NodeId;

/// How long one question to the voters may take.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// How often a proposal is tried before it is given up.
const ATTEMPTS: u32 = 6;

/// How long an outbid proposer waits at least, and at most, before it bids again.
const BACK_OFF_MS: std::ops::Range<u64> = 50..400;

/// Why no state was decided by this node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ProposeError {
    /// The present state does not allow it.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// Too few voters answer.
    #[error(
        "a majority of the nodes that vote does not answer, so nothing can be decided; see GET \
         /v1/cluster for who is down. It may still be decided"
    )]
    NoMajority,
}

impl Node {
    /// Votes, on disk first.
    pub(super) async fn answer_vote(self: &Arc<Self>, base: &StateStamp, ask: Ask) -> Reply {
        let layout = self.layout().ok_or(Refusal::NotServing)?;
        let identity = &self.opened.identity;
        let is_voter = layout
            .state
            .voters()
            .any(|voter| voter.id == identity.node && voter.incarnation == identity.incarnation);
        if !is_voter {
            return Err(Refusal::NoReplica);
        }
        if !self.is_known_to_a_majority(&layout) {
            return Err(Refusal::NotServing);
        }
        let mut slot = self.epochs.acceptor.lock().await;
        self.refuse_stale(base)?;
        let mut acceptor = match slot.take().filter(|acceptor| acceptor.base == *base) {
            Some(acceptor) => acceptor,
            None => self.kept_acceptor(base).await?,
        };
        let vote = acceptor.vote(ask);
        let kept = Directory::new(&*self.store).keep_register(&acceptor).await;
        // Where that failed, what is on disk counts: it is read again.
        kept.map_err(|_| {
            self.disk.suspect();
            Refusal::StoreFailed
        })?;
        *slot = Some(acceptor);
        Ok(Answer::Vote(Box::new(vote)))
    }

    async fn kept_acceptor(&self, base: &StateStamp) -> Result<Acceptor, Refusal> {
        let kept = Directory::new(&*self.store).register().await;
        let kept = kept.map_err(|_| Refusal::StoreFailed)?;
        Ok(kept.filter(|acceptor| acceptor.base == *base).unwrap_or_else(|| Acceptor::new(*base)))
    }

    /// What this node has accepted for the epoch after the present one.
    pub(super) async fn accepted(&self) -> Option<ClusterState> {
        let layout = self.layout()?;
        let mut slot = self.epochs.acceptor.lock().await;
        if slot.as_ref().is_none_or(|acceptor| acceptor.base != layout.stamp) {
            *slot = Some(self.kept_acceptor(&layout.stamp).await.ok()?);
        }
        slot.as_ref().and_then(Acceptor::accepted).cloned()
    }

    /// Has the voters decide the state that `derive` makes of the present one. If another one is
    /// decided first, this node goes on to that, and derives anew.
    pub(super) async fn propose(
        self: &Arc<Self>,
        derive: impl Fn(&ClusterState) -> Result<ClusterState, ChangeError>,
    ) -> Result<ClusterState, ProposeError> {
        let mut round = 1;
        for _ in 0..ATTEMPTS {
            let layout = self.layout().expect("only a node in a layout proposes");
            let value = derive(&layout.state)?;
            match self.propose_once(&layout, round, value.clone()).await {
                Ok(decided) => {
                    let is_mine = *decided == value;
                    if let Err(error) = self.adopt((*decided).clone()).await {
                        tracing::error!(%error, "a decided state could not be adopted");
                    }
                    self.tell_everybody(&layout, &decided);
                    if is_mine {
                        return Ok(value);
                    }
                    round = 1;
                }
                Err(_) if self.is_past(&layout.stamp) => round = 1,
                Err(highest) => round = highest + 1,
            }
            let spread = BACK_OFF_MS.end - BACK_OFF_MS.start;
            let wait = BACK_OFF_MS.start + self.random.u64() % spread;
            tokio::time::sleep(Duration::from_millis(wait)).await;
        }
        Err(ProposeError::NoMajority)
    }

    /// One attempt; the highest round that was seen, if it failed.
    async fn propose_once(
        self: &Arc<Self>,
        layout: &Arc<Layout>,
        round: u64,
        value: ClusterState,
    ) -> Result<Box<ClusterState>, u64> {
        let voters: BTreeSet<NodeId> = layout.state.voters().map(|node| node.id.clone()).collect();
        let (proposer, attempt) = (self.settings.id.clone(), self.random.u64());
        let ballot = Ballot { round, proposer, attempt };
        let mut proposal = Proposal::new(ballot, voters.clone(), value);
        let mut ask = proposal.prepare();
        loop {
            let mut answers: FuturesUnordered<_> = voters
                .iter()
                .map(|voter| async { (voter.clone(), self.ask_voter(layout, voter, &ask).await) })
                .collect();
            let mut stand = Proposed::Waiting;
            while let Some((voter, vote)) = answers.next().await {
                stand = match vote {
                    Ok(vote) => proposal.take(&voter, vote),
                    Err(_) => proposal.failed(&voter),
                };
                if stand != Proposed::Waiting {
                    break;
                }
            }
            drop(answers);
            match stand {
                Proposed::Accept(_) => ask = proposal.accept(),
                Proposed::Decided(state) => return Ok(state),
                Proposed::Lost(highest) => return Err(highest),
                Proposed::Waiting => return Err(round),
            }
        }
    }

    async fn ask_voter(
        self: &Arc<Self>,
        layout: &Arc<Layout>,
        voter: &NodeId,
        ask: &Ask,
    ) -> Result<Vote, PeerFailure> {
        let node = layout.state.node(voter).expect("voters are nodes of the state");
        let mine = &self.opened.identity;
        let answer = if node.id == mine.node && node.incarnation == mine.incarnation {
            let answered = self.answer_vote(&layout.stamp, ask.clone()).await;
            answered.map_err(PeerFailure::Refused)?
        } else {
            let deadline = Instant::now() + ASK_TIMEOUT;
            let peer = Self::voting_peer(layout, node)?;
            let request = Request::Vote(Box::new(ask.clone()));
            self.call(&layout.stamp, &peer, request, deadline, None).await?
        };
        match answer {
            Answer::Vote(vote) => Ok(*vote),
            _ => Err(PeerFailure::WrongAnswer),
        }
    }

    /// Where a voter is reached: at the data directory that the state lists it with.
    fn voting_peer(
        layout: &Layout,
        node: &crate::protocol::cluster::ClusterNode,
    ) -> Result<Arc<Peer>, PeerFailure> {
        let peer = layout.peer(&node.id).filter(|peer| peer.incarnation == node.incarnation);
        peer.cloned().ok_or(PeerFailure::Refused(Refusal::OtherIncarnation))
    }

    /// Tells a decided state to all nodes, of the state before and of this one.
    fn tell_everybody(self: &Arc<Self>, before: &Layout, decided: &ClusterState) {
        let mine = &self.opened.identity;
        let addresses: BTreeSet<String> = before
            .state
            .all_nodes()
            .chain(decided.all_nodes())
            .filter(|node| node.id != mine.node)
            .map(|node| node.peer.clone())
            .collect();
        for address in addresses {
            let Ok(address) = PeerAddress::new(&address) else { continue };
            let (node, state) = (Arc::clone(self), decided.clone());
            self.tasks.spawn_untracked(async move {
                let deadline = Instant::now() + ASK_TIMEOUT;
                let learn = Outgoing::control(Request::Learn(Box::new(state)), deadline);
                // Who does not hear it now hears it with the next message.
                drop(node.call_address(&address, learn).await);
            });
        }
    }
}
