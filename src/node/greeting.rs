//! Greetings: boot numbers that peers keep, so that a data directory which was rolled back or
//! copied does not pass as the one it was (correctness, section 2, retirement 3; section 7,
//! rule 8).
//!
//! A start tells its own number and nonce and those of the starts before it. A peer that has seen
//! one which is not among them knows that the directory is not the one it knew, however often it
//! was started since. A clean stop counts only if a majority of the other nodes knows exactly that
//! start as the last one: so any later start with the same actors was told to one of them, and one
//! peer that was away meanwhile can't vouch for a copy made before.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::calls::Outgoing;
use super::directory::{Directory, PeerBoot};
use super::layout::Layout;
use super::start::StartError;
use super::{Node, Phase};
use crate::peer::PeerAddress;
use crate::peer::messages::{
    Answer, Envelope, Hello, HelloAnswer, PastBoot, Refusal, Reply, Request,
};
use crate::types::{ClusterId, DataIncarnation, NodeId};

/// How long a peer has to answer a greeting.
pub(super) const GREET_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a start waits for a peer to confirm that the last stop was clean.
const CONFIRM_WITHIN: Duration = Duration::from_secs(5);

/// How often those that did not answer are greeted again at the start.
const GREET_EVERY: Duration = Duration::from_millis(200);

/// What the greetings at a start showed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Greeted {
    /// Peers that knew exactly the previous start as the last one.
    confirmations: usize,
    /// Peers of this cluster that answered.
    answers: usize,
}

impl Greeted {
    /// Whether enough peers know the previous start as the last one.
    pub(super) fn is_confirmed(&self, others: usize) -> bool {
        others > 0 && self.confirmations > others / 2
    }
}

/// What one greeting brought.
enum Response {
    /// A node of this cluster answered.
    Answered { confirmed: bool },
    /// A node of another cluster did.
    Foreign { node: NodeId, cluster: ClusterId },
    /// Nobody, or nobody who can say.
    Silent,
}

impl Node {
    /// Greets all other nodes. Waits, for 5 s at most, while a clean stop could still be confirmed.
    pub(super) async fn greet_all(self: &Arc<Self>) -> Result<Greeted, StartError> {
        let layout = self.layout().expect("a node greets in a layout");
        let others = layout.others().count();
        let deadline = Instant::now() + CONFIRM_WITHIN;
        let mut open = self.greeting_targets();
        let mut greeted = Greeted::default();
        let mut foreign = None;
        loop {
            let greetings = open.iter().map(|(address, node)| self.greet(address, node.as_ref()));
            let responses = futures_util::future::join_all(greetings).await;
            let mut silent = BTreeMap::new();
            for ((address, node), response) in std::mem::take(&mut open).into_iter().zip(responses)
            {
                match response? {
                    Response::Answered { confirmed } => {
                        greeted.answers += 1;
                        greeted.confirmations += usize::from(confirmed);
                    }
                    Response::Foreign { node, cluster } => foreign = Some((node, cluster)),
                    Response::Silent => drop(silent.insert(address, node)),
                }
            }
            let could_confirm =
                self.opened.is_clean && !greeted.is_confirmed(others) && !silent.is_empty();
            if !could_confirm || Instant::now() >= deadline {
                self.refuse_foreign(foreign, greeted)?;
                return Ok(greeted);
            }
            open = silent;
            tokio::time::sleep(GREET_EVERY).await;
        }
    }

    /// Only nodes of another cluster answered: then it is this directory that is in the wrong
    /// place. If some of this cluster did as well, a stranger stands at a peer's address.
    fn refuse_foreign(
        &self,
        foreign: Option<(NodeId, ClusterId)>,
        greeted: Greeted,
    ) -> Result<(), StartError> {
        let Some((node, theirs)) = foreign else { return Ok(()) };
        if greeted.answers > 0 {
            tracing::error!(%node, cluster = %theirs, "a node of another cluster answers at a peer's address");
            self.metrics.alarm("foreign-node");
            return Ok(());
        }
        let mine = self.layout().expect("a node greets in a layout").state.cluster;
        Err(StartError::OtherCluster { mine, node, theirs })
    }

    /// What this node says of itself.
    pub(super) fn hello(&self) -> Hello {
        let boot = &self.opened.boot;
        Hello {
            boot: boot.this.number,
            nonce: boot.this.nonce,
            history: boot.history.clone(),
            http: self.settings.advertise_http.to_string(),
            software: env!("CARGO_PKG_VERSION").into(),
        }
    }

    /// Takes another node's greeting: keeps its boot number, fsynced, and says what was known.
    pub(super) async fn answer_hello(&self, envelope: &Envelope, hello: &Hello) -> Reply {
        if *self.phase.borrow() == Phase::Stopping {
            return Err(Refusal::NotServing);
        }
        let _one_at_a_time = self.greeting.lock().await;
        let listed = self
            .layout()
            .and_then(|layout| layout.peer(&envelope.from).map(|peer| peer.incarnation));
        let (known, is_rolled_back) = match listed {
            Some(incarnation) if incarnation == envelope.incarnation => {
                self.heard_from(&envelope.from);
                // It was away: what it missed is brought to it now.
                self.hints.wake();
                self.repair.request(Some(&envelope.from));
                self.note_boot(&envelope.from, incarnation, hello).await?
            }
            _ => (None, false),
        };
        Ok(Answer::Hello(HelloAnswer {
            known,
            is_rolled_back,
            hello: self.hello(),
            node: self.opened.identity.node.clone(),
            incarnation: self.opened.identity.incarnation,
            stamp: self.layout().map(|layout| layout.stamp),
            listed,
        }))
    }

    /// A listed node has just started: connecting to it works again.
    fn heard_from(&self, node: &NodeId) {
        let layout = self.layout();
        if let Some(peer) = layout.as_ref().and_then(|layout| layout.peer(node)) {
            self.transport.heard_from(&peer.address);
        }
    }

    /// Keeps a listed node's start. Returns what was known before it, and whether the sender's
    /// directory does not know of that.
    async fn note_boot(
        &self,
        node: &NodeId,
        disk: DataIncarnation,
        hello: &Hello,
    ) -> Result<(Option<PastBoot>, bool), Refusal> {
        let directory = Directory::new(&*self.store);
        let known = directory.peer_boot(node, disk).await.map_err(|error| {
            tracing::error!(%node, %error, "a peer's boot number can't be read");
            Refusal::StoreFailed
        })?;
        let shown = PastBoot { number: hello.boot, nonce: hello.nonce };
        match known {
            Some(known) if known.last == shown => return Ok((known.before, false)),
            Some(known) if !remembers(hello, known.last) => {
                tracing::error!(%node, known = %known.last.number, shown = %hello.boot, "a peer's data directory was rolled back or copied");
                self.metrics.alarm("rolled-back-peer");
                return Ok((Some(known.last), true));
            }
            _ => {}
        }
        let before = known.map(|known| known.last);
        let boot = PeerBoot { last: shown, before };
        directory.keep_peer_boot(node, disk, &boot).await.map_err(|_| Refusal::StoreFailed)?;
        Ok((before, false))
    }

    /// The other nodes of the state, and what the settings name beside them: an address there that
    /// answers for another cluster shows that the directory is the wrong one.
    fn greeting_targets(&self) -> BTreeMap<PeerAddress, Option<NodeId>> {
        let layout = self.layout().expect("a node greets in a layout");
        let mine = &self.opened.identity.node;
        let named = self.settings.initial_nodes.iter().filter(|node| node.id != *mine);
        let named = named.map(|node| (node.peer.clone(), None));
        let listed = layout.others().map(|peer| (peer.address.clone(), Some(peer.id.clone())));
        named.chain(listed).collect()
    }

    async fn greet(
        self: &Arc<Self>,
        address: &PeerAddress,
        node: Option<&NodeId>,
    ) -> Result<Response, StartError> {
        let deadline = Instant::now() + GREET_TIMEOUT;
        let request = Request::Hello(self.hello());
        match self.call_address(address, Outgoing::control(request, deadline)).await {
            Ok(Answer::Hello(answer)) => self.take_hello(node, answer).await,
            _ => Ok(Response::Silent),
        }
    }

    async fn take_hello(
        self: &Arc<Self>,
        expected: Option<&NodeId>,
        answer: HelloAnswer,
    ) -> Result<Response, StartError> {
        let layout = self.layout().expect("a node greets in a layout");
        let Some(theirs) = answer.stamp.map(|stamp| stamp.cluster) else {
            return Ok(Response::Silent);
        };
        if theirs != layout.state.cluster {
            return Ok(Response::Foreign { node: answer.node, cluster: theirs });
        }
        if answer.is_rolled_back {
            return Err(StartError::RolledBack { node: answer.node });
        }
        if expected != Some(&answer.node) {
            return Ok(Response::Silent);
        }
        let previous = self.opened.previous.as_ref().map(|boot| boot.this);
        let confirmed = answer.known.is_some() && answer.known == previous;
        let listed = layout.peer(&answer.node).map(|peer| peer.incarnation);
        // A stop that was marked as clean must stay the last thing that was written.
        let is_stopping = *self.phase.borrow() == Phase::Stopping;
        if listed == Some(answer.incarnation) && !is_stopping {
            let _one_at_a_time = self.greeting.lock().await;
            let (_, is_rolled_back) = self
                .note_boot(&answer.node, answer.incarnation, &answer.hello)
                .await
                .unwrap_or_default();
            if is_rolled_back {
                // It hears so when it greets; what it holds is not to be trusted until then.
                tracing::error!(node = %answer.node, "this peer should not be serving");
            }
        }
        if listed == Some(answer.incarnation) {
            let mut greeted = self.greeted.lock().unwrap_or_else(PoisonError::into_inner);
            greeted.insert(answer.node);
        }
        Ok(Response::Answered { confirmed })
    }

    /// Greets those that have not answered yet, so that they too know this start.
    pub(super) async fn greet_the_silent(self: &Arc<Self>) {
        let layout = self.layout().expect("a node greets in a layout");
        let silent = layout.others().filter(|peer| peer.is_up() && !self.has_greeted(&peer.id));
        let greetings = silent.map(|peer| self.greet(&peer.address, Some(&peer.id)));
        for response in futures_util::future::join_all(greetings).await {
            if let Err(error) = response {
                return self.refuse(&error.to_string());
            }
        }
    }

    /// Whether a node has answered this start's greeting.
    fn has_greeted(&self, node: &NodeId) -> bool {
        self.greeted.lock().unwrap_or_else(PoisonError::into_inner).contains(node)
    }

    /// Whether a majority of those that vote, this node among them, knows this start. Before that, this
    /// node's directory may be a copy from before it promised something; each other node that knows is
    /// one that would have told. More than that, so that any two such majorities have another node in
    /// common, would be more than may be asked for: with one node of three down, one that was restarted
    /// could not vote for replacing it.
    pub(super) fn is_known_to_a_majority(&self, layout: &Layout) -> bool {
        let mine = &self.opened.identity.node;
        let voters = layout.state.voters();
        let knows = |id: &NodeId| id == mine || self.has_greeted(id);
        let (mut all, mut knowing) = (0, 0);
        for voter in voters {
            all += 1;
            knowing += usize::from(knows(&voter.id));
        }
        knowing > all / 2
    }
}

/// Whether a directory knows of a start that this node has seen of it. Starts older than all that
/// it remembers can't be told.
fn remembers(hello: &Hello, seen: PastBoot) -> bool {
    let is_older_than_all = hello.history.last().is_some_and(|oldest| seen.number < oldest.number);
    hello.history.contains(&seen) || is_older_than_all
}
