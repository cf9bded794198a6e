//! When requests are due.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::clock::Timer;

/// The times at which one thread's requests are due: one each period from `first` on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Schedule {
    pub first: Instant,
    /// Not a [`Duration`]: over a long run its nanoseconds would show.
    pub period_seconds: f64,
}

impl Schedule {
    /// What a thread does of a rate that several share: their requests take turns.
    pub fn of_thread(begin: Instant, per_second: f64, thread: u32, threads: u32) -> Self {
        let period_seconds = f64::from(threads) / per_second;
        let turn = f64::from(thread) / f64::from(threads);
        let first = begin + Duration::from_secs_f64(period_seconds * turn);
        Self { first, period_seconds }
    }

    /// When the request of this number is due.
    pub fn due(&self, number: u64) -> Instant {
        self.first + Duration::from_secs_f64(self.period_seconds * number as f64)
    }

    /// How many are due by then.
    pub fn due_by(&self, now: Instant) -> u64 {
        self.count_while(now, |due| due <= now)
    }

    /// How many are due earlier than that.
    pub fn due_before(&self, end: Instant) -> u64 {
        self.count_while(end, |due| due < end)
    }

    fn count_while(&self, moment: Instant, is_counted: impl Fn(Instant) -> bool) -> u64 {
        let Some(elapsed) = moment.checked_duration_since(self.first) else { return 0 };
        let number = (elapsed.as_secs_f64() / self.period_seconds) as u64;
        // The division rounds: the one that lies on the moment is looked at itself.
        if is_counted(self.due(number)) { number + 1 } else { number }
    }
}

/// Hands a thread's due requests to its connections, in the order in which these became free.
#[derive(Debug)]
pub(super) struct Pacer {
    schedule: Schedule,
    count: u64,
    due: Semaphore,
    taken: Cell<u64>,
}

impl Pacer {
    /// So many requests, each due at its time.
    pub fn new(schedule: Schedule, count: u64) -> Rc<Self> {
        let due = Semaphore::new(0);
        if count == 0 {
            due.close();
        }
        Rc::new(Self { schedule, count, due, taken: Cell::new(0) })
    }

    /// Waits for a request to be due, and takes it: when it was due. None when no more will be.
    pub async fn next(&self) -> Option<Instant> {
        self.due.acquire().await.ok()?.forget();
        let number = self.taken.get();
        self.taken.set(number + 1);
        if number + 1 == self.count {
            self.due.close();
        }
        Some(self.schedule.due(number))
    }

    /// Lets the requests become due.
    ///
    /// # Errors
    /// What the system says of the timer.
    pub async fn drive(&self) -> io::Result<()> {
        let timer = Timer::new()?;
        let mut released = 0;
        while released < self.count {
            timer.wait_until(self.schedule.due(released)).await?;
            let due = self.schedule.due_by(Instant::now()).clamp(released, self.count);
            self.due.add_permits((due - released) as usize);
            released = due;
        }
        Ok(())
    }

    /// Hands out no more: how many were due and not taken.
    pub fn end(&self) -> u64 {
        self.due.close();
        self.due.available_permits() as u64
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::{Pacer, Schedule};

    #[tokio::test]
    async fn as_many_are_due_as_the_rate_says() {
        let begin = Instant::now();
        for per_second in [0.5, 3.0, 999.0, 123_456.0] {
            let threads = 3;
            let end = begin + Duration::from_secs(20);
            let all = (0..threads)
                .map(|thread| Schedule::of_thread(begin, per_second, thread, threads))
                .map(|schedule| schedule.due_before(end))
                .sum::<u64>();
            let expected = 20.0 * per_second;
            assert!((all as f64 - expected).abs() <= 3.0, "{all} at {per_second} a second");
        }
    }

    #[tokio::test]
    async fn what_is_due_at_a_moment_is_due_by_it_and_not_before_it() {
        let first = Instant::now();
        let schedule = Schedule { first, period_seconds: 0.5 };
        let later = first + Duration::from_millis(1_200);
        assert_eq!((schedule.due_by(first), schedule.due_before(first)), (1, 0));
        assert_eq!((schedule.due_by(later), schedule.due_before(later)), (3, 3));
        let earlier = Schedule { first: later, ..schedule };
        assert_eq!((earlier.due_by(first), earlier.due_before(first)), (0, 0));
    }

    #[tokio::test]
    async fn what_was_due_is_taken_in_turn_or_left_over() {
        let begin = Instant::now();
        let schedule = Schedule { first: begin, period_seconds: 1e-4 };
        let pacer = Pacer::new(schedule, 11);
        pacer.drive().await.expect("a timer");
        assert!(begin.elapsed() >= Duration::from_millis(1));
        for number in 0..4 {
            assert_eq!(pacer.next().await, Some(schedule.due(number)));
        }
        assert_eq!(pacer.end(), 7);
        assert_eq!(pacer.next().await, None);
    }

    #[tokio::test]
    async fn whoever_waits_for_more_than_there_is_gets_none() {
        let schedule = Schedule { first: Instant::now(), period_seconds: 1e-6 };
        let pacer = Pacer::new(schedule, 1);
        let (one, other, _) = tokio::join!(pacer.next(), pacer.next(), pacer.drive());
        assert_eq!((one, other), (Some(schedule.first), None));
        assert_eq!(pacer.end(), 0);
    }
}
