//! One peer as seen from here: its links, one a lane, its breaker, its figures.

use std::sync::Arc;

use bytes::Bytes;
use rand::rngs::StdRng;
use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::peer::address::PeerAddress;
use crate::peer::http::breaker::Breaker;
use crate::peer::http::link::Link;
use crate::peer::http::options::HttpOptions;
use crate::peer::http::statistics::Counters;
use crate::peer::transport::{CallError, Condition, Lane, NotSentReason, PeerStatistics};

/// See the module.
#[derive(Debug)]
pub(super) struct Peer {
    address: PeerAddress,
    options: Arc<HttpOptions>,
    runtime: Handle,
    breaker: Breaker,
    /// In the order of [`Lane::ALL`].
    links: [Link; Lane::ALL.len()],
    counters: Counters,
}

impl Peer {
    pub(super) fn new(
        address: PeerAddress,
        options: Arc<HttpOptions>,
        runtime: Handle,
        jitter: StdRng,
    ) -> Arc<Self> {
        Arc::new(Self {
            address,
            breaker: Breaker::new(&options, jitter),
            options,
            runtime,
            links: Lane::ALL.map(Link::new),
            counters: Counters::default(),
        })
    }

    pub(super) const fn address(&self) -> &PeerAddress {
        &self.address
    }

    pub(super) fn options(&self) -> &HttpOptions {
        &self.options
    }

    pub(super) const fn breaker(&self) -> &Breaker {
        &self.breaker
    }

    pub(super) const fn counters(&self) -> &Counters {
        &self.counters
    }

    const fn link(&self, lane: Lane) -> &Link {
        &self.links[lane as usize]
    }

    /// See [`Transport::call`](crate::peer::Transport::call).
    pub(super) async fn call(
        self: Arc<Self>,
        lane: Lane,
        request: Bytes,
        deadline: Instant,
    ) -> Result<Bytes, CallError> {
        let counted = self.counters.begin_call();
        counted.ended(self.try_call(lane, request, deadline).await)
    }

    async fn try_call(
        self: &Arc<Self>,
        lane: Lane,
        request: Bytes,
        deadline: Instant,
    ) -> Result<Bytes, CallError> {
        let now = Instant::now();
        if deadline <= now {
            return Err(CallError::NotSent(NotSentReason::DeadlinePassed));
        }
        let connection = self.link(lane).connection(self, now, deadline).await;
        connection.map_err(CallError::NotSent)?.call(request, deadline).await
    }

    /// See [`Transport::send`](crate::peer::Transport::send).
    pub(super) fn send(self: &Arc<Self>, lane: Lane, message: Bytes) {
        if !self.link(lane).send(self, message) {
            self.counters.add_dropped();
        }
    }

    /// Starts the task that keeps a link, until that is unused or closed.
    pub(super) fn spawn_keeper(self: &Arc<Self>, lane: Lane) {
        let peer = Arc::clone(self);
        self.runtime.spawn(async move { peer.link(lane).run(&peer).await });
    }

    pub(super) fn condition(&self) -> Condition {
        let now = Instant::now();
        let standing = || self.links.iter().filter_map(Link::standing);
        if standing().any(|connection| connection.quiet_for(now) >= self.options.stalled_after) {
            return Condition::Stalled;
        }
        // One lane may stand while another was given up.
        let failing = self.links.iter().any(Link::is_waiting);
        if failing { Condition::Failing } else { Condition::Good }
    }

    pub(super) fn statistics(&self) -> PeerStatistics {
        self.counters.read(self.address.clone(), self.condition())
    }

    /// Whether the peer may be forgotten.
    pub(super) fn is_unused(&self, now: Instant) -> bool {
        let idle_timeout = self.options.idle_timeout;
        self.links.iter().all(|link| link.is_idle() && link.unused_for(now) > idle_timeout)
    }

    pub(super) fn close(&self) {
        for link in &self.links {
            link.close();
        }
    }
}
