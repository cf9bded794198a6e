//! The example settings of `config/`: each loads as it is, and says what it means to say.

use std::path::{Path, PathBuf};

use starling::config::{LogFormat, Overrides, Settings};
use starling::types::Bucket;

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config")
}

fn load(name: &str) -> Settings {
    let file = examples().join(name);
    let loaded = Settings::load(Some(&file), std::iter::empty(), Overrides::default());
    let loaded = loaded.unwrap_or_else(|errors| panic!("{errors}"));
    assert!(loaded.warnings.is_empty(), "{name}: {:?}", loaded.warnings);
    loaded.settings
}

#[test]
fn every_example_loads_without_a_warning() {
    let mut folders = vec![examples()];
    let mut count = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("readable") {
            let path = entry.expect("readable").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                load(path.to_str().expect("UTF-8"));
                count += 1;
            }
        }
    }
    assert_eq!(count, 5);
}

#[test]
fn the_single_node_forms_a_cluster_of_one() {
    let settings = load("single.toml");
    assert!(settings.initial_nodes.is_empty() && settings.join.is_empty());
    assert_eq!(settings.replication_factor.get(), 1);
}

#[test]
fn the_three_nodes_name_one_another_and_share_no_address() {
    let all = [1, 2, 3].map(|i| load(&format!("three-nodes/node-{i}.toml")));
    for (index, node) in all.iter().enumerate() {
        assert_eq!(node.initial_nodes, all[0].initial_nodes);
        assert_eq!(node.initial_nodes[index].id, node.id);
        assert_eq!(node.initial_nodes[index].peer, node.advertise_peer);
    }
    assert_ne!(all[0].data_dir, all[1].data_dir);
}

#[test]
fn production_spans_zones_and_logs_for_machines() {
    let settings = load("production.toml");
    assert_eq!(settings.advertise_http.as_str(), "db-a1.internal:7070");
    assert_eq!(settings.zone.as_str(), "zone-a");
    assert_eq!(settings.log.format, LogFormat::Json);
    assert!(settings.cluster_secret.is_some());
    let sessions = settings.bucket(&Bucket::new("sessions").expect("valid"));
    assert_eq!(sessions.r.to_string(), "one");
}
