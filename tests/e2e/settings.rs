//! Wrong settings: all told at once, before anything is started.

use std::fs;

use crate::cluster::Cluster;
use crate::process;

const WRONG: &str = "id = \"no spaces\"\nhttp = \"nowhere\"\npeer = \"127.0.0.1:0\"\n\
    partitions = 100\nreplication_factor = 0\ndurability = \"maybe\"\nmax_conections = 5\n\
    header_timeout = 10\nstorage.min_free_bytes = \"much\"\nbuckets.b.resolve = \"newest\"\n";

const KEYS: [&str; 9] = [
    "`id`",
    "`http`",
    "`partitions`",
    "`replication_factor`",
    "`durability`",
    "`max_conections`",
    "`header_timeout`",
    "`storage.min_free_bytes`",
    "`buckets.b.resolve`",
];

#[tokio::test]
async fn a_wrong_settings_file_is_told_with_all_its_errors() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("starling.toml");
    fs::write(&file, WRONG).expect("written");
    let file = file.to_str().expect("UTF-8");
    for arguments in [&["server", "--config", file][..], &["check-config", file]] {
        let output = process::run(arguments).await;
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {stderr}");
        for key in KEYS {
            assert!(stderr.contains(key), "{key} is missing: {stderr}");
        }
        assert!(stderr.contains(&format!("{file}:1")), "file and line are named: {stderr}");
        assert!(stderr.contains("did you mean `max_connections`?"), "{stderr}");
        assert!(!stderr.contains("panicked"), "{stderr}");
    }
}

#[tokio::test]
async fn wrong_flags_are_wrong_usage() {
    for arguments in [
        &["server", "--http", "nowhere", "--id", "no spaces"][..],
        &["server", "--no-such-flag"],
        &["no-such-command"],
        &["get", "bucket"],
        &["get", ".bucket", "key"],
        &["dev", "--nodes", "0"],
    ] {
        let output = process::run(arguments).await;
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {stderr}");
        assert!(!stderr.is_empty() && !stderr.contains("panicked"), "{stderr}");
    }
}

#[tokio::test]
async fn missing_and_unreadable_files_are_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let missing = folder.path().join("missing.toml");
    let broken = folder.path().join("broken.toml");
    fs::write(&broken, "id = \"node-1\nhttp = ").expect("written");
    let binary = folder.path().join("binary.toml");
    fs::write(&binary, [0xff, 0xfe, 0]).expect("written");
    for file in [missing, broken, binary, folder.path().to_owned()] {
        let file = file.to_str().expect("UTF-8");
        let output = process::run(&["server", "--config", file]).await;
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.starts_with("starling: ") && stderr.contains(file), "{stderr}");
    }
}

#[tokio::test]
async fn right_settings_pass() {
    let cluster = Cluster::planned(3, "buckets.b.resolve = \"lww\"\n");
    let file = cluster.nodes[0].settings();
    let output = process::run(&["check-config", file.to_str().expect("UTF-8")]).await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
}
