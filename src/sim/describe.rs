//! Messages and batches as text, for traces.

use crate::peer::PeerAddress;
use crate::peer::messages::{Envelope, Gossip, Reply, Request, decode};
use crate::storage::schema::parse_record_key;
use crate::storage::{Batch, Change, Space};
use crate::types::KeyPath;

/// A message on the network.
pub fn message(from: &PeerAddress, to: &PeerAddress, bytes: &[u8]) -> String {
    let (from, to) = (node(from), node(to));
    let what = if let Ok(envelope) = decode::<Envelope>(bytes) {
        request(&envelope.request)
    } else if decode::<Gossip>(bytes).is_ok() {
        "gossip".into()
    } else {
        match decode::<Reply>(bytes) {
            Ok(Ok(answer)) => shortened(&format!("{answer:?}")),
            Ok(Err(refusal)) => format!("refused: {refusal}"),
            Err(_) => format!("{} bytes", bytes.len()),
        }
    };
    format!("{from} > {to}: {what}")
}

fn node(address: &PeerAddress) -> String {
    let text = address.to_string();
    let port = text.rsplit(':').next().and_then(|port| port.parse::<usize>().ok());
    port.map_or(text, |port| format!("node-{}", port.saturating_sub(9_000)))
}

fn request(request: &Request) -> String {
    match request {
        Request::Read { path, part, .. } => format!("read {} {part:?}", key(path)),
        Request::Merge { path, .. } => format!("merge {}", key(path)),
        Request::Write(write) => format!("write {} at {:?}", key(&write.path), write.level),
        other => shortened(&format!("{other:?}")),
    }
}

fn key(path: &KeyPath) -> String {
    format!("{}/{}", path.bucket.as_str(), path.key.as_bytes().escape_ascii())
}

fn shortened(text: &str) -> String {
    text.chars().take(120).collect()
}

/// A batch on a node's disk.
pub fn batch(node: usize, batch: &Batch) -> String {
    let changes = batch.changes().iter().map(|change| match change {
        Change::Put { space: Space::Records, key, .. } => format!("put {}", record(key)),
        Change::Put { space, key, .. } => format!("put {} {}", space.name(), key.escape_ascii()),
        Change::Delete { space: Space::Records, key } => format!("delete {}", record(key)),
        Change::Delete { space, key } => format!("delete {} {}", space.name(), key.escape_ascii()),
        Change::DeleteRange { space, .. } => format!("delete a range of {}", space.name()),
    });
    let changes: Vec<String> = changes.collect();
    format!("node-{}: {}", node + 1, changes.join(", "))
}

fn record(bytes: &bytes::Bytes) -> String {
    parse_record_key(bytes)
        .map_or_else(|_| bytes.escape_ascii().to_string(), |(_, path)| key(&path))
}
