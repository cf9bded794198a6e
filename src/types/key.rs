//! Keys: any bytes, 1 to 2,048 of them.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::names::Bucket;

/// The longest key, in bytes.
pub const MAX_KEY_BYTES: usize = 2_048;

/// A key within its bucket: 1 to [`MAX_KEY_BYTES`] bytes, any bytes at all, never normalised.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Bytes", into = "Bytes")]
pub struct Key(Bytes);

/// Why bytes are no [`Key`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// No bytes at all.
    #[error("the key is empty; name one after the bucket, as in /v1/kv/my-bucket/my-key")]
    Empty,
    /// More than [`MAX_KEY_BYTES`].
    #[error("the key has {0} bytes; at most {MAX_KEY_BYTES} are allowed")]
    TooLong(usize),
}

impl Key {
    /// Checks and takes a key.
    ///
    /// # Errors
    /// [`KeyError`] where it is empty or longer than [`MAX_KEY_BYTES`].
    pub fn new(bytes: impl Into<Bytes>) -> Result<Self, KeyError> {
        let bytes = bytes.into();
        match bytes.len() {
            0 => Err(KeyError::Empty),
            n if n > MAX_KEY_BYTES => Err(KeyError::TooLong(n)),
            _ => Ok(Self(bytes)),
        }
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl TryFrom<Bytes> for Key {
    type Error = KeyError;

    fn try_from(bytes: Bytes) -> Result<Self, KeyError> {
        Self::new(bytes)
    }
}

impl From<Key> for Bytes {
    fn from(key: Key) -> Self {
        key.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

/// The full name of a value: its bucket and its key there.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct KeyPath {
    /// The namespace.
    pub bucket: Bucket,
    /// The key in it.
    pub key: Key,
}

impl KeyPath {
    /// The bytes that name the pair without ambiguity: bucket, a zero byte (which no bucket
    /// holds), key. The ring's token and the storage order are taken from them.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.parts().concat()
    }

    /// The same, in pieces.
    pub fn parts(&self) -> [&[u8]; 3] {
        [self.bucket.as_str().as_bytes(), &[0], self.key.as_bytes()]
    }

    /// The reverse of [`KeyPath::to_bytes`]; `None` for bytes that it never returns.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let zero = bytes.iter().position(|b| *b == 0)?;
        let bucket = Bucket::new(std::str::from_utf8(&bytes[..zero]).ok()?).ok()?;
        let key = Key::new(Bytes::copy_from_slice(&bytes[zero + 1..])).ok()?;
        Some(Self { bucket, key })
    }
}

impl fmt::Debug for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{:?}", self.bucket, self.key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_any_bytes_up_to_the_limit() {
        assert_eq!(Key::new(Bytes::new()), Err(KeyError::Empty));
        assert!(Key::new(vec![0; MAX_KEY_BYTES]).is_ok());
        assert_eq!(Key::new(vec![0; MAX_KEY_BYTES + 1]), Err(KeyError::TooLong(MAX_KEY_BYTES + 1)));
    }

    #[test]
    fn a_path_with_zero_bytes_in_its_key_comes_back() {
        let path = KeyPath {
            bucket: Bucket::new("b").expect("valid"),
            key: Key::new(vec![0, b'/', 0xff, 0]).expect("valid"),
        };
        assert_eq!(KeyPath::from_bytes(&path.to_bytes()), Some(path));
        assert_eq!(KeyPath::from_bytes(b"no-zero"), None);
        assert_eq!(KeyPath::from_bytes(b"b\0"), None);
    }
}
