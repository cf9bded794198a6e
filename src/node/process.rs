//! The process that a node's tasks run in.
//!
//! On a real machine the operating system stops, resumes and kills it, and nothing here does
//! anything. In a simulation many nodes share one thread, and each has a gate that every one of its
//! tasks passes whenever it is polled: a stopped process polls nothing, while messages and expired
//! timers wait for it, as after SIGSTOP; a killed one drops what it was doing, wherever it was.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::runtime::Handle;
use tokio::sync::Notify;
use tracing::Span;

/// A handle on the process; clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct Process {
    gate: Option<Arc<Gate>>,
    threads: Option<Threads>,
}

/// What tasks run on.
#[derive(Clone, Debug)]
pub(super) struct Threads {
    /// For what clients wait for.
    pub(super) foreground: Handle,
    /// For repair and streams.
    pub(super) background: Handle,
}

#[derive(Debug)]
struct Gate {
    state: Mutex<State>,
    killed: Notify,
    /// What is logged by the tasks belongs to it.
    span: Span,
}

#[derive(Debug, Default)]
struct State {
    is_stopped: bool,
    is_killed: bool,
    /// Tasks that were due while it was stopped, in the order in which they were.
    waiting: Vec<Waker>,
}

impl Process {
    /// A process that can be stopped, resumed and killed; its logs are within the span.
    pub fn simulated(span: Span) -> Self {
        let gate = Gate { state: Mutex::default(), killed: Notify::new(), span };
        Self { gate: Some(Arc::new(gate)), threads: None }
    }

    /// A real process with threads of their own for repair and streams; the present runtime's are for
    /// everything else. Must be called within a tokio runtime.
    pub fn with_background(background: Handle) -> Self {
        let threads = Threads { foreground: Handle::current(), background };
        Self { gate: None, threads: Some(threads) }
    }

    /// Polls nothing from now on.
    pub fn stop(&self) {
        self.change(|state| state.is_stopped = true);
    }

    /// Goes on where it was stopped.
    pub fn resume(&self) {
        self.change(|state| state.is_stopped = false);
    }

    /// Never polls anything again.
    pub fn kill(&self) {
        self.change(|state| state.is_killed = true);
        if let Some(gate) = &self.gate {
            gate.killed.notify_waiters();
        }
    }

    /// Resolves when it is killed; never for the real process.
    pub async fn killed(&self) {
        let Some(gate) = &self.gate else { return std::future::pending().await };
        let killed = gate.killed.notified();
        if !gate.with(|state| state.is_killed) {
            killed.await;
        }
    }

    /// Runs work in this process.
    pub fn run<F: Future>(&self, work: F) -> Running<F> {
        Running { gate: self.gate.clone(), work: Some(Box::pin(work)) }
    }

    /// What tasks run on; `None`: all of them on the present runtime.
    pub(super) const fn threads(&self) -> Option<&Threads> {
        self.threads.as_ref()
    }

    /// Whether tasks have to pass a gate.
    pub(super) fn is_simulated(&self) -> bool {
        self.gate.is_some()
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let Some(gate) = &self.gate else { return };
        let due = gate.with(|state| {
            change(state);
            if state.is_stopped && !state.is_killed {
                Vec::new()
            } else {
                std::mem::take(&mut state.waiting)
            }
        });
        due.into_iter().for_each(Waker::wake);
    }
}

/// Whether a task may go on.
enum Passage {
    Open,
    Stopped,
    Killed,
}

impl Gate {
    /// A task is due. One that is not let through waits to be resumed.
    fn pass(&self, waker: &Waker) -> Passage {
        self.with(|state| match (state.is_killed, state.is_stopped) {
            (true, _) => Passage::Killed,
            (false, true) => {
                state.waiting.push(waker.clone());
                Passage::Stopped
            }
            (false, false) => Passage::Open,
        })
    }

    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Work in a [`Process`].
pub struct Running<F> {
    /// `None`: the process is the operating system's.
    gate: Option<Arc<Gate>>,
    /// `None` once the process was killed.
    work: Option<Pin<Box<F>>>,
}

impl<F: Future> Future for Running<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let Self { gate, work } = self.get_mut();
        let Some(working) = work.as_mut() else { return Poll::Pending };
        let Some(gate) = gate else { return working.as_mut().poll(context) };
        match gate.pass(context.waker()) {
            Passage::Open => {
                let _entered = gate.span.enter();
                working.as_mut().poll(context)
            }
            Passage::Stopped => Poll::Pending,
            Passage::Killed => {
                *work = None;
                Poll::Pending
            }
        }
    }
}

impl<F> fmt::Debug for Running<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Running")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use tokio::time::sleep;

    use super::*;

    /// A task that counts every millisecond.
    fn counting(process: &Process) -> Arc<AtomicU32> {
        let count = Arc::new(AtomicU32::new(0));
        let counter = Arc::clone(&count);
        tokio::spawn(process.run(async move {
            loop {
                sleep(Duration::from_millis(1)).await;
                counter.fetch_add(1, Ordering::Relaxed);
            }
        }));
        count
    }

    #[tokio::test(start_paused = true)]
    async fn a_stopped_process_goes_on_where_it_was_and_a_killed_one_never() {
        let process = Process::simulated(Span::none());
        let count = counting(&process);
        sleep(Duration::from_micros(10_500)).await;
        process.stop();
        let stopped_at = count.load(Ordering::Relaxed);
        assert!(stopped_at >= 9);
        sleep(Duration::from_millis(50)).await;
        assert_eq!(count.load(Ordering::Relaxed), stopped_at);
        process.resume();
        sleep(Duration::from_micros(10_500)).await;
        let killed_at = count.load(Ordering::Relaxed);
        assert!(killed_at > stopped_at && killed_at < stopped_at + 15, "no time is made up for");
        process.kill();
        sleep(Duration::from_millis(50)).await;
        assert_eq!(count.load(Ordering::Relaxed), killed_at);
        assert_eq!(Arc::strong_count(&count), 1, "what it worked on is dropped");
        process.killed().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_that_is_killed_while_stopped_drops_its_work() {
        let process = Process::simulated(Span::none());
        let count = counting(&process);
        process.stop();
        sleep(Duration::from_millis(5)).await;
        process.kill();
        sleep(Duration::from_millis(5)).await;
        assert_eq!(Arc::strong_count(&count), 1);
    }
}
