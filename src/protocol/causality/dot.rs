//! A dot: the name of one write event.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::types::ActorId;

/// The greatest counter of a dot. What arrives with a greater one is refused, so that counting on
/// from anything that was accepted cannot overflow.
pub const MAX_COUNTER: u64 = (1 << 62) - 1;

/// One write event: the counter-th write of an actor. Ordered by actor, then counter.
///
/// Its text, `<actor in hex>-<counter>`, is the version id of the client API.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "(ActorId, u64)", into = "(ActorId, u64)")]
pub struct Dot {
    actor: ActorId,
    counter: u64,
}

/// Why something is no [`Dot`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DotError {
    /// Counters are counted from 1.
    #[error("the counter {0} is not in 1 to 2^62 - 1")]
    Counter(u64),
    /// Not what `Display` prints.
    #[error("a version id is 16 hex digits, a hyphen and a number from 1")]
    Text,
}

impl Dot {
    /// The dot of an actor's counter-th write.
    ///
    /// # Errors
    /// [`DotError::Counter`] unless the counter is in 1 to [`MAX_COUNTER`].
    pub const fn new(actor: ActorId, counter: u64) -> Result<Self, DotError> {
        match counter {
            1..=MAX_COUNTER => Ok(Self { actor, counter }),
            _ => Err(DotError::Counter(counter)),
        }
    }

    /// Who minted it.
    pub const fn actor(self) -> ActorId {
        self.actor
    }

    /// The how-manieth write of that actor it is, from 1.
    pub const fn counter(self) -> u64 {
        self.counter
    }
}

impl TryFrom<(ActorId, u64)> for Dot {
    type Error = DotError;

    fn try_from((actor, counter): (ActorId, u64)) -> Result<Self, DotError> {
        Self::new(actor, counter)
    }
}

impl From<Dot> for (ActorId, u64) {
    fn from(dot: Dot) -> Self {
        (dot.actor, dot.counter)
    }
}

impl FromStr for Dot {
    type Err = DotError;

    fn from_str(text: &str) -> Result<Self, DotError> {
        let (actor, counter) = text.split_once('-').ok_or(DotError::Text)?;
        let actor = ActorId::parse_hex(actor).ok_or(DotError::Text)?;
        // One event has one name: no leading zeros and no sign, which `parse` would take.
        if counter.starts_with('0') || !counter.bytes().all(|b| b.is_ascii_digit()) {
            return Err(DotError::Text);
        }
        Self::new(actor, counter.parse().map_err(|_| DotError::Text)?)
    }
}

impl fmt::Display for Dot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.actor, self.counter)
    }
}

impl fmt::Debug for Dot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Dot({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_id_parses_back_and_has_one_form() {
        let dot = Dot::new(ActorId::new(0xab), 12).expect("in range");
        assert_eq!(dot.to_string(), "00000000000000ab-12");
        assert_eq!(dot.to_string().parse(), Ok(dot));
        for bad in ["", "ab-1", "00000000000000ab-", "00000000000000ab-01", "00000000000000ab-+1"] {
            assert!(bad.parse::<Dot>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn counters_go_from_one_to_the_last_that_can_be_counted_on_from() {
        let actor = ActorId::new(1);
        assert_eq!(Dot::new(actor, 0), Err(DotError::Counter(0)));
        assert!(Dot::new(actor, MAX_COUNTER).is_ok());
        assert_eq!(Dot::new(actor, 1 << 62), Err(DotError::Counter(1 << 62)));
        assert!("00000000000000ab-4611686018427387904".parse::<Dot>().is_err());
    }
}
