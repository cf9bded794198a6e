//! Looking for hints that can be brought, as their targets come back (Dynamo, section 4.6; correctness,
//! section 4), and dropping those that are too old. Bringing them is in `replay`.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::Node;
use super::hints::{PAGE, Target};
use super::instruments::PlantedBug;
use super::pace::Pace;
use super::replay::{KeptHint, Unchanged};
use crate::storage::schema::hints_for;
use crate::storage::{ReadError, ScanLimit, Space};

/// How many are brought between two rests while clients are being served.
const BESIDE_CLIENTS: usize = 8;

/// While clients are served, a rest is so many times the work before it. What is kept is safe, and
/// quorum reads show it: the clients come first.
const RESTS: u32 = 8;

/// How often it is looked whether a target is back.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How often it is looked which hints are too old, or more often where they get old sooner: that
/// reads all of them.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

impl Node {
    /// Brings hints to their targets as they come back, until the node stops.
    pub(super) fn spawn_handoff(self: &Arc<Self>) {
        let node = Arc::clone(self);
        self.tasks.spawn_untracked(async move {
            let phase = node.phase();
            let mut swept = None;
            loop {
                let wait = tokio::time::timeout(LOOK_EVERY, node.hints.wake.notified());
                tokio::select! {
                    biased;
                    _ = phase.wait_for(|phase| phase.is_over()) => return,
                    _ = wait => {}
                }
                let every = SWEEP_EVERY.min(node.settings.hints.max_age / 4);
                let is_sweep = swept.is_none_or(|at: Instant| at.elapsed() >= every);
                if is_sweep {
                    swept = Some(Instant::now());
                }
                node.tasks.track(node.hand_off(is_sweep)).await;
            }
        });
    }

    /// Brings what can be brought now; what can't is looked at for its age if this is a sweep.
    async fn hand_off(self: &Arc<Self>, is_sweep: bool) {
        if self.hints.is_in_doubt.swap(false, Ordering::Relaxed)
            && let Err(error) = self.hints.count_all(&*self.store).await
        {
            tracing::error!(%error, "hints can't be read");
            self.hints.doubt();
        }
        for target in self.targets().await {
            if self.phase.borrow().is_over() {
                return;
            }
            if let Err(error) = self.replay(&target, is_sweep).await {
                tracing::error!(%error, "hints can't be read");
            }
        }
    }

    /// For whom something is kept: by the counts, and where these say nothing by a look at the disk,
    /// so that no hint rests on a count.
    async fn targets(self: &Arc<Self>) -> Vec<Target> {
        let layout = self.layout().expect("hints are of a layout");
        let one = ScanLimit { entries: 1, bytes: 1 };
        let mut targets = self.hints.targets();
        for target in layout.others().map(|peer| Some(peer.id.clone())).chain([None]) {
            if targets.contains(&target) {
                continue;
            }
            let found = self.store.scan(Space::Hints, hints_for(target.as_ref()), one).await;
            if found.is_ok_and(|page| !page.entries.is_empty()) {
                self.hints.doubt();
                targets.push(target);
            }
        }
        targets
    }

    /// Brings all hints of one target, as far as it takes them; in a sweep, drops those that are too
    /// old.
    async fn replay(self: &Arc<Self>, target: &Target, is_sweep: bool) -> Result<(), ReadError> {
        let layout = self.layout().expect("hints are of a layout");
        let is_up = match target {
            // Who is gone for good can't take it: those that hold its keys now can.
            Some(id) => layout.peer(id).is_none_or(|peer| peer.is_up()),
            None => true,
        };
        if !is_up && !is_sweep {
            return Ok(());
        }
        let mut pace = Pace::new(self, self.settings.hints.max_bytes_per_second).resting(RESTS);
        let mut range = hints_for(target.as_ref());
        loop {
            let page = self.store.scan(Space::Hints, range.clone(), PAGE).await?;
            let bytes = page.entries.iter().map(|(key, value)| (key.len() + value.len()) as u64);
            let bytes = bytes.sum();
            if !is_up || !self.replay_page(&page.entries, bytes, &mut pace).await {
                self.drop_old_hints(page.entries).await;
                if is_up {
                    return Ok(());
                }
                pace.rest(bytes).await;
            }
            match page.next {
                Some(next) if !self.phase.borrow().is_over() => range = range.resume_at(next),
                _ => return Ok(()),
            }
        }
    }

    /// Whether all of a page went.
    async fn replay_page(
        self: &Arc<Self>,
        mut entries: &[(Bytes, Bytes)],
        bytes: u64,
        pace: &mut Pace,
    ) -> bool {
        let each = bytes / entries.len().max(1) as u64;
        while !entries.is_empty() {
            let most = if pace.are_clients_served() { BESIDE_CLIENTS } else { entries.len() };
            let (piece, rest) = entries.split_at(most.min(entries.len()));
            entries = rest;
            if !self.replay_piece(piece).await {
                return false;
            }
            pace.rest(each * piece.len() as u64).await;
        }
        true
    }

    /// Drops hints that are too old. Never one that was counted.
    async fn drop_old_hints(self: &Arc<Self>, entries: Vec<(Bytes, Bytes)>) {
        let max_age_ms = self.settings.hints.max_age.as_millis() as u64;
        let now_ms = self.clock.wall_ms();
        for (key, value) in entries {
            let Some((kept, hint)) = KeptHint::parse(key, value) else { continue };
            let may_go = !hint.is_counted || self.instruments.has(PlantedBug::CountedHintDropped);
            if !may_go || now_ms.saturating_sub(hint.since_ms) <= max_age_ms {
                continue;
            }
            self.remove_hint(&kept, Unchanged::Hint).await;
            if let Some(target) = &kept.target {
                self.drop_hint(target);
            }
        }
    }
}
