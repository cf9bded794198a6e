//! Changes that are applied together or not at all.

use bytes::Bytes;

use super::{Space, range};

/// What an operation costs beside its key and value, in bytes: its share of the log's framing.
const OVERHEAD_BYTES: usize = 16;

/// One change in a [`Batch`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The key holds this value.
    Put {
        /// Where.
        space: Space,
        /// The key.
        key: Bytes,
        /// The value.
        value: Bytes,
    },
    /// The key holds nothing.
    Delete {
        /// Where.
        space: Space,
        /// The key.
        key: Bytes,
    },
    /// No key from `start` on and before `end` holds anything. `start` < `end`.
    DeleteRange {
        /// Where.
        space: Space,
        /// The first key.
        start: Bytes,
        /// The first key after it that stays.
        end: Bytes,
    },
}

/// Changes that are applied together or not at all, in the order they were added.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    changes: Vec<Change>,
    bytes: usize,
}

impl Batch {
    /// One that changes nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a key.
    pub fn put(&mut self, space: Space, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        let (key, value) = (key.into(), value.into());
        self.push(key.len() + value.len(), Change::Put { space, key, value });
    }

    /// Removes a key, present or not.
    pub fn delete(&mut self, space: Space, key: impl Into<Bytes>) {
        let key = key.into();
        self.push(key.len(), Change::Delete { space, key });
    }

    /// Removes all keys from `start` on and before `end`. An empty or reversed range is ignored.
    pub fn delete_range(&mut self, space: Space, start: impl Into<Bytes>, end: impl Into<Bytes>) {
        let (start, end) = (start.into(), end.into());
        if start < end {
            self.push(start.len() + end.len(), Change::DeleteRange { space, start, end });
        }
    }

    /// Removes all keys that begin with `prefix`.
    ///
    /// # Panics
    /// If the prefix is empty or all 0xff: no key ends its range.
    pub fn delete_prefix(&mut self, space: Space, prefix: impl Into<Bytes>) {
        let prefix = prefix.into();
        let end = range::successor(&prefix).expect("a schema's prefix is neither empty nor 0xff");
        self.delete_range(space, prefix, end);
    }

    /// Adds the changes of another batch behind these.
    pub fn append(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.changes.extend(other.changes);
    }

    /// Changes nothing.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// About how much it adds to the log, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The changes, in order.
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    fn push(&mut self, bytes: usize, change: Change) {
        self.bytes += bytes + OVERHEAD_BYTES;
        self.changes.push(change);
    }
}
