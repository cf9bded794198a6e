//! What a record leaves beside itself: its digest in the hash tree, and, where it is a tombstone or
//! a husk, an entry that says since when. Both change in the record's own batch (correctness,
//! section 8), under the key's lock, so that after any crash they are true.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::Node;
use super::replica::Place;
use crate::protocol::causality::{Entry, Survivors};
use crate::protocol::merkle::{LeafIndex, Shape, change_hash};
use crate::protocol::ring::token_of;
use crate::storage::{Batch, ReadError, Space, frame};
use crate::types::KeyPath;

/// The format of [`Deleted`].
const DELETED_FORMAT: u8 = 1;

/// Whether hash trees are kept at all. Built without them only to count what they cost: see
/// `benches/trees.sh`.
const KEEPS_TREES: bool = option_env!("STARLING_BENCH_WITHOUT_TREES").is_none();

/// What kind of record a key has, and its digest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Imprint {
    /// None.
    #[default]
    Absent,
    /// One with a live value.
    Live(u64),
    /// One whose versions are all tombstones.
    Tombstones(u64),
    /// One without versions; not in the tree (correctness, section 6).
    Husk(u64),
}

/// Whether a deleted record still has its tombstones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum DeletedKind {
    Tombstones,
    Husk,
}

/// An entry of `Space::Deletes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Deleted {
    pub(super) kind: DeletedKind,
    /// Of exactly this record.
    pub(super) digest: u64,
    /// By this node's wall clock, in ms since 1970.
    pub(super) since_ms: u64,
}

impl Deleted {
    /// Reads an entry.
    pub(super) fn decode(value: &[u8]) -> Result<Self, frame::FrameError> {
        frame::decode(value, DELETED_FORMAT)
    }
}

impl Imprint {
    /// That of a record or its summary.
    pub(super) fn of<E: Entry>(record: &Survivors<E>) -> Self {
        Self::with_digest(record, record.digest())
    }

    /// The same, of a record whose digest is known.
    pub(super) fn with_digest<E: Entry>(record: &Survivors<E>, digest: u64) -> Self {
        if record.is_absent() || !KEEPS_TREES {
            Self::Absent
        } else if record.is_husk() {
            Self::Husk(digest)
        } else if record.all_tombstones() {
            Self::Tombstones(digest)
        } else {
            Self::Live(digest)
        }
    }

    /// The digest in the tree.
    pub(super) const fn in_tree(self) -> Option<u64> {
        match self {
            Self::Live(digest) | Self::Tombstones(digest) => Some(digest),
            Self::Absent | Self::Husk(_) => None,
        }
    }

    /// What `Space::Deletes` says of it.
    pub(super) const fn deleted(self) -> Option<(DeletedKind, u64)> {
        match self {
            Self::Tombstones(digest) => Some((DeletedKind::Tombstones, digest)),
            Self::Husk(digest) => Some((DeletedKind::Husk, digest)),
            Self::Absent | Self::Live(_) => None,
        }
    }
}

/// A record's change as its indexes see it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Change {
    pub(super) before: Imprint,
    pub(super) after: Imprint,
}

/// Where a key lies in its vnode's tree.
pub(super) fn leaf_of(shape: Shape, path: &KeyPath) -> LeafIndex {
    shape.leaf_of(token_of(path))
}

/// A digest as `Space::Trees` keeps it.
pub(super) fn encode_digest(key: &[u8], digest: u64) -> Bytes {
    let mut value = Vec::with_capacity(16);
    value.extend_from_slice(&digest.to_be_bytes());
    value.extend_from_slice(&check_of(key, digest).to_be_bytes());
    value.into()
}

/// The reverse of [`encode_digest`]; `None` where it is damaged.
pub(super) fn decode_digest(key: &[u8], value: &[u8]) -> Option<u64> {
    let (digest, check) = value.split_first_chunk::<8>()?;
    let digest = u64::from_be_bytes(*digest);
    (check_of(key, digest).to_be_bytes() == *check).then_some(digest)
}

fn check_of(key: &[u8], digest: u64) -> u64 {
    xxh3_64(key) ^ digest.rotate_left(31)
}

impl Change {
    /// Adds to a batch what the record's change changes beside the record.
    pub(super) fn add_to(self, batch: &mut Batch, place: &Place, shape: Shape, now_ms: u64) {
        if self.before.in_tree() != self.after.in_tree() {
            let key = place.tree_key(shape);
            match self.after.in_tree() {
                Some(digest) => {
                    let value = encode_digest(&key, digest);
                    batch.put(Space::Trees, key, value);
                }
                None => batch.delete(Space::Trees, key),
            }
        }
        if self.before.deleted() != self.after.deleted() {
            match self.after.deleted() {
                Some((kind, digest)) => {
                    let deleted = Deleted { kind, digest, since_ms: now_ms };
                    let value = frame::encode(DELETED_FORMAT, &deleted);
                    batch.put(Space::Deletes, place.key().clone(), value);
                }
                None => batch.delete(Space::Deletes, place.key().clone()),
            }
        }
    }

    /// What it changes in the key's leaf.
    pub(super) fn of_leaf(self, place: &Place) -> u64 {
        let (before, after) = (self.before.in_tree(), self.after.in_tree());
        if before == after { 0 } else { change_hash(place.path_bytes(), before, after) }
    }
}

impl Node {
    /// What the indexes say of a key whose record can't be read.
    pub(super) async fn imprint_in_indexes(
        self: &Arc<Self>,
        place: &Place,
    ) -> Result<Imprint, ReadError> {
        let key = place.tree_key(self.shape());
        let deleted = self.store.get(Space::Deletes, place.key().clone()).await?;
        let deleted = deleted.and_then(|value| Deleted::decode(&value).ok());
        let stored = self.store.get(Space::Trees, key.clone()).await?;
        let digest = stored.as_ref().and_then(|value| decode_digest(&key, value));
        if stored.is_some() && digest.is_none() {
            // What the tree in memory has of it nobody can tell any more.
            self.trees.doubt(place.vnode);
        }
        Ok(match (digest, deleted) {
            (Some(digest), None) => Imprint::Live(digest),
            (Some(digest), Some(_)) => Imprint::Tombstones(digest),
            (None, Some(deleted)) => Imprint::Husk(deleted.digest),
            (None, None) => Imprint::Absent,
        })
    }
}
