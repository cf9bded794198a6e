//! The frame around every persisted metadata value: format version, body, checksum.
//!
//! Layout: version (1 byte) | body (postcard) | xxh3-64 of version and body (8 bytes, big-endian).
//! The checksum covers the version, and is the same in every version, so that damage is never
//! mistaken for a newer format.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use xxhash_rust::xxh3::xxh3_64;

const CHECKSUM_BYTES: usize = 8;

/// Why a framed value can't be read. No retry helps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The bytes are not those that were written.
    #[error("the checksum of a stored value does not match: it is damaged")]
    Checksum,
    /// Whole, but of a format this release does not know.
    #[error("a stored value has format {found}, newer than this release knows; start a newer one")]
    Newer {
        /// The version found.
        found: u8,
    },
    /// Whole, of a known format, and yet no such value.
    #[error("a stored value is whole, but not what should stand there")]
    Malformed,
}

/// Frames a value.
///
/// # Panics
/// If the value has no postcard form (a map of unknown length): none of ours is so.
pub fn encode<T: Serialize>(version: u8, value: &T) -> Bytes {
    let mut framed = postcard::to_extend(value, vec![version])
        .expect("persisted types have a length before they are written");
    framed.extend_from_slice(&xxh3_64(&framed).to_be_bytes());
    framed.into()
}

/// Checks and opens what [`encode`] returned.
///
/// # Errors
/// [`FrameError`]. Bytes that follow the body are `Malformed`.
pub fn decode<T: DeserializeOwned>(framed: &[u8], newest_known: u8) -> Result<T, FrameError> {
    let (covered, checksum) =
        framed.split_last_chunk::<CHECKSUM_BYTES>().ok_or(FrameError::Checksum)?;
    if xxh3_64(covered) != u64::from_be_bytes(*checksum) {
        return Err(FrameError::Checksum);
    }
    let (&found, body) = covered.split_first().ok_or(FrameError::Malformed)?;
    if found > newest_known {
        return Err(FrameError::Newer { found });
    }
    match postcard::take_from_bytes(body) {
        Ok((value, [])) => Ok(value),
        _ => Err(FrameError::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    use super::*;

    proptest! {
        #[test]
        fn framed_values_come_back(value: (u64, String, Vec<u8>), version: u8) {
            prop_assert_eq!(decode(&encode(version, &value), version), Ok(value));
        }

        #[test]
        fn a_flipped_bit_anywhere_is_found(value: (u64, Vec<u8>), at: usize, bit in 0..8_u8) {
            let mut framed = encode(1, &value).to_vec();
            let at = at % framed.len();
            framed[at] ^= 1 << bit;
            prop_assert_eq!(decode::<(u64, Vec<u8>)>(&framed, 1), Err(FrameError::Checksum));
        }

        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            prop_assert!(decode::<(u64, String)>(&bytes, 1).is_err());
        }
    }

    #[test]
    fn a_newer_format_is_told_from_damage() {
        assert_eq!(decode::<u8>(&encode(2, &7_u8), 1), Err(FrameError::Newer { found: 2 }));
    }

    #[test]
    fn another_type_or_a_rest_is_malformed() {
        assert_eq!(decode::<u8>(&encode(1, &(7_u8, 7_u8)), 1), Err(FrameError::Malformed));
        assert_eq!(decode::<String>(&encode(1, &200_u8), 1), Err(FrameError::Malformed));
    }

    #[test]
    fn the_layout_is_as_documented() {
        let framed = encode(1, &5_u8);
        assert_eq!(framed[..2], [1, 5]);
        assert_eq!(framed[2..], xxh3_64(&[1, 5]).to_be_bytes());
    }
}
