//! The dialling side: [`HttpTransport`].

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use bytes::Bytes;
use foldhash::{HashMap, HashMapExt as _};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::peer::address::PeerAddress;
use crate::peer::http::listener::PeerListener;
use crate::peer::http::options::HttpOptions;
use crate::peer::http::peer::Peer;
use crate::peer::transport::{
    CallError, Condition, Lane, NotSentReason, PeerStatistics, Transport,
};

/// The real transport: see [`crate::peer::http`]. Dropping it closes its connections.
#[derive(Debug)]
pub struct HttpTransport {
    options: Arc<HttpOptions>,
    runtime: Handle,
    jitter: Mutex<StdRng>,
    /// `None` after the shutdown.
    peers: RwLock<Option<HashMap<PeerAddress, Arc<Peer>>>>,
}

impl HttpTransport {
    /// A transport without connections; each is made on first use. The seed is for the jitter of
    /// reconnecting. Must be called within a tokio runtime, which then runs its tasks.
    pub fn new(options: HttpOptions, rng_seed: u64) -> Self {
        Self {
            options: Arc::new(options),
            runtime: Handle::current(),
            jitter: Mutex::new(StdRng::seed_from_u64(rng_seed)),
            peers: RwLock::new(Some(HashMap::new())),
        }
    }

    /// Takes the peer port, to serve it later: a taken port shows before anything else is begun.
    /// Must be called within a tokio runtime.
    ///
    /// # Errors
    /// The address cannot be used; the text names it.
    pub fn bind(address: SocketAddr, options: HttpOptions) -> io::Result<PeerListener> {
        PeerListener::bind(address, options)
    }

    /// Ends all connections: calls in flight end with [`CallError::Broken`], those that were not
    /// written, and all later ones, with [`CallError::NotSent`].
    pub fn shutdown(&self) {
        let peers = self.peers.write().unwrap_or_else(PoisonError::into_inner).take();
        for peer in peers.iter().flat_map(HashMap::values) {
            peer.close();
        }
    }

    fn known(&self, address: &PeerAddress) -> Option<Arc<Peer>> {
        let peers = self.peers.read().unwrap_or_else(PoisonError::into_inner);
        peers.as_ref()?.get(address).cloned()
    }

    /// The peer, added if it is new. `None` after the shutdown.
    fn peer(&self, address: &PeerAddress) -> Option<Arc<Peer>> {
        self.known(address).or_else(|| self.add(address))
    }

    fn add(&self, address: &PeerAddress) -> Option<Arc<Peer>> {
        let mut peers = self.peers.write().unwrap_or_else(PoisonError::into_inner);
        let peers = peers.as_mut()?;
        // Peers come and go seldom, so this is when those not used for long are forgotten.
        let now = Instant::now();
        peers.retain(|_, peer| !peer.is_unused(now));
        let peer = peers.entry(address.clone()).or_insert_with(|| self.new_peer(address));
        Some(Arc::clone(peer))
    }

    fn new_peer(&self, address: &PeerAddress) -> Arc<Peer> {
        let mut jitter = self.jitter.lock().unwrap_or_else(PoisonError::into_inner);
        let jitter = StdRng::from_rng(&mut *jitter);
        Peer::new(address.clone(), Arc::clone(&self.options), self.runtime.clone(), jitter)
    }
}

impl Transport for HttpTransport {
    fn call(
        &self,
        to: &PeerAddress,
        lane: Lane,
        request: Bytes,
        deadline: Instant,
    ) -> BoxFuture<'static, Result<Bytes, CallError>> {
        match self.peer(to) {
            Some(peer) => peer.call(lane, request, deadline).boxed(),
            None => ready(Err(CallError::NotSent(NotSentReason::ShutDown))).boxed(),
        }
    }

    fn send(&self, to: &PeerAddress, lane: Lane, message: Bytes) {
        if let Some(peer) = self.peer(to) {
            peer.send(lane, message);
        }
    }

    fn condition(&self, to: &PeerAddress) -> Condition {
        self.known(to).map_or(Condition::Good, |peer| peer.condition())
    }

    fn heard_from(&self, peer: &PeerAddress) {
        if let Some(peer) = self.known(peer) {
            peer.breaker().retry_now();
        }
    }

    fn statistics(&self) -> Vec<PeerStatistics> {
        let peers = self.peers.read().unwrap_or_else(PoisonError::into_inner);
        let peers = peers.iter().flat_map(HashMap::values);
        let mut statistics: Vec<_> = peers.map(|peer| peer.statistics()).collect();
        statistics.sort_by(|a, b| a.address.cmp(&b.address));
        statistics
    }
}

impl Drop for HttpTransport {
    fn drop(&mut self) {
        self.shutdown();
    }
}
