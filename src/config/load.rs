//! From sources to settings.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::check;
use super::environment;
use super::error::{Origin, Problem, SettingsErrors};
use super::file;
use super::section::{Findings, Section};
use super::settings::{
    BucketSettings, HintSettings, InitialNode, LogSettings, MembershipSettings, RepairSettings,
    Settings, StorageSettings, StreamingSettings,
};
use super::value::{Count, FromValue, Size, Sourced, Table, Value};
use crate::peer::PeerAddress;
use crate::types::{Bucket, NodeId};

const MIB: u64 = 1 << 20;

/// Settings, and what the operator should know about them.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The settings.
    pub settings: Settings,
    /// What is odd, but not wrong; one sentence each.
    pub warnings: Vec<String>,
}

/// Settings that flags may give; they win over all others. As they were typed, unchecked.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `--id`.
    pub id: Option<String>,
    /// `--http`.
    pub http: Option<String>,
    /// `--peer`.
    pub peer: Option<String>,
    /// `--advertise-http`.
    pub advertise_http: Option<String>,
    /// `--advertise-peer`.
    pub advertise_peer: Option<String>,
    /// `--data-dir`.
    pub data_dir: Option<PathBuf>,
    /// `--zone`.
    pub zone: Option<String>,
    /// `--join`, with commas.
    pub join: Option<String>,
    /// `--auto-join`.
    pub auto_join: bool,
}

impl Overrides {
    fn overlay(self, table: &mut Table) {
        let data_dir = self.data_dir.map(|dir| dir.to_string_lossy().into_owned());
        let auto_join = self.auto_join.then(|| "true".to_owned());
        let flags = [
            ("id", "--id", self.id),
            ("http", "--http", self.http),
            ("peer", "--peer", self.peer),
            ("advertise_http", "--advertise-http", self.advertise_http),
            ("advertise_peer", "--advertise-peer", self.advertise_peer),
            ("data_dir", "--data-dir", data_dir),
            ("zone", "--zone", self.zone),
            ("join", "--join", self.join),
            ("auto_join", "--auto-join", auto_join),
        ];
        for (key, flag, text) in flags {
            if let Some(text) = text {
                environment::set(table, key, Origin::Flag(flag), Value::Word(text));
            }
        }
    }
}

impl Settings {
    /// Reads the file, lays the environment over it, then the flags, and checks the whole.
    ///
    /// # Errors
    /// Everything that is wrong, at once.
    pub fn load(
        file: Option<&Path>,
        environment: impl Iterator<Item = (OsString, OsString)>,
        flags: Overrides,
    ) -> Result<Loaded, SettingsErrors> {
        let mut findings = Findings::default();
        let mut table = file.map(|p| file::read(p, &mut findings.errors)).unwrap_or_default();
        let mut warnings = environment::overlay(&mut table, environment);
        flags.overlay(&mut table);
        let origin = file.map_or(Origin::Default, |path| Origin::File(path.into(), 0));
        let root = Section::new(String::new(), origin, table, &mut findings);
        let mut settings = read(root);
        check::together(&mut settings, &mut findings);
        SettingsErrors::check(findings.errors)?;
        warnings.extend(check::oddities(&settings));
        Ok(Loaded { settings, warnings })
    }
}

fn read(mut root: Section<'_>) -> Settings {
    let http = root.take_or("http", ([127, 0, 0, 1], 7070).into());
    let peer = root.take_or("peer", ([127, 0, 0, 1], 7071).into());
    let default_bucket = bucket(root.take_section("default_bucket"), BucketSettings::default());
    let settings = Settings {
        id: root.take_or("id", NodeId::new("node-1").expect("a valid name")),
        http,
        peer,
        advertise_http: advertised(&mut root, "advertise_http", http),
        advertise_peer: advertised(&mut root, "advertise_peer", peer),
        data_dir: root.take_or("data_dir", "starling-data".into()),
        pid_file: root.take("pid_file"),
        zone: root.take("zone").unwrap_or_default(),
        weight: root.take("weight").unwrap_or_default(),
        initial_nodes: initial_nodes(&mut root),
        join: join(&mut root),
        auto_join: root.take_or("auto_join", false),
        partitions: root.take("partitions").unwrap_or_default(),
        replication_factor: root.take("replication_factor").unwrap_or_default(),
        cluster_secret: cluster_secret(root.take_section("cluster")),
        durability: root.take("durability").unwrap_or_default(),
        read_repair: root.take("read_repair").unwrap_or_default(),
        max_value_bytes: size(&mut root, "max_value_bytes", 8 * MIB),
        max_siblings: root.take_or("max_siblings", Count(100)).0,
        max_connections: root.take_or("max_connections", Count(4_096)).0,
        max_requests: root.take_or("max_requests", Count(1_024)).0,
        header_timeout: root.take_or("header_timeout", Duration::from_secs(10)),
        body_timeout: root.take_or("body_timeout", Duration::from_secs(10)),
        gc_grace: root.take_or("gc_grace", Duration::from_secs(3_600)),
        allow_short_gc_grace: root.take_or("allow_short_gc_grace", false),
        hints: hints(root.take_section("hints")),
        repair: repair(root.take_section("repair")),
        streaming: streaming(root.take_section("streaming")),
        storage: storage(root.take_section("storage")),
        membership: membership(root.take_section("membership")),
        log: log(root.take_section("log")),
        default_bucket,
        buckets: buckets(root.take_section("buckets"), default_bucket),
    };
    root.finish();
    settings
}

/// Where a node is reached: as given, else where it listens; whether that can be reached is
/// checked once all is known.
fn advertised(
    root: &mut Section<'_>,
    name: &'static str,
    listen: std::net::SocketAddr,
) -> PeerAddress {
    let unreachable = || PeerAddress::new("127.0.0.1:1").expect("a valid address");
    root.take(name)
        .unwrap_or_else(|| PeerAddress::try_from(listen).unwrap_or_else(|_| unreachable()))
}

fn size(section: &mut Section<'_>, name: &'static str, default: u64) -> usize {
    usize::try_from(section.take_or(name, Size(default)).0).unwrap_or(usize::MAX)
}

fn cluster_secret(mut section: Section<'_>) -> Option<super::Secret> {
    let secret = section.take("secret");
    section.finish();
    secret
}

fn hints(mut section: Section<'_>) -> HintSettings {
    let hints = HintSettings {
        max_bytes: section.take_or("max_bytes", Size(1_024 * MIB)).0,
        max_age: section.take_or("max_age", Duration::from_secs(3 * 3_600)),
        max_bytes_per_second: section.take_or("max_bytes_per_second", Size(64 * MIB)).0,
    };
    section.finish();
    hints
}

fn repair(mut section: Section<'_>) -> RepairSettings {
    let repair = RepairSettings {
        interval: section.take_or("interval", Duration::from_secs(60)),
        max_bytes_per_second: section.take_or("max_bytes_per_second", Size(64 * MIB)).0,
        scrub_interval: section.take_or("scrub_interval", Duration::from_secs(7 * 24 * 3_600)),
    };
    section.finish();
    repair
}

fn streaming(mut section: Section<'_>) -> StreamingSettings {
    let streaming = StreamingSettings {
        max_bytes_per_second: section.take_or("max_bytes_per_second", Size(64 * MIB)).0,
    };
    section.finish();
    streaming
}

fn storage(mut section: Section<'_>) -> StorageSettings {
    let storage = StorageSettings {
        min_free_bytes: section.take_or("min_free_bytes", Size(256 * MIB)).0,
        block_cache_bytes: size(&mut section, "block_cache_bytes", 256 * MIB),
        memtable_bytes: size(&mut section, "memtable_bytes", 64 * MIB),
    };
    section.finish();
    storage
}

fn membership(mut section: Section<'_>) -> MembershipSettings {
    let membership = MembershipSettings {
        probe_period: section.take_or("probe_period", Duration::from_millis(500)),
        probe_timeout: section.take_or("probe_timeout", Duration::from_millis(200)),
        suspicion: section.take_or("suspicion", Duration::from_millis(2_500)),
    };
    section.finish();
    membership
}

fn log(mut section: Section<'_>) -> LogSettings {
    let log = LogSettings {
        format: section.take("format").unwrap_or_default(),
        filter: section.take_or("filter", "info".into()),
    };
    section.finish();
    log
}

fn bucket(mut section: Section<'_>, default: BucketSettings) -> BucketSettings {
    let bucket = BucketSettings {
        r: section.take_or("r", default.r),
        w: section.take_or("w", default.w),
        resolve: section.take_or("resolve", default.resolve),
        sloppy: section.take_or("sloppy", default.sloppy),
    };
    section.finish();
    bucket
}

fn buckets(mut section: Section<'_>, default: BucketSettings) -> BTreeMap<Bucket, BucketSettings> {
    let mut buckets = BTreeMap::new();
    for (name, sourced) in section.take_all() {
        let key = format!("buckets.{name}");
        match Bucket::new(&name) {
            Ok(name) => {
                buckets.insert(name, bucket(section.section_of(key, sourced), default));
            }
            Err(error) => {
                let problem = Problem::Clash(error.to_string());
                section.report_at(key, sourced.origin, problem);
            }
        }
    }
    buckets
}

const INITIAL_NODES: &str = "must be a list such as [{ id = \"node-1\", peer = \"127.0.0.1:7071\" }, ...], as text \
     node-1=127.0.0.1:7071,node-2=...";

fn initial_nodes(root: &mut Section<'_>) -> Vec<InitialNode> {
    let items = root.take_list("initial_nodes", INITIAL_NODES);
    items.into_iter().filter_map(|(key, item)| initial_node(root, key, item)).collect()
}

fn initial_node(root: &mut Section<'_>, key: String, item: Sourced) -> Option<InitialNode> {
    if let Value::Word(word) = &item.value {
        let node = initial_node_of_text(word);
        if node.is_none() {
            let expected = "must be ID=HOST:PORT, such as node-1=127.0.0.1:7071".into();
            let problem = Problem::Value { found: item.value.to_string(), expected };
            root.report_at("initial_nodes".into(), item.origin, problem);
        }
        return node;
    }
    let mut section = root.section_of(key, item);
    let (id, peer) = (section.take_required("id"), section.take_required("peer"));
    let zone = section.take("zone").unwrap_or_default();
    let weight = section.take("weight").unwrap_or_default();
    section.finish();
    Some(InitialNode { id: id?, peer: peer?, zone, weight })
}

fn initial_node_of_text(text: &str) -> Option<InitialNode> {
    let (id, peer) = text.split_once('=')?;
    let (id, peer) = (id.trim().parse().ok()?, peer.trim().parse().ok()?);
    Some(InitialNode { id, peer, zone: Default::default(), weight: Default::default() })
}

fn join(root: &mut Section<'_>) -> Vec<PeerAddress> {
    let items = root.take_list("join", "must be a list such as [\"node-1:7071\"]");
    let mut addresses = Vec::with_capacity(items.len());
    for (key, Sourced { value, origin }) in items {
        match PeerAddress::from_value(&value) {
            Some(address) => addresses.push(address),
            None => {
                let expected = PeerAddress::EXPECTED.into();
                let problem = Problem::Value { found: value.to_string(), expected };
                root.report_at(key, origin, problem);
            }
        }
    }
    addresses
}
