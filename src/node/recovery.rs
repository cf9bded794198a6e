//! Forced recovery: a majority of the voters is gone for good, and an operator names who survives
//! and who is lost (correctness, section 7, rule 9).
//!
//! The state that the survivors go on with has a higher recovery number, which orders before the
//! epoch. Each survivor keeps it, stops serving, and serves again once all survivors have said that
//! they keep it too: so no two of them work with states that do not know of one another. Whoever has
//! gone on says so of that recovery for as long as it knows of no later one: another survivor may have
//! been away meanwhile.
//!
//! Survivors are asked in the order of their names, each once all before it keep it. So of two operators
//! who name different nodes as lost, one comes first at the first node that both name as a survivor, and
//! the other one's recovery gets no further than that.
//!
//! A node that is starting begins none: it has things to do before it may serve, and a recovery that ended
//! meanwhile would have it serve without.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;

use super::calls::Outgoing;
use super::directory::{Directory, Opened};
use super::{Node, Phase};
use crate::peer::PeerAddress;
use crate::peer::messages::{Answer, Recovery, Refusal, Reply, Request};
use crate::protocol::cluster::{ClusterState, Standing, StateStamp};
use crate::types::NodeId;

/// How long a survivor has to answer.
const ASK_TIMEOUT: Duration = Duration::from_secs(3);

/// How often survivors that have not confirmed are asked again.
const ASK_EVERY: Duration = Duration::from_millis(500);

/// Why a forced recovery was not begun.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum RecoverError {
    #[error("{0} is named neither as a survivor nor as lost; name every node of the cluster once")]
    Unnamed(NodeId),
    #[error("the cluster has no node {0}")]
    Unknown(NodeId),
    #[error("{0} is named both as a survivor and as lost")]
    Both(NodeId),
    #[error("this node is not among the survivors; ask one that is")]
    NotHere,
    #[error(
        "a majority of the nodes that vote answers: nothing has to be forced. Replace or remove the \
         lost nodes with `starling cluster apply`"
    )]
    HasMajority,
    #[error("{0} did not keep the new state: {1}. Ask again: survivors wait for all of them")]
    NotKept(NodeId, String),
}

/// The forced recoveries that a node knows of.
#[derive(Debug)]
pub(super) struct Recoveries {
    /// One that is kept here and that not all survivors have confirmed yet.
    pending: Option<Recovery>,
    /// The last one that all survivors have confirmed.
    confirmed: Option<StateStamp>,
}

impl Recoveries {
    pub(super) fn new(opened: &Opened) -> Self {
        Self { pending: opened.recovery.clone(), confirmed: opened.recovered }
    }
}

impl Node {
    /// Has the survivors go on without the lost.
    pub(super) async fn force_recovery(
        self: &Arc<Self>,
        survivors: &BTreeSet<NodeId>,
        lost: &BTreeSet<NodeId>,
    ) -> Result<ClusterState, RecoverError> {
        let layout = self.layout().ok_or(RecoverError::NotHere)?;
        let state = &layout.state;
        if !survivors.contains(&self.settings.id) {
            return Err(RecoverError::NotHere);
        }
        if let Some(both) = survivors.intersection(lost).next() {
            return Err(RecoverError::Both(both.clone()));
        }
        for id in survivors.iter().chain(lost) {
            if !state.nodes.iter().any(|node| node.id == *id) {
                return Err(RecoverError::Unknown(id.clone()));
            }
        }
        for node in &state.nodes {
            if !survivors.contains(&node.id) && !lost.contains(&node.id) {
                return Err(RecoverError::Unnamed(node.id.clone()));
            }
        }
        if self.has_majority(state).await {
            return Err(RecoverError::HasMajority);
        }
        let recovery = Recovery {
            state: state.recovered(lost),
            survivors: survivors.iter().cloned().collect(),
        };
        // None is kept that can't go on: who keeps one serves nothing.
        for id in survivors.iter().filter(|id| **id != self.settings.id) {
            let answers = self.ask_survivor(state, id, Request::State).await;
            answers.map_err(|why| RecoverError::NotKept(id.clone(), why))?;
        }
        for id in survivors {
            let kept = match *id == self.settings.id {
                true => self.keep_recovery(recovery.clone()).await,
                false => self.have_kept(state, id, &recovery).await,
            };
            kept.map_err(|why| RecoverError::NotKept(id.clone(), why))?;
        }
        Ok(recovery.state)
    }

    /// Whether so many voters answer that nothing has to be forced.
    async fn has_majority(self: &Arc<Self>, state: &ClusterState) -> bool {
        let voters: Vec<_> = state.voters().cloned().collect();
        let mine = &self.opened.identity;
        let asked = voters.iter().map(|voter| async move {
            if voter.id == mine.node {
                return true;
            }
            let Ok(address) = PeerAddress::new(&voter.peer) else { return false };
            let outgoing = Outgoing {
                to: Some(voter.incarnation),
                ..Outgoing::control(Request::State, Instant::now() + ASK_TIMEOUT)
            };
            self.call_address(&address, outgoing).await.is_ok()
        });
        let answering = join_all(asked).await.into_iter().filter(|answers| *answers).count();
        answering > voters.len() / 2
    }

    async fn have_kept(
        self: &Arc<Self>,
        state: &ClusterState,
        survivor: &NodeId,
        recovery: &Recovery,
    ) -> Result<(), String> {
        let request = Request::Recover(Box::new(recovery.clone()));
        match self.ask_survivor(state, survivor, request).await? {
            Answer::Recovering(kept) => kept,
            _ => Err("it answered what was not asked for".into()),
        }
    }

    async fn ask_survivor(
        self: &Arc<Self>,
        state: &ClusterState,
        survivor: &NodeId,
        request: Request,
    ) -> Result<Answer, String> {
        let node = state.node(survivor).ok_or("it is not in the cluster")?;
        let address = PeerAddress::new(&node.peer).map_err(|error| error.to_string())?;
        let outgoing = Outgoing {
            to: Some(node.incarnation),
            ..Outgoing::control(request, Instant::now() + ASK_TIMEOUT)
        };
        self.call_address(&address, outgoing).await.map_err(|failure| failure.to_string())
    }

    /// Keeps a recovery's state, and says so for ever.
    pub(super) async fn answer_recover(self: &Arc<Self>, recovery: Recovery) -> Reply {
        if self.layout().is_none() || *self.phase.borrow() == Phase::Stopping {
            return Err(Refusal::NotServing);
        }
        Ok(Answer::Recovering(self.keep_recovery(recovery).await))
    }

    /// Keeps a recovery, and goes on to it once all survivors have.
    async fn keep_recovery(self: &Arc<Self>, recovery: Recovery) -> Result<(), String> {
        let layout = self.layout().ok_or("it has no layout")?;
        let stamp = recovery.state.stamp();
        let mut known = self.recoveries.lock().await;
        let is_pending = known.pending.as_ref().is_some_and(|it| it.state.stamp() == stamp);
        if is_pending || known.confirmed == Some(stamp) {
            return Ok(());
        }
        match layout.stamp.standing_of(&stamp) {
            Standing::Same => return Ok(()),
            Standing::Ahead if known.pending.is_none() => {}
            Standing::Ahead => return Err("it keeps another recovery already".into()),
            _ => return Err("it knows a later cluster state; ask it for that first".into()),
        }
        if matches!(*self.phase.borrow(), Phase::Starting(_)) {
            return Err("it is starting; ask again once it has".into());
        }
        let kept = Directory::new(&*self.store).keep_recovery(&recovery).await;
        kept.map_err(|error| error.to_string())?;
        known.pending = Some(recovery.clone());
        drop(known);
        tracing::warn!(recovery = %stamp.recovery, "a forced recovery was begun: waiting for all survivors");
        self.suspend("a forced recovery is under way: waiting for all survivors to keep it");
        let node = Arc::clone(self);
        self.tasks.spawn_untracked(async move {
            let state = recovery.state.clone();
            if !node.confirm_recovery(recovery).await {
                return;
            }
            match node.adopt(state).await {
                Ok(()) => node.resume(),
                Err(error) => tracing::error!(%error, "a recovered state could not be adopted"),
            }
        });
        Ok(())
    }

    /// Waits until all survivors keep the same; false: the node stops meanwhile, or can't write.
    pub(super) async fn confirm_recovery(self: &Arc<Self>, recovery: Recovery) -> bool {
        let mut open: BTreeSet<NodeId> = recovery.survivors.iter().cloned().collect();
        open.remove(&self.settings.id);
        while !open.is_empty() {
            if self.phase.borrow().is_over() {
                return false;
            }
            let next = open.first().expect("it is not empty").clone();
            match self.have_kept(&recovery.state, &next, &recovery).await {
                Ok(()) => drop(open.remove(&next)),
                Err(_) => tokio::time::sleep(ASK_EVERY).await,
            }
        }
        let mut known = self.recoveries.lock().await;
        let stamp = recovery.state.stamp();
        if let Err(error) = Directory::new(&*self.store).confirm_recovery(&stamp).await {
            tracing::error!(%error, "the end of a forced recovery could not be kept");
            return false;
        }
        *known = Recoveries { pending: None, confirmed: Some(stamp) };
        true
    }
}
