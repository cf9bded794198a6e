//! How large a share of the ring a node takes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

const THOUSANDTHS: u32 = 1_000;

/// A node's share of the ring relative to the others': 0 to 1000, in steps of 0.001. Zero is a
/// gateway, which serves clients and holds nothing.
///
/// Fixed point, so that equal weights are equal bits on every node and states that hold them hash
/// alike. Human-readable formats carry it as a number, binary ones as thousandths.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Weight {
    thousandths: u32,
}

/// Why a number is no [`Weight`].
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum WeightError {
    /// Below 0, above 1000, or no number at all.
    #[error("a weight of {0}: must be 0 (a gateway that holds nothing) or 0.001 to 1000")]
    OutOfRange(f64),
    /// Above 0, but it would round to 0 and make the node a gateway.
    #[error("a weight of {0}: the smallest above 0 is 0.001")]
    TooSmall(f64),
    /// No number.
    #[error("a weight is a number: 0 (a gateway that holds nothing) or 0.001 to 1000")]
    NotANumber,
}

impl Weight {
    /// The weight of a gateway.
    pub const ZERO: Self = Self { thousandths: 0 };
    /// The weight of a node that names none.
    pub const ONE: Self = Self { thousandths: THOUSANDTHS };
    /// The greatest weight.
    pub const MAX: Self = Self { thousandths: 1_000 * THOUSANDTHS };

    /// Rounds to the nearest thousandth.
    ///
    /// # Errors
    /// [`WeightError`] where the number is not 0 and not 0.001 to 1000.
    pub fn new(weight: f64) -> Result<Self, WeightError> {
        if !(0.0..=1000.0).contains(&weight) {
            return Err(WeightError::OutOfRange(weight));
        }
        let thousandths = (weight * f64::from(THOUSANDTHS)).round() as u32;
        if thousandths == 0 && weight > 0.0 {
            return Err(WeightError::TooSmall(weight));
        }
        Ok(Self { thousandths })
    }

    /// A weight from thousandths.
    ///
    /// # Errors
    /// [`WeightError::OutOfRange`] above 1,000,000.
    pub fn from_thousandths(thousandths: u32) -> Result<Self, WeightError> {
        let weight = Self { thousandths };
        (weight <= Self::MAX).then_some(weight).ok_or(WeightError::OutOfRange(weight.as_f64()))
    }

    /// In thousandths.
    pub const fn thousandths(self) -> u32 {
        self.thousandths
    }

    /// As a number from 0 to 1000.
    pub fn as_f64(self) -> f64 {
        f64::from(self.thousandths) / f64::from(THOUSANDTHS)
    }

    /// Whether the node is a gateway, which holds no data.
    pub const fn is_zero(self) -> bool {
        self.thousandths == 0
    }
}

impl Default for Weight {
    fn default() -> Self {
        Self::ONE
    }
}

impl TryFrom<f64> for Weight {
    type Error = WeightError;

    fn try_from(weight: f64) -> Result<Self, WeightError> {
        Self::new(weight)
    }
}

impl From<Weight> for f64 {
    fn from(weight: Weight) -> Self {
        weight.as_f64()
    }
}

impl FromStr for Weight {
    type Err = WeightError;

    fn from_str(text: &str) -> Result<Self, WeightError> {
        text.parse().map_err(|_| WeightError::NotANumber).and_then(Self::new)
    }
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.as_f64())
    }
}

impl fmt::Debug for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Weight({self})")
    }
}

impl Serialize for Weight {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.serialize_f64(self.as_f64())
        } else {
            serializer.serialize_u32(self.thousandths)
        }
    }
}

impl<'de> Deserialize<'de> for Weight {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let weight = if deserializer.is_human_readable() {
            Self::new(f64::deserialize(deserializer)?)
        } else {
            Self::from_thousandths(u32::deserialize(deserializer)?)
        };
        weight.map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_round_to_thousandths_but_never_to_a_gateway() {
        assert_eq!(Weight::new(0.0004), Err(WeightError::TooSmall(0.0004)));
        assert_eq!(Weight::new(1.0004), Ok(Weight::ONE));
        assert_eq!(Weight::new(0.0), Ok(Weight::ZERO));
        assert_eq!(Weight::new(1000.0), Ok(Weight::MAX));
        for bad in [-1.0, 1000.001, f64::INFINITY, f64::NEG_INFINITY] {
            assert_eq!(Weight::new(bad), Err(WeightError::OutOfRange(bad)));
        }
        assert!(Weight::new(f64::NAN).is_err());
        assert_eq!("x".parse::<Weight>(), Err(WeightError::NotANumber));
        assert_eq!("2.5".parse::<Weight>().map(Weight::thousandths), Ok(2_500));
    }

    #[test]
    fn json_carries_a_number_and_postcard_the_thousandths() {
        let weight = Weight::new(0.3).expect("in range");
        assert_eq!(serde_json::to_string(&weight).expect("encodes"), "0.3");
        assert_eq!(serde_json::from_str::<Weight>("0.3").expect("decodes"), weight);
        assert_eq!(serde_json::from_str::<Weight>("2").expect("decodes").thousandths(), 2_000);
        assert!(serde_json::from_str::<Weight>("-1").is_err());
        let bytes = postcard::to_stdvec(&weight).expect("encodes");
        assert_eq!(bytes, postcard::to_stdvec(&300_u32).expect("encodes"));
        assert_eq!(postcard::from_bytes::<Weight>(&bytes).expect("decodes"), weight);
        let too_big = postcard::to_stdvec(&1_000_001_u32).expect("encodes");
        assert!(postcard::from_bytes::<Weight>(&too_big).is_err());
    }

    #[test]
    fn every_weight_comes_back_from_its_number_and_its_text() {
        for thousandths in (0..=1_000_000).step_by(7) {
            let weight = Weight::from_thousandths(thousandths).expect("in range");
            assert_eq!(Weight::new(weight.as_f64()), Ok(weight));
            assert_eq!(weight.to_string().parse(), Ok(weight));
        }
    }
}
