//! What nodes say to one another, and how it is laid out: a version byte, then postcard.
//!
//! Every message says who speaks, from which data directory, and with which cluster state (rule 1
//! of correctness, section 7). A version that the receiver does not know is refused with one that
//! it does, so that a rolling upgrade fails loudly and not by misreading.

mod fixed;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::protocol::causality::{Content, Dot};
use crate::protocol::cluster::formation::Offer;
use crate::protocol::cluster::register::{Ask, Vote};
use crate::protocol::cluster::{Change, ClusterState, Joiner, StateStamp};
use crate::protocol::merkle::LeafIndex;
use crate::protocol::operation::{Condition, OperationError, Seen, WriteAnswer};
use crate::types::{
    BootNumber, DataIncarnation, HlcStamp, KeyPath, Level, NodeId, OperationId, PurgeNumber,
    ReplicationFactor, RequestId, VnodeId,
};

/// The version of every message here.
pub const MESSAGE_VERSION: u8 = 7;

/// A request with what goes along with each.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Envelope {
    /// Who speaks.
    pub from: NodeId,
    /// Its data directory.
    #[serde(with = "fixed")]
    pub incarnation: DataIncarnation,
    /// The data directory that is meant; `None` where the sender does not know yet. An address may
    /// have come to lead to another node.
    #[serde(with = "fixed")]
    pub to: Option<DataIncarnation>,
    /// Its cluster state; `None` before there is one.
    #[serde(with = "fixed")]
    pub stamp: Option<StateStamp>,
    /// How long the sender still waits, in milliseconds.
    pub timeout_ms: u32,
    /// The client's request, for logs.
    pub request_id: Option<RequestId>,
    /// What it wants.
    pub request: Request,
}

/// An [`Envelope`] as it is written.
#[derive(Debug, Serialize)]
pub struct EnvelopeRef<'a> {
    /// Who speaks.
    pub from: &'a NodeId,
    /// Its data directory.
    #[serde(with = "fixed")]
    pub incarnation: DataIncarnation,
    /// The data directory that is meant.
    #[serde(with = "fixed")]
    pub to: Option<DataIncarnation>,
    /// Its cluster state.
    #[serde(with = "fixed")]
    pub stamp: Option<StateStamp>,
    /// How long the sender still waits, in milliseconds.
    pub timeout_ms: u32,
    /// The client's request, for logs.
    pub request_id: &'a Option<RequestId>,
    /// What it wants.
    pub request: &'a Request,
}

/// What a node may want of another.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Request {
    /// The record of a key, or less of it.
    Read {
        /// Which key.
        path: KeyPath,
        /// In which table's vnode.
        table: ReplicationFactor,
        /// How much of it.
        part: Part,
        /// Not of a replica, but of what is kept for one.
        hinted: bool,
    },
    /// Merge this record into what you have.
    Merge {
        /// Which key.
        path: KeyPath,
        /// In which table's vnode.
        table: ReplicationFactor,
        /// The record.
        record: Carried,
        /// Whether to answer with what is there afterwards, if that is something else.
        answers: bool,
    },
    /// Keep this record for a replica that can't be reached.
    Hint {
        /// For whom.
        target: NodeId,
        /// Which key.
        path: KeyPath,
        /// The record.
        record: Carried,
    },
    /// Coordinate this write: the sender is no replica of the key.
    Write(Box<ForwardedWrite>),
    /// What do you hold of this key? For people.
    Inspect {
        /// Which key.
        path: KeyPath,
    },
    /// A page of a vnode's records, for a replica that may lack some.
    Page {
        /// Which vnode.
        vnode: VnodeId,
        /// Go on behind this key.
        after: Option<KeyPath>,
        /// At most so many bytes, but at least one record.
        max_bytes: u32,
        /// Only the keys that this table will have; husks among them.
        to: Option<ReplicationFactor>,
    },
    /// A page of the digests of a vnode's records, in the order of its leaves, for a replica that
    /// takes it in.
    Digests {
        /// Which vnode.
        vnode: VnodeId,
        /// Only the keys that this table will have.
        to: ReplicationFactor,
        /// Go on behind this key.
        after: Option<KeyPath>,
        /// The root of the taking vnode's hash tree, if it is known: one with the same has nothing to list.
        root: Option<u64>,
    },
    /// A page of the husks of a vnode, for a replica that takes it in.
    Husks {
        /// Which vnode.
        vnode: VnodeId,
        /// Only the keys that this table will have.
        to: ReplicationFactor,
        /// Go on behind this key.
        after: Option<KeyPath>,
    },
    /// These records of a vnode, as many as fit into an answer.
    Fetch {
        /// Which vnode.
        vnode: VnodeId,
        /// Which keys.
        paths: Vec<KeyPath>,
    },
    /// Which of these records does a vnode lack, or have otherwise?
    Lacks {
        /// Which vnode.
        vnode: VnodeId,
        /// Keys with the digests of the sender's records.
        entries: Vec<(KeyPath, u64)>,
    },
    /// Which of these vnodes have this root? For who takes them in or lets go of them: with the same one
    /// nothing is lacking.
    SameRoots(Vec<(VnodeId, u64)>),
    /// What do you hold of this key, whether or not it counts? For a replica whose own copy is
    /// damaged.
    Take {
        /// Which key.
        path: KeyPath,
        /// In which table's vnode.
        table: ReplicationFactor,
    },
    /// Which of the vnodes that both of us hold differ? Their roots, 8 bytes each, in the order of
    /// tables and partitions.
    Roots(Bytes),
    /// Which branches of these vnodes differ?
    Branches(Vec<(VnodeId, Bytes)>),
    /// Which leaves of these branches differ?
    Leaves(Vec<(VnodeId, u32, Bytes)>),
    /// What has to be exchanged of the keys in these vnodes' leaves?
    Keys(Vec<KeysOfVnode>),
    /// Merge these vnodes' records into what you have.
    Deliver(Vec<(VnodeId, Vec<(KeyPath, Carried)>)>),
    /// The same of one vnode.
    Push {
        /// In which vnode.
        vnode: VnodeId,
        /// Keys and records.
        records: Vec<(KeyPath, Carried)>,
    },
    /// An order in the course of purging.
    Purge {
        /// Which vnode.
        vnode: VnodeId,
        /// What is to be done or confirmed.
        order: PurgeOrder,
    },
    /// Release the keys whose only copies are damaged.
    AcceptLoss,
    /// What is your cluster state?
    State,
    /// Adopt this state, if it is newer than yours.
    Learn(Box<ClusterState>),
    /// Vote on the state of the next epoch.
    Vote(Box<Ask>),
    /// How far are you with what the present state asks of you?
    Progress,
    /// The sender wants to be taken in.
    Join(Box<Candidate>),
    /// Who are you, if you want to be taken in?
    Describe,
    /// Begin this change.
    Apply(Box<Change>),
    /// Go on with this state after a forced recovery, once all survivors have kept it.
    Recover(Box<Recovery>),
    /// A founding node's offer; answered with one's own.
    Found(Box<Offer>),
    /// The sender has started, or greets for the first time.
    Hello(Hello),
}

/// A node that wants to be taken in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// As it is to be listed.
    pub joiner: Joiner,
    /// Where clients reach it.
    pub http: String,
    /// The version it runs.
    pub software: String,
    /// It holds no records.
    pub is_empty: bool,
}

/// A state that a cluster goes on with after a majority of its voters was lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovery {
    /// It.
    pub state: ClusterState,
    /// Who has to keep it before any of them serves.
    pub survivors: Vec<NodeId>,
}

/// How far a node is with what the present state asks of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The bulk of all that it takes in is there.
    pub has_bulk: bool,
    /// It has passed over all that it has to.
    pub has_passed: bool,
    /// It holds nothing any more of what it held before.
    pub has_dropped: bool,
    /// It keeps hints.
    pub has_hints: bool,
    /// Vnodes that it takes in.
    pub vnodes_total: u32,
    /// Those that it has taken in.
    pub vnodes_done: u32,
    /// Bytes that it has taken in.
    pub bytes: u64,
    /// Bytes a second, of late.
    pub bytes_per_second: u64,
    /// What it can't go on without.
    pub waiting_for: Vec<String>,
}

/// A record on its way, in its stored form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Carried {
    /// The record.
    pub record: Bytes,
    /// Under which number it was read from its store; for a merge the least of its parts.
    pub purge: PurgeNumber,
}

/// A key whose record is to be purged, and the digest of exactly that record.
pub type PurgeKey = (KeyPath, u64);

/// One step of purging (correctness, section 6).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PurgeOrder {
    /// Do you hold exactly these records, all tombstones, for long enough, and send none of them?
    Confirm(Vec<PurgeKey>),
    /// Replace these records by husks, if they are unchanged.
    Strip(Vec<PurgeKey>),
    /// Do you hold exactly these husks, or nothing?
    Check(Vec<PurgeKey>),
    /// Promise to go on to this purge number.
    Promise(PurgeNumber),
    /// Go on to it.
    Enter(PurgeNumber),
    /// Go on to it, and confirm that you keep no hint for this partition.
    NoHints(PurgeNumber),
    /// Delete these husks, if they are unchanged; all of this number have confirmed them.
    Delete(PurgeNumber, Vec<PurgeKey>),
}

/// How much of a record is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Part {
    /// All of it.
    Record,
    /// All but the values.
    Heads,
    /// Its digest.
    Digest,
}

/// A write that another node is to coordinate.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ForwardedWrite {
    /// Names the write inside the cluster.
    pub operation: OperationId,
    /// Which key.
    pub path: KeyPath,
    /// The value, or a tombstone.
    pub content: Content,
    /// What the writer has seen.
    pub seen: Seen,
    /// All of these must hold.
    pub conditions: Vec<Condition>,
    /// W.
    pub level: Level,
    /// May fallbacks stand in for replicas?
    pub sloppy: bool,
}

/// A start, made known.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Hello {
    /// Which start of its data directory.
    pub boot: BootNumber,
    /// Drawn at that start: tells one start from another with the same number.
    pub nonce: u64,
    /// The last starts before this one, as the directory knows them, the latest first.
    pub history: Vec<PastBoot>,
    /// Where clients reach it.
    pub http: String,
    /// The version it runs.
    pub software: String,
}

/// One start of a data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PastBoot {
    /// Its number.
    pub number: BootNumber,
    /// Drawn at it.
    pub nonce: u64,
}

/// What a node answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Answer {
    /// To [`Part::Record`]: `None` where nothing is stored, with the number under which that was
    /// found.
    Record(Option<Bytes>, PurgeNumber),
    /// To [`Part::Heads`]: an encoded summary; `None` where nothing is stored.
    Heads(Option<Bytes>),
    /// To [`Part::Digest`].
    Digest(u64),
    /// To [`Request::Merge`]: durable to the level of `durability`. With what is there now, if it
    /// was asked for and is something else than what was sent.
    Merged(Option<Carried>),
    /// To [`Request::Hint`]: kept as durably.
    Kept,
    /// To [`Request::Take`].
    Taken(Option<Carried>),
    /// To [`Request::Roots`], [`Request::Branches`], [`Request::Leaves`]: the places that differ,
    /// for each list that was sent.
    Differing(Vec<Vec<u32>>),
    /// To [`Request::Keys`]: for each vnode in turn.
    Keys(Vec<Result<KeysAnswer, Refusal>>),
    /// To [`Request::Deliver`]: for each vnode in turn what [`Answer::Pushed`] has for one.
    Delivered(Vec<Result<Vec<Option<Carried>>, Refusal>>),
    /// To [`Request::Push`]: for each record what is there now, if it is something else.
    Pushed(Vec<Option<Carried>>),
    /// To [`Request::Purge`].
    Purge(PurgeAnswer),
    /// To [`Request::AcceptLoss`]: how many keys were released.
    Released(u64),
    /// To [`Request::State`] and [`Request::Join`].
    State(Box<ClusterState>),
    /// To [`Request::Learn`]: that state, or a later one, is adopted.
    Learnt,
    /// To [`Request::Vote`].
    Vote(Box<Vote>),
    /// To [`Request::Progress`].
    Progress(Box<Progress>),
    /// To [`Request::Describe`].
    Candidate(Box<Candidate>),
    /// To [`Request::Apply`]: begun, or a sentence that says why not.
    Applied(Result<(), String>),
    /// To [`Request::Recover`]: kept, or a sentence that says why not.
    Recovering(Result<(), String>),
    /// To [`Request::Digests`].
    Digests(DigestPage),
    /// To [`Request::Fetch`]: what there is of the first keys that were asked for; the others did
    /// not fit.
    Fetched {
        /// For each, its record, if there is one.
        records: Vec<Option<Carried>>,
    },
    /// To [`Request::SameRoots`], for each vnode in turn; `None`: it has another, or one that may be wrong.
    SameRoots(Vec<Option<SameRoot>>),
    /// To [`Request::Lacks`].
    Lacks(Vec<KeyPath>),
    /// To [`Request::Write`].
    Written(Box<Result<WriteAnswer, WriteFailure>>),
    /// To [`Request::Inspect`].
    Held(Held),
    /// To [`Request::Page`].
    Page(Page),
    /// To [`Request::Found`].
    Offer(Box<Offer>),
    /// To [`Request::Hello`].
    Hello(HelloAnswer),
}

/// A node's keys in some leaves of a vnode.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KeysOfVnode {
    /// Which vnode.
    pub vnode: VnodeId,
    /// Which leaves.
    pub leaves: Vec<LeafIndex>,
    /// Its keys in them, with their digests.
    pub entries: Vec<(KeyPath, u64)>,
}

/// What has to be exchanged of some keys.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct KeysAnswer {
    /// Send these: they are missing here, or differ.
    pub wanted: Vec<KeyPath>,
    /// Take these: they are missing there, or differ.
    pub records: Vec<(KeyPath, Carried)>,
    /// Not all fitted into the answer: ask again.
    pub has_more: bool,
}

/// What a node has done about a [`PurgeOrder`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PurgeAnswer {
    /// For each key in turn, whether it was confirmed or done.
    Keys(Vec<bool>),
    /// It has promised that number; or the highest that it has promised before.
    Promised(Result<(), PurgeNumber>),
    /// Whether it was done, or is so.
    Done(bool),
}

/// Some of the digests of a vnode's records.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DigestPage {
    /// In the order of the vnode's leaves, and of the keys in them.
    pub entries: Vec<(KeyPath, u64)>,
    /// Go on behind this key; `None`: the vnode ends here.
    pub next: Option<KeyPath>,
    /// Under which number they were read.
    pub purge: PurgeNumber,
    /// The highest number that was promised.
    pub promised: PurgeNumber,
}

/// What a replica says of a vnode that has the root it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SameRoot {
    /// Its purge number.
    pub purge: PurgeNumber,
    /// The highest number that was promised.
    pub promised: PurgeNumber,
    /// Whether it may hold husks, which are in no tree.
    pub may_have_husks: bool,
}

/// Why a forwarded write was not done, and whether it was begun.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WriteFailure {
    /// What to tell the client.
    pub error: Box<OperationError>,
    /// Nothing was minted: another replica may be asked.
    pub is_unbegun: bool,
}

/// What a replica holds of a key.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Held {
    /// Whether it may lack acknowledged data.
    pub is_incomplete: bool,
    /// Its versions.
    pub versions: Vec<HeldVersion>,
    /// The leaf of the vnode's hash tree in which the key lies.
    pub leaf_hash: u64,
}

/// One version of [`Held`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HeldVersion {
    /// Which.
    pub dot: Dot,
    /// Whether it is a tombstone.
    pub is_deleted: bool,
    /// The size of its value.
    pub value_bytes: u64,
    /// When it was written.
    pub stamp: HlcStamp,
}

/// Some of a vnode's records.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Page {
    /// Keys and records in their stored form, in the order of the keys.
    pub records: Vec<(KeyPath, Bytes)>,
    /// Under which number they were read.
    pub purge: PurgeNumber,
    /// Go on behind this key; `None`: the vnode ends here.
    pub next: Option<KeyPath>,
}

impl Page {
    /// The records, each under the page's number, and behind which key to go on.
    pub fn carried(self) -> (Vec<(KeyPath, Carried)>, Option<KeyPath>) {
        let Self { records, purge, next } = self;
        let carry = |(path, record)| (path, Carried { record, purge });
        (records.into_iter().map(carry).collect(), next)
    }
}

/// What the receiver of a [`Hello`] knew before, and who it is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HelloAnswer {
    /// The last start that it had seen of the sender before this one.
    pub known: Option<PastBoot>,
    /// It has seen a start that the sender's directory does not know of: that was rolled back or
    /// copied.
    pub is_rolled_back: bool,
    /// Its own greeting.
    pub hello: Hello,
    /// Its name.
    pub node: NodeId,
    /// Its data directory.
    pub incarnation: DataIncarnation,
    /// Its cluster state.
    pub stamp: Option<StateStamp>,
    /// The data directory that its state lists for the sender.
    pub listed: Option<DataIncarnation>,
}

/// A one-way message of the failure detector, and of the cluster state: who has an older one asks
/// for it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Gossip {
    /// The sender's state.
    pub stamp: StateStamp,
    /// Where the sender is reached.
    pub address: String,
    /// The detector's own bytes.
    pub data: Bytes,
}

/// Why a request was refused; nothing was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// Written in a version that the receiver does not know.
    #[error("it speaks version {0} of the peer protocol")]
    Version(u8),
    /// No message at all.
    #[error("it could not read the message")]
    Malformed,
    /// Of another cluster.
    #[error("it belongs to another cluster")]
    OtherCluster,
    /// It is at a later epoch, or the request says nothing of one.
    #[error("it is at a later epoch of the cluster state")]
    StaleEpoch,
    /// It is at an earlier epoch, and has to be told the later one first.
    #[error("it has not heard of this epoch of the cluster state")]
    Unlearnt,
    /// The same epoch with another state.
    #[error("it has another state for the same epoch")]
    Forked,
    /// The sender's data directory is not the one that is listed.
    #[error("it knows this node with another data directory")]
    OtherIncarnation,
    /// No replica of the key.
    #[error("it holds no replica of the key")]
    NoReplica,
    /// Counts towards no R.
    #[error("it may lack acknowledged data and is being mended")]
    Incomplete,
    /// Every copy that it had of the key is damaged.
    #[error("its copy of the key is damaged, and no other was found yet")]
    Quarantined,
    /// What was sent may be older than what was purged; this is its purge number.
    #[error("the record was read before the last purge; read it again")]
    StalePurge(PurgeNumber),
    /// It brings the two together already, by hints or by a comparison of its own.
    #[error("it brings the two together already")]
    Later,
    /// It keeps no more hints.
    #[error("it has no room for more hints")]
    HintsFull,
    /// Below its floor.
    #[error("its disk is nearly full")]
    DiskFull,
    /// The deadline had passed when it could be done.
    #[error("the deadline had passed")]
    TooLate,
    /// It was asked for this very write before, and may have done it.
    #[error("it was asked for this write before")]
    Repeated,
    /// Not yet, or no longer, serving.
    #[error("it is not serving")]
    NotServing,
    /// The store failed; for a write it may or may not have been applied.
    #[error("its store failed")]
    StoreFailed,
}

/// Encodes a message: a version byte, then postcard.
pub fn encode<T: Serialize>(message: &T) -> Bytes {
    // Most messages fit; the others grow it a few times.
    let mut buffer = Vec::with_capacity(2_048);
    buffer.push(MESSAGE_VERSION);
    let bytes = postcard::to_extend(message, buffer);
    Bytes::from(bytes.expect("plain data always encodes"))
}

/// Decodes a message; never panics, whatever the bytes.
///
/// # Errors
/// [`Refusal::Version`] of another version, [`Refusal::Malformed`] for anything else that is wrong.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Refusal> {
    match bytes.split_first() {
        Some((&MESSAGE_VERSION, body)) => match postcard::take_from_bytes(body) {
            Ok((message, [])) => Ok(message),
            _ => Err(Refusal::Malformed),
        },
        Some(_) => Err(Refusal::Version(MESSAGE_VERSION)),
        None => Err(Refusal::Malformed),
    }
}

/// What a request comes back with.
pub type Reply = Result<Answer, Refusal>;
