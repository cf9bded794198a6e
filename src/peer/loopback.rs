//! A transport within one process, for tests and simulations: several nodes, faults to inject.
//!
//! Works on any tokio runtime. On one of a single thread with paused time, the same seed and the
//! same calls give the same run: the only random numbers (delays, losses) come from one generator,
//! drawn in the order of sending, and nothing is decided by iteration over an unordered map.
//!
//! Faults hold for one direction, so an answer can be lost though its request arrived. A message is
//! subject to the faults at its sending (loss, delay) and again at its arrival (cut, isolation,
//! detachment). Not simulated: queues that fill up, and messages of one direction keeping their
//! order under random delays.
//!
//! A real connection delivers each request at most once; here one may arrive again, as it would
//! from a sender that repeats it.

mod state;
#[cfg(test)]
mod tests;

use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, pending};
use tokio::sync::futures::OwnedNotified;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until};

use crate::peer::address::PeerAddress;
use crate::peer::loopback::state::{Breaks, Direction, Passage, Route, State};
pub use crate::peer::loopback::state::{Happening, Link, Witness};
use crate::peer::transport::{
    BreakReason, CallError, Condition, Handler, Lane, NotSentReason, PeerStatistics, Transport,
};

/// From here on a delay can be cut short by [`LoopbackNetwork::hurry`].
const LONG_DELAY: Duration = Duration::from_secs(1);

/// The network that connects the nodes attached to it. Clones are the same network.
#[derive(Clone)]
pub struct LoopbackNetwork {
    state: Arc<Mutex<State>>,
}

impl LoopbackNetwork {
    /// An empty network without faults. All its random numbers come from the seed.
    pub fn new(seed: u64) -> Self {
        Self { state: Arc::new(Mutex::new(State::new(seed))) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds the network")
    }

    /// Attaches a node, in place of one that had the address before, and gives it its transport.
    pub fn attach(&self, address: PeerAddress, handler: Arc<dyn Handler>) -> Arc<dyn Transport> {
        self.lock().attach(address.clone(), handler);
        Arc::new(LoopbackTransport { network: self.clone(), address })
    }

    /// Takes a node away, like a crash of its process: calls to it that are in flight break, later
    /// ones are not sent. What it works on is not stopped, but nobody hears of it.
    pub fn detach(&self, address: &PeerAddress) {
        self.lock().detach(address);
    }

    /// Swallows what goes one way, from now on and what is on its way: calls time out.
    pub fn cut(&self, from: &PeerAddress, to: &PeerAddress) {
        self.lock().faults(from, to).cut = true;
    }

    /// Refuses connections one way: calls fail at once as not sent. Calls in flight break.
    pub fn refuse(&self, from: &PeerAddress, to: &PeerAddress) {
        let mut state = self.lock();
        state.faults(from, to).refused = true;
        state.break_calls(from, to);
    }

    /// Delays what is sent one way, each message by a random time of the range.
    pub fn delay(&self, from: &PeerAddress, to: &PeerAddress, range: RangeInclusive<Duration>) {
        self.lock().faults(from, to).delay = range;
    }

    /// Loses each message sent one way with this probability, from 0 to 1.
    pub fn lose(&self, from: &PeerAddress, to: &PeerAddress, probability: f64) {
        self.lock().faults(from, to).loss = probability.clamp(0.0, 1.0);
    }

    /// Sets what befalls messages one way.
    pub fn set_link(&self, from: &PeerAddress, to: &PeerAddress, link: Link) {
        *self.lock().faults(from, to) = link;
    }

    /// Sets what befalls messages of all directions that have no faults of their own.
    pub fn set_climate(&self, climate: Link) {
        self.lock().set_climate(climate);
    }

    /// What is under way with a long delay arrives now.
    pub fn hurry(&self) {
        self.lock().hurry();
    }

    /// Has everything that happens told to a witness. It must not use the network.
    pub fn set_witness(&self, witness: Witness) {
        self.lock().set_witness(witness);
    }

    /// Breaks the connection on which one node calls another: calls in flight end at once as
    /// broken; requests that were delivered are still worked on.
    pub fn break_calls(&self, from: &PeerAddress, to: &PeerAddress) {
        self.lock().break_calls(from, to);
    }

    /// Cuts a node off from all others, both ways, until [`rejoin`](Self::rejoin). It still reaches
    /// itself.
    pub fn isolate(&self, address: &PeerAddress) {
        self.lock().isolated.insert(address.clone());
    }

    /// Ends the isolation of a node. Faults of single directions stay.
    pub fn rejoin(&self, address: &PeerAddress) {
        self.lock().isolated.remove(address);
    }

    /// Ends all faults of one direction; isolation stays.
    pub fn heal(&self, from: &PeerAddress, to: &PeerAddress) {
        self.lock().heal(from, to);
    }

    /// Ends all faults and isolations. Detached nodes stay detached.
    pub fn heal_all(&self) {
        self.lock().heal_all();
    }

    /// Who takes what arrives over one direction after a time. `None`: it was swallowed.
    async fn land(&self, direction: &Direction, delay: Duration) -> Option<Arc<dyn Handler>> {
        self.travel(delay).await;
        self.lock().arrival(direction)
    }

    /// Takes the time of a journey; a long one ends early when all that is under way is to arrive.
    async fn travel(&self, delay: Duration) {
        if delay.is_zero() {
            return;
        }
        if delay < LONG_DELAY {
            return sleep(delay).await;
        }
        let hurried = self.lock().hurried();
        tokio::select! {
            biased;
            () = hurried => {}
            () = sleep(delay) => {}
        }
    }

    /// Delivers a request, works it off and brings its answer back, if all of that succeeds.
    async fn exchange(
        self,
        direction: Direction,
        passage: Passage,
        request: Bytes,
        answered: oneshot::Sender<Result<Bytes, BreakReason>>,
    ) {
        let Some(handler) = self.land(&direction, passage.delay).await else {
            return self.lock().saw(&direction, Happening::Swallowed, &request);
        };
        if passage.breaks == Some(Breaks::Before) {
            return self.break_one(&direction, &request, answered);
        }
        self.lock().saw(&direction, Happening::Arrived, &request);
        let answer = handler.call(request).await;
        if passage.breaks == Some(Breaks::After) {
            return self.break_one(&direction, &answer, answered);
        }
        let back = direction.back();
        let route = self.lock().route(&back);
        let arrives = match route {
            Route::Arrives(passage) => self.land(&back, passage.delay).await.is_some(),
            Route::Lost | Route::Refused => false,
        };
        let what = if arrives { Happening::Answered } else { Happening::Swallowed };
        self.lock().saw(&back, what, &answer);
        if arrives {
            // The caller may be gone.
            drop(answered.send(Ok(answer)));
        }
    }

    /// The same request once more, to the same process; nobody waits for its answer.
    async fn exchange_again(self, direction: Direction, passage: Passage, request: Bytes) {
        let before = self.lock().attachment(&direction.to);
        self.travel(passage.delay).await;
        let is_same = self.lock().attachment(&direction.to) == before;
        if is_same {
            let passage = Passage { delay: Duration::ZERO, ..passage };
            self.exchange(direction, passage, request, oneshot::channel().0).await;
        }
    }

    fn break_one(
        &self,
        direction: &Direction,
        bytes: &[u8],
        answered: oneshot::Sender<Result<Bytes, BreakReason>>,
    ) {
        self.lock().saw(direction, Happening::Broken, bytes);
        drop(answered.send(Err(BreakReason::Closed)));
    }

    /// Delivers a one-way message.
    async fn deliver(self, direction: Direction, delay: Duration, message: Bytes) {
        let handler = self.land(&direction, delay).await;
        let what = if handler.is_some() { Happening::Arrived } else { Happening::Swallowed };
        self.lock().saw(&direction, what, &message);
        if let Some(handler) = handler {
            handler.receive(message);
        }
    }
}

/// What a node attached to the network sends with.
struct LoopbackTransport {
    network: LoopbackNetwork,
    address: PeerAddress,
}

impl LoopbackTransport {
    fn direction(&self, to: &PeerAddress) -> Direction {
        Direction { from: self.address.clone(), to: to.clone() }
    }
}

impl Transport for LoopbackTransport {
    fn call(
        &self,
        to: &PeerAddress,
        _lane: Lane,
        request: Bytes,
        deadline: Instant,
    ) -> BoxFuture<'static, Result<Bytes, CallError>> {
        call(self.network.clone(), self.direction(to), request, deadline).boxed()
    }

    fn send(&self, to: &PeerAddress, _lane: Lane, message: Bytes) {
        let (network, direction) = (self.network.clone(), self.direction(to));
        let route = network.lock().begin_send(&direction, &message);
        let Route::Arrives(passage) = route else { return };
        for delay in passage.again.into_iter().chain([passage.delay]) {
            let (network, direction) = (network.clone(), direction.clone());
            tokio::spawn(network.deliver(direction, delay, message.clone()));
        }
    }

    fn condition(&self, to: &PeerAddress) -> Condition {
        self.network.lock().condition(&self.direction(to), Instant::now())
    }

    fn statistics(&self) -> Vec<PeerStatistics> {
        self.network.lock().statistics(&self.address, Instant::now())
    }
}

async fn call(
    network: LoopbackNetwork,
    direction: Direction,
    request: Bytes,
    deadline: Instant,
) -> Result<Bytes, CallError> {
    let now = Instant::now();
    if deadline <= now {
        return Err(CallError::NotSent(NotSentReason::DeadlinePassed));
    }
    let (route, broken) = network.lock().begin_call(&direction, &request, now);
    let mut open = OpenCall { network, direction, answer_bytes: None };
    let (sender, answer) = oneshot::channel();
    match route {
        Route::Refused => return Err(CallError::NotSent(NotSentReason::Unreachable)),
        Route::Lost => {}
        Route::Arrives(passage) => {
            let exchange = |passage, sender| {
                let (network, direction) = (open.network.clone(), open.direction.clone());
                tokio::spawn(network.exchange(direction, passage, request.clone(), sender));
            };
            if let Some(delay) = passage.again {
                let passage = Passage { delay, again: None, breaks: None };
                let (network, direction) = (open.network.clone(), open.direction.clone());
                tokio::spawn(network.exchange_again(direction, passage, request.clone()));
            }
            exchange(passage, sender);
        }
    }
    let result = outcome(answer, broken, deadline).await;
    open.answer_bytes = result.as_ref().ok().map(Bytes::len);
    result
}

/// What comes first: the answer, the end of the connection, the deadline. In that order if they
/// come together.
async fn outcome(
    answer: oneshot::Receiver<Result<Bytes, BreakReason>>,
    broken: OwnedNotified,
    deadline: Instant,
) -> Result<Bytes, CallError> {
    let answer = async {
        match answer.await {
            Ok(answer) => answer,
            // Lost on the way: the caller cannot know.
            Err(_) => pending().await,
        }
    };
    tokio::select! {
        biased;
        answer = answer => answer.map_err(CallError::Broken),
        () = broken => Err(CallError::Broken(BreakReason::Closed)),
        () = sleep_until(deadline) => Err(CallError::TimedOut),
    }
}

/// A call in flight; counted as ended when it is dropped.
struct OpenCall {
    network: LoopbackNetwork,
    direction: Direction,
    answer_bytes: Option<usize>,
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        let now = Instant::now();
        self.network.lock().end_call(&self.direction, self.answer_bytes, now);
    }
}
