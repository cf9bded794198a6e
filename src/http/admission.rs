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
//! "Controlling queue delay", CACM 2012.) What is tolerable follows what requests take while there are
//! few of them, however long that is, so that a slow disk or a distant peer is not mistaken for a queue.
//! A request's time begins when all of it is there: a slow upload says nothing of the node.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::sleep;

/// How often the limit is set.
const INTERVAL: Duration = Duration::from_millis(100);
/// How often the requests are counted within that.
const COUNTS: u32 = 10;
/// So many requests are always taken: enough to keep a node busy. As long as there are no more, they
/// are few.
const FEW: usize = 32;
/// The quickest requests may take so many times what they take where there are few.
const TOLERABLE: f64 = 2.0;
/// They may always take this long.
const UNNOTICED: Duration = Duration::from_millis(8);
/// And this long where it is not known what they take where there are few.
const TOLERABLE_UNKNOWN: Duration = Duration::from_millis(40);
/// In so many intervals one after another it must have been too much: what is over sooner is a burst.
const LASTING: usize = 2;
/// After so many intervals in which no request succeeded, it is forgotten.
const FORGOTTEN: u32 = 10;
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
    /// What requests took, by [`Class`].
    times: [Times; 2],
    /// The same for those that were taken while there were few.
    times_of_few: [Times; 2],
}

/// One request that was taken, while it is answered.
#[derive(Debug)]
pub(super) struct Permit<'a> {
    in_flight: &'a AtomicUsize,
    /// How many there were before it.
    pub(super) before: usize,
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
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
            times_of_few: Default::default(),
        }
    }

    /// Takes a request for a key, unless there are too many; else how many are taken at once.
    pub(super) fn admit(&self) -> Result<Permit<'_>, usize> {
        self.admit_within(self.limit.load(Ordering::Relaxed))
    }

    /// The same for a request that has to come through while the node is busy with keys.
    pub(super) fn admit_first(&self) -> Result<Permit<'_>, usize> {
        self.admit_within(self.max_requests)
    }

    fn admit_within(&self, limit: usize) -> Result<Permit<'_>, usize> {
        let before = self.in_flight.fetch_add(1, Ordering::Relaxed);
        // Over the limit, dropping the permit takes it back.
        let permit = Permit { in_flight: &self.in_flight, before };
        if before < limit { Ok(permit) } else { Err(limit) }
    }

    /// A request has succeeded that came when there were so many others.
    pub(super) fn succeeded(&self, class: Class, before: usize, took: Duration) {
        self.times[class as usize].add(took);
        if before < FEW {
            self.times_of_few[class as usize].add(took);
        }
    }

    /// Sets the limit by how it goes, for as long as it is polled.
    pub(super) async fn watch(&self, tell: impl Fn(Load)) {
        let mut judge = Judge::default();
        loop {
            let in_flight = self.in_flight_on_average().await;
            judge.look_at(self);
            let limit = self.limit.load(Ordering::Relaxed);
            let limit = next_limit(limit, self.max_requests, in_flight, judge.lasting_excess());
            self.limit.store(limit, Ordering::Relaxed);
            tell(Load { limit, in_flight: self.in_flight.load(Ordering::Relaxed) });
        }
    }

    /// How many requests there are, over an interval.
    async fn in_flight_on_average(&self) -> usize {
        let counts = match self.in_flight.load(Ordering::Relaxed) {
            // An idle node need not wake up to look.
            in_flight if in_flight < FEW => 1,
            _ => COUNTS,
        };
        let mut counted = 0;
        for _ in 0..counts {
            sleep(INTERVAL / counts).await;
            counted += self.in_flight.load(Ordering::Relaxed);
        }
        counted / counts as usize
    }
}

/// What is known of how long requests take.
#[derive(Debug, Default)]
struct Judge {
    /// What the quickest take where there are few, in seconds, by [`Class`].
    usual: [Option<f64>; 2],
    /// How many times longer the quickest took than is tolerable, in the last intervals in which some
    /// succeeded.
    excesses: [f64; LASTING],
    /// For how many intervals none has succeeded.
    silent: u32,
}

impl Judge {
    fn look_at(&mut self, admission: &Admission) {
        for (usual, times) in self.usual.iter_mut().zip(&admission.times_of_few) {
            if let Some(quickest) = times.take_quickest() {
                let so_far = usual.unwrap_or(quickest);
                *usual = Some(so_far + (quickest - so_far) * LEARNING);
            }
        }
        let excess = |(times, usual): (&Times, &Option<f64>)| {
            let tolerable = usual.map_or(TOLERABLE_UNKNOWN.as_secs_f64(), |it| it * TOLERABLE);
            Some(times.take_quickest()? / tolerable.max(UNNOTICED.as_secs_f64()))
        };
        // Of reads or of writes, whichever is less: quick ones show that nothing stands in a queue.
        let found = admission.times.iter().zip(&self.usual).filter_map(excess).reduce(f64::min);
        match found {
            Some(excess) => {
                self.excesses.rotate_right(1);
                (self.excesses[0], self.silent) = (excess, 0);
            }
            None if self.silent < FORGOTTEN => self.silent += 1,
            None => self.excesses = [0.0; LASTING],
        }
    }

    fn lasting_excess(&self) -> f64 {
        self.excesses.iter().copied().fold(f64::INFINITY, f64::min)
    }
}

/// The limit after an interval with so many requests in the mean.
fn next_limit(limit: usize, max: usize, in_flight: usize, excess: f64) -> usize {
    let least = FEW.min(max);
    if excess <= 1.0 {
        return (limit + limit / 8 + 1).min(max);
    }
    // What stood there until now takes a while to go: not further than to half of it at once.
    let share = excess.recip().max(0.5);
    ((in_flight as f64 * share) as usize).clamp(least, limit.max(least))
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

    /// What the quickest tenth took at most, in seconds, of those since the last call that told;
    /// `None` while they are too few.
    fn take_quickest(&self) -> Option<f64> {
        if self.0.iter().map(|count| count.load(Ordering::Relaxed)).sum::<u32>() < ENOUGH {
            return None;
        }
        let counts = self.0.each_ref().map(|count| count.swap(0, Ordering::Relaxed));
        let all: u32 = counts.iter().sum();
        let mut so_far = 0;
        let step = counts.iter().position(|count| {
            so_far += count;
            so_far > all / 10
        })?;
        let us = (1_u64 << (step / 4)) as f64 * (1.0 + (step % 4 + 1) as f64 / 4.0);
        Some(us / 1e6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 1_024;
    const MANY: usize = 100;

    #[test]
    fn a_quiet_node_takes_as_many_as_it_may() {
        let limit = (0..100).fold(FEW, |limit, _| next_limit(limit, MAX, 10, 0.5));
        assert_eq!(limit, MAX);
    }

    #[test]
    fn slow_requests_lower_the_limit_to_below_what_is_there() {
        assert_eq!(next_limit(MAX, MAX, 100, 1.25), 80);
        assert_eq!(next_limit(MAX, MAX, 500, 20.0), 250);
    }

    #[test]
    fn some_are_always_taken() {
        assert_eq!(next_limit(40, MAX, 2, 100.0), FEW);
        assert_eq!(next_limit(8, 8, 8, 100.0), 8);
    }

    /// Where the time is in proportion to how many are in flight, the limit comes to where it is
    /// just tolerable, from both sides, and stays about there.
    #[test]
    fn the_limit_settles_where_it_is_tolerable() {
        for start in [FEW, MAX] {
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
        assert!(held.iter().flatten().map(|permit| permit.before).eq([0, 1]));
        assert_eq!(admission.admit().err(), Some(2));
        drop(held);
        assert!(admission.admit().is_ok());
    }

    #[test]
    fn what_has_to_come_through_does_while_keys_are_refused() {
        let admission = Admission::new(MAX);
        admission.limit.store(1, Ordering::Relaxed);
        let _held = admission.admit();
        assert!(admission.admit().is_err());
        assert!(admission.admit_first().is_ok());
    }

    #[test]
    fn the_quickest_tenth_is_found() {
        let times = Times::default();
        assert_eq!(times.take_quickest(), None);
        (1..ENOUGH).for_each(|_| times.add(Duration::from_millis(1)));
        assert_eq!(times.take_quickest(), None, "too few");
        times.add(Duration::from_millis(1));
        assert!(times.take_quickest().is_some(), "those before count too");
        (1..=100).for_each(|ms| times.add(Duration::from_millis(ms)));
        let quickest = times.take_quickest().expect("enough");
        assert!((0.010..=0.013).contains(&quickest), "{quickest}");
        times.add(Duration::ZERO);
        times.add(Duration::from_secs(1_000_000));
        (0..ENOUGH).for_each(|_| times.add(Duration::from_millis(1)));
        assert!(times.take_quickest().is_some_and(|quickest| quickest < 0.001));
    }

    /// So many requests, when there were so many others, that take so long.
    fn take(admission: &Admission, class: Class, before: usize, ms: u64) {
        (0..20).for_each(|_| admission.succeeded(class, before, Duration::from_millis(ms)));
    }

    /// What is found after some intervals of that.
    fn excess(judge: &mut Judge, class: Class, before: usize, ms: u64) -> f64 {
        let admission = Admission::new(MAX);
        for _ in 0..LASTING {
            take(&admission, class, before, ms);
            judge.look_at(&admission);
        }
        judge.lasting_excess()
    }

    #[test]
    fn what_is_tolerable_follows_what_is_usual() {
        let mut judge = Judge::default();
        assert!(excess(&mut judge, Class::Write, MANY, 200) > 2.0, "nothing is known");
        // A disk on which each write takes 200 ms.
        assert!(excess(&mut judge, Class::Write, FEW - 1, 200) < 1.0);
        assert!(excess(&mut judge, Class::Write, MANY, 200) < 1.0);
        assert!(excess(&mut judge, Class::Write, MANY, 1_000) > 2.0);
        assert!(excess(&mut judge, Class::Read, MANY, 100) > 1.0, "of reads nothing is known");
    }

    #[test]
    fn what_many_take_is_never_learnt() {
        let mut judge = Judge::default();
        excess(&mut judge, Class::Write, 0, 1);
        for _ in 0..100 {
            assert!(excess(&mut judge, Class::Write, MANY, 100) > 10.0);
        }
    }

    #[test]
    fn a_burst_is_no_queue() {
        let (mut judge, admission) = (Judge::default(), Admission::new(MAX));
        take(&admission, Class::Write, MANY, 1_000);
        judge.look_at(&admission);
        assert_eq!(judge.lasting_excess(), 0.0);
    }

    #[test]
    fn quick_reads_beside_slow_writes_are_no_queue() {
        let (mut judge, admission) = (Judge::default(), Admission::new(MAX));
        for _ in 0..LASTING {
            take(&admission, Class::Read, MANY, 1);
            take(&admission, Class::Write, MANY, 5_000);
            judge.look_at(&admission);
        }
        assert!(judge.lasting_excess() < 1.0);
    }

    #[test]
    fn what_was_slow_is_forgotten_where_nothing_succeeds_any_more() {
        let mut judge = Judge::default();
        assert!(excess(&mut judge, Class::Write, MANY, 1_000) > 1.0);
        let admission = Admission::new(MAX);
        (0..FORGOTTEN).for_each(|_| judge.look_at(&admission));
        assert!(judge.lasting_excess() > 1.0, "they may still be under way");
        judge.look_at(&admission);
        assert_eq!(judge.lasting_excess(), 0.0);
    }
}
