//! Whether this process was stopped for a while (SIGSTOP, a paused machine).
//!
//! Frames that came meanwhile wait in the sockets, and their time left counts from when they are
//! read. A write that was forwarded long ago would so be done after its client was told that it
//! failed, and replace what was written since. So for a moment after a pause forwarded writes are
//! refused, unbegun.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::{Node, Phase};

/// How often the process shows that it runs.
const BEAT: Duration = Duration::from_millis(100);

/// A silence of this length is a pause.
const PAUSE: Duration = Duration::from_secs(1);

/// How long after a pause old frames may still be read.
const DISTRUST: Duration = Duration::from_secs(1);

/// When this process was last seen to run.
#[derive(Debug)]
pub(super) struct Pulse {
    begun: Instant,
    last_beat_ms: AtomicU64,
    distrust_until_ms: AtomicU64,
}

impl Pulse {
    pub(super) fn new() -> Self {
        let begun = Instant::now();
        Self { begun, last_beat_ms: AtomicU64::new(0), distrust_until_ms: AtomicU64::new(0) }
    }

    fn now_ms(&self) -> u64 {
        self.begun.elapsed().as_millis() as u64
    }

    fn beat(&self) {
        let now = self.now_ms();
        let last = self.last_beat_ms.load(Ordering::SeqCst);
        if now.saturating_sub(last) > PAUSE.as_millis() as u64 {
            tracing::warn!(paused_ms = now - last, "the process was stopped for a while");
            let until = now + DISTRUST.as_millis() as u64;
            // Before the beat, so that there is no moment between in which all looks well.
            self.distrust_until_ms.store(until, Ordering::SeqCst);
        }
        self.last_beat_ms.store(now, Ordering::SeqCst);
    }

    /// Whether what is read now may have come before a pause.
    pub(super) fn was_paused(&self) -> bool {
        let now = self.now_ms();
        let silence = now.saturating_sub(self.last_beat_ms.load(Ordering::SeqCst));
        silence > PAUSE.as_millis() as u64 || now < self.distrust_until_ms.load(Ordering::SeqCst)
    }
}

impl Node {
    /// Keeps the pulse until the node stops.
    pub(super) fn spawn_pulse(self: &Arc<Self>) {
        self.pulse.last_beat_ms.store(self.pulse.now_ms(), Ordering::Relaxed);
        let node = Arc::clone(self);
        self.tasks.spawn_untracked(async move {
            let phase = node.phase();
            loop {
                let stopping = phase.wait_for(|phase| *phase == Phase::Stopping);
                if tokio::time::timeout(BEAT, stopping).await.is_ok() {
                    return;
                }
                node.pulse.beat();
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_silence_is_a_pause_during_it_and_for_a_moment_after() {
        let pulse = Pulse::new();
        assert!(!pulse.was_paused());
        tokio::time::advance(Duration::from_secs(20)).await;
        assert!(pulse.was_paused(), "before the first beat after it");
        pulse.beat();
        assert!(pulse.was_paused(), "old frames may still be read");
        for _ in 0..11 {
            tokio::time::advance(BEAT).await;
            pulse.beat();
        }
        assert!(!pulse.was_paused());
    }
}
