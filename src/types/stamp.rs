//! Hybrid logical clock stamps (Kulkarni et al., *Logical Physical Clocks*, 2014, section 3).

use std::fmt;

use serde::{Deserialize, Serialize};

/// When a version was written: milliseconds since 1970 and a counter that orders events within one
/// of them. Informative, except in `lww` buckets.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct HlcStamp {
    wall_ms: u64,
    logical: u32,
}

impl HlcStamp {
    /// A stamp from its parts.
    pub const fn new(wall_ms: u64, logical: u32) -> Self {
        Self { wall_ms, logical }
    }

    /// Milliseconds since 1970.
    pub const fn wall_ms(self) -> u64 {
        self.wall_ms
    }

    /// The order within one millisecond.
    pub const fn logical(self) -> u32 {
        self.logical
    }
}

impl fmt::Display for HlcStamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.wall_ms, self.logical)
    }
}
