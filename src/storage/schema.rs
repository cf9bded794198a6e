//! Every persisted key in one place, and which format its value has.
//!
//! | space | key | value |
//! |---|---|---|
//! | `Meta` | the name of a [`MetaKey`] | [`frame`](super::frame) |
//! | `Records` | n (1 byte), partition (4, big-endian), bucket, 0, key | a record, verbatim: its own format, versioned and checksummed |
//! | `Vnodes` | n (1 byte), partition (4, big-endian) | [`frame`](super::frame) |
//! | `Trees` | n, partition, leaf (4, big-endian), bucket, 0, key | the record's digest and a checksum of key and digest (8 each) |
//! | `Deletes` | as in `Records` | [`frame`](super::frame) |
//! | `Quarantine` | as in `Records` | [`frame`](super::frame) |
//! | `Hints` | length of the target's name (1 byte; 0: any replica), its name, then as in `Records` | [`frame`](super::frame) |
//!
//! All of a vnode's records adjoin, sorted by bucket, then key: a vnode is streamed, compared and
//! dropped by one range, and a bucket within it listed by another. No layout here ever changes; a
//! new one gets a new [`FORMAT`].

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};

use crate::types::{
    Bucket, DataIncarnation, KeyPath, NodeId, PartitionId, ReplicationFactor, VnodeId,
};

use super::KeyRange;

/// The format of a data directory as a whole, kept under [`MetaKey::Format`].
pub const FORMAT: u32 = 1;

/// The bytes of n and partition that all keys of a vnode begin with.
const VNODE_PREFIX_BYTES: usize = 5;

const PEER_BOOT_PREFIX: &[u8] = b"peer-boot/";

const TAKE_IN_PREFIX: &[u8] = b"take-in/";

/// A key in `Space::Meta`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MetaKey {
    /// The format of the directory: [`FORMAT`].
    Format,
    /// Node id, cluster id, data incarnation: whose directory this is.
    Identity,
    /// How often the directory was started.
    Boot,
    /// Present only after a clean stop: store sequence number, boot number.
    CleanStop,
    /// The promise of one formation.
    Formation,
    /// The cluster state.
    ClusterState,
    /// The last start seen of a peer's data directory.
    PeerBoot(NodeId, DataIncarnation),
    /// Since when actors of this directory count as retired.
    ActorEra,
    /// Present once `Space::Trees` has the digests of all records.
    Trees,
    /// What this node has promised and accepted about the next epoch.
    Register,
    /// A forced recovery that not all survivors have confirmed yet.
    Recovery,
    /// The stamp of the last one that all survivors have confirmed.
    Recovered,
    /// How far a vnode is taken in.
    TakeIn(VnodeId),
    /// Empty: written to find out whether the store writes.
    Probe,
}

impl MetaKey {
    /// The key's bytes.
    pub fn to_bytes(&self) -> Bytes {
        match self {
            Self::Format => Bytes::from_static(b"format"),
            Self::Identity => Bytes::from_static(b"identity"),
            Self::Boot => Bytes::from_static(b"boot"),
            Self::CleanStop => Bytes::from_static(b"clean-stop"),
            Self::Formation => Bytes::from_static(b"formation"),
            Self::ClusterState => Bytes::from_static(b"cluster-state"),
            Self::PeerBoot(node, disk) => {
                let disk = disk.to_string();
                [PEER_BOOT_PREFIX, node.as_str().as_bytes(), b"/", disk.as_bytes()].concat().into()
            }
            Self::ActorEra => Bytes::from_static(b"actor-era"),
            Self::Trees => Bytes::from_static(b"trees"),
            Self::Register => Bytes::from_static(b"register"),
            Self::Recovery => Bytes::from_static(b"recovery"),
            Self::Recovered => Bytes::from_static(b"recovered"),
            Self::TakeIn(vnode) => [TAKE_IN_PREFIX, &vnode_key(*vnode)].concat().into(),
            Self::Probe => Bytes::from_static(b"probe"),
        }
    }

    /// The reverse of [`MetaKey::to_bytes`]; `None` for bytes that it never returns.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        match bytes {
            b"format" => Some(Self::Format),
            b"identity" => Some(Self::Identity),
            b"boot" => Some(Self::Boot),
            b"clean-stop" => Some(Self::CleanStop),
            b"formation" => Some(Self::Formation),
            b"cluster-state" => Some(Self::ClusterState),
            b"actor-era" => Some(Self::ActorEra),
            b"trees" => Some(Self::Trees),
            b"register" => Some(Self::Register),
            b"recovery" => Some(Self::Recovery),
            b"recovered" => Some(Self::Recovered),
            b"probe" => Some(Self::Probe),
            _ if bytes.starts_with(TAKE_IN_PREFIX) => {
                parse_vnode_key(&bytes[TAKE_IN_PREFIX.len()..]).map(Self::TakeIn)
            }
            _ => {
                let name = std::str::from_utf8(bytes.strip_prefix(PEER_BOOT_PREFIX)?).ok()?;
                let (node, disk) = name.rsplit_once('/')?;
                let node = NodeId::new(node).ok()?;
                Some(Self::PeerBoot(node, DataIncarnation::parse_hex(disk)?))
            }
        }
    }

    /// Where all [`MetaKey::TakeIn`] stand.
    pub fn take_ins() -> KeyRange {
        KeyRange::prefix(TAKE_IN_PREFIX)
    }

    /// Where all [`MetaKey::PeerBoot`] stand.
    pub fn peer_boots() -> KeyRange {
        KeyRange::prefix(PEER_BOOT_PREFIX)
    }
}

impl From<MetaKey> for Bytes {
    fn from(key: MetaKey) -> Self {
        key.to_bytes()
    }
}

/// A key in `Space::Records` that none of ours looks like.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{}\" is no key of a record", .0.escape_ascii())]
pub struct ForeignKey(Bytes);

impl fmt::Debug for ForeignKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Where a vnode keeps the record of a key, in `Space::Records`.
pub fn record_key(vnode: VnodeId, path: &KeyPath) -> Bytes {
    let (bucket, key) = (path.bucket.as_str().as_bytes(), path.key.as_bytes());
    let mut bytes = with_vnode(vnode, bucket.len() + 1 + key.len());
    bytes.put_slice(bucket);
    bytes.put_u8(0);
    bytes.put_slice(key);
    bytes.freeze()
}

/// The bytes of the path in what [`record_key`] returned.
///
/// # Panics
/// If it did not return these bytes.
pub fn path_of_record_key(key: &[u8]) -> &[u8] {
    &key[VNODE_PREFIX_BYTES..]
}

/// The reverse of [`record_key`].
///
/// # Errors
/// [`ForeignKey`] for bytes that it never returns.
pub fn parse_record_key(bytes: &[u8]) -> Result<(VnodeId, KeyPath), ForeignKey> {
    let parsed = bytes
        .split_first_chunk::<VNODE_PREFIX_BYTES>()
        .and_then(|(vnode, path)| Some((parse_vnode_key(vnode)?, KeyPath::from_bytes(path)?)));
    parsed.ok_or_else(|| ForeignKey(Bytes::copy_from_slice(bytes)))
}

/// Where the value of a vnode stands in `Space::Vnodes`, and what all its record keys begin with.
pub fn vnode_key(vnode: VnodeId) -> Bytes {
    with_vnode(vnode, 0).freeze()
}

/// The reverse of [`vnode_key`]; `None` for bytes that it never returns.
pub fn parse_vnode_key(bytes: &[u8]) -> Option<VnodeId> {
    let (&n, partition) = bytes.split_first()?;
    let partition = u32::from_be_bytes(partition.try_into().ok()?);
    let table = ReplicationFactor::new(n).ok()?;
    Some(VnodeId { table, partition: PartitionId::new(partition) })
}

/// All records of a vnode, in `Space::Records`.
pub fn vnode_range(vnode: VnodeId) -> KeyRange {
    KeyRange::prefix(vnode_key(vnode))
}

/// All records of one bucket in a vnode, in `Space::Records`.
pub fn bucket_range(vnode: VnodeId, bucket: &Bucket) -> KeyRange {
    let mut prefix = with_vnode(vnode, bucket.as_str().len() + 1);
    prefix.put_slice(bucket.as_str().as_bytes());
    prefix.put_u8(0);
    KeyRange::prefix(prefix.freeze())
}

/// Where the digest of a key's record stands, in `Space::Trees`.
pub fn tree_key(vnode: VnodeId, leaf: u32, path: &KeyPath) -> Bytes {
    tree_key_of(leaf, &record_key(vnode, path))
}

/// The same, by where the record stands.
///
/// # Panics
/// If [`record_key`] did not return that.
pub fn tree_key_of(leaf: u32, record_key: &[u8]) -> Bytes {
    let (vnode, path) = record_key.split_at(VNODE_PREFIX_BYTES);
    let mut bytes = BytesMut::with_capacity(record_key.len() + 4);
    bytes.put_slice(vnode);
    bytes.put_u32(leaf);
    bytes.put_slice(path);
    bytes.freeze()
}

/// The reverse of [`tree_key`].
///
/// # Errors
/// [`ForeignKey`] for bytes that it never returns.
pub fn parse_tree_key(bytes: &[u8]) -> Result<(VnodeId, u32, KeyPath), ForeignKey> {
    let parsed = bytes.split_first_chunk::<VNODE_PREFIX_BYTES>().and_then(|(vnode, rest)| {
        let (leaf, path) = rest.split_first_chunk::<4>()?;
        let vnode = parse_vnode_key(vnode)?;
        Some((vnode, u32::from_be_bytes(*leaf), KeyPath::from_bytes(path)?))
    });
    parsed.ok_or_else(|| ForeignKey(Bytes::copy_from_slice(bytes)))
}

/// All digests of one leaf, in `Space::Trees`.
pub fn leaf_range(vnode: VnodeId, leaf: u32) -> KeyRange {
    let mut prefix = with_vnode(vnode, 4);
    prefix.put_u32(leaf);
    KeyRange::prefix(prefix.freeze())
}

/// Where a hint for a node is kept, in `Space::Hints`; `None` stands for any replica of the key.
pub fn hint_key(target: Option<&NodeId>, vnode: VnodeId, path: &KeyPath) -> Bytes {
    let record = record_key(vnode, path);
    let mut bytes = hint_prefix(target, record.len());
    bytes.put_slice(&record);
    bytes.freeze()
}

/// The reverse of [`hint_key`].
///
/// # Errors
/// [`ForeignKey`] for bytes that it never returns.
pub fn parse_hint_key(bytes: &[u8]) -> Result<(Option<NodeId>, VnodeId, KeyPath), ForeignKey> {
    let parsed = bytes.split_first().and_then(|(length, rest)| {
        let (target, record) = rest.split_at_checked(usize::from(*length))?;
        let target = match target {
            [] => None,
            name => Some(NodeId::new(std::str::from_utf8(name).ok()?).ok()?),
        };
        let (vnode, path) = parse_record_key(record).ok()?;
        Some((target, vnode, path))
    });
    parsed.ok_or_else(|| ForeignKey(Bytes::copy_from_slice(bytes)))
}

/// All hints for a node, in `Space::Hints`.
pub fn hints_for(target: Option<&NodeId>) -> KeyRange {
    KeyRange::prefix(hint_prefix(target, 0).freeze())
}

/// All hints for a node of one vnode, in `Space::Hints`.
pub fn hints_for_vnode(target: Option<&NodeId>, vnode: VnodeId) -> KeyRange {
    let mut prefix = hint_prefix(target, VNODE_PREFIX_BYTES);
    prefix.put_slice(&vnode_key(vnode));
    KeyRange::prefix(prefix.freeze())
}

fn hint_prefix(target: Option<&NodeId>, further_bytes: usize) -> BytesMut {
    let name = target.map_or("", NodeId::as_str);
    let mut bytes = BytesMut::with_capacity(1 + name.len() + further_bytes);
    bytes.put_u8(u8::try_from(name.len()).expect("a node's name is short"));
    bytes.put_slice(name.as_bytes());
    bytes
}

fn with_vnode(vnode: VnodeId, further_bytes: usize) -> BytesMut {
    let mut bytes = BytesMut::with_capacity(VNODE_PREFIX_BYTES + further_bytes);
    bytes.put_u8(vnode.table.get());
    bytes.put_u32(vnode.partition.get());
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Strategy, any, prop_assert, prop_assert_eq, proptest};

    use super::*;
    use crate::types::Key;

    fn vnodes() -> impl Strategy<Value = VnodeId> {
        (1..=16_u8, any::<u32>()).prop_map(|(n, partition)| vnode(n, partition))
    }

    fn vnode(n: u8, partition: u32) -> VnodeId {
        let table = ReplicationFactor::new(n).expect("1 to 16");
        VnodeId { table, partition: PartitionId::new(partition) }
    }

    fn paths() -> impl Strategy<Value = KeyPath> {
        ("[a-c]{1,3}", proptest::collection::vec(any::<u8>(), 1..9)).prop_map(|(bucket, key)| {
            let (bucket, key) = (Bucket::new(&bucket), Key::new(key));
            KeyPath { bucket: bucket.expect("letters"), key: key.expect("1 to 8 bytes") }
        })
    }

    proptest! {
        #[test]
        fn record_keys_come_back(vnode in vnodes(), path in paths()) {
            let key = record_key(vnode, &path);
            prop_assert_eq!(parse_record_key(&key), Ok((vnode, path)));
        }

        #[test]
        fn a_range_holds_exactly_the_records_of_its_vnode_and_bucket(
            vnode in vnodes(), other in vnodes(), path in paths(), elsewhere in paths(),
        ) {
            let key = record_key(vnode, &path);
            prop_assert!(vnode_range(vnode).contains(&key));
            prop_assert_eq!(vnode_range(other).contains(&key), vnode == other);
            prop_assert!(bucket_range(vnode, &path.bucket).contains(&key));
            let same_bucket = elsewhere.bucket == path.bucket;
            prop_assert_eq!(bucket_range(vnode, &elsewhere.bucket).contains(&key), same_bucket);
        }

        #[test]
        fn tree_keys_come_back_and_lie_in_their_leaf(
            vnode in vnodes(), leaf: u32, other: u32, path in paths(),
        ) {
            let key = tree_key(vnode, leaf, &path);
            let record = record_key(vnode, &path);
            prop_assert_eq!(path_of_record_key(&record), &path.to_bytes()[..]);
            prop_assert_eq!(parse_tree_key(&key), Ok((vnode, leaf, path)));
            prop_assert!(vnode_range(vnode).contains(&key));
            prop_assert_eq!(leaf_range(vnode, other).contains(&key), other == leaf);
        }

        #[test]
        fn hint_keys_come_back_and_lie_with_their_target(
            target in proptest::option::of("[a-c]{1,3}"), other in "[a-c]{1,3}",
            vnode in vnodes(), path in paths(),
        ) {
            let target = target.map(|name| NodeId::new(&name).expect("letters"));
            let other = NodeId::new(&other).expect("letters");
            let key = hint_key(target.as_ref(), vnode, &path);
            prop_assert_eq!(parse_hint_key(&key), Ok((target.clone(), vnode, path)));
            prop_assert!(hints_for(target.as_ref()).contains(&key));
            prop_assert!(hints_for_vnode(target.as_ref(), vnode).contains(&key));
            prop_assert_eq!(hints_for(Some(&other)).contains(&key), target.as_ref() == Some(&other));
        }

        #[test]
        fn record_keys_sort_by_vnode_then_bucket_then_key(
            a in (vnodes(), paths()), b in (vnodes(), paths()),
        ) {
            let (left, right) = (record_key(a.0, &a.1), record_key(b.0, &b.1));
            prop_assert_eq!(left.cmp(&right), a.cmp(&b));
        }

        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..32)) {
            if let Ok((vnode, path)) = parse_record_key(&bytes) {
                prop_assert_eq!(&record_key(vnode, &path)[..], &bytes[..]);
            }
            if let Ok((vnode, leaf, path)) = parse_tree_key(&bytes) {
                prop_assert_eq!(&tree_key(vnode, leaf, &path)[..], &bytes[..]);
            }
            if let Ok((target, vnode, path)) = parse_hint_key(&bytes) {
                prop_assert_eq!(&hint_key(target.as_ref(), vnode, &path)[..], &bytes[..]);
            }
        }
    }

    #[test]
    fn the_layout_of_a_record_key_is_as_documented() {
        let path = KeyPath {
            bucket: Bucket::new("b").expect("valid"),
            key: Key::new("k").expect("valid"),
        };
        assert_eq!(&record_key(vnode(3, 0x0102), &path)[..], b"\x03\0\0\x01\x02b\0k");
        assert_eq!(&vnode_key(vnode(3, u32::MAX))[..], b"\x03\xff\xff\xff\xff");
        assert_eq!(vnode_range(vnode(3, u32::MAX)).end.as_deref(), Some(&b"\x04"[..]));
    }

    #[test]
    fn meta_keys_come_back_and_are_distinct() {
        let node = NodeId::new("format").expect("valid");
        let keys = [
            MetaKey::Format,
            MetaKey::Identity,
            MetaKey::Boot,
            MetaKey::CleanStop,
            MetaKey::Formation,
            MetaKey::ClusterState,
            MetaKey::PeerBoot(node, DataIncarnation::new(7)),
            MetaKey::ActorEra,
            MetaKey::Register,
            MetaKey::Recovery,
            MetaKey::Recovered,
            MetaKey::TakeIn(vnode(3, 9)),
            MetaKey::Trees,
            MetaKey::Probe,
        ];
        for key in &keys {
            assert_eq!(MetaKey::from_bytes(&key.to_bytes()).as_ref(), Some(key));
            let is_peer_boot = matches!(key, MetaKey::PeerBoot(..));
            assert_eq!(MetaKey::peer_boots().contains(&key.to_bytes()), is_peer_boot);
        }
        assert_eq!(MetaKey::from_bytes(b"peer-boot/"), None);
        assert_eq!(MetaKey::from_bytes(b"formats"), None);
    }
}
