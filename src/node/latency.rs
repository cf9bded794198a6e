//! How fast a peer has answered lately, and how many reads may be raced because one is slow.
//!
//! Hedging after the p95 at a bounded cost: Dean and Barroso, *The Tail at Scale* (2013).

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Answers that the p95 is taken over.
const WINDOW: usize = 128;

/// Answers between two looks at the window.
const REFRESH: usize = 32;

/// Before enough answers came, and at least: racing earlier than this gains nothing.
const INITIAL: Duration = Duration::from_millis(20);
const LEAST: Duration = Duration::from_millis(1);

/// The recent p95 of one peer's answers to reads.
#[derive(Debug)]
pub(super) struct Latency {
    window: Mutex<Window>,
    p95_us: AtomicU64,
}

#[derive(Debug)]
struct Window {
    samples_us: [u32; WINDOW],
    count: usize,
}

impl Default for Latency {
    fn default() -> Self {
        let window = Window { samples_us: [0; WINDOW], count: 0 };
        Self { window: Mutex::new(window), p95_us: AtomicU64::new(INITIAL.as_micros() as u64) }
    }
}

impl Latency {
    /// An answer took this long.
    pub(super) fn record(&self, took: Duration) {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        let at = window.count % WINDOW;
        window.samples_us[at] = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
        window.count += 1;
        if window.count.is_multiple_of(REFRESH) && window.count >= WINDOW {
            let mut sorted = window.samples_us;
            let (_, p95, _) = sorted.select_nth_unstable(WINDOW * 95 / 100);
            self.p95_us.store(u64::from(*p95), Ordering::Relaxed);
        }
    }

    /// When to race a read that waits for this peer.
    pub(super) fn hedge_after(&self) -> Duration {
        Duration::from_micros(self.p95_us.load(Ordering::Relaxed)).max(LEAST)
    }
}

/// Reads that earn one race.
const READS_PER_HEDGE: u64 = 20;

/// Races that may be saved up.
const MOST_HEDGES: u64 = 100;

/// Lets at most one read in twenty be raced.
#[derive(Debug, Default)]
pub(super) struct HedgeBudget {
    /// In reads.
    credit: AtomicU64,
}

impl HedgeBudget {
    /// A read was begun.
    pub(super) fn earn(&self) {
        let earned = |credit: u64| Some((credit + 1).min(MOST_HEDGES * READS_PER_HEDGE));
        let _ = self.credit.fetch_update(Ordering::Relaxed, Ordering::Relaxed, earned);
    }

    /// Whether one may be raced now.
    pub(super) fn spend(&self) -> bool {
        let spent = |credit: u64| credit.checked_sub(READS_PER_HEDGE);
        self.credit.fetch_update(Ordering::Relaxed, Ordering::Relaxed, spent).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_p95_follows_the_window() {
        let latency = Latency::default();
        for i in 0..WINDOW as u64 {
            latency.record(Duration::from_micros(if i % 10 == 0 { 9_000 } else { 2_000 }));
        }
        assert_eq!(latency.hedge_after(), Duration::from_millis(9));
        (0..WINDOW).for_each(|_| latency.record(Duration::from_micros(100)));
        assert_eq!(latency.hedge_after(), LEAST);
    }

    #[test]
    fn one_read_in_twenty_may_be_raced() {
        let budget = HedgeBudget::default();
        assert!(!budget.spend());
        (0..40).for_each(|_| budget.earn());
        assert_eq!((0..40).filter(|_| budget.spend()).count(), 2);
        (0..1_000_000).for_each(|_| budget.earn());
        assert_eq!((0..1_000).filter(|_| budget.spend()).count() as u64, MOST_HEDGES);
    }
}
