//! One lane to one peer: at most one connection, made on first use and made anew when it ends.
//!
//! A link is idle, or a task keeps it (`run`): dials when the breaker admits it, watches the
//! connection, and leaves when the link was not used for long.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout, timeout_at};

use crate::peer::http::connection::{Connection, ConnectionEnd};
use crate::peer::http::dial::{DialError, dial};
use crate::peer::http::peer::Peer;
use crate::peer::http::wire::Wire;
use crate::peer::transport::{BreakReason, Lane, NotSentReason};

/// One-way messages kept while the first connection is made.
const EARLY_MESSAGES: usize = 64;

/// See the module.
#[derive(Debug)]
pub(super) struct Link {
    lane: Lane,
    state: watch::Sender<LinkState>,
    early: Mutex<Vec<Bytes>>,
    last_used: Mutex<Instant>,
}

#[derive(Clone, Debug)]
enum LinkState {
    /// No task keeps the link.
    Idle,
    /// An attempt is made that callers wait for.
    Connecting,
    /// The breaker is open: callers are sent away.
    Waiting,
    Up(Arc<Connection>),
    /// The transport was shut down.
    Closed,
}

impl Link {
    pub(super) fn new(lane: Lane) -> Self {
        Self {
            lane,
            state: watch::Sender::new(LinkState::Idle),
            early: Mutex::default(),
            last_used: Mutex::new(Instant::now()),
        }
    }

    /// The connection, if it stands.
    pub(super) fn standing(&self) -> Option<Arc<Connection>> {
        match &*self.state.borrow() {
            LinkState::Up(connection) if !connection.has_ended() => Some(Arc::clone(connection)),
            _ => None,
        }
    }

    /// Marks the link as used and gives the connection, waiting while one is being made.
    ///
    /// # Errors
    /// None was made by the deadline, or within the time that connecting may take.
    pub(super) async fn connection(
        &self,
        peer: &Arc<Peer>,
        now: Instant,
        deadline: Instant,
    ) -> Result<Arc<Connection>, NotSentReason> {
        self.touch(now);
        if let Some(connection) = self.standing() {
            return Ok(connection);
        }
        let limit = now + peer.options().connect_timeout;
        match timeout_at(limit.min(deadline), self.next_connection(peer)).await {
            Ok(result) => result,
            Err(_) if deadline <= limit => Err(NotSentReason::DeadlinePassed),
            Err(_) => Err(NotSentReason::Unreachable),
        }
    }

    async fn next_connection(&self, peer: &Arc<Peer>) -> Result<Arc<Connection>, NotSentReason> {
        let mut states = self.state.subscribe();
        let mut refused = NotSentReason::BreakerOpen;
        loop {
            self.start(peer);
            let state = states.borrow_and_update().clone();
            match state {
                LinkState::Up(connection) if !connection.has_ended() => return Ok(connection),
                LinkState::Waiting => return Err(refused),
                LinkState::Closed => return Err(NotSentReason::ShutDown),
                LinkState::Up(_) | LinkState::Connecting | LinkState::Idle => {}
            }
            refused = NotSentReason::Unreachable;
            // The sender lives in `self`.
            let _ = states.changed().await;
        }
    }

    /// Queues a one-way message, or keeps it if the connection is just being made. False if it
    /// was dropped.
    pub(super) fn send(&self, peer: &Arc<Peer>, message: Bytes) -> bool {
        self.touch(Instant::now());
        if let Some(connection) = self.standing() {
            return connection.send(message);
        }
        self.start(peer);
        // `raise` changes the state under the same lock: what is put here is sent by it.
        let mut early = self.early.lock().expect("nothing panics while it holds the messages");
        match &*self.state.borrow() {
            LinkState::Up(connection) => connection.send(message),
            LinkState::Connecting if early.len() < EARLY_MESSAGES => {
                early.push(message);
                true
            }
            LinkState::Connecting | LinkState::Waiting | LinkState::Idle | LinkState::Closed => {
                false
            }
        }
    }

    fn touch(&self, now: Instant) {
        *self.last_used.lock().expect("nothing panics while it holds the time") = now;
    }

    /// For how long the link was not used.
    pub(super) fn unused_for(&self, now: Instant) -> Duration {
        let last = *self.last_used.lock().expect("nothing panics while it holds the time");
        now.saturating_duration_since(last)
    }

    /// Whether no task keeps the link.
    pub(super) fn is_idle(&self) -> bool {
        matches!(*self.state.borrow(), LinkState::Idle)
    }

    /// Whether callers are sent away until connecting works again.
    pub(super) fn is_waiting(&self) -> bool {
        matches!(*self.state.borrow(), LinkState::Waiting)
    }

    /// Starts the task that keeps the link, unless there is one.
    fn start(&self, peer: &Arc<Peer>) {
        if !self.is_idle() {
            return;
        }
        let waits = peer.breaker().is_open();
        let first = if waits { LinkState::Waiting } else { LinkState::Connecting };
        let started = self.state.send_if_modified(|state| {
            let idle = matches!(state, LinkState::Idle);
            if idle {
                *state = first;
            }
            idle
        });
        if started {
            peer.spawn_keeper(self.lane);
        }
    }

    /// Sends all callers away for good and ends the connection.
    pub(super) fn close(&self) {
        if let LinkState::Up(connection) = self.state.send_replace(LinkState::Closed) {
            connection.end(BreakReason::ShutDown);
        }
    }

    /// Changes the state, unless the link is closed. True if it was not.
    fn set(&self, next: LinkState) -> bool {
        self.state.send_if_modified(|state| {
            let open = !state.is_closed();
            if open {
                *state = next;
            }
            open
        })
    }

    /// Keeps the link until it was not used for long, or is closed. To be run by one task at most.
    pub(super) async fn run(&self, peer: &Peer) {
        while !self.state.borrow().is_closed() {
            if peer.breaker().is_open() {
                self.fall(peer);
            }
            peer.breaker().admitted().await;
            if self.state.borrow().is_closed() {
                break;
            }
            if !peer.breaker().is_open() {
                self.set(LinkState::Connecting);
            }
            match self.dial(peer).await {
                Ok((connection, wire)) => {
                    if self.attend(peer, connection, wire).await == Attended::Unused {
                        break;
                    }
                }
                Err(error) => {
                    tracing::debug!(to = %peer.address(), lane = self.lane.name(), %error, "dial");
                    peer.counters().add_connect_failure();
                    peer.breaker().failed();
                    self.fall(peer);
                    if self.unused_for(Instant::now()) > peer.options().idle_timeout {
                        break;
                    }
                }
            }
        }
        self.set(LinkState::Idle);
    }

    /// Sends callers away until the breaker closes.
    fn fall(&self, peer: &Peer) {
        let mut early = self.early.lock().expect("nothing panics while it holds the messages");
        self.set(LinkState::Waiting);
        early.drain(..).for_each(|_| peer.counters().add_dropped());
    }

    async fn dial(&self, peer: &Peer) -> Result<(Arc<Connection>, Wire), DialError> {
        let options = peer.options();
        let dialled = timeout(options.connect_timeout, dial(peer.address(), self.lane)).await;
        let (stream, read_ahead) = dialled.unwrap_or(Err(DialError::TimedOut))?;
        let connection = Connection::new(options, Arc::clone(&peer.counters().volume));
        let line = Arc::clone(connection.line());
        Ok((connection, Wire::new(stream, &read_ahead, options.max_frame_bytes, line)))
    }

    /// Lets callers use a connection, with the messages that waited for it first.
    fn raise(&self, connection: &Arc<Connection>) {
        let mut early = self.early.lock().expect("nothing panics while it holds the messages");
        for message in early.drain(..) {
            connection.send(message);
        }
        if !self.set(LinkState::Up(Arc::clone(connection))) {
            connection.end(BreakReason::ShutDown);
        }
    }

    /// Attends a connection from its beginning to its end.
    async fn attend(&self, peer: &Peer, connection: Arc<Connection>, wire: Wire) -> Attended {
        peer.counters().add_connect();
        peer.breaker().succeeded();
        self.raise(&connection);
        let running = Arc::clone(&connection);
        let mut task = tokio::spawn(async move { running.run(wire).await });
        let watched = tokio::select! {
            biased;
            end = &mut task => self.note_end(peer, end.ok()),
            attended = self.watch(peer, &connection) => attended,
        };
        let reason = match watched {
            Attended::Silent => BreakReason::Silent,
            Attended::Broken | Attended::Unused => BreakReason::Closed,
        };
        connection.end(reason);
        task.abort();
        if connection.age(Instant::now()) > peer.options().backoff_max {
            peer.breaker().held();
        } else if watched == Attended::Broken {
            peer.breaker().failed();
        }
        watched
    }

    fn note_end(&self, peer: &Peer, end: Option<ConnectionEnd>) -> Attended {
        let (to, lane) = (peer.address(), self.lane.name());
        match end {
            Some(ConnectionEnd::Wrong(error)) => {
                tracing::warn!(%to, lane, %error, "ended a connection");
            }
            Some(ConnectionEnd::Broken(reason)) => {
                tracing::debug!(%to, lane, %reason, "a connection ended");
            }
            None => {}
        }
        Attended::Broken
    }

    /// Asks a silent peer for a sign of life; ends when it gives none, or the link is not used.
    async fn watch(&self, peer: &Peer, connection: &Connection) -> Attended {
        let options = peer.options();
        let mut ticks = interval(options.ping_after);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let now = ticks.tick().await;
            let quiet = connection.quiet_for(now);
            if quiet >= options.silent_after {
                return Attended::Silent;
            }
            if quiet >= options.ping_after {
                connection.ping();
            }
            if self.unused_for(now) > options.idle_timeout && !connection.has_calls() {
                return Attended::Unused;
            }
        }
    }
}

impl LinkState {
    const fn is_closed(&self) -> bool {
        matches!(self, Self::Closed)
    }
}

/// Why a connection is no longer attended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attended {
    Broken,
    Silent,
    Unused,
}
