//! What nodes say to one another, and how it is laid out: a version byte, then postcard.
//!
//! Every message says who speaks, from which data directory, and with which cluster state (rule 1
//! of correctness, section 7). A version that the receiver does not know is refused with one that
//! it does, so that a rolling upgrade fails loudly and not by misreading.

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::protocol::causality::{Content, Dot};
use crate::protocol::cluster::StateStamp;
use crate::protocol::cluster::formation::Offer;
use crate::protocol::operation::{Condition, OperationError, Seen, WriteAnswer};
use crate::types::{
    BootNumber, ClusterId, DataIncarnation, HlcStamp, KeyPath, Level, NodeId, OperationId,
    RequestId, VnodeId,
};

/// The version of every message here.
pub const MESSAGE_VERSION: u8 = 1;

/// A request with what goes along with each.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Envelope {
    /// Who speaks.
    pub from: NodeId,
    /// Its data directory.
    pub incarnation: DataIncarnation,
    /// The data directory that is meant; `None` where the sender does not know yet. An address may
    /// have come to lead to another node.
    pub to: Option<DataIncarnation>,
    /// Its cluster state; `None` before there is one.
    pub stamp: Option<StateStamp>,
    /// How long the sender still waits, in milliseconds.
    pub timeout_ms: u32,
    /// The client's request, for logs.
    pub request_id: Option<RequestId>,
    /// What it wants.
    pub request: Request,
}

/// What a node may want of another.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Request {
    /// The record of a key, or less of it.
    Read {
        /// Which key.
        path: KeyPath,
        /// How much of it.
        part: Part,
    },
    /// Merge this record into what you have.
    Merge {
        /// Which key.
        path: KeyPath,
        /// In its stored form.
        record: Bytes,
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
    },
    /// A founding node's offer; answered with one's own.
    Found(Box<Offer>),
    /// The sender has started, or greets for the first time.
    Hello(Hello),
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
    /// To [`Part::Record`]: in its stored form; `None` where nothing is stored.
    Record(Option<Bytes>),
    /// To [`Part::Heads`]: an encoded summary; `None` where nothing is stored.
    Heads(Option<Bytes>),
    /// To [`Part::Digest`].
    Digest(u64),
    /// To [`Request::Merge`]: durable to the level of `durability`.
    Merged,
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
    /// Go on behind this key; `None`: the vnode ends here.
    pub next: Option<KeyPath>,
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

/// A one-way message of the failure detector.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Gossip {
    /// Of which cluster.
    pub cluster: ClusterId,
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
    /// At another epoch.
    #[error("it is at another epoch of the cluster state")]
    StaleEpoch,
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
