//! A record: what a replica stores for a key.

use super::content::Content;
use super::context::Context;
use super::dot::{Dot, MAX_COUNTER};
use super::survivors::Survivors;
use super::version::Version;
use crate::types::{ActorId, HlcStamp};

/// What a replica stores for a key: all that was seen of it, and the versions that survive.
pub type Record = Survivors<Version>;

impl Survivors<Version> {
    /// The surviving versions that are values, by dot.
    pub fn live(&self) -> impl Iterator<Item = &Version> {
        self.versions.iter().filter(|version| !version.is_tombstone())
    }

    /// Mints a write that has seen `seen` (Almeida et al. 2014, section 5, `update`), and returns
    /// its dot.
    ///
    /// `actor` is the minting vnode's current one, `floor` the highest counter of it in any record
    /// that the vnode purged. The caller has made sure, under the key's lock, that the actor's
    /// history is whole ([`Survivors::lacks_history_of`] denies it for `seen` too): else a dot could
    /// be minted twice.
    ///
    /// # Panics
    /// Where the actor's counters are used up. Honest ones never are; one that a peer or a token
    /// made up is ahead of the actor's history, which the caller checked.
    pub fn update(
        &mut self,
        seen: &Context,
        content: Content,
        stamp: HlcStamp,
        actor: ActorId,
        floor: u64,
    ) -> Dot {
        // Only here, and only where nothing is known of the key: what was purged of this actor's
        // writes to it lies at or below the floor. Merges never add what was not seen.
        if self.is_absent() {
            self.context.seed(actor, floor);
        }
        self.versions.retain(|version| !seen.contains(version.dot()));
        self.context.join(seen);
        let last = floor.max(self.context.max_counter(actor));
        assert!(last < MAX_COUNTER, "an actor is retired before its counters run out");
        let dot = Dot::new(actor, last + 1).expect("just checked");
        let at = self.versions.partition_point(|version| version.dot() < dot);
        self.versions.insert(at, Version::new(dot, stamp, content));
        self.context.insert(dot);
        dot
    }

    /// Whether something from elsewhere has seen a later write of this actor than the actor's own
    /// vnode, whose record this is, knows of. Then the vnode lost history or was lied to: the actor
    /// is retired, and that is an alarm.
    pub fn lacks_history_of(&self, actor: ActorId, floor: u64, elsewhere: &Context) -> bool {
        elsewhere.max_counter(actor) > floor.max(self.context.max_counter(actor))
    }

    /// The husk that is left when the versions, all tombstones, are stripped. `None` for anything
    /// else: a record that holds a live value is never purged.
    pub fn stripped(&self) -> Option<Self> {
        self.all_tombstones().then(|| Self { context: self.context.clone(), ..Self::default() })
    }
}
