//! Random batches against a naive model: one sorted map a space.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::{Just, Strategy, any, prop_oneof, proptest};
use proptest::test_runner::Config;

use crate::storage::{
    Batch, Change, Durability, KeyRange, MemoryStore, ScanLimit, Space, Store, Syncing,
};

use super::open;

type Model = BTreeMap<(Space, Bytes), Bytes>;

fn spaces() -> impl Strategy<Value = Space> {
    prop_oneof![Just(Space::Records), Just(Space::Trees)]
}

/// Few and short keys, so that changes meet.
fn short_keys() -> impl Strategy<Value = Bytes> {
    proptest::collection::vec(0..4_u8, 1..4).prop_map(Bytes::from)
}

fn changes() -> impl Strategy<Value = Change> {
    let values = proptest::collection::vec(any::<u8>(), 0..20).prop_map(Bytes::from);
    prop_oneof![
        4 => (spaces(), short_keys(), values)
            .prop_map(|(space, key, value)| Change::Put { space, key, value }),
        2 => (spaces(), short_keys()).prop_map(|(space, key)| Change::Delete { space, key }),
        1 => (spaces(), short_keys(), short_keys())
            .prop_map(|(space, start, end)| Change::DeleteRange { space, start, end }),
    ]
}

fn histories() -> impl Strategy<Value = Vec<Vec<Change>>> {
    proptest::collection::vec(proptest::collection::vec(changes(), 0..8), 1..12)
}

fn batch_of(changes: &[Change]) -> Batch {
    let mut batch = Batch::new();
    for change in changes.iter().cloned() {
        match change {
            Change::Put { space, key, value } => batch.put(space, key, value),
            Change::Delete { space, key } => batch.delete(space, key),
            Change::DeleteRange { space, start, end } => batch.delete_range(space, start, end),
        }
    }
    batch
}

fn apply(model: &mut Model, changes: &[Change]) {
    for change in changes.iter().cloned() {
        match change {
            Change::Put { space, key, value } => {
                model.insert((space, key), value);
            }
            Change::Delete { space, key } => {
                model.remove(&(space, key));
            }
            Change::DeleteRange { space, start, end } => {
                model
                    .retain(|(in_space, key), _| *in_space != space || *key < start || *key >= end);
            }
        }
    }
}

/// Everything in a store, read in pages of 3.
async fn dump(store: &dyn Store) -> Model {
    let mut found = Model::new();
    for space in [Space::Records, Space::Trees] {
        let mut range = KeyRange::all();
        loop {
            let limit = ScanLimit { entries: 3, bytes: 1_000 };
            let page = store.scan(space, range.clone(), limit).await.expect("readable");
            found.extend(page.entries.into_iter().map(|(key, value)| ((space, key), value)));
            let Some(next) = page.next else { break };
            range = range.resume_at(next);
        }
    }
    found
}

async fn check_against_model(store: &dyn Store, history: &[Vec<Change>]) {
    let mut model = dump(store).await;
    for changes in history {
        store.commit(batch_of(changes), Syncing::AsConfigured).await.expect("healthy");
        apply(&mut model, changes);
        assert_eq!(dump(store).await, model);
    }
    for ((space, key), value) in &model {
        let found = store.get(*space, key.clone()).await.expect("readable");
        assert_eq!(found.as_ref(), Some(value));
    }
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(work)
}

proptest! {
    #![proptest_config(Config::with_cases(24))]

    #[test]
    fn rocks_behaves_like_a_sorted_map_and_keeps_it(
        before in histories(), after in histories(), flushed: bool,
    ) {
        let dir = tempfile::tempdir().expect("room");
        let store = open(dir.path(), Durability::Sync);
        block_on(check_against_model(&store, &before));
        let model = block_on(dump(&store));
        if flushed {
            block_on(store.close()).expect("healthy");
        }
        drop(store);
        let store = open(dir.path(), Durability::Sync);
        assert_eq!(block_on(dump(&store)), model);
        block_on(check_against_model(&store, &after));
    }
}

proptest! {
    #[test]
    fn memory_behaves_like_a_sorted_map(history in histories()) {
        let store = MemoryStore::new(Durability::Sync);
        block_on(check_against_model(&store, &history));
    }

    #[test]
    fn a_crash_of_memory_leaves_exactly_the_synced_prefix(
        history in histories(), synced in 0..12_usize,
    ) {
        let store = MemoryStore::new(Durability::Os);
        let mut model = Model::new();
        let mut sequence = 0;
        for (i, changes) in history.iter().enumerate() {
            block_on(store.commit(batch_of(changes), Syncing::AsConfigured)).expect("healthy");
            if i < synced {
                block_on(store.sync()).expect("healthy");
                apply(&mut model, changes);
                sequence = store.last_sequence();
            }
        }
        let survivor = store.crash();
        assert_eq!(block_on(dump(&survivor)), model);
        assert_eq!(survivor.last_sequence(), sequence);
    }
}
