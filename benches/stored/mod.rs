//! Records put straight into data directories: how many keys come to be there does not depend on how
//! fast a cluster takes them.

use std::path::Path;
use std::time::Duration;

use starling::protocol::causality::{Content, Context, Record, Value};
use starling::protocol::ring::token_of;
use starling::storage::schema::{MetaKey, record_key};
use starling::storage::{Batch, RocksOptions, RocksStore, Space, Store, Syncing};
use starling::types::{
    ActorId, Bucket, HlcStamp, Key, KeyPath, PartitionCount, ReplicationFactor, VnodeId,
};
use tokio::time::sleep;

/// How many partitions a ring has where nothing else is asked for.
pub const PARTITIONS: u32 = 1_024;

/// The names that the load generator gives keys.
pub fn path(key: u32) -> KeyPath {
    let bucket = Bucket::new("bench").expect("valid");
    KeyPath { bucket, key: Key::new(format!("key-{key:08}").into_bytes()).expect("valid") }
}

/// Where a node keeps a key, if every key has so many replicas.
pub fn vnode(path: &KeyPath, replicas: u8) -> VnodeId {
    let partitions = PartitionCount::new(PARTITIONS).expect("a power of two");
    let table = ReplicationFactor::new(replicas).expect("1 to 16");
    VnodeId { table, partition: partitions.partition_of(token_of(path)) }
}

/// Puts the same records into a directory of a node that holds all keys, as if written long ago; the
/// digests are made at the next start.
///
/// # Errors
/// What the store says.
pub async fn put_into(
    directory: &Path,
    replicas: u8,
    keys: u32,
    value_bytes: usize,
) -> anyhow::Result<()> {
    let store = RocksStore::open(directory, &RocksOptions::default())?;
    let mut batch = Batch::new();
    batch.delete(Space::Meta, MetaKey::Trees);
    for key in 0..keys {
        let path = path(key);
        let mut record = Record::absent();
        let body = vec![key as u8; value_bytes].into();
        let content = Content::Value(Value { body, ..Value::default() });
        record.update(&Context::empty(), content, HlcStamp::new(1, key), ActorId::new(7), 0);
        let at = record_key(vnode(&path, replicas), &path);
        batch.put(Space::Records, at, record.to_stored_bytes());
        if batch.bytes() > 1 << 20 {
            store.commit(std::mem::take(&mut batch), Syncing::AsConfigured).await?;
        }
    }
    store.commit(batch, Syncing::Always).await?;
    Ok(store.close().await?)
}

/// Waits until a directory's files are merged as far as they will be: else that goes on beside what is
/// measured, on the same processors.
///
/// # Errors
/// What the store says.
#[allow(dead_code, reason = "not every benchmark measures what this would disturb")]
pub async fn settle(directory: &Path) -> anyhow::Result<()> {
    const QUIET_FOR: u32 = 10;
    let store = RocksStore::open(directory, &RocksOptions::default())?;
    let mut quiet = 0;
    while quiet < QUIET_FOR {
        sleep(Duration::from_millis(100)).await;
        let is_quiet = store.statistics().pending_compaction_bytes == 0;
        quiet = if is_quiet { quiet + 1 } else { 0 };
    }
    Ok(store.close().await?)
}
