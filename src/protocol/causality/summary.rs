//! A record without its values: enough to compare, to merge and to say what a write has seen.

use super::record::Record;
use super::shown::count_siblings;
use super::survivors::Survivors;
use super::version::{Version, VersionHead};

/// A [`Record`] without the contents of its versions.
///
/// Summing up and merging commute: the summary of a merge is the merge of the summaries.
pub type Summary = Survivors<VersionHead>;

impl From<&Record> for Summary {
    fn from(record: &Record) -> Self {
        Self {
            context: record.context().clone(),
            versions: record.versions().iter().map(Version::head).collect(),
        }
    }
}

impl Survivors<VersionHead> {
    /// How many siblings a client is shown: versions that differ in nothing but dot and stamp
    /// count as one, tombstones too. Told apart by checksum.
    pub fn sibling_count(&self) -> usize {
        count_siblings(self.versions())
    }
}
