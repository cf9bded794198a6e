//! Greetings: boot numbers that peers keep, so that a data directory which was rolled back or
//! copied does not pass as the one it was (correctness, section 2, retirement 3; section 7,
//! rule 8).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Node;
use super::directory::{Directory, PeerBoot};
use super::start::StartError;
use crate::peer::messages::{Answer, Envelope, Hello, HelloAnswer, Refusal, Reply, Request};
use crate::peer::{Lane, PeerAddress};
use crate::types::NodeId;

/// How long a peer has to answer a greeting.
const GREET_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a start waits for a peer to confirm that the last stop was clean.
const CONFIRM_WITHIN: Duration = Duration::from_secs(5);

/// How often those that did not answer are greeted again at the start.
const GREET_EVERY: Duration = Duration::from_millis(200);

/// What the greetings at a start showed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Greeted {
    /// A peer knew exactly the start that stopped cleanly as the last one.
    pub(super) confirmed: bool,
}

enum Response {
    Answered { confirmed: bool },
    Silent,
}

impl Node {
    /// Greets all other nodes. Waits, for 5 s at most, while a clean stop could still be confirmed.
    pub(super) async fn greet_all(self: &Arc<Self>) -> Result<Greeted, StartError> {
        let deadline = Instant::now() + CONFIRM_WITHIN;
        let mut open = self.greeting_targets();
        let mut greeted = Greeted::default();
        loop {
            let greetings = open.iter().map(|(address, node)| self.greet(address, node.as_ref()));
            let responses = futures_util::future::join_all(greetings).await;
            let mut silent = BTreeMap::new();
            for ((address, node), response) in std::mem::take(&mut open).into_iter().zip(responses)
            {
                match response? {
                    Response::Answered { confirmed } => greeted.confirmed |= confirmed,
                    Response::Silent => drop(silent.insert(address, node)),
                }
            }
            let could_confirm = self.opened.is_clean && !greeted.confirmed && !silent.is_empty();
            if !could_confirm || Instant::now() >= deadline {
                self.greet_later(silent);
                return Ok(greeted);
            }
            open = silent;
            tokio::time::sleep(GREET_EVERY).await;
        }
    }

    /// What this node says of itself.
    pub(super) fn hello(&self) -> Hello {
        Hello {
            boot: self.opened.boot.number,
            nonce: self.opened.boot.nonce,
            http: self.settings.advertise_http.to_string(),
            software: env!("CARGO_PKG_VERSION").into(),
        }
    }

    /// Takes another node's greeting: keeps its boot number, fsynced, and says what was known.
    pub(super) async fn answer_hello(&self, envelope: &Envelope, hello: &Hello) -> Reply {
        let _one_at_a_time = self.greeting.lock().await;
        let listed = self
            .layout()
            .and_then(|layout| layout.peer(&envelope.from).map(|peer| peer.incarnation));
        let (known, is_rolled_back) = match listed {
            Some(incarnation) if incarnation == envelope.incarnation => {
                self.note_boot(&envelope.from, hello).await?
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

    /// Keeps a listed node's start. Returns what was known before it, and whether it is older than
    /// that.
    async fn note_boot(
        &self,
        node: &NodeId,
        hello: &Hello,
    ) -> Result<(Option<crate::types::BootNumber>, bool), Refusal> {
        let directory = Directory::new(&*self.store);
        let known = directory.peer_boot(node).await.map_err(|error| {
            tracing::error!(%node, %error, "a peer's boot number can't be read");
            Refusal::StoreFailed
        })?;
        match known {
            Some(known) if known.number == hello.boot && known.nonce == hello.nonce => {
                return Ok((known.before, false));
            }
            Some(known) if known.number >= hello.boot => {
                tracing::error!(%node, known = %known.number, shown = %hello.boot, "a peer's data directory was rolled back or copied");
                self.metrics.alarm("rolled-back-peer");
                return Ok((Some(known.number), true));
            }
            _ => {}
        }
        let before = known.map(|known| known.number);
        let boot = PeerBoot { number: hello.boot, nonce: hello.nonce, before };
        directory.keep_peer_boot(node, &boot).await.map_err(|_| Refusal::StoreFailed)?;
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
        match self.call_address(address, Lane::Control, request, deadline, None).await {
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
        let mine = layout.state.cluster;
        if theirs != mine {
            return Err(StartError::OtherCluster { mine, node: answer.node, theirs });
        }
        if answer.is_rolled_back {
            return Err(StartError::RolledBack { node: answer.node });
        }
        if expected != Some(&answer.node) {
            return Ok(Response::Silent);
        }
        let previous = self.opened.previous.map(|boot| boot.number);
        let confirmed = answer.known.is_some() && answer.known == previous;
        let listed = layout.peer(&answer.node).map(|peer| peer.incarnation);
        if listed == Some(answer.incarnation) {
            let _one_at_a_time = self.greeting.lock().await;
            let (_, is_rolled_back) =
                self.note_boot(&answer.node, &answer.hello).await.unwrap_or_default();
            if is_rolled_back {
                // It hears so when it greets; what it holds is not to be trusted until then.
                tracing::error!(node = %answer.node, "this peer should not be serving");
            }
        }
        Ok(Response::Answered { confirmed })
    }

    /// Goes on greeting those that did not answer, so that they too know this start.
    fn greet_later(self: &Arc<Self>, silent: BTreeMap<PeerAddress, Option<NodeId>>) {
        let node = Arc::clone(self);
        let mut open: Vec<(PeerAddress, NodeId)> =
            silent.into_iter().filter_map(|(address, node)| Some((address, node?))).collect();
        // Not among the tasks that a stop waits for: it may last as long as a peer is away.
        tokio::spawn(async move {
            let mut phase = node.phase();
            while !open.is_empty() {
                let stopping = phase.wait_for(|phase| *phase == super::Phase::Stopping);
                if tokio::time::timeout(Duration::from_secs(1), stopping).await.is_ok() {
                    return;
                }
                let mut silent = Vec::new();
                for (address, id) in open {
                    match node.greet(&address, Some(&id)).await {
                        Ok(Response::Answered { .. }) => {}
                        Ok(Response::Silent) => silent.push((address, id)),
                        Err(error) => {
                            node.refuse(&error.to_string());
                            return;
                        }
                    }
                }
                open = silent;
            }
        });
    }
}
