//! What the store in memory keeps through a crash, and the faults that can be planted in it.

use crate::storage::{CommitError, CommitFault, Durability, MemoryStore, Refusal, Store, Syncing};

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
async fn what_is_synced_later_survives_with_the_next_that_is_synced() {
    for durability in [Durability::Sync, Durability::Interval, Durability::Os] {
        let store = MemoryStore::new(durability);
        store.commit(puts(&[("1", "")]), Syncing::Later).await.expect("healthy");
        assert_eq!(keys(&store.crash()).await, Vec::<String>::new(), "{durability:?}");
        store.commit(puts(&[("2", "")]), Syncing::Always).await.expect("healthy");
        assert_eq!(keys(&store.crash()).await, ["1", "2"], "{durability:?}");
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
