//! What a reader is shown of a record.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::survivors::Survivors;
use super::version::{Version, VersionHead};

/// What a bucket does with concurrent versions when it is read. Merging is the same in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Resolve {
    /// They are all shown.
    #[default]
    Siblings,
    /// The one with the greatest (stamp, actor, counter) is shown alone.
    Lww,
}

/// What a reader is shown. Its context covers all of the record in every case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shown {
    /// No value.
    Nothing {
        /// Whether that is because of a tombstone.
        deleted: bool,
    },
    /// One value and nothing else.
    One(Version),
    /// At least two, by dot, a value among them; tombstones are siblings too.
    Siblings(Vec<Version>),
}

impl Shown {
    /// `Starling-Siblings`: how many versions are shown as different.
    pub fn sibling_count(&self) -> usize {
        match self {
            Self::Nothing { deleted } => usize::from(*deleted),
            Self::One(_) => 1,
            Self::Siblings(versions) => versions.len(),
        }
    }
}

impl Survivors<Version> {
    /// What a reader of a bucket with this policy is shown.
    pub fn shown(&self, policy: Resolve) -> Shown {
        match policy {
            Resolve::Siblings => shown_of(self.distinct()),
            Resolve::Lww => shown_of(self.winner().into_iter().collect()),
        }
    }

    /// The versions that differ in more than dot and stamp, by dot. Of equal ones (twins, as a
    /// retry through another replica leaves them) the one with the greatest stamp and dot stands
    /// for all.
    fn distinct(&self) -> Vec<&Version> {
        if let [only] = self.versions() {
            return vec![only];
        }
        // By checksum, so that only what is probably equal is compared byte by byte.
        let mut by_checksum: BTreeMap<u64, Vec<&Version>> = BTreeMap::new();
        for version in self.versions() {
            let alike = by_checksum.entry(version.checksum()).or_default();
            match alike.iter_mut().find(|other| other.content() == version.content()) {
                Some(twin) if rank(twin) < rank(version) => *twin = version,
                Some(_) => {}
                None => alike.push(version),
            }
        }
        let mut distinct: Vec<&Version> = by_checksum.into_values().flatten().collect();
        distinct.sort_by_key(|version| version.dot());
        distinct
    }

    /// The version with the greatest (stamp, actor, counter).
    fn winner(&self) -> Option<&Version> {
        self.versions().iter().max_by_key(|version| rank(version))
    }
}

/// Which of two versions is the later one, where one must be.
fn rank(version: &Version) -> impl Ord + use<> {
    (version.stamp(), version.dot())
}

fn shown_of(mut versions: Vec<&Version>) -> Shown {
    if versions.iter().all(|version| version.is_tombstone()) {
        return Shown::Nothing { deleted: !versions.is_empty() };
    }
    match versions.as_mut_slice() {
        [only] => Shown::One(only.clone()),
        _ => Shown::Siblings(versions.into_iter().cloned().collect()),
    }
}

/// How many siblings these versions are shown as.
pub(super) fn count_siblings(heads: &[VersionHead]) -> usize {
    let mut kinds: Vec<_> = heads.iter().map(|head| (head.checksum, head.deleted)).collect();
    kinds.sort_unstable();
    kinds.dedup();
    kinds.len()
}

#[cfg(test)]
mod tests;
