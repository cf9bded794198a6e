//! A data directory over several starts: what is kept, what is told apart, what is refused.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;

use crate::storage::{
    Durability, OpenError, Recovery, RocksOptions, RocksStore, Space, Store, Syncing,
};

use super::open;
use super::suite::{get, keys, put, puts};

fn refusal(dir: &Path) -> OpenError {
    RocksStore::open(dir, &RocksOptions::default()).err().expect("refused")
}

/// What a process that is killed leaves behind: the files as the system has them.
fn copy_of(dir: &Path) -> TempDir {
    let copy = tempfile::tempdir().expect("room");
    for entry in fs::read_dir(dir).expect("readable") {
        let path = entry.expect("readable").path();
        fs::copy(&path, copy.path().join(path.file_name().expect("a name"))).expect("room");
    }
    copy
}

fn file_with(dir: &Path, extension: &str) -> PathBuf {
    let mut found: Vec<PathBuf> = fs::read_dir(dir)
        .expect("readable")
        .map(|entry| entry.expect("readable").path())
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .collect();
    found.sort();
    found.pop().expect("there is such a file")
}

fn flip_byte(file: &Path, at: usize) {
    let mut bytes = fs::read(file).expect("readable");
    bytes[at] ^= 0xff;
    fs::write(file, bytes).expect("room");
}

#[tokio::test]
async fn a_clean_stop_is_found_at_the_very_sequence_it_ended_with() {
    let dir = tempfile::tempdir().expect("room");
    let mut last = 0;
    for start in 0..4 {
        let store = open(dir.path(), Durability::Interval);
        assert_eq!(store.last_sequence(), last, "start {start} itself writes nothing");
        assert_eq!(store.recovery(), &Recovery::Whole);
        // The second start writes nothing at all.
        if start != 1 {
            put(&store, &[("a", "1"), ("b", "2")]).await;
            store.commit(puts(&[("marker", "")]), Syncing::Always).await.expect("healthy");
        }
        last = store.last_sequence();
        store.close().await.expect("healthy");
        assert_eq!(store.last_sequence(), 0, "closed");
    }
    assert_eq!(last, 9);
}

#[tokio::test]
async fn a_killed_process_is_found_at_the_sequence_of_its_last_commit() {
    let dir = tempfile::tempdir().expect("room");
    let store = open(dir.path(), Durability::Sync);
    put(&store, &[("a", "1"), ("b", "2")]).await;
    let copy = copy_of(dir.path());
    assert_eq!(open(copy.path(), Durability::Sync).last_sequence(), store.last_sequence());
}

#[tokio::test]
async fn a_copy_taken_while_running_holds_every_acknowledged_batch() {
    let dir = tempfile::tempdir().expect("room");
    let store = open(dir.path(), Durability::Sync);
    for i in 0..200 {
        put(&store, &[(&format!("{i:03}"), "v")]).await;
    }
    let copy = copy_of(dir.path());
    let survivor = open(copy.path(), Durability::Sync);
    assert_eq!(keys(&survivor).await.len(), 200);
    assert_eq!(survivor.recovery(), &Recovery::Whole);
}

#[tokio::test]
async fn a_torn_last_write_costs_nothing_that_was_acknowledged() {
    let dir = tempfile::tempdir().expect("room");
    let store = open(dir.path(), Durability::Sync);
    put(&store, &[("a", "1")]).await;
    let whole = fs::metadata(file_with(dir.path(), "log")).expect("there").len();
    put(&store, &[("b", "a value that is cut in two")]).await;
    let copy = copy_of(dir.path());
    let log = file_with(copy.path(), "log");
    let cut = OpenOptions::new().write(true).open(&log).expect("there");
    cut.set_len(whole + 20).expect("shorter");

    let survivor = open(copy.path(), Durability::Sync);
    assert_eq!(survivor.recovery(), &Recovery::Whole);
    assert_eq!(keys(&survivor).await, ["a"]);
}

#[tokio::test]
async fn damage_amid_the_log_is_survived_and_told() {
    let dir = tempfile::tempdir().expect("room");
    let store = open(dir.path(), Durability::Sync);
    put(&store, &[("a", "1")]).await;
    let whole = fs::metadata(file_with(dir.path(), "log")).expect("there").len();
    put(&store, &[("b", "2")]).await;
    put(&store, &[("c", "3")]).await;
    let copy = copy_of(dir.path());
    flip_byte(&file_with(copy.path(), "log"), whole as usize + 12);

    let survivor = open(copy.path(), Durability::Sync);
    assert!(matches!(survivor.recovery(), Recovery::CutShort(_)), "{:?}", survivor.recovery());
    assert_eq!(keys(&survivor).await, ["a"], "c stood behind the damage");
    put(&survivor, &[("d", "4")]).await;
    drop(survivor);

    let again = open(copy.path(), Durability::Sync);
    assert_eq!(keys(&again).await, ["a", "d"]);
    assert!(matches!(again.recovery(), Recovery::CutShort(_)), "told until it is dealt with");
    again.forget_cut().expect("removable");
    again.forget_cut().expect("gone already");
    drop(again);
    assert_eq!(open(copy.path(), Durability::Sync).recovery(), &Recovery::Whole);
}

#[tokio::test]
async fn a_damaged_block_is_reported_and_never_served() {
    let dir = tempfile::tempdir().expect("room");
    let store = open(dir.path(), Durability::Sync);
    put(&store, &[("a", &"x".repeat(2_000))]).await;
    store.close().await.expect("healthy");
    flip_byte(&file_with(dir.path(), "sst"), 10);

    let store = open(dir.path(), Durability::Sync);
    let read = store.get(Space::Records, "a".into()).await;
    assert!(
        matches!(read, Err(crate::storage::ReadError::Corrupt { space: Space::Records, .. })),
        "{read:?}"
    );
}

#[tokio::test]
async fn what_is_on_disk_only_is_a_miss_in_memory() {
    let dir = tempfile::tempdir().expect("room");
    let store = open(dir.path(), Durability::Sync);
    put(&store, &[("a", "1")]).await;
    store.close().await.expect("healthy");

    let store = open(dir.path(), Durability::Sync);
    let cached = store.get_cached(Space::Records, b"a").expect("readable");
    assert_eq!(cached, crate::storage::Cached::Miss);
    assert_eq!(get(&store, "a").await.as_deref(), Some("1"));
    let cached = store.get_cached(Space::Records, b"a").expect("readable");
    assert_eq!(cached, crate::storage::Cached::Hit(Some("1".into())));
    let statistics = store.statistics();
    assert_eq!((statistics.cache_hits, statistics.cache_misses), (1, 2));
    assert!(statistics.disk_bytes > 0 && statistics.block_cache_bytes > 0, "{statistics:?}");
    assert!(store.free_bytes().expect("a disk") > 0);
}

#[tokio::test]
async fn a_directory_has_one_user_at_a_time() {
    let dir = tempfile::tempdir().expect("room");
    let store = open(dir.path(), Durability::Sync);
    let refused = refusal(dir.path());
    assert_eq!(refused, OpenError::Locked { dir: dir.path().into() });
    assert!(refused.to_string().contains("in use by another process"), "{refused}");

    let snapshot = store.snapshot();
    store.close().await.expect("healthy");
    assert_eq!(refusal(dir.path()), OpenError::Locked { dir: dir.path().into() });
    drop(snapshot);
    open(dir.path(), Durability::Sync);
}

#[tokio::test]
async fn a_snapshot_outlives_the_closing_of_its_store() {
    let dir = tempfile::tempdir().expect("room");
    let store = open(dir.path(), Durability::Sync);
    put(&store, &[("a", "1")]).await;
    let snapshot = store.snapshot();
    store.close().await.expect("healthy");
    drop(store);
    let value = snapshot.get(Space::Records, "a".into()).await.expect("readable");
    assert_eq!(value.as_deref(), Some(&b"1"[..]));
}

#[tokio::test]
async fn dropping_a_store_commits_what_is_queued() {
    let dir = tempfile::tempdir().expect("room");
    for durability in [Durability::Sync, Durability::Interval, Durability::Os] {
        let store = open(dir.path(), durability);
        let key = format!("{durability:?}");
        let queued = store.commit(puts(&[(&key, "")]), Syncing::AsConfigured);
        drop(store);
        queued.await.expect("drained");
    }
    let found = keys(&open(dir.path(), Durability::Sync)).await;
    assert_eq!(found, ["Interval", "Os", "Sync"]);
}

#[tokio::test]
async fn data_without_its_head_is_not_taken_for_an_empty_directory() {
    let dir = tempfile::tempdir().expect("room");
    open(dir.path(), Durability::Sync).close().await.expect("healthy");
    fs::remove_file(dir.path().join("CURRENT")).expect("there");
    let refused = refusal(dir.path());
    assert!(matches!(refused, OpenError::Corrupt { .. }), "{refused:?}");
    assert!(refused.to_string().contains("CURRENT is missing"), "{refused}");
}

#[tokio::test]
async fn a_damaged_manifest_is_corrupt() {
    let dir = tempfile::tempdir().expect("room");
    let store = open(dir.path(), Durability::Sync);
    put(&store, &[("a", "1")]).await;
    store.close().await.expect("healthy");
    let current = fs::read_to_string(dir.path().join("CURRENT")).expect("there");
    flip_byte(&dir.path().join(current.trim()), 30);
    let refused = refusal(dir.path());
    assert!(matches!(refused, OpenError::Corrupt { .. }), "{refused:?}");
}

#[test]
fn a_column_family_that_this_release_lacks_is_of_a_newer_one() {
    let dir = tempfile::tempdir().expect("room");
    let mut options = rocksdb::Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    drop(rocksdb::DB::open_cf(&options, dir.path(), ["records", "invented-later"]).expect("opens"));
    let refused = refusal(dir.path());
    assert!(matches!(refused, OpenError::Newer { .. }), "{refused:?}");
    assert!(refused.to_string().contains("invented-later"), "{refused}");
}

#[test]
fn what_the_system_refuses_is_told_with_its_words() {
    let dir = tempfile::tempdir().expect("room");
    let file = dir.path().join("file");
    fs::File::create(&file).and_then(|mut file| file.write_all(b"x")).expect("room");
    let refused = refusal(&file.join("data"));
    assert!(matches!(refused, OpenError::Io { .. }), "{refused:?}");
    assert!(refused.to_string().contains("Not a directory"), "{refused}");
}

#[tokio::test]
async fn missing_folders_are_created() {
    let dir = tempfile::tempdir().expect("room");
    let deep = dir.path().join("not/yet/there");
    put(&open(&deep, Durability::Sync), &[("a", "1")]).await;
    assert_eq!(get(&open(&deep, Durability::Sync), "a").await.as_deref(), Some("1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interval_store_syncs_on_its_own_and_only_when_written_to() {
    let dir = tempfile::tempdir().expect("room");
    let store = Arc::new(open(dir.path(), Durability::Interval));
    put(&*store, &[("a", "1")]).await;
    tokio::time::timeout(std::time::Duration::from_secs(10), async {
        while store.statistics().syncs == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("the background thread syncs within 100 ms");
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert_eq!(store.statistics().syncs, 1);
}

#[tokio::test]
async fn always_syncs_whatever_the_setting_says() {
    let dir = tempfile::tempdir().expect("room");
    let store = open(dir.path(), Durability::Os);
    put(&store, &[("a", "1")]).await;
    assert_eq!(store.statistics().syncs, 0);
    store.commit(puts(&[("b", "2")]), Syncing::Always).await.expect("healthy");
    assert_eq!(store.statistics().syncs, 1);
    store.sync().await.expect("healthy");
    assert_eq!(store.statistics().syncs, 2);
}
