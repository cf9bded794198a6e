//! A run from its beginning to its end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::LocalSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::plan::{Length, Plan};
use super::recorder::Interval;
use super::worker::{Told, Worker};

const SECOND: Duration = Duration::from_secs(1);

/// Which part of a run a moment belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Before the measurement.
    WarmUp,
    /// The measurement.
    Measured,
    /// After its end, while the last answers come in: their latencies count, their number does not
    /// count for the throughput.
    Late,
}

/// From when to when it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Period {
    pub begin: Instant,
    pub measured_from: Instant,
    /// None where operations are counted.
    pub end: Option<Instant>,
}

impl Period {
    fn new(begin: Instant, plan: &Plan) -> Self {
        let measured_from = begin + plan.warm_up;
        let end = match plan.length {
            Length::For(duration) => Some(measured_from + duration),
            Length::Count(_) => None,
        };
        Self { begin, measured_from, end }
    }

    /// Where the stretch of this number ends: one a second, cut at the beginning of the measurement
    /// and at its end.
    pub fn boundary(&self, number: usize) -> Instant {
        let seconds = |count: usize| SECOND * u32::try_from(count).unwrap_or(u32::MAX);
        let warm = whole_seconds(self.measured_from - self.begin);
        if number < warm {
            return (self.begin + seconds(number + 1)).min(self.measured_from);
        }
        let number = number - warm;
        let plain = self.measured_from + seconds(number + 1);
        let Some(end) = self.end else { return plain };
        let measured = whole_seconds(end - self.measured_from);
        if number < measured { plain.min(end) } else { end + seconds(number - measured + 1) }
    }

    /// Where the stretch of this number begins.
    fn start(&self, number: usize) -> Instant {
        number.checked_sub(1).map_or(self.begin, |before| self.boundary(before))
    }

    pub fn part_at(&self, moment: Instant) -> Part {
        if moment < self.measured_from {
            Part::WarmUp
        } else if self.end.is_some_and(|end| moment >= end) {
            Part::Late
        } else {
            Part::Measured
        }
    }
}

/// How many seconds, a begun one being a whole one.
fn whole_seconds(duration: Duration) -> usize {
    duration.as_nanos().div_ceil(SECOND.as_nanos()).try_into().unwrap_or(usize::MAX)
}

/// A second of a run, as it is told while it goes.
#[derive(Clone, Debug)]
pub struct Second {
    /// Which part it belongs to.
    pub part: Part,
    /// When it began, from the beginning of the measurement; zero in the warm-up.
    pub start: Duration,
    /// How long it was: less than a second where the measurement begins or ends within.
    pub length: Duration,
    /// What happened.
    pub interval: Interval,
    /// The processor's time of each of the generator's threads.
    pub cpu: Vec<Duration>,
}

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Measured {
    /// How long it was measured.
    pub elapsed: Duration,
    /// What ended within that time.
    pub in_time: Interval,
    /// All that was measured, the last answers included.
    pub all: Interval,
    /// Requests that were due and never sent, as all connections were waiting for answers.
    pub unsent: u64,
    /// The processor's time of each of the generator's threads.
    pub cpu: Vec<Duration>,
    /// Its seconds, without warm-up.
    pub seconds: Vec<Second>,
}

/// Why there is nothing to report.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    /// A node could not be reached at the beginning.
    #[error("{0}; is the node running? Name other ones with --node")]
    Unreachable(String),
    /// A bug of the generator.
    #[error("a thread of the load generator failed; this is a bug")]
    Failed,
}

/// Runs it. Each second is shown as it ends; `stop` ends the run early, with what there is. Blocks.
///
/// # Errors
/// A node that can't be reached at the beginning. What goes wrong later is counted.
pub fn run(
    plan: &Plan,
    stop: &CancellationToken,
    show: &mut dyn FnMut(&Second),
) -> Result<Measured, RunError> {
    let count = match plan.length {
        Length::Count(count) => count,
        Length::For(_) => 0,
    };
    let left = Arc::new(AtomicU64::new(count));
    let (tell, told) = channel();
    let (begin, period) = watch::channel(None);
    let threads = (0..plan.thread_count()).map(|thread| {
        let (plan, tell, stop) = (plan.clone(), tell.clone(), stop.clone());
        let worker = Worker { plan, thread, left: Arc::clone(&left), stop, tell };
        start(worker, period.clone())
    });
    let threads: Vec<JoinHandle<()>> = threads.collect();
    drop((tell, period));
    wait_until_connected(&told, threads.len())?;
    let period = Period::new(Instant::now(), plan);
    begin.send_replace(Some(period));
    let mut collector = Collector::new(period, threads.len());
    while let Ok(told) = told.recv() {
        collector.hear(told, show);
    }
    for thread in threads {
        thread.join().map_err(|_| RunError::Failed)?;
    }
    Ok(collector.end(show))
}

fn start(worker: Worker, period: watch::Receiver<Option<Period>>) -> JoinHandle<()> {
    let run = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime of one thread needs little");
        LocalSet::new().block_on(&runtime, worker.run(period));
    };
    let builder = std::thread::Builder::new().name("load".into());
    builder.spawn(run).expect("a few threads can be started")
}

fn wait_until_connected(told: &Receiver<Told>, threads: usize) -> Result<(), RunError> {
    for _ in 0..threads {
        match told.recv() {
            Ok(Told::Connected) => {}
            Ok(Told::Unreachable(why)) => return Err(RunError::Unreachable(why)),
            Ok(Told::Interval { .. } | Told::Ended { .. }) | Err(_) => {
                return Err(RunError::Failed);
            }
        }
    }
    Ok(())
}

/// Puts together what the threads tell.
struct Collector {
    period: Period,
    threads: usize,
    /// Seconds that not all threads have told of.
    open: BTreeMap<usize, (usize, Second)>,
    measured: Measured,
    /// Of the last moment that was counted.
    last: Instant,
}

impl Collector {
    fn new(period: Period, threads: usize) -> Self {
        let measured = Measured {
            elapsed: Duration::ZERO,
            in_time: Interval::default(),
            all: Interval::default(),
            unsent: 0,
            cpu: vec![Duration::ZERO; threads],
            seconds: Vec::new(),
        };
        Self { period, threads, open: BTreeMap::new(), measured, last: period.measured_from }
    }

    fn hear(&mut self, told: Told, show: &mut dyn FnMut(&Second)) {
        match told {
            Told::Interval { thread, number, interval, cpu } => {
                let second = self.second(number);
                let (heard, second) = self.open.entry(number).or_insert((0, second));
                *heard += 1;
                second.interval.add(&interval);
                second.cpu[thread as usize] += cpu;
                if *heard == self.threads {
                    self.close(number, show);
                }
            }
            Told::Ended { unsent } => self.measured.unsent += unsent,
            Told::Connected | Told::Unreachable(_) => {}
        }
    }

    fn second(&self, number: usize) -> Second {
        let start = self.period.start(number);
        Second {
            part: self.period.part_at(start),
            start: start.saturating_duration_since(self.period.measured_from),
            length: Duration::ZERO,
            interval: Interval::default(),
            cpu: vec![Duration::ZERO; self.threads],
        }
    }

    fn close(&mut self, number: usize, show: &mut dyn FnMut(&Second)) {
        let Some((_, mut second)) = self.open.remove(&number) else { return };
        // The last stretch ends with the last operation, where these are counted or the run is stopped.
        let end = self.period.boundary(number).min(Instant::now());
        second.length = end.saturating_duration_since(self.period.start(number));
        show(&second);
        if second.part == Part::WarmUp {
            return;
        }
        self.measured.all.add(&second.interval);
        if second.part == Part::Measured {
            self.measured.in_time.add(&second.interval);
            self.last = self.last.max(end);
            for (all, cpu) in self.measured.cpu.iter_mut().zip(&second.cpu) {
                *all += *cpu;
            }
        }
        self.measured.seconds.push(second);
    }

    fn end(mut self, show: &mut dyn FnMut(&Second)) -> Measured {
        for number in self.open.keys().copied().collect::<Vec<usize>>() {
            self.close(number, show);
        }
        self.measured.elapsed = self.last - self.period.measured_from;
        self.measured
    }
}
