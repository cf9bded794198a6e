//! How many requests are answered at once: what keeps an overloaded node quick.
//!
//! A cluster that is asked for more than it gets done queues the rest, and each further request only
//! makes all the others wait longer. Then even the requests that take least time take long, however
//! the queues are spread over processors, disks and peers. So every tenth of a second a node looks at
//! the time that the quickest tenth of its reads and of its writes took. Where that is above what is
//! tolerable, the limit of requests falls to where they were, in proportion to how far it is above;
//! else it grows by steps, up to `max_requests`. What is beyond the limit is answered with 429 at
//! once, before it costs anything.
//!
//! The quickest tenth, and only of requests that succeed, because a peer that is slow or gone is no
//! reason to refuse requests: it holds up those that need it, and not all. (That the least delay and
//! not the mean tells a queue that stands from one that drains is from Nichols and Jacobson,
//! "Controlling queue delay", CACM 2012.) What is tolerable follows what requests take on this
//! hardware while there are few of them, so that a slow disk is not mistaken for a queue.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::sleep;

/// How often the limit is set.
const INTERVAL: Duration = Duration::from_millis(100);
/// How often the requests are counted within that.
const COUNTS: u32 = 10;
/// So many requests are always taken: enough to keep a node busy.
const FLOOR: usize = 32;
/// As long as there are no more than so many, none waits for another.
const FEW: usize = 4;
/// The quickest requests may take so many times what they take where there are few.
const TOLERABLE: f64 = 8.0;
/// They may always take this long.
const UNNOTICED: Duration = Duration::from_millis(8);
/// And this long where it is not known what they take where there are few.
const TOLERABLE_UNKNOWN: Duration = Duration::from_millis(40);
/// In so many intervals one after another it must have been too much: what is over sooner is a burst.
const LASTING: usize = 2;
/// Times of so many requests tell something.
const ENOUGH: u32 = 5;
/// How much one interval changes what is taken to be usual.
const LEARNING: f64 = 1.0 / 8.0;

/// What a request does with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Read,
    Write,
}

/// See the module's head.
#[derive(Debug)]
pub(super) struct Admission {
    max_requests: usize,
    limit: AtomicUsize,
    in_flight: AtomicUsize,
    /// By [`Class`].
    times: [Times; 2],
}

/// One request that was taken, while it is answered.
#[derive(Debug)]
pub(super) struct Permit<'a>(&'a AtomicUsize);

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How busy a node is.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Requests at once; more are answered with 429.
    pub limit: usize,
    /// Requests that are being answered.
    pub in_flight: usize,
}

impl Admission {
    pub(super) fn new(max_requests: usize) -> Self {
        Self {
            max_requests,
            limit: AtomicUsize::new(max_requests),
            in_flight: AtomicUsize::new(0),
            times: Default::default(),
        }
    }

    /// How many requests are taken at once now.
    pub(super) fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    /// Takes a request, unless there are too many.
    pub(super) fn admit(&self) -> Option<Permit<'_>> {
        // Over the limit, dropping the permit takes it back.
        let permit = Permit(&self.in_flight);
        (self.in_flight.fetch_add(1, Ordering::Relaxed) < self.limit()).then_some(permit)
    }

    /// A request has succeeded.
    pub(super) fn succeeded(&self, class: Class, took: Duration) {
        self.times[class as usize].add(took);
    }

    /// Sets the limit by how it goes, for as long as it is polled.
    pub(super) async fn watch(&self, tell: impl Fn(Load)) {
        let mut usual = [None; 2];
        let mut excesses = [0.0; LASTING];
        loop {
            let in_flight = self.in_flight_on_average().await;
            excesses.rotate_right(1);
            excesses[0] = self.excess(&mut usual, in_flight);
            let lasting = excesses.iter().copied().fold(f64::INFINITY, f64::min);
            let limit = next_limit(self.limit(), self.max_requests, in_flight, lasting);
            self.limit.store(limit, Ordering::Relaxed);
            tell(Load { limit, in_flight: self.in_flight.load(Ordering::Relaxed) });
        }
    }

    /// How many requests there are, over an interval.
    async fn in_flight_on_average(&self) -> usize {
        let counts = match self.in_flight.load(Ordering::Relaxed) {
            // An idle node need not wake up to look.
            in_flight if in_flight < FLOOR => 1,
            _ => COUNTS,
        };
        let mut counted = 0;
        for _ in 0..counts {
            sleep(INTERVAL / counts).await;
            counted += self.in_flight.load(Ordering::Relaxed);
        }
        counted / counts as usize
    }

    /// How many times longer the quickest requests of an interval took than is tolerable: of reads or
    /// of writes, whichever is less. 0 where nothing is known. Learns what is usual.
    fn excess(&self, usual: &mut [Option<f64>; 2], in_flight: usize) -> f64 {
        let mut least = f64::INFINITY;
        for (times, usual) in self.times.iter().zip(usual) {
            let Some(quickest) = times.take_quickest() else { continue };
            if in_flight <= FEW {
                let so_far = usual.unwrap_or(quickest);
                *usual = Some(so_far + (quickest - so_far) * LEARNING);
            }
            let tolerable = usual.map_or(TOLERABLE_UNKNOWN.as_secs_f64(), |it| it * TOLERABLE);
            least = least.min(quickest / tolerable.max(UNNOTICED.as_secs_f64()));
        }
        if least.is_finite() { least } else { 0.0 }
    }
}

/// The limit after an interval with so many requests in the mean.
fn next_limit(limit: usize, max: usize, in_flight: usize, excess: f64) -> usize {
    let floor = FLOOR.min(max);
    if excess <= 1.0 {
        return (limit + limit / 8 + 1).min(max);
    }
    // What stood there until now takes a while to go: not further than to half of it at once.
    let share = excess.recip().max(0.5);
    ((in_flight as f64 * share) as usize).clamp(floor, limit.max(floor))
}

/// How long requests took, in steps of a quarter of a power of two, of microseconds.
#[derive(Debug)]
struct Times([AtomicU32; Self::STEPS]);

impl Default for Times {
    fn default() -> Self {
        Self([const { AtomicU32::new(0) }; Self::STEPS])
    }
}

impl Times {
    /// Up to 67 s; whatever took longer counts as that.
    const STEPS: usize = 4 * 26;

    fn add(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(4);
        let power = us.ilog2();
        let quarter = (us >> (power - 2)) & 3;
        let step = (4 * power as usize + quarter as usize).min(Self::STEPS - 1);
        self.0[step].fetch_add(1, Ordering::Relaxed);
    }

    /// What the quickest tenth took at most, in seconds, of those since the last call; `None` where
    /// they are too few.
    fn take_quickest(&self) -> Option<f64> {
        let counts = self.0.each_ref().map(|count| count.swap(0, Ordering::Relaxed));
        let all: u32 = counts.iter().sum();
        let mut so_far = 0;
        let step = counts.iter().position(|count| {
            so_far += count;
            so_far > all / 10
        })?;
        let us = (1_u64 << (step / 4)) as f64 * (1.0 + (step % 4 + 1) as f64 / 4.0);
        (all >= ENOUGH).then_some(us / 1e6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 1_024;

    #[test]
    fn a_quiet_node_takes_as_many_as_it_may() {
        let limit = (0..100).fold(FLOOR, |limit, _| next_limit(limit, MAX, 10, 0.5));
        assert_eq!(limit, MAX);
    }

    #[test]
    fn slow_requests_lower_the_limit_to_below_what_is_there() {
        assert_eq!(next_limit(MAX, MAX, 100, 1.25), 80);
        assert_eq!(next_limit(MAX, MAX, 500, 20.0), 250);
    }

    #[test]
    fn some_are_always_taken() {
        assert_eq!(next_limit(40, MAX, 2, 100.0), FLOOR);
        assert_eq!(next_limit(8, 8, 8, 100.0), 8);
    }

    /// Where the time is in proportion to how many are in flight, the limit comes to where it is
    /// just tolerable, from both sides, and stays about there.
    #[test]
    fn the_limit_settles_where_it_is_tolerable() {
        for start in [FLOOR, MAX] {
            let mut limit = start;
            for round in 0..100 {
                limit = next_limit(limit, MAX, limit, limit as f64 / 100.0);
                assert!(round < 20 || (85..=115).contains(&limit), "from {start}: {limit}");
            }
        }
    }

    #[test]
    fn requests_are_counted_while_they_are_answered() {
        let admission = Admission::new(2);
        let held = [admission.admit(), admission.admit()];
        assert!(held.iter().all(Option::is_some));
        assert!(admission.admit().is_none());
        drop(held);
        assert!(admission.admit().is_some());
    }

    #[test]
    fn the_quickest_tenth_is_found() {
        let times = Times::default();
        assert_eq!(times.take_quickest(), None);
        (0..ENOUGH - 1).for_each(|_| times.add(Duration::from_millis(1)));
        assert_eq!(times.take_quickest(), None, "too few");
        (1..=100).for_each(|ms| times.add(Duration::from_millis(ms)));
        let quickest = times.take_quickest().expect("enough");
        assert!((0.010..=0.013).contains(&quickest), "{quickest}");
        times.add(Duration::ZERO);
        times.add(Duration::from_secs(1_000_000));
        (0..ENOUGH).for_each(|_| times.add(Duration::from_millis(1)));
        assert!(times.take_quickest().is_some_and(|quickest| quickest < 0.001));
    }

    /// So many requests of a class that take so long, and how many times longer than is tolerable
    /// that is.
    fn excess(admission: &Admission, usual: &mut [Option<f64>; 2], class: Class, ms: u64) -> f64 {
        (0..20).for_each(|_| admission.succeeded(class, Duration::from_millis(ms)));
        admission.excess(usual, 100)
    }

    #[test]
    fn what_is_tolerable_follows_what_is_usual() {
        let (admission, mut usual) = (Admission::new(MAX), [None; 2]);
        assert!(excess(&admission, &mut usual, Class::Write, 50) > 1.0);
        // A disk on which each write takes 50 ms.
        for _ in 0..3 {
            (0..5).for_each(|_| admission.succeeded(Class::Write, Duration::from_millis(50)));
            admission.excess(&mut usual, FEW);
        }
        assert!(excess(&admission, &mut usual, Class::Write, 100) < 1.0);
        assert!(excess(&admission, &mut usual, Class::Write, 1_000) > 2.0);
        // Of reads nothing is known by that.
        assert!(excess(&admission, &mut usual, Class::Read, 100) > 1.0);
    }

    #[test]
    fn quick_reads_beside_slow_writes_are_no_queue() {
        let (admission, mut usual) = (Admission::new(MAX), [None; 2]);
        (0..20).for_each(|_| admission.succeeded(Class::Read, Duration::from_millis(1)));
        assert!(excess(&admission, &mut usual, Class::Write, 5_000) < 1.0);
        assert_eq!(admission.excess(&mut usual, 100), 0.0, "nothing has happened since");
    }
}
