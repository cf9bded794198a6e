//! What stands after a crash, and which commits may be believed after a fault.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::storage::{
    Batch, CommitError, CommitFault, Durability, MemoryStore, Recovery, Refusal, Space, Store,
    Syncing,
};

use super::open;
use super::suite::{get, keys, put, puts};

#[tokio::test]
async fn a_crash_takes_what_was_not_synced() {
    for (durability, expected) in [
        (Durability::Sync, vec!["1", "2", "3"]),
        (Durability::Interval, vec!["1", "2"]),
        (Durability::Os, vec!["1", "2"]),
    ] {
        let store = MemoryStore::new(durability);
        put(&store, &[("1", "")]).await;
        store.commit(puts(&[("2", "")]), Syncing::Always).await.expect("healthy");
        put(&store, &[("3", "")]).await;
        assert_eq!(keys(&store.crash()).await, expected, "{durability:?}");
        assert_eq!(keys(&store).await.len(), 3, "the store itself goes on");
    }
}

#[tokio::test]
async fn a_planted_fault_fails_one_commit() {
    let store = MemoryStore::new(Durability::Sync);
    for (fault, may_be_applied, applied) in [
        (CommitFault::NotApplied, false, None),
        (CommitFault::UnknownAndLost, true, None),
        (CommitFault::UnknownButApplied, true, Some("v")),
    ] {
        store.fail_next_commit(fault);
        let failed = store.commit(puts(&[("a", "v")]), Syncing::AsConfigured).await;
        assert_eq!(failed.expect_err("planted").may_be_applied(), may_be_applied);
        assert_eq!(get(&store, "a").await.as_deref(), applied);
        put(&store, &[("b", "")]).await;
    }
}

#[test]
fn refusals_say_whether_a_retry_helps() {
    let full = CommitError::NotApplied { cause: Refusal::QueueFull };
    assert_eq!(
        full.to_string(),
        "nothing was written: the store's queue is full: the disk does not keep up"
    );
}

const DIR_VARIABLE: &str = "STARLING_TEST_FULL_DISK_DIR";

/// A file-size limit stands for the full disk: the write to the log fails half way. The limit holds
/// for a whole process, hence a child, in which `write_until_the_disk_is_full` runs alone.
#[tokio::test]
async fn a_failed_write_is_unknown_hidden_and_takes_nothing_acknowledged_along() {
    let dir = tempfile::tempdir().expect("room");
    let child = Command::new("sh")
        // An ignored SIGXFSZ turns the limit (in units of at least 512 bytes) into an error.
        .args(["-c", "trap '' XFSZ; ulimit -f 4096; exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().expect("known"))
        .args(["--ignored", "--exact", "storage::tests::crash::write_until_the_disk_is_full"])
        .env(DIR_VARIABLE, dir.path())
        .output()
        .expect("there is a shell");
    let output = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success() && output.contains("1 passed"), "{output}");

    let store = open(dir.path(), Durability::Sync);
    assert_eq!(store.recovery(), &Recovery::Whole);
    let acknowledged = std::fs::read_to_string(acknowledged_file(dir.path())).expect("written");
    let found = keys(&store).await;
    assert!(acknowledged.lines().count() > 10, "{acknowledged}");
    assert!(acknowledged.lines().all(|key| found.iter().any(|found| found == key)));
}

fn acknowledged_file(dir: &Path) -> PathBuf {
    dir.join("acknowledged")
}

fn large_put(key: &str) -> Batch {
    let mut batch = Batch::new();
    batch.put(Space::Records, key.to_owned(), vec![b'x'; 100_000]);
    batch
}

#[tokio::test]
#[ignore = "run by the test above, under a file-size limit"]
async fn write_until_the_disk_is_full() {
    let dir = PathBuf::from(std::env::var_os(DIR_VARIABLE).expect("set by the test above"));
    let store = open(&dir, Durability::Sync);
    let mut acknowledged = String::new();
    let (failed_key, error) = loop {
        let key = format!("{:04}", acknowledged.lines().count());
        match store.commit(large_put(&key), Syncing::AsConfigured).await {
            Ok(()) => acknowledged += &format!("{key}\n"),
            Err(error) => break (key, error),
        }
    };
    assert!(error.may_be_applied(), "{error}");
    assert_eq!(get(&store, &failed_key).await, None, "not durable, hence not shown");
    let after = store.commit(puts(&[("after", "")]), Syncing::AsConfigured).await;
    assert!(after.is_err(), "what follows a hole in the log can't be acknowledged");
    assert_eq!(keys(&store).await.len(), acknowledged.lines().count(), "reads go on");
    assert_eq!(store.statistics().failed_groups, 2);
    std::fs::write(acknowledged_file(&dir), acknowledged).expect("a small file");
}
