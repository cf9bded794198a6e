//! A hybrid logical clock (Kulkarni et al., *Logical Physical Clocks*, 2014, section 3).

use crate::types::HlcStamp;

/// How far ahead of the local wall clock, in milliseconds, a peer's stamp may be and still move the
/// local one.
pub const MAX_DRIFT_MS: u64 = 500;

/// A node's clock: its stamps rise, stay close to wall time, and come after every stamp observed.
/// Wall time is handed in, in milliseconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hlc {
    last: HlcStamp,
}

/// A peer's stamp was too far ahead, and not adopted: to be counted, logged and shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a peer's clock is {ahead_ms} ms ahead of this node's")]
pub struct Drift {
    /// By how much, in milliseconds.
    pub ahead_ms: u64,
}

impl Hlc {
    /// A clock whose next stamp comes after this one.
    pub const fn new(last: HlcStamp) -> Self {
        Self { last }
    }

    /// The latest stamp given out or adopted.
    pub const fn last(&self) -> HlcStamp {
        self.last
    }

    /// The stamp of an event that happens now: greater than any before, also where wall time
    /// stands still or goes back.
    pub fn tick(&mut self, wall_ms: u64) -> HlcStamp {
        self.last = if wall_ms > self.last.wall_ms() {
            HlcStamp::new(wall_ms, 0)
        } else {
            next_after(self.last)
        };
        self.last
    }

    /// Takes note of a peer's stamp: what is stamped here from now on comes after it.
    ///
    /// # Errors
    /// [`Drift`] where it is more than [`MAX_DRIFT_MS`] ahead of wall time; nothing has changed
    /// then.
    pub fn observe(&mut self, remote: HlcStamp, wall_ms: u64) -> Result<(), Drift> {
        let ahead_ms = remote.wall_ms().saturating_sub(wall_ms);
        if ahead_ms > MAX_DRIFT_MS {
            return Err(Drift { ahead_ms });
        }
        self.last = self.last.max(remote);
        Ok(())
    }
}

fn next_after(stamp: HlcStamp) -> HlcStamp {
    match stamp.logical().checked_add(1) {
        Some(logical) => HlcStamp::new(stamp.wall_ms(), logical),
        None => HlcStamp::new(stamp.wall_ms().saturating_add(1), 0),
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::{any, proptest};

    use super::*;

    proptest! {
        #[test]
        fn stamps_rise_and_come_after_all_that_was_adopted(
            steps in vec((any::<bool>(), 0u64..2_000, 0u32..4), 1..60),
        ) {
            let mut clock = Hlc::default();
            let mut latest = clock.last();
            for (is_tick, wall_ms, logical) in steps {
                if is_tick {
                    let stamp = clock.tick(wall_ms);
                    assert!(stamp > latest && stamp.wall_ms() >= wall_ms);
                    latest = stamp;
                } else {
                    let remote = HlcStamp::new(wall_ms, logical);
                    if clock.observe(remote, 700).is_ok() {
                        latest = latest.max(remote);
                    }
                }
            }
        }
    }

    #[test]
    fn a_clock_far_ahead_does_not_drag_this_one_along() {
        let mut clock = Hlc::default();
        assert_eq!(clock.observe(HlcStamp::new(1_500, 9), 1_000), Ok(()));
        assert_eq!(clock.last(), HlcStamp::new(1_500, 9));
        let drift = clock.observe(HlcStamp::new(1_501, 0), 1_000);
        assert_eq!(drift, Err(Drift { ahead_ms: 501 }));
        assert_eq!(clock.tick(1_000), HlcStamp::new(1_500, 10));
    }

    #[test]
    fn a_full_logical_part_carries_into_wall_time() {
        let mut clock = Hlc::new(HlcStamp::new(5, u32::MAX));
        assert_eq!(clock.tick(3), HlcStamp::new(6, 0));
    }
}
