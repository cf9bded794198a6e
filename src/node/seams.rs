//! Wall time and randomness: what a node may not take from its surroundings itself.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

/// Wall time. Nothing is ordered or decided by it but what people are shown, and `lww`.
pub trait Clock: Send + Sync + 'static {
    /// Milliseconds since 1970.
    fn wall_ms(&self) -> u64;
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the clock")]
    fn wall_ms(&self) -> u64 {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since.map_or(0, |since| since.as_millis() as u64)
    }
}

/// One seeded generator for all that a node draws.
pub struct Randomness(Mutex<StdRng>);

impl Randomness {
    /// The same seed draws the same numbers.
    pub fn from_seed(seed: u64) -> Self {
        Self(Mutex::new(StdRng::seed_from_u64(seed)))
    }

    /// Seeded by the operating system.
    ///
    /// # Errors
    /// That of the operating system, which has no randomness to give.
    pub fn from_system() -> anyhow::Result<Self> {
        let rng = StdRng::try_from_rng(&mut rand::rngs::SysRng)?;
        Ok(Self(Mutex::new(rng)))
    }

    /// A number below 2^64.
    pub fn u64(&self) -> u64 {
        self.with(|rng| rng.next_u64())
    }

    /// A number below 2^128.
    pub fn u128(&self) -> u128 {
        self.with(|rng| rng.random())
    }

    /// A generator of its own for one part of the node.
    pub fn fork(&self) -> StdRng {
        StdRng::seed_from_u64(self.u64())
    }

    fn with<T>(&self, draw: impl FnOnce(&mut StdRng) -> T) -> T {
        draw(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl fmt::Debug for Randomness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Randomness")
    }
}
