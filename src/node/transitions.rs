//! Bringing a transition to its end (correctness, section 7, rules 10 to 16): what an operator asks
//! for is begun, each phase is ended when all that it waits for is done, and what was dropped and
//! who has left is taken out of the state.
//!
//! Every node asks all others how far they are, once a second while there is anything to wait for.
//! The voter with the least name among those that are up proposes; should two think that they are
//! it, the register lets one of them win.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;

use super::Node;
use super::calls::Outgoing;
use super::layout::Layout;
use super::register::ProposeError;
use crate::peer::PeerAddress;
use crate::peer::messages::{Answer, Candidate, Progress, Refusal, Reply, Request};
use crate::protocol::cluster::{
    Change, ChangeError, ClusterNode, ClusterState, Role, StateStamp, TransitionPhase,
};
use crate::types::NodeId;

/// How often nodes are asked how far they are.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long a node has to say how far it is.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a candidate that is not heard of any more is remembered.
const CANDIDATE_AGE: Duration = Duration::from_secs(5);

/// How many looks an accepted, undecided state is left to its proposer: so many at least, and up to
/// as many more.
const PATIENCE: u64 = 3;

/// What is known of the running transition and of who wants to join.
#[derive(Debug, Default)]
pub(super) struct Transitions {
    progress: Mutex<BTreeMap<NodeId, Option<Progress>>>,
    candidates: Mutex<BTreeMap<NodeId, (Candidate, Instant)>>,
    /// In which state this node has let go of all that it held before, durably.
    let_go: Mutex<Option<StateStamp>>,
}

impl Transitions {
    /// What each node said last; `None`: it did not answer.
    pub(super) fn progress(&self) -> BTreeMap<NodeId, Option<Progress>> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_progress(&self, progress: BTreeMap<NodeId, Option<Progress>>) {
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner) = progress;
    }

    /// This node has let go of all that a state says it held before.
    pub(super) fn have_let_go(&self, at: StateStamp) {
        *self.let_go.lock().unwrap_or_else(PoisonError::into_inner) = Some(at);
    }

    /// Whether it has.
    pub(super) fn has_let_go(&self, at: &StateStamp) -> bool {
        *self.let_go.lock().unwrap_or_else(PoisonError::into_inner) == Some(*at)
    }

    /// Who wants to be taken in.
    pub(super) fn candidates(&self) -> Vec<Candidate> {
        let mut candidates = self.candidates.lock().unwrap_or_else(PoisonError::into_inner);
        candidates.retain(|_, (_, at)| at.elapsed() < CANDIDATE_AGE);
        candidates.values().map(|(candidate, _)| candidate.clone()).collect()
    }

    fn heard_of(&self, candidate: Candidate) {
        let mut candidates = self.candidates.lock().unwrap_or_else(PoisonError::into_inner);
        candidates.insert(candidate.joiner.id.clone(), (candidate, Instant::now()));
    }
}

/// What is to be proposed next.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Switch,
    Finish,
    Release { dropped: BTreeSet<NodeId>, gone: BTreeSet<NodeId> },
}

impl Node {
    /// Brings transitions to their ends, until the node stops.
    pub(super) fn spawn_transitions(self: &Arc<Self>) {
        let node = Arc::clone(self);
        self.tasks.spawn_untracked(async move {
            let phase = node.phase();
            let mut undecided = 0;
            loop {
                let over = phase.wait_for(|phase| phase.is_over());
                if tokio::time::timeout(LOOK_EVERY, over).await.is_ok() {
                    return;
                }
                node.tasks.track(node.go_on(&mut undecided)).await;
            }
        });
    }

    async fn go_on(self: &Arc<Self>, undecided: &mut u64) {
        self.greet_the_silent().await;
        self.complete_undecided(undecided).await;
        let layout = self.layout().expect("only a serving node goes on");
        if !has_to_wait(&layout.state) {
            self.transitions.set_progress(BTreeMap::new());
            return;
        }
        let progress = self.ask_all_how_far(&layout).await;
        self.transitions.set_progress(progress.clone());
        if self.is_past(&layout.stamp) || !self.is_first_voter(&layout) {
            return;
        }
        let Some(step) = Self::next_step(&layout.state, &progress) else { return };
        let at = layout.stamp;
        let proposed = self.propose(|state| {
            // Only what was looked at: of a later state, something else may be true.
            if state.stamp() != at {
                return Err(ChangeError::EpochChanged);
            }
            match &step {
                Step::Switch => state.switched(),
                Step::Finish => state.finished(),
                Step::Release { dropped, gone } => state.released(dropped, gone),
            }
        });
        match proposed.await {
            Ok(state) => tracing::info!(?step, epoch = %state.epoch, "the transition went on"),
            Err(error) => tracing::debug!(%error, ?step, "the transition did not go on"),
        }
    }

    /// A state that this node accepted, and whose proposer does not seem to bring it through, is
    /// brought through by this node.
    async fn complete_undecided(self: &Arc<Self>, undecided: &mut u64) {
        let Some(accepted) = self.accepted().await else {
            *undecided = 0;
            return;
        };
        *undecided += 1;
        let is_its_turn = self.random.u64().is_multiple_of(PATIENCE) || *undecided >= 3 * PATIENCE;
        if *undecided < PATIENCE || !is_its_turn {
            return;
        }
        *undecided = 0;
        let epoch = accepted.epoch;
        let proposed = self.propose(|state| {
            let is_next = state.epoch.next() == epoch;
            is_next.then(|| accepted.clone()).ok_or(ChangeError::EpochChanged)
        });
        if let Err(error) = proposed.await {
            tracing::debug!(%error, "an accepted state could not be brought through yet");
        }
    }

    /// Whether this node is the one to propose: of the voters that are up, the first.
    fn is_first_voter(&self, layout: &Layout) -> bool {
        let me = layout.this();
        // The same name on another disk is another node: the one that votes may be gone.
        let peer_of = |voter: &ClusterNode| {
            layout.peer(&voter.id).filter(|peer| peer.incarnation == voter.incarnation)
        };
        let mut voters = layout.state.voters().filter_map(peer_of);
        voters
            .find(|peer| Arc::ptr_eq(peer, me) || peer.is_up())
            .is_some_and(|p| Arc::ptr_eq(p, me))
    }

    async fn ask_all_how_far(
        self: &Arc<Self>,
        layout: &Arc<Layout>,
    ) -> BTreeMap<NodeId, Option<Progress>> {
        let deadline = Instant::now() + ASK_TIMEOUT;
        let asked = layout.peers.iter().map(|peer| async {
            let progress = if Arc::ptr_eq(peer, layout.this()) {
                Some(self.progress().await)
            } else if peer.is_up() {
                match self.call(&layout.stamp, peer, Request::Progress, deadline, None).await {
                    Ok(Answer::Progress(progress)) => Some(*progress),
                    _ => None,
                }
            } else {
                None
            };
            (peer.id.clone(), progress)
        });
        join_all(asked).await.into_iter().collect()
    }

    /// What all that was said allows.
    fn next_step(
        state: &ClusterState,
        progress: &BTreeMap<NodeId, Option<Progress>>,
    ) -> Option<Step> {
        let of = |id: &NodeId| progress.get(id).and_then(Option::as_ref);
        if let Some(transition) = &state.transition {
            let all = |is_done: fn(&Progress) -> bool| {
                let mut takers = transition.nodes.iter().filter(|node| state.takes_in(node));
                takers.all(|node| of(&node.id).is_some_and(is_done))
            };
            return match transition.phase {
                TransitionPhase::Prepare => {
                    all(|progress| progress.has_bulk).then_some(Step::Switch)
                }
                TransitionPhase::Switch => {
                    all(|progress| progress.has_passed).then_some(Step::Finish)
                }
            };
        }
        let has_dropped = |id: &&NodeId| of(id).is_some_and(|progress| progress.has_dropped);
        let holders: BTreeSet<&NodeId> = state.former.iter().map(|former| &former.node).collect();
        let dropped = holders.into_iter().filter(has_dropped).cloned().collect();
        let may_go = |id: &NodeId| of(id).is_some_and(|p| p.has_dropped && !p.has_hints);
        let leaving = state.nodes.iter().filter(|node| node.role == Role::Leaving);
        let gone = leaving.filter(|node| may_go(&node.id)).map(|node| node.id.clone()).collect();
        let step = Step::Release { dropped, gone };
        let Step::Release { dropped, gone } = &step else { return None };
        state.released(dropped, gone).is_ok().then_some(step)
    }

    /// Begins a change for an operator, or for a node that applies for itself.
    pub(super) async fn begin_change(
        self: &Arc<Self>,
        change: &Change,
        only_at: Option<crate::types::Epoch>,
    ) -> Result<ClusterState, ProposeError> {
        self.propose(|state| {
            if only_at.is_some_and(|epoch| epoch != state.epoch) {
                return Err(ChangeError::EpochChanged);
            }
            state.begun(change)
        })
        .await
    }

    /// Begins a change that a candidate asks for.
    pub(super) async fn answer_apply(self: &Arc<Self>, change: Change) -> Reply {
        if self.phase.borrow().is_over() || self.layout().is_none() {
            return Err(Refusal::NotServing);
        }
        let applied = match self.check_change(&change).await {
            Ok(()) => self.begin_change(&change, None).await.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        Ok(Answer::Applied(applied.map(drop)))
    }

    /// What has to be so before a change begins, beyond what the state itself tells: every joiner
    /// was reached, is empty and has that data directory; nobody who is called dead answers.
    pub(super) async fn check_change(self: &Arc<Self>, change: &Change) -> Result<(), Unfit> {
        let layout = self.layout().expect("only a serving node takes changes");
        let deadline = Instant::now() + ASK_TIMEOUT;
        for joiner in change.join.iter().chain(change.replace.values()) {
            let candidate = self.describe(&joiner.peer, deadline).await;
            let candidate = candidate.ok_or_else(|| Unfit::NotReached(joiner.id.clone()))?;
            if candidate.joiner.id != joiner.id
                || candidate.joiner.incarnation != joiner.incarnation
            {
                return Err(Unfit::SomebodyElse(joiner.id.clone()));
            }
            if !candidate.is_empty {
                return Err(Unfit::NotEmpty(joiner.id.clone()));
            }
        }
        let replaced = change.replace.iter().filter(|(old, new)| **old == new.id);
        for id in change.dead.iter().chain(replaced.map(|(old, _)| old)) {
            let Some(peer) = layout.peer(id) else { continue };
            if Arc::ptr_eq(peer, layout.this()) {
                return Err(Unfit::Alive(id.clone()));
            }
            let hello = Request::Hello(self.hello());
            let outgoing =
                Outgoing { to: Some(peer.incarnation), ..Outgoing::control(hello, deadline) };
            if matches!(
                self.call_address(&peer.address, outgoing).await,
                Ok(Answer::Hello(answer)) if answer.incarnation == peer.incarnation
            ) {
                return Err(Unfit::Alive(id.clone()));
            }
        }
        Ok(())
    }

    /// Asks a candidate at an address who it is.
    pub(super) async fn describe(&self, peer: &str, deadline: Instant) -> Option<Candidate> {
        let address = PeerAddress::new(peer).ok()?;
        let asked = Outgoing::control(Request::Describe, deadline);
        match self.call_address(&address, asked).await {
            Ok(Answer::Candidate(candidate)) => Some(*candidate),
            _ => None,
        }
    }

    /// Takes note of a node that wants to be taken in, and tells it the state.
    pub(super) fn answer_join(&self, candidate: Candidate) -> Reply {
        let layout = self.layout().ok_or(Refusal::NotServing)?;
        let joiner = &candidate.joiner;
        if !layout.state.lists(&joiner.id, joiner.incarnation) {
            self.transitions.heard_of(candidate);
        }
        Ok(Answer::State(Box::new(layout.state.clone())))
    }
}

/// Why a change does not fit the nodes that it names.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unfit {
    #[error(
        "{0} does not answer as a node that wants to join; start it with --join and an empty data \
         directory, and see that its peer address can be reached"
    )]
    NotReached(NodeId),
    #[error("another node, or another data directory, answers at the peer address of {0}")]
    SomebodyElse(NodeId),
    #[error("{0} holds data already; start it with an empty data directory")]
    NotEmpty(NodeId),
    #[error("{0} answers: it is not dead. Stop its process for good first")]
    Alive(NodeId),
}

/// Whether there is anything to wait for.
fn has_to_wait(state: &ClusterState) -> bool {
    state.transition.is_some()
        || !state.former.is_empty()
        || state.nodes.iter().any(|node| node.role == Role::Leaving)
}
