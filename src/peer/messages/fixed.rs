//! Who speaks, and of which state, in so many bytes: as numbers of a variable length, which random ones
//! never are, they would cost more than all the rest of a request.

use serde::de::{Error, Visitor};
use serde::{Deserializer, Serializer};
use smallvec::SmallVec;

use crate::protocol::cluster::StateStamp;
use crate::types::{ClusterId, DataIncarnation, Epoch, RecoveryNumber};

/// What has a form of so many bytes.
pub(super) trait Fixed: Sized {
    /// That form.
    fn to_bytes(&self) -> SmallVec<[u8; 48]>;

    /// The reverse of [`Fixed::to_bytes`]; `None` for bytes that it never returns.
    fn from_bytes(bytes: &[u8]) -> Option<Self>;
}

impl Fixed for DataIncarnation {
    fn to_bytes(&self) -> SmallVec<[u8; 48]> {
        SmallVec::from_slice(&self.get().to_be_bytes())
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Some(Self::new(u128::from_be_bytes(bytes.try_into().ok()?)))
    }
}

impl Fixed for StateStamp {
    fn to_bytes(&self) -> SmallVec<[u8; 48]> {
        let mut bytes = SmallVec::from_slice(&self.cluster.get().to_be_bytes());
        for number in [self.recovery.get(), self.epoch.get(), self.hash] {
            bytes.extend_from_slice(&number.to_be_bytes());
        }
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (cluster, numbers) = bytes.split_first_chunk::<16>()?;
        let (numbers, []) = numbers.as_chunks::<8>() else { return None };
        let [recovery, epoch, hash] = numbers else { return None };
        Some(Self {
            cluster: ClusterId::new(u128::from_be_bytes(*cluster)),
            recovery: RecoveryNumber::new(u64::from_be_bytes(*recovery)),
            epoch: Epoch::new(u64::from_be_bytes(*epoch)),
            hash: u64::from_be_bytes(*hash),
        })
    }
}

/// No bytes for nothing.
impl<T: Fixed> Fixed for Option<T> {
    fn to_bytes(&self) -> SmallVec<[u8; 48]> {
        self.as_ref().map_or_else(SmallVec::new, T::to_bytes)
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if bytes.is_empty() { Some(None) } else { T::from_bytes(bytes).map(Some) }
    }
}

pub(super) fn serialize<T: Fixed, S: Serializer>(value: &T, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_bytes(&value.to_bytes())
}

pub(super) fn deserialize<'de, T: Fixed, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
    from.deserialize_bytes(Bytes(std::marker::PhantomData))
}

struct Bytes<T>(std::marker::PhantomData<T>);

impl<T: Fixed> Visitor<'_> for Bytes<T> {
    type Value = T;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("its bytes")
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<T, E> {
        T::from_bytes(bytes).ok_or_else(|| E::invalid_length(bytes.len(), &self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_comes_back_and_nothing_else_is_taken() {
        let incarnation = DataIncarnation::new(u128::MAX - 5);
        let stamp = StateStamp {
            cluster: ClusterId::new(1 << 100),
            recovery: RecoveryNumber::new(2),
            epoch: Epoch::new(u64::MAX),
            hash: 4,
        };
        assert_eq!(Fixed::from_bytes(&incarnation.to_bytes()), Some(incarnation));
        assert_eq!(Fixed::from_bytes(&stamp.to_bytes()), Some(stamp));
        for given in [Some(stamp), None] {
            assert_eq!(Fixed::from_bytes(&given.to_bytes()), Some(given));
        }
        for bytes in 0..64 {
            let bytes = vec![0; bytes];
            assert_eq!(DataIncarnation::from_bytes(&bytes).is_some(), bytes.len() == 16);
            assert_eq!(StateStamp::from_bytes(&bytes).is_some(), bytes.len() == 40);
        }
    }
}
