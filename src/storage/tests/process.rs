//! What is left of a process that is killed or meets a full disk. Each test runs another one,
//! marked `ignore`, alone in a process of its own.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use crate::storage::{
    Batch, Durability, OpenError, Recovery, RocksOptions, RocksStore, Space, Store, Syncing,
};

use super::open;
use super::suite::{get, keys, puts};

const DIR_VARIABLE: &str = "STARLING_TEST_DIR";

/// Begins every line with which a child names a key that was acknowledged to it.
const ACKNOWLEDGED: &str = "acknowledged ";

/// `None` where `--include-ignored` runs a child's part as if it were a test.
fn dir_of_child() -> Option<PathBuf> {
    std::env::var_os(DIR_VARIABLE).map(PathBuf::from)
}

/// The keys in the complete lines of a child's output.
fn acknowledged(output: &str) -> BTreeSet<String> {
    let lines = output.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
    lines.filter_map(|line| line.strip_prefix(ACKNOWLEDGED)).map(str::to_owned).collect()
}

#[tokio::test]
async fn a_killed_process_keeps_every_acknowledged_commit_and_its_lock_till_then() {
    let dir = tempfile::tempdir().expect("room");
    let mut child = Command::new(std::env::current_exe().expect("known"))
        .args(["--ignored", "--exact", "--nocapture"])
        .arg("storage::tests::process::commit_until_killed")
        .env(DIR_VARIABLE, dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the test binary runs");
    let mut lines = BufReader::new(child.stdout.take().expect("piped"));
    let mut output = String::new();
    while acknowledged(&output).len() < 300 {
        assert_ne!(lines.read_line(&mut output).expect("readable"), 0, "it ended: {output}");
    }
    let refused = RocksStore::open(dir.path(), &RocksOptions::default()).err();
    assert_eq!(refused, Some(OpenError::Locked { dir: dir.path().into() }));
    child.kill().expect("it runs");
    child.wait().expect("it was killed");
    while lines.read_line(&mut output).expect("readable") > 0 {}

    let store = open(dir.path(), Durability::Sync);
    assert_eq!(store.recovery(), &Recovery::Whole);
    let found: BTreeSet<String> = keys(&store).await.into_iter().collect();
    assert!(acknowledged(&output).is_subset(&found));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run, and killed, by the test above"]
async fn commit_until_killed() {
    let Some(dir) = dir_of_child() else { return };
    let store = Arc::new(open(&dir, Durability::Sync));
    let tasks: Vec<_> = (0..8)
        .map(|task| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                for i in 0.. {
                    let key = format!("{task}-{i:06}");
                    store.commit(puts(&[(&key, "v")]), Syncing::AsConfigured).await?;
                    println!("{ACKNOWLEDGED}{key}");
                }
                Ok::<(), crate::storage::CommitError>(())
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("no task panics").expect("the disk is healthy");
    }
}

/// A file-size limit stands for the full disk: the write to the log fails half way.
#[tokio::test]
async fn a_failed_write_is_unknown_hidden_and_takes_nothing_acknowledged_along() {
    let dir = tempfile::tempdir().expect("room");
    let Output { status, stdout, .. } = Command::new("sh")
        // An ignored SIGXFSZ turns the limit (in units of at least 512 bytes) into an error.
        .args(["-c", "trap '' XFSZ; ulimit -f 4096; exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().expect("known"))
        .args(["--ignored", "--exact", "--nocapture"])
        .arg("storage::tests::process::write_until_the_disk_is_full")
        .env(DIR_VARIABLE, dir.path())
        .output()
        .expect("there is a shell");
    let output = String::from_utf8_lossy(&stdout);
    assert!(status.success() && output.contains("1 passed"), "{output}");

    let store = open(dir.path(), Durability::Sync);
    assert_eq!(store.recovery(), &Recovery::Whole);
    let found: BTreeSet<String> = keys(&store).await.into_iter().collect();
    assert!(acknowledged(&output).len() > 10, "{output}");
    assert!(acknowledged(&output).is_subset(&found));
}

#[tokio::test]
#[ignore = "run by the test above, under a file-size limit"]
async fn write_until_the_disk_is_full() {
    let Some(dir) = dir_of_child() else { return };
    let store = open(&dir, Durability::Sync);
    let mut acknowledged = 0;
    let (failed_key, error) = loop {
        let key = format!("{acknowledged:04}");
        let mut batch = Batch::new();
        batch.put(Space::Records, key.clone(), vec![b'x'; 100_000]);
        match store.commit(batch, Syncing::AsConfigured).await {
            Ok(()) => println!("{ACKNOWLEDGED}{key}"),
            Err(error) => break (key, error),
        }
        acknowledged += 1;
    };
    assert!(error.may_be_applied(), "{error}");
    assert_eq!(get(&store, &failed_key).await, None, "not durable, hence not shown");
    let after = store.commit(puts(&[("after", "")]), Syncing::AsConfigured).await;
    assert!(after.is_err(), "what follows a hole in the log can't be acknowledged");
    assert_eq!(keys(&store).await.len(), acknowledged, "reads go on");
    assert_eq!(store.statistics().failed_groups, 2);
}
