//! What a client stores: a value with what belongs to it, or a tombstone.

use std::fmt;
use std::ops::Deref;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use super::wire::{Malformed, Reader, put_varint};

/// A text that shares its bytes, as [`Bytes`] do: cheap to clone, and decoded without a copy.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Bytes", into = "Bytes")]
pub struct Text(Bytes);

impl TryFrom<Bytes> for Text {
    type Error = Malformed;

    fn try_from(bytes: Bytes) -> Result<Self, Malformed> {
        Self::from_utf8(bytes)
    }
}

impl From<Text> for Bytes {
    fn from(text: Text) -> Self {
        text.0
    }
}

impl Text {
    /// A text known when compiling.
    pub const fn from_static(text: &'static str) -> Self {
        Self(Bytes::from_static(text.as_bytes()))
    }

    /// Takes bytes that are UTF-8.
    ///
    /// # Errors
    /// [`Malformed::Text`] where they are not.
    pub fn from_utf8(bytes: Bytes) -> Result<Self, Malformed> {
        match std::str::from_utf8(&bytes) {
            Ok(_) => Ok(Self(bytes)),
            Err(_) => Err(Malformed::Text),
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("checked when it was made")
    }
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self(Bytes::copy_from_slice(text.as_bytes()))
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

/// A value as the client sent it. Two of them are equal where all of it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Value {
    /// `Content-Type`, verbatim.
    pub content_type: Option<Text>,
    /// `Content-Encoding`, verbatim.
    pub content_encoding: Option<Text>,
    /// Names and values of `Starling-Meta-*`, in the order that the caller chose.
    pub meta: Vec<(Text, Text)>,
    /// The bytes.
    pub body: Bytes,
}

/// What a write leaves under its dot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Content {
    /// A PUT.
    Value(Value),
    /// A DELETE.
    Tombstone,
}

/// Far above what 4 KiB of metadata in one request can hold; bounds what a decoder sets aside.
const MAX_META_ENTRIES: usize = 8_192;

impl Content {
    /// Whether this is a tombstone.
    pub fn is_tombstone(&self) -> bool {
        matches!(self, Self::Tombstone)
    }

    /// The value, if this is one.
    pub fn value(&self) -> Option<&Value> {
        match self {
            Self::Value(value) => Some(value),
            Self::Tombstone => None,
        }
    }

    /// xxh3-64 over all of it. Lengths are part of what is hashed, so no two different contents
    /// are hashed as the same bytes. It guards against accidents, not against attackers.
    pub fn checksum(&self) -> u64 {
        let Self::Value(value) = self else {
            return xxh3_64(b"tombstone");
        };
        let mut hashed = Vec::with_capacity(64);
        value.encode_head(&mut hashed);
        hashed.extend_from_slice(&xxh3_128(&value.body).to_be_bytes());
        xxh3_64(&hashed)
    }
}

impl Value {
    /// How many bytes [`Value::encode_into`] writes, at most.
    pub(super) fn encoded_len_hint(&self) -> usize {
        let texts = self.content_type.iter().chain(&self.content_encoding);
        let meta = self.meta.iter().map(|(name, value)| name.len() + value.len() + 20);
        texts.map(|text| text.len()).chain(meta).sum::<usize>() + 40 + self.body.len()
    }

    pub(super) fn encode_into(&self, out: &mut Vec<u8>) {
        self.encode_head(out);
        put_sized(out, &self.body);
    }

    /// Everything but the body.
    fn encode_head(&self, out: &mut Vec<u8>) {
        debug_assert!(self.meta.len() <= MAX_META_ENTRIES, "the API lets 4 KiB of metadata in");
        put_optional(out, self.content_type.as_ref());
        put_optional(out, self.content_encoding.as_ref());
        put_varint(out, self.meta.len() as u64);
        for (name, value) in &self.meta {
            put_sized(out, name.as_bytes());
            put_sized(out, value.as_bytes());
        }
    }

    /// Reads one; its texts and its body share the source's bytes.
    pub(super) fn decode_from(reader: &mut Reader<'_>, source: &Bytes) -> Result<Self, Malformed> {
        let content_type = optional(reader, source)?;
        let content_encoding = optional(reader, source)?;
        let entries = reader.count(2)?;
        if entries > MAX_META_ENTRIES {
            return Err(Malformed::TooManyMeta);
        }
        let mut meta = Vec::with_capacity(entries);
        for _ in 0..entries {
            meta.push((text(reader.sized()?, source)?, text(reader.sized()?, source)?));
        }
        let body = source.slice_ref(reader.sized()?);
        Ok(Self { content_type, content_encoding, meta, body })
    }
}

fn put_sized(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// 0 for none, else the length plus one.
fn put_optional(out: &mut Vec<u8>, text: Option<&Text>) {
    match text {
        None => put_varint(out, 0),
        Some(text) => {
            put_varint(out, text.len() as u64 + 1);
            out.extend_from_slice(text.as_bytes());
        }
    }
}

fn optional(reader: &mut Reader<'_>, source: &Bytes) -> Result<Option<Text>, Malformed> {
    match reader.varint()? {
        0 => Ok(None),
        len_and_one => {
            let len = usize::try_from(len_and_one - 1).map_err(|_| Malformed::Truncated)?;
            text(reader.take(len)?, source).map(Some)
        }
    }
}

fn text(bytes: &[u8], source: &Bytes) -> Result<Text, Malformed> {
    Text::from_utf8(source.slice_ref(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_tells_apart_what_differs_only_in_where_it_stands() {
        let with = |content_type: Option<&str>, content_encoding: Option<&str>, body: &str| {
            Content::Value(Value {
                content_type: content_type.map(Text::from),
                content_encoding: content_encoding.map(Text::from),
                meta: Vec::new(),
                body: body.to_owned().into(),
            })
        };
        let meta = |pairs: &[(&str, &str)]| {
            let meta = pairs.iter().map(|(name, value)| ((*name).into(), (*value).into()));
            Content::Value(Value { meta: meta.collect(), ..Value::default() })
        };
        let contents = [
            Content::Tombstone,
            with(None, None, ""),
            with(None, None, "tombstone"),
            with(Some(""), None, ""),
            with(None, Some(""), ""),
            with(Some("a"), None, "b"),
            with(None, Some("a"), "b"),
            with(Some("ab"), None, ""),
            meta(&[("a", "b")]),
            meta(&[("ab", "")]),
            meta(&[("a", "b"), ("c", "d")]),
            meta(&[("c", "d"), ("a", "b")]),
        ];
        let mut checksums: Vec<u64> = contents.iter().map(Content::checksum).collect();
        checksums.sort_unstable();
        checksums.dedup();
        assert_eq!(checksums.len(), contents.len());
    }
}
