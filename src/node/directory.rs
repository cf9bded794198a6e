//! What a data directory says of itself: whose it is, how often it was started, and whether the
//! last stop was clean (correctness, section 2 "When the actor is retired", section 7 rule 8).
//!
//! The marker of a clean stop is the last thing that a run writes. It counts only if the store has
//! recovered to exactly the write of the marker: anything written after it, or lost before it,
//! shows in the store's sequence number. It is removed, with the new boot number, in one fsynced
//! batch before anything else is done.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::seams::Randomness;
use crate::peer::messages::{PastBoot, Recovery};
use crate::protocol::cluster::register::{Acceptor, Ballot};
use crate::protocol::cluster::{ClusterNode, ClusterState, StateStamp};
use crate::protocol::ring::Table;
use crate::storage::schema::{FORMAT, MetaKey};
use crate::storage::{
    Batch, CommitError, Durability, ReadError, ScanLimit, Space, Store, Syncing, frame,
};
use crate::types::{
    BootNumber, ClusterId, DataIncarnation, Epoch, LayoutVersion, NodeId, PartitionCount,
    RecoveryNumber, ReplicationFactor,
};

/// The format of every value here.
const META_FORMAT: u8 = 1;

/// The format of a [`ClusterState`]. Format 1 was [`FormedState`].
const STATE_FORMAT: u8 = 2;

/// The format of an [`Acceptor`]. Format 1 was [`EarlierAcceptor`].
const REGISTER_FORMAT: u8 = 2;

/// What was promised and accepted, by releases whose ballots did not tell attempts apart.
#[derive(Deserialize)]
struct EarlierAcceptor {
    base: StateStamp,
    promised: Option<EarlierBallot>,
    accepted: Option<(EarlierBallot, Box<ClusterState>)>,
}

#[derive(Deserialize)]
struct EarlierBallot {
    round: u64,
    proposer: NodeId,
}

impl From<EarlierBallot> for Ballot {
    fn from(EarlierBallot { round, proposer }: EarlierBallot) -> Self {
        Self { round, proposer, attempt: 0 }
    }
}

impl From<EarlierAcceptor> for Acceptor {
    fn from(EarlierAcceptor { base, promised, accepted }: EarlierAcceptor) -> Self {
        let accepted = accepted.map(|(ballot, state)| (ballot.into(), state));
        Self::restored(base, promised.map(Ballot::from), accepted)
    }
}

/// The cluster state of releases whose ring never changed.
#[derive(Deserialize)]
struct FormedState {
    cluster: ClusterId,
    recovery: RecoveryNumber,
    epoch: Epoch,
    layout_version: LayoutVersion,
    partitions: PartitionCount,
    replication_factor: ReplicationFactor,
    nodes: Vec<ClusterNode>,
    tables: Vec<Table>,
}

impl From<FormedState> for ClusterState {
    fn from(formed: FormedState) -> Self {
        let FormedState { cluster, recovery, epoch, layout_version, .. } = formed;
        let FormedState { partitions, replication_factor, nodes, tables, .. } = formed;
        Self {
            cluster,
            recovery,
            epoch,
            layout_version,
            partitions,
            replication_factor,
            nodes,
            tables,
            buckets: BTreeMap::new(),
            transition: None,
            former: Vec::new(),
        }
    }
}

/// Whose directory it is; made once, with the directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The node's name.
    pub node: NodeId,
    /// The directory's.
    pub incarnation: DataIncarnation,
}

/// Starts that a directory remembers: peers tell by them whether it is the one they knew.
const HISTORY: usize = 64;

/// One start of a directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boot {
    /// Which start.
    pub this: PastBoot,
    /// Those before it, the latest first.
    pub history: Vec<PastBoot>,
    /// With which durability it ran: decides what an unclean stop may have lost.
    pub durability: Durability,
    /// An earlier stop may have lost acknowledged data, and the vnodes are not yet marked.
    pub may_lack_writes: bool,
}

/// The last thing a clean run writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct CleanStop {
    /// The store's sequence number just before this was written.
    sequence: u64,
    /// Which start stopped.
    boot: BootNumber,
}

/// What a node knows of a peer's starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerBoot {
    /// The last one it has shown.
    pub last: PastBoot,
    /// What was known before that one.
    pub before: Option<PastBoot>,
}

/// What was found when a directory was opened.
#[derive(Clone, Debug)]
pub struct Opened {
    /// Whose it is.
    pub identity: Identity,
    /// This start.
    pub boot: Boot,
    /// The start before this one.
    pub previous: Option<Boot>,
    /// The previous start stopped cleanly, as far as the directory can tell.
    pub is_clean: bool,
    /// The formation that was promised.
    pub promised: Option<ClusterId>,
    /// The cluster state, once formed.
    pub state: Option<ClusterState>,
    /// A forced recovery that was kept and not confirmed by all survivors yet.
    pub recovery: Option<Recovery>,
    /// The state of the last one that all survivors have confirmed.
    pub recovered: Option<StateStamp>,
    /// Actors drawn before this start are retired.
    pub actor_era: BootNumber,
}

/// Why a directory can't be used. The text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// Of another node.
    #[error(
        "the data directory belongs to node {found}, and this node is {expected}; set data_dir to \
         this node's own directory, or id to {found}"
    )]
    OtherNode {
        /// Whose it is.
        found: NodeId,
        /// Who opened it.
        expected: NodeId,
    },
    /// Of a newer release.
    #[error(
        "the data directory has format {0}, newer than this release knows ({FORMAT}); start the \
         release that wrote it, or a newer one"
    )]
    NewerFormat(u32),
    /// Something in it can't be what was written.
    #[error(
        "the data directory is damaged ({0}); start the node with `starling server --rebuild`, which \
         empties it and takes everything in from the peers"
    )]
    Damaged(#[from] frame::FrameError),
    /// It can't be read.
    #[error("the data directory can't be read: {0}")]
    Read(#[from] ReadError),
    /// It can't be written.
    #[error("the data directory can't be written: {0}")]
    Write(#[from] CommitError),
}

/// Typed access to the metadata of one directory.
#[derive(Clone, Copy)]
pub(super) struct Directory<'a> {
    store: &'a dyn Store,
}

impl<'a> Directory<'a> {
    pub(super) fn new(store: &'a dyn Store) -> Self {
        Self { store }
    }

    /// Checks whose directory it is, counts the start, and takes the clean-stop marker away.
    pub(super) async fn open(
        self,
        node: &NodeId,
        durability: Durability,
        random: &Randomness,
    ) -> Result<Opened, DirectoryError> {
        let sequence = self.store.last_sequence();
        let identity = self.check(node).await?;
        let previous: Option<Boot> = self.read(&MetaKey::Boot).await?;
        let marker: Option<CleanStop> = self.read(&MetaKey::CleanStop).await?;
        let is_clean = marker.zip(previous.as_ref()).is_some_and(|(marker, boot)| {
            marker.boot == boot.this.number && marker.sequence + 1 == sequence
        });
        let boot = next_boot(previous.as_ref(), is_clean, durability, random.u64());
        let is_new = identity.is_none();
        let identity = identity.unwrap_or_else(|| Identity {
            node: node.clone(),
            incarnation: DataIncarnation::new(random.u128()),
        });
        let mut batch = Batch::default();
        batch.delete(Space::Meta, MetaKey::CleanStop);
        put(&mut batch, MetaKey::Boot, &boot);
        if is_new {
            put(&mut batch, MetaKey::Format, &FORMAT);
            put(&mut batch, MetaKey::Identity, &identity);
        }
        self.store.commit(batch, Syncing::Always).await?;
        Ok(Opened {
            identity,
            boot,
            previous,
            is_clean,
            promised: self.read(&MetaKey::Formation).await?,
            state: self.state().await?,
            recovery: self.read(&MetaKey::Recovery).await?,
            recovered: self.read(&MetaKey::Recovered).await?,
            actor_era: self.read(&MetaKey::ActorEra).await?.unwrap_or_default(),
        })
    }

    async fn check(self, node: &NodeId) -> Result<Option<Identity>, DirectoryError> {
        match self.read::<u32>(&MetaKey::Format).await {
            Ok(Some(format)) if format > FORMAT => return Err(DirectoryError::NewerFormat(format)),
            Err(DirectoryError::Damaged(frame::FrameError::Newer { found })) => {
                return Err(DirectoryError::NewerFormat(u32::from(found)));
            }
            other => other?,
        };
        let identity: Option<Identity> = self.read(&MetaKey::Identity).await?;
        match identity {
            Some(identity) if identity.node != *node => {
                Err(DirectoryError::OtherNode { found: identity.node, expected: node.clone() })
            }
            identity => Ok(identity),
        }
    }

    /// Keeps that every vnode which may lack acknowledged data is marked now; fsynced.
    pub(super) async fn note_marked(self, boot: &Boot) -> Result<(), CommitError> {
        self.write(MetaKey::Boot, &Boot { may_lack_writes: false, ..boot.clone() }).await
    }

    /// Everything drawn before `era` is retired; fsynced.
    pub(super) async fn retire_actors_before(self, era: BootNumber) -> Result<(), CommitError> {
        self.write(MetaKey::ActorEra, &era).await
    }

    /// Whether the digests of all records are there.
    pub(super) async fn has_trees(self) -> Result<bool, DirectoryError> {
        Ok(self.read::<u8>(&MetaKey::Trees).await?.is_some())
    }

    /// Keeps that the digests of all records are there; fsynced.
    pub(super) async fn note_trees(self) -> Result<(), CommitError> {
        self.write(MetaKey::Trees, &0_u8).await
    }

    /// Whose it is; `None`: nothing was ever written to it.
    pub(super) async fn owner(self) -> Result<Option<NodeId>, DirectoryError> {
        Ok(self.read::<Identity>(&MetaKey::Identity).await?.map(|identity| identity.node))
    }

    /// The promise of a formation; fsynced.
    pub(super) async fn promise(self, cluster: ClusterId) -> Result<(), CommitError> {
        self.write(MetaKey::Formation, &cluster).await
    }

    /// The cluster state; fsynced.
    pub(super) async fn adopt(self, state: &ClusterState) -> Result<(), CommitError> {
        let mut batch = Batch::default();
        batch.put(Space::Meta, MetaKey::ClusterState, frame::encode(STATE_FORMAT, state));
        self.store.commit(batch, Syncing::Always).await
    }

    async fn state(self) -> Result<Option<ClusterState>, DirectoryError> {
        let Some(stored) = self.store.get(Space::Meta, MetaKey::ClusterState.to_bytes()).await?
        else {
            return Ok(None);
        };
        if stored.first() == Some(&1) {
            return Ok(Some(frame::decode::<FormedState>(&stored, 1)?.into()));
        }
        Ok(Some(frame::decode(&stored, STATE_FORMAT)?))
    }

    /// What this node has promised and accepted about the next epoch; fsynced.
    pub(super) async fn keep_register(self, acceptor: &Acceptor) -> Result<(), CommitError> {
        let mut batch = Batch::default();
        batch.put(Space::Meta, MetaKey::Register, frame::encode(REGISTER_FORMAT, acceptor));
        self.store.commit(batch, Syncing::Always).await
    }

    /// What this node has promised and accepted.
    pub(super) async fn register(self) -> Result<Option<Acceptor>, DirectoryError> {
        let Some(stored) = self.store.get(Space::Meta, MetaKey::Register.to_bytes()).await? else {
            return Ok(None);
        };
        if stored.first() == Some(&1) {
            return Ok(Some(frame::decode::<EarlierAcceptor>(&stored, 1)?.into()));
        }
        Ok(Some(frame::decode(&stored, REGISTER_FORMAT)?))
    }

    /// A forced recovery, and its state as this node's own; fsynced.
    pub(super) async fn keep_recovery(self, recovery: &Recovery) -> Result<(), CommitError> {
        let mut batch = Batch::default();
        let state = frame::encode(STATE_FORMAT, &recovery.state);
        batch.put(Space::Meta, MetaKey::ClusterState, state);
        put(&mut batch, MetaKey::Recovery, recovery);
        self.store.commit(batch, Syncing::Always).await
    }

    /// All survivors have confirmed the one with this state; fsynced.
    pub(super) async fn confirm_recovery(self, stamp: &StateStamp) -> Result<(), CommitError> {
        let mut batch = Batch::default();
        batch.delete(Space::Meta, MetaKey::Recovery);
        put(&mut batch, MetaKey::Recovered, stamp);
        self.store.commit(batch, Syncing::Always).await
    }

    /// What is known of a peer's starts.
    pub(super) async fn peer_boot(
        self,
        node: &NodeId,
        disk: DataIncarnation,
    ) -> Result<Option<PeerBoot>, DirectoryError> {
        self.read(&MetaKey::PeerBoot(node.clone(), disk)).await
    }

    /// Keeps what is known of a peer's starts; fsynced.
    pub(super) async fn keep_peer_boot(
        self,
        node: &NodeId,
        disk: DataIncarnation,
        boot: &PeerBoot,
    ) -> Result<(), CommitError> {
        self.write(MetaKey::PeerBoot(node.clone(), disk), boot).await
    }

    /// Marks the stop as clean. Nothing may be written after this.
    pub(super) async fn mark_clean_stop(self, boot: BootNumber) -> Result<(), CommitError> {
        self.store.sync().await?;
        let marker = CleanStop { sequence: self.store.last_sequence(), boot };
        self.write(MetaKey::CleanStop, &marker).await
    }

    /// Every entry of a space, page by page.
    pub(super) async fn all(
        self,
        space: Space,
    ) -> Result<Vec<(bytes::Bytes, bytes::Bytes)>, ReadError> {
        let limit = ScanLimit { entries: 1_024, bytes: 1 << 20 };
        let mut range = crate::storage::KeyRange::all();
        let mut entries = Vec::new();
        loop {
            let page = self.store.scan(space, range.clone(), limit).await?;
            entries.extend(page.entries);
            match page.next {
                Some(next) => range = range.resume_at(next),
                None => return Ok(entries),
            }
        }
    }

    async fn read<T: serde::de::DeserializeOwned>(
        self,
        key: &MetaKey,
    ) -> Result<Option<T>, DirectoryError> {
        let stored = self.store.get(Space::Meta, key.to_bytes()).await?;
        Ok(stored.map(|bytes| frame::decode(&bytes, META_FORMAT)).transpose()?)
    }

    async fn write<T: Serialize>(self, key: MetaKey, value: &T) -> Result<(), CommitError> {
        let mut batch = Batch::default();
        put(&mut batch, key, value);
        self.store.commit(batch, Syncing::Always).await
    }
}

/// The start after `previous`.
fn next_boot(previous: Option<&Boot>, is_clean: bool, durability: Durability, nonce: u64) -> Boot {
    let Some(previous) = previous else {
        let this = PastBoot { number: BootNumber::new(1), nonce };
        return Boot { this, history: Vec::new(), durability, may_lack_writes: false };
    };
    let lost_now = !is_clean && previous.durability != Durability::Sync;
    let earlier = previous.history.iter().copied().take(HISTORY - 1);
    Boot {
        this: PastBoot { number: previous.this.number.next(), nonce },
        history: std::iter::once(previous.this).chain(earlier).collect(),
        durability,
        may_lack_writes: previous.may_lack_writes || lost_now,
    }
}

fn put<T: Serialize>(batch: &mut Batch, key: MetaKey, value: &T) {
    batch.put(Space::Meta, key, frame::encode(META_FORMAT, value));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::cluster::register::{Ask, Vote};
    use crate::storage::MemoryStore;

    #[tokio::test]
    async fn promises_of_the_format_before_bind_as_before() {
        let base = StateStamp {
            cluster: ClusterId::new(7),
            recovery: RecoveryNumber::default(),
            epoch: Epoch::default(),
            hash: 9,
        };
        let promised = Some((5_u64, NodeId::new("b").expect("valid")));
        let earlier = (base, promised, None::<((u64, NodeId), ClusterState)>);
        let store = MemoryStore::new(Durability::Sync);
        let mut batch = Batch::default();
        batch.put(Space::Meta, MetaKey::Register, frame::encode(1, &earlier));
        store.commit(batch, Syncing::Always).await.expect("it is stored");
        let directory = Directory::new(&store);
        let mut acceptor = directory.register().await.expect("it is read").expect("it is there");
        let ballot =
            |round| Ballot { round, proposer: NodeId::new("b").expect("valid"), attempt: 1 };
        assert!(matches!(acceptor.vote(Ask::Prepare(ballot(4))), Vote::Outbid(_)));
        assert!(matches!(acceptor.vote(Ask::Prepare(ballot(5))), Vote::Promised(None)));
        directory.keep_register(&acceptor).await.expect("it is kept");
        let kept = directory.register().await.expect("it is read");
        assert_eq!(kept, Some(acceptor), "and comes back in the present one");
    }
}
