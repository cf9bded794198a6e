//! Ranges of keys, and reading them page by page.

use std::ops::Bound;

use bytes::Bytes;

/// The keys from `start` on, before `end`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRange {
    /// The first key.
    pub start: Bytes,
    /// The first key behind the range; `None`: the range is open.
    pub end: Option<Bytes>,
}

impl KeyRange {
    /// The keys from `start` on, before `end`.
    pub fn new(start: impl Into<Bytes>, end: impl Into<Bytes>) -> Self {
        Self { start: start.into(), end: Some(end.into()) }
    }

    /// Every key.
    pub const fn all() -> Self {
        Self { start: Bytes::new(), end: None }
    }

    /// The keys that begin with `prefix`.
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        let start = prefix.into();
        let end = successor(&start);
        Self { start, end }
    }

    /// One key alone.
    pub fn only(key: Bytes) -> Self {
        // The next possible key is the same one with a zero byte more.
        let end = [&key[..], &[0]].concat();
        Self::new(key, end)
    }

    /// The part of this range from `key` on: what is left after a [`Page`] that named it as `next`.
    #[must_use]
    pub fn resume_at(&self, key: Bytes) -> Self {
        Self { start: key.max(self.start.clone()), end: self.end.clone() }
    }

    /// The part of this range behind `key`.
    #[must_use]
    pub fn resume_behind(&self, key: &[u8]) -> Self {
        // The next possible key is the same one with a zero byte more.
        self.resume_at([key, &[0]].concat().into())
    }

    /// Holds no key at all.
    pub fn is_empty(&self) -> bool {
        self.end.as_ref().is_some_and(|end| *end <= self.start)
    }

    /// The range holds the key.
    pub fn contains(&self, key: &[u8]) -> bool {
        self.start <= key && self.end.as_ref().is_none_or(|end| key < end)
    }

    /// The bounds for `BTreeMap::range`, which panics if the range is empty.
    pub fn bounds(&self) -> (Bound<&[u8]>, Bound<&[u8]>) {
        let end = self.end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        (Bound::Included(&self.start), end)
    }
}

/// The least key behind all that begin with `prefix`; `None` if there is none.
pub(super) fn successor(prefix: &[u8]) -> Option<Bytes> {
    let last = prefix.iter().rposition(|byte| *byte != 0xff)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end.into())
}

/// How much one page of a scan may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScanLimit {
    /// The most entries. At least 1.
    pub entries: usize,
    /// The most bytes of keys and values together; the first entry is returned whatever its size,
    /// so that a scan always gets on.
    pub bytes: usize,
}

impl ScanLimit {
    /// Whether an entry of that size still fits on a page that holds `entries` and `bytes`.
    fn admits(self, entries: usize, bytes: usize, entry_bytes: usize) -> bool {
        entries == 0 || (entries < self.entries && bytes + entry_bytes <= self.bytes)
    }
}

/// A part of a range, in key order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Keys and values.
    pub entries: Vec<(Bytes, Bytes)>,
    /// Where to go on; `None`: the range is done.
    pub next: Option<Bytes>,
}

/// Fills a [`Page`] up to its limit.
#[derive(Debug)]
pub(super) struct PageBuilder {
    page: Page,
    bytes: usize,
    limit: ScanLimit,
}

impl PageBuilder {
    pub(super) fn new(limit: ScanLimit) -> Self {
        Self { page: Page::default(), bytes: 0, limit }
    }

    /// Takes the entry, or ends the page before it: then `false`, and nothing more may come.
    pub(super) fn push(&mut self, key: Bytes, value: Bytes) -> bool {
        let entry_bytes = key.len() + value.len();
        if !self.limit.admits(self.page.entries.len(), self.bytes, entry_bytes) {
            self.page.next = Some(key);
            return false;
        }
        self.bytes += entry_bytes;
        self.page.entries.push((key, value));
        true
    }

    pub(super) fn finish(self) -> Page {
        self.page
    }
}
