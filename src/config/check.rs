//! What settings must be together, and the defaults that come from one another.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use tracing_subscriber::EnvFilter;

use super::section::Findings;
use super::settings::{BucketSettings, Settings};
use crate::peer::PeerAddress;

/// The largest value that a node can be told to take: it passes through memory whole, once for
/// each replica.
const MAX_VALUE_BYTES: usize = 256 << 20;
/// Less block cache than this, and every read goes to the disk.
const MIN_BLOCK_CACHE_BYTES: usize = 1 << 20;
/// Less memtable than this, and every few writes make a file.
const MIN_MEMTABLE_BYTES: usize = 1 << 20;

/// Twice the longest request timeout.
const MIN_GC_GRACE: Duration = Duration::from_secs(120);

/// Checks what one setting alone does not show, and fills in what follows from others.
pub(super) fn together(settings: &mut Settings, findings: &mut Findings) {
    ports(settings, findings);
    formation(settings, findings);
    // After `formation`: the list of founding nodes may say where this one is reached.
    advertised(settings, findings);
    limits(settings, findings);
    membership(settings, findings);
    grace(settings, findings);
    buckets(settings, findings);
    log_filter(settings, findings);
}

/// What is allowed and still worth a word.
pub(super) fn oddities(settings: &Settings) -> Vec<String> {
    let mut warnings = Vec::new();
    if settings.auto_join && settings.join.is_empty() {
        warnings.push("auto_join does nothing without join".to_owned());
    }
    let listed = settings.initial_nodes.len();
    let n = usize::from(settings.replication_factor.get());
    if (1..n).contains(&listed) {
        warnings.push(format!(
            "initial_nodes lists {listed} nodes, fewer than replication_factor = {n}: keys have \
             {listed} replicas"
        ));
    }
    warnings
}

/// A deletion has to outlive every request that may still carry what it deleted.
fn grace(settings: &Settings, findings: &mut Findings) {
    if settings.gc_grace < MIN_GC_GRACE && !settings.allow_short_gc_grace {
        let message = format!(
            "must be at least {} s, twice the longest request timeout; allow_short_gc_grace = true \
             lets tests go below",
            MIN_GC_GRACE.as_secs()
        );
        findings.clash("gc_grace", message);
    }
}

fn ports(settings: &Settings, findings: &mut Findings) {
    for (key, address) in [("http", settings.http), ("peer", settings.peer)] {
        if PeerAddress::try_from(address).is_err() {
            let message = format!("others can't reach {address}; name a port, and no IPv6 scope");
            findings.clash(key, message);
        }
    }
    let (http, peer) = (settings.http, settings.peer);
    let same_host =
        http.ip() == peer.ip() || http.ip().is_unspecified() || peer.ip().is_unspecified();
    if same_host && http.port() == peer.port() && http.port() != 0 {
        let message =
            format!("clients (http) and nodes (peer) need ports of their own; both are {peer}");
        findings.clash("peer", message);
    }
}

fn formation(settings: &mut Settings, findings: &mut Findings) {
    if settings.initial_nodes.is_empty() {
        return;
    }
    if !settings.join.is_empty() {
        let message =
            "goes ill with initial_nodes: a founding node does not join; keep one of them";
        findings.clash("join", message.into());
    }
    duplicates(settings, findings);
    own_entry(settings, findings);
}

fn duplicates(settings: &Settings, findings: &mut Findings) {
    let (mut ids, mut peers) = (BTreeSet::new(), BTreeSet::new());
    for node in &settings.initial_nodes {
        if !ids.insert(&node.id) {
            let message = format!("lists the id {} twice; each node needs its own", node.id);
            findings.clash("initial_nodes", message);
        }
        if !peers.insert(&node.peer) {
            let message = format!("lists the address {} twice; each node needs its own", node.peer);
            findings.clash("initial_nodes", message);
        }
    }
}

/// The list is the same on all nodes, so what it says about this one must be what this one says.
fn own_entry(settings: &mut Settings, findings: &mut Findings) {
    let Some(own) = settings.initial_nodes.iter().find(|node| node.id == settings.id).cloned()
    else {
        // A list with wrong entries, or a wrong id, may lack it for that reason alone.
        if findings.errors.iter().all(|e| e.key != "id" && !e.key.starts_with("initial_nodes[")) {
            let message = format!("must list this node, whose id is {}", settings.id);
            findings.clash("initial_nodes", message);
        }
        return;
    };
    if findings.is_given("zone") && own.zone != settings.zone {
        let message = format!("is {}, but initial_nodes says {}", settings.zone, own.zone);
        findings.clash("zone", message + "; they must agree");
    }
    if findings.is_given("weight") && own.weight != settings.weight {
        let message = "is not what initial_nodes says of this node; they must agree";
        findings.clash("weight", message.into());
    }
    settings.zone = own.zone;
    settings.weight = own.weight;
    own_address(settings, &own.peer, findings);
}

fn own_address(settings: &mut Settings, listed: &PeerAddress, findings: &mut Findings) {
    if findings.is_given("advertise_peer") {
        if settings.advertise_peer != *listed {
            let message = format!(
                "is {}, but initial_nodes says {listed}; they must agree",
                settings.advertise_peer
            );
            findings.clash("advertise_peer", message);
        }
        return;
    }
    let elsewhere =
        |listed: SocketAddr| !settings.peer.ip().is_unspecified() && listed != settings.peer;
    if listed.as_str().parse().is_ok_and(elsewhere) {
        let message = format!(
            "is {}, but initial_nodes says that this node is reached at {listed}; make them agree, \
             or set advertise_peer",
            settings.peer
        );
        findings.clash("peer", message);
    }
    settings.advertise_peer = listed.clone();
}

fn advertised(settings: &Settings, findings: &mut Findings) {
    let listed = !settings.initial_nodes.is_empty();
    let pairs = [
        ("http", "advertise_http", settings.http, false),
        ("peer", "advertise_peer", settings.peer, listed),
    ];
    for (key, advertise, address, known_otherwise) in pairs {
        let given = findings.origins.contains_key(advertise) || known_otherwise;
        if address.ip().is_unspecified() && !given {
            let message = format!(
                "{address} is every address of this machine, and none that others can reach; set \
                 {advertise} to the one they can, such as \"{}:{}\"",
                settings.id,
                address.port()
            );
            findings.clash(key, message);
        }
    }
}

fn limits(settings: &Settings, findings: &mut Findings) {
    if !(1..=MAX_VALUE_BYTES).contains(&settings.max_value_bytes) {
        let message = "must be from 1 byte to 256MiB: values pass through memory whole";
        findings.clash("max_value_bytes", message.into());
    }
    if settings.storage.block_cache_bytes < MIN_BLOCK_CACHE_BYTES {
        findings.clash("storage.block_cache_bytes", "must be 1MiB or more".into());
    }
    if settings.storage.memtable_bytes < MIN_MEMTABLE_BYTES {
        findings.clash("storage.memtable_bytes", "must be 1MiB or more".into());
    }
}

fn membership(settings: &Settings, findings: &mut Findings) {
    let swim = &settings.membership;
    if swim.probe_timeout >= swim.probe_period {
        let message = "must be shorter than membership.probe_period: other nodes are asked to \
                       probe in what remains of it";
        findings.clash("membership.probe_timeout", message.into());
    }
    if swim.suspicion < swim.probe_period {
        let message = "must be at least membership.probe_period: a suspect hears of it with the \
                       next probe at the earliest";
        findings.clash("membership.suspicion", message.into());
    }
    if swim.probe_period < Duration::from_millis(10) {
        let message = "must be 10ms or more: probes would crowd out everything else";
        findings.clash("membership.probe_period", message.into());
    }
}

fn buckets(settings: &Settings, findings: &mut Findings) {
    levels("default_bucket", settings.default_bucket, settings, findings);
    for (name, bucket) in &settings.buckets {
        levels(&format!("buckets.{name}"), *bucket, settings, findings);
    }
}

/// A level that no replica set of this cluster can reach would fail each request.
fn levels(path: &str, bucket: BucketSettings, settings: &Settings, findings: &mut Findings) {
    let n = settings.replication_factor.get();
    let wrong = [("r", bucket.r.for_read(n).err()), ("w", bucket.w.for_write(n).err())];
    for (name, error) in wrong {
        let key = format!("{path}.{name}");
        // A bucket that inherits a wrong level is not wrong itself.
        if let Some(error) = error.filter(|_| findings.origins.contains_key(&key)) {
            findings.clash(&key, error.to_string());
        }
    }
}

fn log_filter(settings: &Settings, findings: &mut Findings) {
    if let Err(error) = EnvFilter::try_new(&settings.log.filter) {
        let message = format!(
            "{:?} is wrong ({error}); must be a level (error, warn, info, debug, trace), or such \
             as \"info,starling=debug\"",
            settings.log.filter
        );
        findings.clash("log.filter", message);
    }
}
