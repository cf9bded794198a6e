//! How many replicas an operation waits for (Dynamo's R and W, section 4.5).

use std::fmt;
use std::num::NonZeroU8;

use serde::{Deserialize, Serialize};

/// A level as a client or a setting names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Level {
    /// Writes only: a hint on the accepting node alone is enough.
    Any,
    /// One replica.
    One,
    /// Two replicas.
    Two,
    /// Three replicas.
    Three,
    /// floor(n/2)+1 replicas.
    Quorum,
    /// Every replica of the set.
    All,
    /// This many replicas.
    Count(NonZeroU8),
}

/// Why a level can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LevelError {
    /// No level's name and no number.
    #[error("{0:?} is no level; use one, two, three, quorum, all, for writes also any")]
    Unknown(String),
    /// No number from 1 up.
    #[error("{0:?} is no number of replicas; use 1 to n, the size of the replica set")]
    NotANumber(String),
    /// More replicas than the set has.
    #[error("{level} asks for {required} replicas, but n is {n} for this key; use 1 to {n}")]
    AboveN {
        /// The level that was asked for.
        level: Level,
        /// What it would need.
        required: u8,
        /// The size of the replica set.
        n: u8,
    },
    /// `any` on a read.
    #[error("any is a level for writes only; reads take one, two, three, quorum, all (n is {0})")]
    AnyOnRead(u8),
}

impl Level {
    /// Parses a level's name.
    ///
    /// # Errors
    /// [`LevelError::Unknown`].
    pub fn parse_name(text: &str) -> Result<Self, LevelError> {
        Ok(match text {
            "any" => Self::Any,
            "one" => Self::One,
            "two" => Self::Two,
            "three" => Self::Three,
            "quorum" => Self::Quorum,
            "all" => Self::All,
            _ => return Err(LevelError::Unknown(text.into())),
        })
    }

    /// Parses a number of replicas, as `r` and `w` take it.
    ///
    /// # Errors
    /// [`LevelError::NotANumber`] for anything but digits that make 1 to 255.
    pub fn parse_count(text: &str) -> Result<Self, LevelError> {
        let wrong = || LevelError::NotANumber(text.into());
        if !text.bytes().all(|b| b.is_ascii_digit()) || text.starts_with('0') {
            return Err(wrong());
        }
        text.parse().map(Self::Count).map_err(|_| wrong())
    }

    /// Replicas that the level needs of a set of `n`; not checked against `n`.
    fn wanted(self, n: u8) -> u8 {
        match self {
            Self::Any | Self::One => 1,
            Self::Two => 2,
            Self::Three => 3,
            Self::Quorum => n / 2 + 1,
            Self::All => n,
            Self::Count(count) => count.get(),
        }
    }

    /// Replicas that the level needs of a set of `n`, and never more than it has: for the other set
    /// of a key whose replica set changes (correctness, section 7, rule 10).
    pub fn clamped(self, n: u8) -> u8 {
        self.wanted(n).min(n)
    }

    fn within(self, n: u8) -> Result<NonZeroU8, LevelError> {
        let required = self.wanted(n);
        NonZeroU8::new(required).filter(|r| r.get() <= n).ok_or(LevelError::AboveN {
            level: self,
            required,
            n,
        })
    }

    /// R for a replica set of `n` nodes.
    ///
    /// # Errors
    /// [`LevelError::AboveN`], [`LevelError::AnyOnRead`].
    pub fn for_read(self, n: u8) -> Result<ReadLevel, LevelError> {
        if self == Self::Any {
            return Err(LevelError::AnyOnRead(n));
        }
        self.within(n).map(ReadLevel)
    }

    /// W for a replica set of `n` nodes.
    ///
    /// # Errors
    /// [`LevelError::AboveN`].
    pub fn for_write(self, n: u8) -> Result<WriteLevel, LevelError> {
        self.within(n).map(WriteLevel)
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any"),
            Self::One => f.write_str("one"),
            Self::Two => f.write_str("two"),
            Self::Three => f.write_str("three"),
            Self::Quorum => f.write_str("quorum"),
            Self::All => f.write_str("all"),
            Self::Count(count) => write!(f, "{count}"),
        }
    }
}

/// R: answers that a read waits for; 1 to n.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ReadLevel(NonZeroU8);

/// W: acknowledgements that a write waits for; 1 to n.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WriteLevel(NonZeroU8);

impl ReadLevel {
    /// The number.
    pub const fn get(self) -> u8 {
        self.0.get()
    }
}

impl WriteLevel {
    /// The number.
    pub const fn get(self) -> u8 {
        self.0.get()
    }

    /// The read that a write without a context does first: at the write's own level.
    pub const fn as_read(self) -> ReadLevel {
        ReadLevel(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quorum_is_a_majority_of_the_set() {
        let quorums: Vec<u8> =
            (1..=7).map(|n| Level::Quorum.for_read(n).expect("fits").get()).collect();
        assert_eq!(quorums, [1, 2, 2, 3, 3, 4, 4]);
    }

    #[test]
    fn a_level_above_n_names_n() {
        let error = Level::Three.for_write(2).expect_err("3 of 2");
        assert!(error.to_string().contains("n is 2"), "{error}");
        assert!(Level::Any.for_read(3).is_err());
        assert_eq!(Level::Any.for_write(3).map(WriteLevel::get), Ok(1));
    }

    #[test]
    fn counts_are_plain_digits_from_one_up() {
        assert_eq!(Level::parse_count("2").expect("a number").for_read(3).map(|r| r.get()), Ok(2));
        for bad in ["0", "abc", "", "-1", "+1", "1.0", "256", " 1", "01"] {
            assert!(Level::parse_count(bad).is_err(), "{bad:?}");
        }
    }
}
