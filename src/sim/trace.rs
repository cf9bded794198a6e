//! What happened in a run, in order: always as a hash, on request as lines for people.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;
use xxhash_rust::xxh3::Xxh3;

/// How much of a run is kept as text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Detail {
    /// Nothing; the hash only.
    #[default]
    Hash,
    /// Operations, faults, processes, and what nodes log.
    Timeline,
    /// Every message and batch too.
    Everything,
}

/// The trace of one run; clones are the same one.
#[derive(Clone)]
pub struct Trace {
    begun: Instant,
    detail: Detail,
    state: Arc<Mutex<State>>,
}

struct State {
    hash: Xxh3,
    text: String,
    events: u64,
}

/// What is left of a trace when a run is over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traced {
    /// Over every event of the run, down to the bytes of each message.
    pub hash: u64,
    /// How many events there were.
    pub events: u64,
    /// The lines, as far as they were asked for.
    pub text: String,
}

impl Trace {
    /// Begins one, now.
    pub fn new(detail: Detail) -> Self {
        let state = State { hash: Xxh3::new(), text: String::new(), events: 0 };
        Self { begun: Instant::now(), detail, state: Arc::new(Mutex::new(state)) }
    }

    /// Milliseconds of virtual time since the run began.
    pub fn now_ms(&self) -> u64 {
        self.begun.elapsed().as_millis() as u64
    }

    /// An event that belongs into the timeline.
    pub fn note(&self, who: &str, what: &str) {
        self.event(Detail::Timeline, who, what.as_bytes(), || what.to_owned());
    }

    /// An event that is only shown where everything is. `bytes` are what it is told by; the text is
    /// made on demand.
    pub fn fine(&self, who: &str, bytes: &[u8], text: impl FnOnce() -> String) {
        self.event(Detail::Everything, who, bytes, text);
    }

    fn event(&self, least: Detail, who: &str, bytes: &[u8], text: impl FnOnce() -> String) {
        let now = self.begun.elapsed().as_micros() as u64;
        let mut state = self.lock();
        state.events += 1;
        state.hash.update(&now.to_le_bytes());
        state.hash.update(who.as_bytes());
        state.hash.update(&(bytes.len() as u64).to_le_bytes());
        state.hash.update(bytes);
        if self.detail >= least {
            let (seconds, micros) = (now / 1_000_000, now % 1_000_000);
            let line = text();
            writeln!(state.text, "{seconds:>3}.{:03}  {who:<8} {line}", micros / 1_000)
                .expect("a String takes everything");
        }
    }

    /// A line of a log; shown in the timeline, and not part of the hash.
    pub fn log(&self, who: &str, line: &str) {
        if self.detail >= Detail::Timeline {
            let now = self.now_ms();
            let mut state = self.lock();
            writeln!(state.text, "{:>3}.{:03}  {who:<8} | {line}", now / 1_000, now % 1_000)
                .expect("a String takes everything");
        }
    }

    /// All of it so far.
    pub fn finish(&self) -> Traced {
        let mut state = self.lock();
        let text = std::mem::take(&mut state.text);
        Traced { hash: state.hash.digest(), events: state.events, text }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
