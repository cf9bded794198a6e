//! What two replicas have to tell one another of the keys of some leaves.

use std::collections::BTreeMap;

use crate::types::KeyPath;

/// What a replica has to do about another one's list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Keys whose records the other side has to send: they are missing here, or differ.
    pub wanted: Vec<KeyPath>,
    /// Keys whose records the other side lacks or has otherwise.
    pub given: Vec<KeyPath>,
}

/// Compares this replica's keys and digests with another one's, both by key.
pub fn compare(mine: &[(KeyPath, u64)], theirs: &[(KeyPath, u64)]) -> Comparison {
    let theirs: BTreeMap<&KeyPath, u64> =
        theirs.iter().map(|(path, digest)| (path, *digest)).collect();
    let mine: BTreeMap<&KeyPath, u64> = mine.iter().map(|(path, digest)| (path, *digest)).collect();
    let lacks = |list: &BTreeMap<&KeyPath, u64>, path, digest| list.get(path) != Some(digest);
    let owned = |path: &&KeyPath| (*path).clone();
    Comparison {
        wanted: theirs
            .iter()
            .filter(|(path, digest)| lacks(&mine, *path, *digest))
            .map(|(path, _)| owned(path))
            .collect(),
        given: mine
            .iter()
            .filter(|(path, digest)| lacks(&theirs, *path, *digest))
            .map(|(path, _)| owned(path))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Bucket, Key};

    fn path(name: &str) -> KeyPath {
        let key = Key::new(name.as_bytes().to_vec()).expect("valid");
        KeyPath { bucket: Bucket::new("b").expect("valid"), key }
    }

    #[test]
    fn what_differs_goes_both_ways_and_what_is_missing_one_way() {
        let mine = [(path("a"), 1), (path("b"), 2), (path("c"), 3)];
        let theirs = [(path("b"), 2), (path("c"), 4), (path("d"), 5)];
        let comparison = compare(&mine, &theirs);
        assert_eq!(comparison.wanted, [path("c"), path("d")]);
        assert_eq!(comparison.given, [path("a"), path("c")]);
        assert_eq!(compare(&mine, &mine), Comparison::default());
    }
}
