//! A version: one write's content under its dot, and the same without the content.

use serde::{Deserialize, Serialize};

use super::content::{Content, Value};
use super::dot::Dot;
use super::survivors::Entry;
use crate::types::HlcStamp;

/// What one write left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    dot: Dot,
    stamp: HlcStamp,
    checksum: u64,
    content: Content,
}

/// All of a version but its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionHead {
    /// Its write.
    pub dot: Dot,
    /// When that was, by the minting node's hybrid logical clock.
    pub stamp: HlcStamp,
    /// [`Content::checksum`].
    pub checksum: u64,
    /// Whether it is a tombstone.
    pub deleted: bool,
}

impl Version {
    /// A version; takes the checksum of the content.
    pub fn new(dot: Dot, stamp: HlcStamp, content: Content) -> Self {
        Self { dot, stamp, checksum: content.checksum(), content }
    }

    /// One whose checksum is to be checked by other means.
    pub(super) fn from_parts(head: VersionHead, content: Content) -> Self {
        Self { dot: head.dot, stamp: head.stamp, checksum: head.checksum, content }
    }

    /// Its write.
    pub fn dot(&self) -> Dot {
        self.dot
    }

    /// When that was, by the minting node's hybrid logical clock.
    pub fn stamp(&self) -> HlcStamp {
        self.stamp
    }

    /// [`Content::checksum`] of the content.
    pub fn checksum(&self) -> u64 {
        self.checksum
    }

    /// What was written.
    pub fn content(&self) -> &Content {
        &self.content
    }

    /// What was written, taken out.
    pub fn into_content(self) -> Content {
        self.content
    }

    /// The value, unless this is a tombstone.
    pub fn value(&self) -> Option<&Value> {
        self.content.value()
    }

    /// Whether this is a tombstone.
    pub fn is_tombstone(&self) -> bool {
        self.content.is_tombstone()
    }

    /// All but the content.
    pub fn head(&self) -> VersionHead {
        VersionHead {
            dot: self.dot,
            stamp: self.stamp,
            checksum: self.checksum,
            deleted: self.is_tombstone(),
        }
    }
}

impl Entry for Version {
    fn head(&self) -> VersionHead {
        self.head()
    }
}

impl Entry for VersionHead {
    fn head(&self) -> VersionHead {
        *self
    }
}
