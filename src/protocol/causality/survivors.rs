//! The state of a key and the join of two replicas' states, with values or without.

use smallvec::SmallVec;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use super::codec::put_state;
use super::context::Context;
use super::dot::Dot;
use super::version::VersionHead;

/// What stands for one version in a state: [`super::Version`] or [`VersionHead`].
pub trait Entry: Clone {
    /// The version without its content.
    fn head(&self) -> VersionHead;

    /// The version's write.
    fn dot(&self) -> Dot {
        self.head().dot
    }
}

/// All that was seen of a key, and what survives of it: a [`super::Record`] with the contents of
/// the versions, a [`super::Summary`] without.
///
/// The versions are sorted by dot, and the context contains every one of their dots. The default
/// state is *absent*: nothing was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survivors<E> {
    pub(super) context: Context,
    pub(super) versions: SmallVec<[E; 1]>,
}

/// What a merge did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use = "alarms are to be counted and shown"]
pub struct Merge {
    /// Whether the result differs from what was there before.
    pub changed: bool,
    /// Dots that stand for two different versions: some actor minted twice.
    pub alarms: Vec<Dot>,
}

impl<E> Default for Survivors<E> {
    fn default() -> Self {
        Self { context: Context::new(), versions: SmallVec::new() }
    }
}

impl<E: Entry> Survivors<E> {
    /// The state of a key that was never written.
    pub fn absent() -> Self {
        Self::default()
    }

    /// All that was seen of the key.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// The surviving versions, by dot.
    pub fn versions(&self) -> &[E] {
        &self.versions
    }

    /// The surviving version with this dot.
    pub fn version(&self, dot: Dot) -> Option<&E> {
        find(&self.versions, dot).ok().map(|at| &self.versions[at])
    }

    /// The surviving versions without their contents, by dot.
    pub fn heads(&self) -> impl ExactSizeIterator<Item = VersionHead> {
        self.versions.iter().map(Entry::head)
    }

    /// The dots of the surviving versions, ascending.
    pub fn dots(&self) -> impl ExactSizeIterator<Item = Dot> {
        self.versions.iter().map(Entry::dot)
    }

    /// The dots of the versions that a write which has seen this removes, ascending.
    pub fn dots_in(&self, seen: &Context) -> Vec<Dot> {
        self.dots().filter(|dot| seen.contains(*dot)).collect()
    }

    /// Nothing is known of this key, not even that something was there once.
    pub fn is_absent(&self) -> bool {
        self.context.is_empty()
    }

    /// A context and no versions: what is left of a deleted key from *strip* to *delete*.
    pub fn is_husk(&self) -> bool {
        !self.is_absent() && self.versions.is_empty()
    }

    /// Whether some version is a value.
    pub fn has_live_value(&self) -> bool {
        self.heads().any(|head| !head.deleted)
    }

    /// Whether there are versions and all are tombstones.
    pub fn all_tombstones(&self) -> bool {
        !self.versions.is_empty() && !self.has_live_value()
    }

    /// Equal for two states of a key exactly if they are equal (but for collisions in 64 bits), and
    /// the same for a record and its summary: xxh3-64 over the canonical context and the versions'
    /// dots, stamps, checksums and kinds.
    pub fn digest(&self) -> u64 {
        let mut hashed = Vec::with_capacity(128);
        put_state(&mut hashed, self);
        xxh3_64(&hashed)
    }

    /// Names the set of versions, for `ETag`: changes when that set does.
    pub fn etag_set(&self) -> u128 {
        let mut hashed = Vec::with_capacity(64);
        for dot in self.dots() {
            hashed.extend_from_slice(&dot.actor().get().to_be_bytes());
            hashed.extend_from_slice(&dot.counter().to_be_bytes());
        }
        xxh3_128(&hashed)
    }

    /// Takes in what another replica has seen and holds (Almeida et al. 2014, section 5, `sync`):
    /// keeps the versions in both, and those of each side that the other has not seen; joins the
    /// contexts. Commutative, associative, idempotent.
    pub fn merge(&mut self, other: &Self) -> Merge {
        let mut merge = Merge::default();
        self.keep_ours(other, &mut merge);
        self.take_theirs(other, &mut merge);
        merge.changed |= self.context.join(&other.context);
        merge
    }

    /// Drops what the other has seen and no longer holds.
    fn keep_ours(&mut self, other: &Self, merge: &mut Merge) {
        let before = self.versions.len();
        self.versions.retain(|mine| match find(&other.versions, mine.dot()) {
            Ok(at) => {
                settle(mine, &other.versions[at], merge);
                true
            }
            Err(_) => !other.context.contains(mine.dot()),
        });
        merge.changed |= self.versions.len() < before;
    }

    /// Adds what the other holds and was never seen here: by the context as it was before the join.
    fn take_theirs(&mut self, other: &Self, merge: &mut Merge) {
        for theirs in &other.versions {
            if self.context.contains(theirs.dot()) {
                continue;
            }
            let at = self.versions.partition_point(|mine| mine.dot() < theirs.dot());
            self.versions.insert(at, theirs.clone());
            merge.changed = true;
        }
    }
}

fn find<E: Entry>(versions: &[E], dot: Dot) -> Result<usize, usize> {
    versions.binary_search_by_key(&dot, Entry::dot)
}

/// One dot must stand for one version. Where it does not, both sides keep the same one of the two:
/// the one with the greater checksum (then stamp, then the tombstone).
fn settle<E: Entry>(mine: &mut E, theirs: &E, merge: &mut Merge) {
    let rank = |head: VersionHead| (head.checksum, head.stamp, head.deleted);
    let (my_rank, their_rank) = (rank(mine.head()), rank(theirs.head()));
    if my_rank != their_rank {
        merge.alarms.push(mine.dot());
    }
    if my_rank < their_rank {
        mine.clone_from(theirs);
        merge.changed = true;
    }
}
