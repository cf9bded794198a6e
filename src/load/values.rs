//! Values that tell whether they are what was stored.
//!
//! A value is its key's number, a place in a pool of random bytes, and the pool's bytes from there on.
//! So it costs one copy to make, does not compress, and whoever has the pool, which is the same in each
//! process, can check every byte of it.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use rand::distr::Distribution as _;
use rand::distr::weighted::WeightedIndex;
use rand::rngs::StdRng;
use rand::{Rng as _, RngExt, SeedableRng};

/// Random bytes that values are cut from: a prime, so that places don't repeat in step with anything.
const POOL_BYTES: usize = 65_537;
/// What the pool is made from. Values that another process stored are checked against the same one.
const POOL_SEED: u64 = 0x5741_524c;
/// The key's number and the place.
const HEAD_BYTES: usize = 12;

/// How long values are.
#[derive(Clone, Debug, PartialEq)]
pub enum ValueSizes {
    /// Any length of these with equal probability, in bytes.
    Between(RangeInclusive<u32>),
    /// Each length in bytes with a probability that goes with its weight.
    Weighted(Vec<(u32, u32)>, WeightedIndex<u32>),
}

/// Why a text names no lengths of values.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' is no size of values: give bytes (1024), a range (100-10000), or sizes with weights \
     (100:9,65536:1)"
)]
pub struct InvalidSizes(String);

impl ValueSizes {
    /// All of one length, in bytes.
    pub fn fixed(bytes: u32) -> Self {
        Self::Between(bytes..=bytes)
    }

    /// The greatest length, in bytes.
    pub fn longest(&self) -> u32 {
        match self {
            Self::Between(range) => *range.end(),
            Self::Weighted(sizes, _) => sizes.iter().map(|(bytes, _)| *bytes).max().unwrap_or(0),
        }
    }

    fn choose(&self, rng: &mut StdRng) -> usize {
        let bytes = match self {
            Self::Between(range) => rng.random_range(range.clone()),
            Self::Weighted(sizes, weights) => sizes[weights.sample(rng)].0,
        };
        bytes as usize
    }

    fn parse(text: &str) -> Option<Self> {
        if let Some((from, to)) = text.split_once('-') {
            let (from, to) = (from.parse().ok()?, to.parse().ok()?);
            return (from <= to).then_some(Self::Between(from..=to));
        }
        if !text.contains(':') {
            return text.parse().ok().map(Self::fixed);
        }
        let weighted = |part: &str| {
            let (bytes, weight) = part.split_once(':')?;
            Some((bytes.parse().ok()?, weight.parse().ok()?))
        };
        let sizes: Vec<(u32, u32)> = text.split(',').map(weighted).collect::<Option<_>>()?;
        let weights = WeightedIndex::new(sizes.iter().map(|(_, weight)| *weight)).ok()?;
        Some(Self::Weighted(sizes, weights))
    }
}

impl fmt::Display for ValueSizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Between(range) if range.start() == range.end() => write!(f, "{}", range.start()),
            Self::Between(range) => write!(f, "{}-{}", range.start(), range.end()),
            Self::Weighted(sizes, _) => {
                let sizes = sizes.iter().map(|(bytes, weight)| format!("{bytes}:{weight}"));
                f.write_str(&sizes.collect::<Vec<_>>().join(","))
            }
        }
    }
}

impl FromStr for ValueSizes {
    type Err = InvalidSizes;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text).ok_or_else(|| InvalidSizes(text.into()))
    }
}

/// A value that was read is not one that was stored under its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WrongValue {
    /// It belongs to another key.
    #[error("the value of another key")]
    OfAnotherKey,
    /// Its bytes are not what was stored.
    #[error("bytes that were never stored")]
    Corrupt,
}

/// Makes values, and checks them.
#[derive(Debug)]
pub struct Values {
    sizes: ValueSizes,
    /// Twice the pool and more, so that no value wraps around.
    pool: Vec<u8>,
}

impl Values {
    /// Values of these lengths.
    pub fn new(sizes: ValueSizes) -> Self {
        let mut once = vec![0; POOL_BYTES];
        StdRng::seed_from_u64(POOL_SEED).fill_bytes(&mut once);
        let length = POOL_BYTES + sizes.longest() as usize;
        let pool = once.iter().copied().cycle().take(length).collect();
        Self { sizes, pool }
    }

    /// How long they are.
    pub fn sizes(&self) -> &ValueSizes {
        &self.sizes
    }

    /// The length of the next value, in bytes.
    pub(super) fn choose_size(&self, rng: &mut StdRng) -> usize {
        self.sizes.choose(rng)
    }

    /// Appends a value of a key with this length.
    pub(super) fn write(&self, key: u64, size: usize, rng: &mut StdRng, into: &mut Vec<u8>) {
        let place = rng.random_range(0..POOL_BYTES);
        let head = head(key, place);
        let head_bytes = size.min(HEAD_BYTES);
        into.extend_from_slice(&head[..head_bytes]);
        into.extend_from_slice(&self.pool[place..place + size - head_bytes]);
    }

    /// Whether this is a value that was stored under the key, by this process or another one.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self, key: u64, value: &[u8]) -> Result<(), WrongValue> {
        let (head, body) = value.split_at(value.len().min(HEAD_BYTES));
        let (number, place) = head.split_at(head.len().min(8));
        if number != &key.to_le_bytes()[..number.len()] {
            return Err(WrongValue::OfAnotherKey);
        }
        let Ok(place) = place.try_into().map(u32::from_le_bytes) else {
            // Shorter than a head: there is nothing else to check.
            return Ok(());
        };
        let is_stored = (place as usize) < POOL_BYTES && self.holds(place as usize, body);
        if is_stored { Ok(()) } else { Err(WrongValue::Corrupt) }
    }

    /// Whether the endless repetition of the pool reads like this from the place on.
    fn holds(&self, place: usize, mut body: &[u8]) -> bool {
        let mut at = place;
        while !body.is_empty() {
            let length = body.len().min(POOL_BYTES - at);
            if body[..length] != self.pool[at..at + length] {
                return false;
            }
            body = &body[length..];
            at = 0;
        }
        true
    }
}

fn head(key: u64, place: usize) -> [u8; HEAD_BYTES] {
    let mut head = [0; HEAD_BYTES];
    head[..8].copy_from_slice(&key.to_le_bytes());
    head[8..].copy_from_slice(&(place as u32).to_le_bytes());
    head
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::{ValueSizes, Values, WrongValue};

    fn value(values: &Values, key: u64, rng: &mut StdRng) -> Vec<u8> {
        let mut value = Vec::new();
        values.write(key, values.choose_size(rng), rng, &mut value);
        value
    }

    #[test]
    fn a_value_passes_for_its_own_key_alone_and_only_whole() {
        let mut rng = StdRng::seed_from_u64(1);
        let values = Values::new("0-200000".parse().expect("sizes"));
        let reader = Values::new(ValueSizes::fixed(0));
        for key in 0..200 {
            let mut value = value(&values, key, &mut rng);
            for checker in [&values, &reader] {
                assert_eq!(checker.check(key, &value), Ok(()));
            }
            if value.len() < 13 {
                continue;
            }
            assert_eq!(values.check(key + 1, &value), Err(WrongValue::OfAnotherKey));
            *value.last_mut().expect("a byte") ^= 1;
            assert_eq!(values.check(key, &value), Err(WrongValue::Corrupt));
        }
    }

    #[test]
    fn sizes_are_as_they_were_asked_for() {
        let mut rng = StdRng::seed_from_u64(2);
        for (text, expected) in
            [("7", vec![7]), ("3-5", vec![3, 4, 5]), ("1:1,9:3,2:0", vec![1, 9])]
        {
            let values = Values::new(text.parse().expect(text));
            let mut seen: Vec<usize> =
                (0..300).map(|_| value(&values, 5, &mut rng).len()).collect();
            seen.sort_unstable();
            seen.dedup();
            assert_eq!(seen, expected, "{text}");
        }
        for text in ["", "x", "5-3", "-1", "1:", "1:0", "1:1,"] {
            text.parse::<ValueSizes>().expect_err(text);
        }
    }
}
