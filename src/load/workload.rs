//! What the requests do.

use std::fmt;

use rand::RngExt;
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};

use super::keys::Distribution;

/// One thing that a client does with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Operation {
    /// Reads the value.
    Read,
    /// Writes a new value, without having read.
    Write,
    /// Writes under a key that was not there before.
    Insert,
    /// Reads, and writes a new value with the context of what was read.
    ReadModifyWrite,
}

impl Operation {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Read, Self::Write, Self::Insert, Self::ReadModifyWrite];

    /// Its name in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Insert => "insert",
            Self::ReadModifyWrite => "read-modify-write",
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Operations with their shares in percent, and how keys are chosen unless another way is asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    /// Its name.
    pub name: String,
    shares: Vec<(Operation, u8)>,
    /// How keys are chosen.
    pub distribution: Distribution,
    /// How long values are, in bytes.
    pub value_bytes: u32,
}

/// Why there is no such workload.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnknownWorkload {
    /// YCSB E reads ranges.
    #[error("ycsb-e reads ranges of keys, which Starling does not have yet; run ycsb-a to d, or f")]
    NeedsRanges,
    /// Nothing has this name.
    #[error("there is no workload '{0}'; there are {list}", list = NAMES.join(", "))]
    Unknown(String),
}

/// The workloads that have names. `mixed` takes its share of reads from the plan.
pub const NAMES: [&str; 9] =
    ["read", "write", "mixed", "rmw", "ycsb-a", "ycsb-b", "ycsb-c", "ycsb-d", "ycsb-f"];

/// The value that the limits and peers of the project were measured with.
const VALUE_BYTES: u32 = 1_024;
/// YCSB's record: ten fields of 100 bytes.
const YCSB_VALUE_BYTES: u32 = 1_000;

impl Workload {
    /// The workload of this name; reads are so many percent where the name is `mixed`. YCSB's are
    /// those of Cooper et al. (2010), table 2.
    ///
    /// # Errors
    /// A name that none has, and that of YCSB E.
    pub fn named(name: &str, percent_reads: u8) -> Result<Self, UnknownWorkload> {
        use Operation::{Insert, Read, ReadModifyWrite, Write};
        let zipfian = Distribution::Zipfian(0.99);
        let percent_reads = percent_reads.min(100);
        let (shares, distribution) = match name {
            "read" => (vec![(Read, 100)], Distribution::Uniform),
            "write" => (vec![(Write, 100)], Distribution::Uniform),
            "mixed" => {
                (vec![(Read, percent_reads), (Write, 100 - percent_reads)], Distribution::Uniform)
            }
            "rmw" => (vec![(ReadModifyWrite, 100)], Distribution::Uniform),
            "ycsb-a" => (vec![(Read, 50), (Write, 50)], zipfian),
            "ycsb-b" => (vec![(Read, 95), (Write, 5)], zipfian),
            "ycsb-c" => (vec![(Read, 100)], zipfian),
            "ycsb-d" => (vec![(Read, 95), (Insert, 5)], Distribution::Latest),
            "ycsb-e" => return Err(UnknownWorkload::NeedsRanges),
            "ycsb-f" => (vec![(Read, 50), (ReadModifyWrite, 50)], zipfian),
            _ => return Err(UnknownWorkload::Unknown(name.into())),
        };
        let is_ycsb = name.starts_with("ycsb");
        let value_bytes = if is_ycsb { YCSB_VALUE_BYTES } else { VALUE_BYTES };
        Ok(Self { name: name.into(), shares, distribution, value_bytes })
    }

    /// Inserts alone: what fills a store before it is measured.
    pub(super) fn of_inserts(&self) -> Self {
        Self { name: "load".into(), shares: vec![(Operation::Insert, 100)], ..self.clone() }
    }

    /// Whether it asks for keys that have to be there.
    pub fn needs_keys(&self) -> bool {
        let reads = |(operation, share): &(Operation, u8)| {
            *share > 0 && matches!(operation, Operation::Read | Operation::ReadModifyWrite)
        };
        self.shares.iter().any(reads)
    }

    /// Whether there is nothing else than this in it.
    pub(super) fn has_only(&self, operation: Operation) -> bool {
        self.shares.iter().all(|(other, share)| *other == operation || *share == 0)
    }

    pub(super) fn choose(&self, rng: &mut StdRng) -> Operation {
        let mut number = rng.random_range(0..100);
        for (operation, share) in &self.shares {
            if number < *share {
                return *operation;
            }
            number -= share;
        }
        unreachable!("shares add up to 100")
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::{NAMES, Operation, UnknownWorkload, Workload};

    #[test]
    fn operations_have_the_shares_of_their_workload() {
        let mut rng = StdRng::seed_from_u64(3);
        for name in NAMES {
            let workload = Workload::named(name, 30).expect(name);
            let total: u32 = workload.shares.iter().map(|(_, share)| u32::from(*share)).sum();
            assert_eq!(total, 100, "{name}");
            for (operation, share) in &workload.shares {
                let chosen = (0..10_000).filter(|_| workload.choose(&mut rng) == *operation);
                let percent = chosen.count() as f64 / 100.0;
                assert!((percent - f64::from(*share)).abs() < 2.0, "{name} {operation} {percent}");
            }
        }
        let mixed = Workload::named("mixed", 30).expect("mixed");
        assert_eq!(mixed.shares, [(Operation::Read, 30), (Operation::Write, 70)]);
    }

    #[test]
    fn ycsb_e_says_that_it_needs_ranges() {
        assert_eq!(Workload::named("ycsb-e", 0), Err(UnknownWorkload::NeedsRanges));
        let unknown = Workload::named("ycsb-g", 0).expect_err("no such workload");
        assert!(unknown.to_string().contains("ycsb-f"), "{unknown}");
    }
}
