//! The behaviour that `Store` promises.

use std::sync::Arc;

use bytes::Bytes;

use crate::storage::{
    Batch, Cached, CommitError, Durability, KeyRange, MemoryStore, Page, ReadError, ScanLimit,
    Space, Store, Syncing,
};

use super::open;

const LOTS: ScanLimit = ScanLimit { entries: 1_000_000, bytes: 1 << 30 };

/// A batch that puts each pair into `Records`.
pub(super) fn puts(pairs: &[(&str, &str)]) -> Batch {
    let mut batch = Batch::new();
    for (key, value) in pairs {
        batch.put(Space::Records, key.to_string(), value.to_string());
    }
    batch
}

pub(super) async fn put(store: &dyn Store, pairs: &[(&str, &str)]) {
    store.commit(puts(pairs), Syncing::AsConfigured).await.expect("the store is healthy");
}

pub(super) async fn get(store: &dyn Store, key: &str) -> Option<String> {
    let value = store.get(Space::Records, key.to_owned().into()).await.expect("readable");
    value.map(|value| String::from_utf8(value.into()).expect("tests write text"))
}

pub(super) async fn keys(store: &dyn Store) -> Vec<String> {
    text(&store.scan(Space::Records, KeyRange::all(), LOTS).await.expect("readable"))
}

fn text(page: &Page) -> Vec<String> {
    page.entries.iter().map(|(key, _)| String::from_utf8_lossy(key).into_owned()).collect()
}

async fn get_returns_what_was_put_and_nothing_after_a_delete(store: Arc<dyn Store>) {
    assert_eq!(get(&*store, "a").await, None);
    put(&*store, &[("a", "1"), ("b", "2")]).await;
    put(&*store, &[("a", "3")]).await;
    assert_eq!(get(&*store, "a").await.as_deref(), Some("3"));
    let cached = store.get_cached(Space::Records, b"a").expect("readable");
    assert_eq!(cached, Cached::Hit(Some(Bytes::from_static(b"3"))));

    let mut batch = Batch::new();
    batch.delete(Space::Records, "a");
    store.commit(batch, Syncing::AsConfigured).await.expect("healthy");
    assert_eq!(get(&*store, "a").await, None);
    assert_eq!(store.get_cached(Space::Records, b"a"), Ok(Cached::Hit(None)));
    assert_eq!(get(&*store, "b").await.as_deref(), Some("2"));
}

async fn the_changes_of_a_batch_apply_in_order_and_in_all_spaces(store: Arc<dyn Store>) {
    let mut batch = Batch::new();
    for space in Space::ALL {
        batch.put(space, "k", space.name());
    }
    batch.put(Space::Records, "x", "first");
    batch.delete_range(Space::Records, "x", "y");
    batch.put(Space::Records, "x", "last");
    store.commit(batch, Syncing::AsConfigured).await.expect("healthy");

    for space in Space::ALL {
        let value = store.get(space, "k".into()).await.expect("readable");
        assert_eq!(value.as_deref(), Some(space.name().as_bytes()));
    }
    assert_eq!(get(&*store, "x").await.as_deref(), Some("last"));
}

async fn delete_range_takes_the_start_and_leaves_the_end(store: Arc<dyn Store>) {
    put(&*store, &[("a", ""), ("b", ""), ("b1", ""), ("c", "")]).await;
    let mut batch = Batch::new();
    batch.delete_range(Space::Records, "b", "c");
    batch.delete_range(Space::Records, "c", "a");
    store.commit(batch, Syncing::AsConfigured).await.expect("healthy");
    assert_eq!(keys(&*store).await, ["a", "c"]);

    let mut batch = Batch::new();
    batch.delete_prefix(Space::Records, "c");
    store.commit(batch, Syncing::AsConfigured).await.expect("healthy");
    assert_eq!(keys(&*store).await, ["a"]);
}

async fn scans_keep_to_their_range_and_limits_and_resume(store: Arc<dyn Store>) {
    put(&*store, &[("a", "1"), ("b", "2"), ("c", "3"), ("d", "4"), ("e", "5")]).await;
    let range = KeyRange::new("b", "e");

    let limit = ScanLimit { entries: 2, bytes: 100 };
    let first = store.scan(Space::Records, range.clone(), limit).await.expect("readable");
    assert_eq!(text(&first), ["b", "c"]);
    let rest = range.resume_at(first.next.expect("d is left"));
    let second = store.scan(Space::Records, rest, limit).await.expect("readable");
    assert_eq!((text(&second), second.next), (vec!["d".to_owned()], None));

    for (bytes, expected) in [(0, vec!["b"]), (3, vec!["b"]), (4, vec!["b", "c"])] {
        let limit = ScanLimit { entries: 100, bytes };
        let page = store.scan(Space::Records, range.clone(), limit).await.expect("readable");
        assert_eq!(text(&page), expected, "{bytes} bytes");
    }
    for empty in [KeyRange::new("b", "b"), KeyRange::new("c", "b"), KeyRange::prefix("z")] {
        let page = store.scan(Space::Records, empty, LOTS).await.expect("readable");
        assert_eq!(page, Page::default());
    }
    let page = store.scan(Space::Hints, KeyRange::all(), LOTS).await.expect("readable");
    assert_eq!(page, Page::default());
}

async fn whole_ranges_are_read_until_there_is_enough(store: Arc<dyn Store>) {
    put(&*store, &[("a1", ""), ("a2", ""), ("b1", ""), ("c1", ""), ("c2", ""), ("c3", "")]).await;
    let ranges = |prefixes: &[&str]| {
        let ranges = prefixes.iter().map(|prefix| KeyRange::prefix(prefix.to_string()));
        ranges.collect::<Vec<_>>()
    };
    for (prefixes, enough, expected) in [
        (vec!["a", "b", "c"], 100, vec![2, 1, 3]),
        (vec!["c", "none", "a"], 100, vec![3, 0, 2]),
        (vec!["c", "b", "a"], 1, vec![3]),
        (vec!["none", "b", "a"], 1, vec![0, 1]),
        (vec!["a", "b", "c"], 3, vec![2, 1]),
        (vec![], 3, vec![]),
    ] {
        let read = store.scan_each(Space::Records, ranges(&prefixes), enough).await;
        let read = read.expect("readable");
        let counts: Vec<usize> = read.iter().map(Vec::len).collect();
        assert_eq!(counts, expected, "{prefixes:?}");
        for (entries, prefix) in read.iter().zip(&prefixes) {
            assert!(entries.is_sorted());
            assert!(entries.iter().all(|(key, _)| key.starts_with(prefix.as_bytes())));
        }
    }
}

async fn warming_changes_nothing(store: Arc<dyn Store>) {
    put(&*store, &[("a", "1")]).await;
    store.warm(Space::Records, vec!["b".into(), "a".into(), "a".into()]).await;
    assert_eq!(get(&*store, "a").await.as_deref(), Some("1"));
    assert_eq!(get(&*store, "b").await, None);
    store.close().await.expect("healthy");
    store.warm(Space::Records, vec!["a".into()]).await;
}

async fn what_is_synced_later_is_visible_now(store: Arc<dyn Store>) {
    store.commit(puts(&[("a", "1")]), Syncing::Later).await.expect("healthy");
    assert_eq!(get(&*store, "a").await.as_deref(), Some("1"));
    assert_eq!(store.statistics().syncs, 0);
    store.sync().await.expect("healthy");
}

async fn a_snapshot_shows_its_moment(store: Arc<dyn Store>) {
    put(&*store, &[("a", "old"), ("b", "old")]).await;
    let snapshot = store.snapshot();
    let mut batch = puts(&[("a", "new"), ("c", "new")]);
    batch.delete(Space::Records, "b");
    store.commit(batch, Syncing::AsConfigured).await.expect("healthy");

    for (key, old) in [("a", Some("old")), ("b", Some("old")), ("c", None)] {
        let value = snapshot.get(Space::Records, key.into()).await.expect("readable");
        assert_eq!(value.as_deref(), old.map(str::as_bytes), "{key}");
    }
    let page = snapshot.scan(Space::Records, KeyRange::all(), LOTS).await.expect("readable");
    assert_eq!(text(&page), ["a", "b"]);
    assert_eq!(keys(&*store).await, ["a", "c"]);
}

async fn concurrent_commits_all_resolve_and_are_visible_when_they_do(store: Arc<dyn Store>) {
    let tasks: Vec<_> = (0..32)
        .map(|task| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                for i in 0..20 {
                    let key = format!("{task:02}-{i:02}");
                    put(&*store, &[(&key, "v")]).await;
                    assert_eq!(get(&*store, &key).await.as_deref(), Some("v"));
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("no task fails");
    }
    assert_eq!(keys(&*store).await.len(), 640);
    assert_eq!(store.statistics().batches, 640);
}

async fn commits_apply_in_the_order_of_the_calls(store: Arc<dyn Store>) {
    let commits: Vec<_> = (0..200)
        .map(|i| store.commit(puts(&[("a", &i.to_string())]), Syncing::AsConfigured))
        .collect();
    for commit in commits.into_iter().rev() {
        commit.await.expect("healthy");
    }
    assert_eq!(get(&*store, "a").await.as_deref(), Some("199"));
}

async fn a_dropped_commit_still_commits(store: Arc<dyn Store>) {
    drop(store.commit(puts(&[("a", "1")]), Syncing::Always));
    store.sync().await.expect("healthy");
    assert_eq!(get(&*store, "a").await.as_deref(), Some("1"));
}

async fn empty_batches_and_syncs_succeed_and_change_nothing(store: Arc<dyn Store>) {
    put(&*store, &[("a", "1")]).await;
    let before = store.last_sequence();
    for syncing in [Syncing::AsConfigured, Syncing::Always] {
        store.commit(Batch::new(), syncing).await.expect("healthy");
    }
    store.sync().await.expect("healthy");
    assert_eq!(store.last_sequence(), before);
}

async fn every_change_raises_the_sequence_by_one(store: Arc<dyn Store>) {
    let before = store.last_sequence();
    let mut batch = puts(&[("a", "1"), ("a", "2")]);
    batch.delete(Space::Meta, "none");
    batch.delete_range(Space::Trees, "a", "b");
    store.commit(batch, Syncing::AsConfigured).await.expect("healthy");
    assert_eq!(store.last_sequence(), before + 4);
}

async fn a_closed_store_refuses_everything(store: Arc<dyn Store>) {
    let queued = store.commit(puts(&[("a", "1")]), Syncing::AsConfigured);
    store.close().await.expect("healthy");
    assert_eq!(queued.await, Ok(()), "what was queued before is drained");

    let late = store.commit(puts(&[("b", "1")]), Syncing::Always).await;
    assert_eq!(late, Err(CommitError::CLOSED));
    assert!(!CommitError::CLOSED.may_be_applied());
    assert_eq!(store.sync().await, Err(CommitError::CLOSED));
    assert_eq!(store.get_cached(Space::Records, b"a"), Err(ReadError::Closed));
    assert_eq!(store.get(Space::Records, "a".into()).await, Err(ReadError::Closed));
    let scan = store.scan(Space::Records, KeyRange::all(), LOTS).await;
    assert_eq!(scan, Err(ReadError::Closed));
    let snapshot = store.snapshot();
    assert_eq!(snapshot.get(Space::Records, "a".into()).await, Err(ReadError::Closed));
    store.close().await.expect("closing twice is no error");
}

/// Makes each function above a test of each implementation.
macro_rules! suite {
    ($($behaviour:ident)*) => {
        mod memory {
            use super::{Arc, Durability, MemoryStore};
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $behaviour() {
                    super::$behaviour(Arc::new(MemoryStore::new(Durability::Sync))).await;
                }
            )*
        }

        mod rocks {
            use super::{Arc, Durability, open};
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $behaviour() {
                    for durability in [Durability::Sync, Durability::Interval, Durability::Os] {
                        let dir = tempfile::tempdir().expect("room");
                        super::$behaviour(Arc::new(open(dir.path(), durability))).await;
                    }
                }
            )*
        }
    };
}

suite! {
    get_returns_what_was_put_and_nothing_after_a_delete
    the_changes_of_a_batch_apply_in_order_and_in_all_spaces
    delete_range_takes_the_start_and_leaves_the_end
    scans_keep_to_their_range_and_limits_and_resume
    whole_ranges_are_read_until_there_is_enough
    warming_changes_nothing
    what_is_synced_later_is_visible_now
    a_snapshot_shows_its_moment
    concurrent_commits_all_resolve_and_are_visible_when_they_do
    commits_apply_in_the_order_of_the_calls
    a_dropped_commit_still_commits
    empty_batches_and_syncs_succeed_and_change_nothing
    every_change_raises_the_sequence_by_one
    a_closed_store_refuses_everything
}
