//! Records and summaries as bytes, on the wire and on disk.
//!
//! - A *state* is the canonical context, the number of versions, and for each of them, by dot: actor
//!   (8 bytes), counter, the stamp's two numbers, checksum (8 bytes), and 1 for a tombstone or 0.
//!   Digests are taken over it.
//! - A summary is the format number (1 byte) and the state.
//! - A record is the format number, the state, and the values in the order of their versions: so a
//!   record's summary is read without touching a value.
//! - Stored, a record is followed by xxh3-64 (8 bytes) over all of that. Every later format keeps
//!   the first byte and the last eight as they are, so that a newer format and a damaged record
//!   are told apart.
//!
//! Each has one encoding only; fixed numbers are big-endian, all others varints. Decoders take
//! nothing that an encoder would not have written, set aside no more than a small multiple of the
//! bytes that they were given, and never panic.

use bytes::Bytes;
use smallvec::SmallVec;
use xxhash_rust::xxh3::xxh3_64;

use super::content::{Content, Value};
use super::context::Context;
use super::dot::Dot;
use super::record::Record;
use super::summary::Summary;
use super::survivors::{Entry, Survivors};
use super::version::{Version, VersionHead};
use super::wire::{Malformed, Reader, put_varint};
use crate::types::{ActorId, HlcStamp};

#[cfg(test)]
mod tests;

/// The format that is written.
pub const FORMAT: u8 = 1;

const CHECKSUM_BYTES: usize = 8;

/// Actor, counter, stamp (2), checksum, kind.
const MIN_HEAD_BYTES: usize = 8 + 1 + 2 + 8 + 1;

/// Why bytes are no record or summary. Trying again does not help.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Written by a later release, and whole.
    #[error("format {found} is newer than {FORMAT}, the newest that this release reads")]
    NewerFormat {
        /// The format's number.
        found: u8,
    },
    /// Damaged since it was stored: not to be served.
    #[error("the checksum does not match: the record is damaged")]
    Checksum,
    /// Never written by any release.
    #[error("malformed: {0}")]
    Malformed(#[from] Malformed),
}

impl Survivors<Version> {
    /// The record as it is sent: canonical, and without a checksum of the whole.
    pub fn to_bytes(&self) -> Bytes {
        self.encode(0).0.into()
    }

    /// Reads a record that was sent, and checks each value against its checksum. The values share
    /// the given bytes.
    ///
    /// # Errors
    /// [`DecodeError::NewerFormat`], [`DecodeError::Malformed`].
    pub fn from_bytes(bytes: Bytes) -> Result<Self, DecodeError> {
        let (record, _) = decode_record(&bytes)?;
        let whole = |version: &Version| version.content().checksum() == version.checksum();
        if record.versions().iter().all(whole) {
            Ok(record)
        } else {
            Err(Malformed::VersionChecksum.into())
        }
    }

    /// The record as it is stored: with a checksum over everything.
    pub fn to_stored_bytes(&self) -> Bytes {
        self.to_stored_with_digest().0
    }

    /// The same, and the record's digest, which costs less along with it than by itself.
    pub fn to_stored_with_digest(&self) -> (Bytes, u64) {
        let (mut out, digest) = self.encode(CHECKSUM_BYTES);
        let checksum = xxh3_64(&out);
        out.extend_from_slice(&checksum.to_be_bytes());
        (out.into(), digest)
    }

    /// Reads a stored record. The values share the given bytes.
    ///
    /// # Errors
    /// [`DecodeError`]; [`DecodeError::Checksum`] for whatever was damaged.
    pub fn from_stored_bytes(bytes: Bytes) -> Result<Self, DecodeError> {
        Ok(Self::from_stored_with_digest(bytes)?.0)
    }

    /// The same, and the record's digest, which costs less along with it than by itself.
    ///
    /// # Errors
    /// Those of [`Self::from_stored_bytes`].
    pub fn from_stored_with_digest(bytes: Bytes) -> Result<(Self, u64), DecodeError> {
        // The checksum of the whole covers the values, so they are not hashed a second time.
        let whole = checked_whole(&bytes)?.len();
        decode_record(&bytes.slice(..whole))
    }

    /// The record's bytes and its digest.
    fn encode(&self, extra_capacity: usize) -> (Vec<u8>, u64) {
        let values: usize = self.live_values().map(Value::encoded_len_hint).sum();
        let state = self.context().encoded_len() + 40 * self.versions().len();
        let mut out = Vec::with_capacity(16 + state + values + extra_capacity);
        out.push(FORMAT);
        put_state(&mut out, self);
        let digest = xxh3_64(&out[1..]);
        self.live_values().for_each(|value| value.encode_into(&mut out));
        (out, digest)
    }

    fn live_values(&self) -> impl Iterator<Item = &Value> {
        self.versions().iter().filter_map(Version::value)
    }
}

impl Survivors<VersionHead> {
    /// The summary as it is sent.
    pub fn to_bytes(&self) -> Bytes {
        let mut out = Vec::with_capacity(64);
        out.push(FORMAT);
        put_state(&mut out, self);
        out.into()
    }

    /// Reads a summary that was sent.
    ///
    /// # Errors
    /// [`DecodeError::NewerFormat`], [`DecodeError::Malformed`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = formatted(bytes)?;
        let summary = decode_state(&mut reader)?;
        reader.finish()?;
        Ok(summary)
    }

    /// Reads the summary of a stored record; checks the checksum of the whole, copies no value.
    ///
    /// # Errors
    /// [`DecodeError`]; [`DecodeError::Checksum`] for whatever was damaged.
    pub fn from_stored_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        Ok(decode_state(&mut formatted(checked_whole(bytes)?)?)?)
    }
}

/// Writes the part of a state that records and summaries share.
pub(super) fn put_state<E: Entry>(out: &mut Vec<u8>, state: &Survivors<E>) {
    state.context().encode_into(out);
    put_varint(out, state.versions().len() as u64);
    for head in state.heads() {
        out.extend_from_slice(&head.dot.actor().get().to_be_bytes());
        put_varint(out, head.dot.counter());
        put_varint(out, head.stamp.wall_ms());
        put_varint(out, head.stamp.logical().into());
        out.extend_from_slice(&head.checksum.to_be_bytes());
        out.push(head.deleted.into());
    }
}

/// Splits off the checksum, having checked it.
fn checked_whole(bytes: &[u8]) -> Result<&[u8], DecodeError> {
    let (whole, stored) = bytes.split_last_chunk().ok_or(Malformed::Truncated)?;
    if xxh3_64(whole) == u64::from_be_bytes(*stored) {
        Ok(whole)
    } else {
        Err(DecodeError::Checksum)
    }
}

/// Takes off the format number.
fn formatted(bytes: &[u8]) -> Result<Reader<'_>, DecodeError> {
    let mut reader = Reader::new(bytes);
    match reader.byte()? {
        FORMAT => Ok(reader),
        found if found > FORMAT => Err(DecodeError::NewerFormat { found }),
        _ => Err(Malformed::NotCanonical.into()),
    }
}

/// The record and its digest: its state has this one encoding only.
fn decode_record(bytes: &Bytes) -> Result<(Record, u64), DecodeError> {
    let mut reader = formatted(bytes)?;
    let Summary { context, versions: heads } = decode_state(&mut reader)?;
    let digest = xxh3_64(&bytes[1..bytes.len() - reader.left()]);
    let mut versions = SmallVec::new();
    for head in heads {
        let content = match head.deleted {
            true => Content::Tombstone,
            false => Content::Value(Value::decode_from(&mut reader, bytes)?),
        };
        versions.push(Version::from_parts(head, content));
    }
    reader.finish()?;
    Ok((Record { context, versions }, digest))
}

fn decode_state(reader: &mut Reader<'_>) -> Result<Summary, Malformed> {
    let context = Context::decode_from(reader)?;
    let mut versions = SmallVec::new();
    let mut previous = None;
    for _ in 0..reader.count(MIN_HEAD_BYTES)? {
        let head = decode_head(reader)?;
        if previous.replace(head.dot) >= Some(head.dot) {
            return Err(Malformed::NotCanonical);
        }
        if !context.contains(head.dot) {
            return Err(Malformed::UncoveredVersion);
        }
        versions.push(head);
    }
    Ok(Summary { context, versions })
}

fn decode_head(reader: &mut Reader<'_>) -> Result<VersionHead, Malformed> {
    let actor = ActorId::new(reader.u64()?);
    let dot = Dot::new(actor, reader.varint()?).map_err(|_| Malformed::Counter)?;
    let wall_ms = reader.varint()?;
    let logical = u32::try_from(reader.varint()?).map_err(|_| Malformed::Number)?;
    let stamp = HlcStamp::new(wall_ms, logical);
    let checksum = reader.u64()?;
    let deleted = match reader.byte()? {
        0 => false,
        1 => true,
        _ => return Err(Malformed::Kind),
    };
    Ok(VersionHead { dot, stamp, checksum, deleted })
}
