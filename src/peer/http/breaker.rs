//! The circuit breaker of one peer: after a failed attempt to connect, calls fail at once and one
//! attempt is made for each pause. Pauses double and are jittered, so that the nodes of a cluster
//! do not come back to a restarted peer in step.

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::peer::http::options::HttpOptions;

/// Shared by the lanes of a peer.
#[derive(Debug)]
pub(super) struct Breaker {
    state: Mutex<State>,
    changed: Notify,
    first: Duration,
    max: Duration,
}

#[derive(Debug)]
struct State {
    /// Failures since a connection last held.
    failures: u32,
    /// Closed: `None`.
    open_until: Option<Instant>,
    /// One lane is trying, for all.
    probing: bool,
    jitter: StdRng,
}

/// When the next attempt may be made.
enum Turn {
    Now,
    At(Instant),
    /// When the attempt that is being made is over.
    AfterProbe,
}

impl Breaker {
    /// A closed one.
    pub(super) fn new(options: &HttpOptions, jitter: StdRng) -> Self {
        let state = State { failures: 0, open_until: None, probing: false, jitter };
        Self {
            state: Mutex::new(state),
            changed: Notify::new(),
            first: options.backoff_first,
            max: options.backoff_max,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds the state")
    }

    pub(super) fn is_open(&self) -> bool {
        self.lock().open_until.is_some()
    }

    /// Waits until an attempt to connect may be made. Each attempt is to be followed by
    /// [`succeeded`](Self::succeeded) or [`failed`](Self::failed).
    pub(super) async fn admitted(&self) {
        loop {
            let changed = self.changed.notified();
            match self.turn() {
                Turn::Now => return,
                Turn::AfterProbe => changed.await,
                Turn::At(time) => {
                    tokio::select! {
                        () = sleep_until(time) => {}
                        () = changed => {}
                    }
                }
            }
        }
    }

    fn turn(&self) -> Turn {
        let mut state = self.lock();
        match state.open_until {
            None => Turn::Now,
            Some(_) if state.probing => Turn::AfterProbe,
            Some(time) if Instant::now() < time => Turn::At(time),
            Some(_) => {
                state.probing = true;
                Turn::Now
            }
        }
    }

    /// A connection stands: closes the breaker.
    pub(super) fn succeeded(&self) {
        let mut state = self.lock();
        state.open_until = None;
        state.probing = false;
        drop(state);
        self.changed.notify_waiters();
    }

    /// There is reason to think that the next attempt succeeds: ends the pause.
    pub(super) fn retry_now(&self) {
        let mut state = self.lock();
        if let Some(until) = &mut state.open_until {
            *until = (*until).min(Instant::now());
            state.failures = 0;
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// A connection held for long: the next failure is a first one. Not at once when it is made,
    /// or a peer that accepts and hangs up would be dialled without a pause.
    pub(super) fn held(&self) {
        self.lock().failures = 0;
    }

    /// An attempt failed, or what it brought did not hold: opens the breaker.
    pub(super) fn failed(&self) {
        let mut state = self.lock();
        let doubled = self.first.saturating_mul(1 << state.failures.min(20));
        state.failures += 1;
        let pause = doubled.min(self.max).mul_f64(state.jitter.random_range(0.5..1.0));
        state.open_until = Some(Instant::now() + pause);
        state.probing = false;
        drop(state);
        self.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt;
    use rand::SeedableRng;
    use rand::rngs::StdRng;
    use tokio::time::Instant;

    use super::Breaker;
    use crate::peer::http::options::HttpOptions;

    fn breaker() -> Breaker {
        Breaker::new(&HttpOptions::default(), StdRng::seed_from_u64(1))
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_double_to_their_bound() {
        let breaker = breaker();
        for expected_ms in [50, 100, 200, 400, 800, 1600, 2000, 2000] {
            breaker.failed();
            assert!(breaker.is_open());
            let began = Instant::now();
            breaker.admitted().await;
            let pause = began.elapsed();
            let full = Duration::from_millis(expected_ms);
            let rounding = Duration::from_millis(1);
            assert!(full / 2 <= pause && pause <= full + rounding, "{pause:?} of {full:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_was_heard_of_is_tried_at_once() {
        let breaker = breaker();
        (0..10).for_each(|_| breaker.failed());
        let waiting = breaker.admitted();
        breaker.retry_now();
        assert_eq!(waiting.now_or_never(), Some(()));
    }

    #[tokio::test(start_paused = true)]
    async fn one_probe_is_admitted_a_pause() {
        let breaker = breaker();
        breaker.failed();
        breaker.admitted().await;
        assert_eq!(breaker.admitted().now_or_never(), None);
        breaker.succeeded();
        assert!(!breaker.is_open());
        assert_eq!(breaker.admitted().now_or_never(), Some(()));
        assert_eq!(breaker.admitted().now_or_never(), Some(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_success_lets_the_waiting_lane_in() {
        let breaker = breaker();
        breaker.failed();
        breaker.admitted().await;
        tokio::join!(breaker.admitted(), async { breaker.succeeded() });
    }
}
