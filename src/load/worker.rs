//! What one thread does: its connections, each with one operation at a time, and a note of what came
//! of them once a second.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::keys::{Chooser, Keys};
use super::pace::{Pacer, Schedule};
use super::plan::{Length, Pace, Plan};
use super::recorder::{Interval, Noted, Notes};
use super::run::{Part, Period};
use super::session::{Failure, Outcome, Purpose, Session};
use super::workload::{Operation, Workload};

/// How long a client waits before it tries to connect again.
const RECONNECT_DELAY: Duration = Duration::from_millis(100);

/// How long a client waits before it asks again for what a node refused for now: what nodes ask for in
/// `Retry-After`.
const REFUSED_DELAY: Duration = Duration::from_secs(1);

/// What a thread tells.
#[derive(Debug)]
pub(super) enum Told {
    /// Its connections are there.
    Connected,
    /// They could not be opened.
    Unreachable(String),
    /// What happened in a stretch of time.
    Interval { thread: u32, number: usize, interval: Box<Interval>, cpu: Duration },
    /// It is over: how many requests were due and never sent.
    Ended { unsent: u64 },
}

/// A thread's part of a run.
pub(super) struct Worker {
    pub plan: Plan,
    pub thread: u32,
    /// Operations that are still to be begun, where they are counted.
    pub left: Arc<AtomicU64>,
    pub stop: CancellationToken,
    pub tell: std::sync::mpsc::Sender<Told>,
}

impl Worker {
    /// Connects, waits for the period to be known, and works.
    pub async fn run(self, mut period: watch::Receiver<Option<Period>>) {
        let sessions = match self.connect().await {
            Ok(sessions) => sessions,
            Err(error) => return self.tell(Told::Unreachable(error)),
        };
        self.tell(Told::Connected);
        let Ok(period) = period.wait_for(Option::is_some).await.map(|period| *period) else {
            return;
        };
        let Some(period) = period else { return };
        self.work(sessions, period).await;
    }

    async fn connect(&self) -> Result<Vec<Session>, String> {
        let plan = &self.plan;
        let purpose = Purpose {
            nodes: Arc::clone(&plan.nodes),
            target: plan.target.clone(),
            values: Arc::clone(&plan.values),
            is_verifying: plan.is_verifying,
            patience: plan.patience,
        };
        let numbers = (self.thread..plan.connections.get()).step_by(plan.thread_count() as usize);
        let connect = |number: u32| {
            let mut session = Session::new(purpose.clone(), number as usize);
            async move {
                let node = session.node();
                let connected = session.connect().await;
                connected.map_err(|error| format!("can't reach {node}: {error}")).map(|()| session)
            }
        };
        try_join_all(numbers.map(connect)).await
    }

    async fn work(self, sessions: Vec<Session>, period: Period) {
        let notes = Rc::new(RefCell::new(Notes::until(period.boundary(0))));
        let pacer = self.pacer(&period);
        let clients = sessions.into_iter().zip(0..).map(|(session, number)| Client {
            session,
            rng: StdRng::seed_from_u64(self.seed_of(number)),
            workload: self.plan.workload.clone(),
            keys: Arc::clone(&self.plan.keys),
            chooser: self.chooser(),
            turns: Turns {
                pacer: pacer.clone(),
                period,
                left: matches!(self.plan.length, Length::Count(_)).then(|| self.left.clone()),
                stop: self.stop.clone(),
            },
            notes: Rc::clone(&notes),
            persistence: self.plan.persistence,
        });
        let clients = join_all(clients.map(|client| tokio::task::spawn_local(client.run())));
        let mut ticker = Ticker { worker: &self, notes, period, number: 0, cpu: thread_time() };
        let unsent = tokio::select! {
            unsent = async { tokio::join!(clients, self.drive(pacer, period)).1 } => unsent,
            never = ticker.tick() => never,
        };
        // What ended behind the boundary that was not reached is a stretch of its own.
        ticker.tell();
        ticker.tell();
        self.tell(Told::Ended { unsent });
    }

    fn chooser(&self) -> Option<Chooser> {
        let inserts_alone = self.plan.workload.has_only(Operation::Insert);
        let keys = Arc::clone(&self.plan.keys);
        (!inserts_alone).then(|| Chooser::new(keys, self.plan.distribution))
    }

    fn seed_of(&self, connection: u64) -> u64 {
        self.plan.seed.wrapping_add(connection << 16).wrapping_add(self.thread.into())
    }

    /// What hands out the requests of an open loop.
    fn pacer(&self, period: &Period) -> Option<Rc<Pacer>> {
        let Pace::Open(per_second) = self.plan.pace else { return None };
        let threads = self.plan.thread_count();
        let schedule = Schedule::of_thread(period.begin, per_second, self.thread, threads);
        let count = match (period.end, self.plan.length) {
            (Some(end), _) => schedule.due_before(end),
            (None, Length::Count(count)) => {
                let share = count / u64::from(threads);
                let is_more = u64::from(self.thread) < count % u64::from(threads);
                schedule.due_before(period.measured_from) + share + u64::from(is_more)
            }
            (None, Length::For(_)) => unreachable!("a period of a length has an end"),
        };
        Some(Pacer::new(schedule, count))
    }

    /// Lets requests become due until the end; gives how many were never sent. Where they are counted,
    /// all are sent, however late.
    async fn drive(&self, pacer: Option<Rc<Pacer>>, period: Period) -> u64 {
        let Some(pacer) = pacer else { return 0 };
        let over = async {
            match period.end {
                Some(end) => sleep_until(end).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.stop.cancelled() => pacer.end(),
            () = over => pacer.end(),
            () = drive_to_the_end(&pacer, period) => 0,
        }
    }

    fn tell(&self, told: Told) {
        // Nobody listens once the run was given up.
        let _ = self.tell.send(told);
    }
}

async fn drive_to_the_end(pacer: &Pacer, period: Period) {
    pacer.drive().await.expect("a timer of the system's");
    if period.end.is_some() {
        // What was due last may still wait for a connection when the end comes.
        std::future::pending().await
    }
}

/// Tells what was noted, at each boundary.
struct Ticker<'a> {
    worker: &'a Worker,
    notes: Rc<RefCell<Notes>>,
    period: Period,
    number: usize,
    cpu: Duration,
}

impl Ticker<'_> {
    async fn tick<T>(&mut self) -> T {
        loop {
            sleep_until(self.period.boundary(self.number)).await;
            self.tell();
        }
    }

    fn tell(&mut self) {
        let now = thread_time();
        let interval = self.notes.borrow_mut().turn(self.period.boundary(self.number + 1));
        self.worker.tell(Told::Interval {
            thread: self.worker.thread,
            number: self.number,
            interval: Box::new(interval),
            cpu: now.saturating_sub(self.cpu),
        });
        (self.number, self.cpu) = (self.number + 1, now);
    }
}

/// The processor's time of this thread; zero where the system does not tell. From a file, as the
/// library's way to the clock ends a process that valgrind watches.
fn thread_time() -> Duration {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = told.split(' ').next().and_then(|text| text.parse().ok());
    Duration::from_nanos(nanoseconds.unwrap_or(0))
}

/// When a client begins operations.
struct Turns {
    pacer: Option<Rc<Pacer>>,
    period: Period,
    left: Option<Arc<AtomicU64>>,
    stop: CancellationToken,
}

impl Turns {
    /// When the next operation was due; none when there is none.
    async fn next(&self) -> Option<Instant> {
        if let Some(pacer) = &self.pacer {
            return pacer.next().await;
        }
        let now = Instant::now();
        let is_over = self.period.end.is_some_and(|end| now >= end) || self.stop.is_cancelled();
        let is_counted = self.period.part_at(now) != Part::WarmUp;
        let is_left = match &self.left {
            Some(left) if is_counted => take_one(left),
            _ => true,
        };
        (!is_over && is_left).then_some(now)
    }

    /// Whether it was due in the warm-up and ended after it: it belongs to neither.
    fn is_left_from_warm_up(&self, noted: &Noted) -> bool {
        let from = self.period.measured_from;
        noted.due < from && noted.ended >= from
    }
}

fn take_one(left: &AtomicU64) -> bool {
    let less = |left: u64| left.checked_sub(1);
    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
}

/// One connection's operations.
struct Client {
    session: Session,
    rng: StdRng,
    workload: Workload,
    keys: Arc<Keys>,
    chooser: Option<Chooser>,
    turns: Turns,
    notes: Rc<RefCell<Notes>>,
    persistence: Duration,
}

impl Client {
    async fn run(mut self) {
        while let Some(due) = self.turns.next().await {
            let operation = self.workload.choose(&mut self.rng);
            let key = self.key_for(operation);
            let sent = Instant::now();
            let result = self.perform(operation, key).await;
            if operation == Operation::Insert {
                self.keys.end_insert(key);
            }
            let is_unconnected = matches!(result, Err(Failure::Connection(_)));
            let noted = Noted { operation, due, sent, ended: Instant::now(), result };
            if !self.turns.is_left_from_warm_up(&noted) {
                self.notes.borrow_mut().note(&noted);
            }
            if is_unconnected {
                sleep(RECONNECT_DELAY).await;
            }
        }
    }

    /// Does an operation, and as long as the plan says again what is refused for now.
    async fn perform(&mut self, operation: Operation, key: u64) -> Result<Outcome, Failure> {
        let begun = Instant::now();
        loop {
            let result = self.session.perform(operation, key, &mut self.rng).await;
            let is_refused = result.as_ref().is_err_and(Failure::is_for_now);
            let may_wait = begun.elapsed() + REFUSED_DELAY <= self.persistence;
            if !is_refused || !may_wait || self.turns.stop.is_cancelled() {
                return result;
            }
            sleep(REFUSED_DELAY).await;
        }
    }

    fn key_for(&mut self, operation: Operation) -> u64 {
        match &self.chooser {
            Some(chooser) if operation != Operation::Insert => chooser.choose(&mut self.rng),
            _ => self.keys.begin_insert(),
        }
    }
}
