//! What one node's store costs: a get from memory, and commits of 1 KiB by 1, 16 and 64 tasks at
//! once, fsynced in groups. `limit` is the bare disk under them: compare with that, measured in the
//! same run. The store in memory shows what of a commit is the seam and the runtime.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tokio::runtime::{Builder, Runtime};
use tokio::time::Instant;

use starling::storage::{
    Batch, Durability, MemoryStore, RocksOptions, RocksStore, Space, Store, Syncing,
};

const KEYS: u64 = 10_000;
const VALUE: [u8; 1_024] = [0x5a; 1_024];

fn key(i: u64) -> Vec<u8> {
    format!("bucket\0key-{:08}", i % KEYS).into_bytes()
}

fn batch(i: u64) -> Batch {
    let mut batch = Batch::new();
    batch.put(Space::Records, key(i), VALUE.to_vec());
    batch
}

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

/// `total` commits, spread over `tasks` that each wait for one before the next.
async fn commit_from_tasks(store: &Arc<dyn Store>, tasks: u64, total: u64) -> Duration {
    let started = Instant::now();
    let running: Vec<_> = (0..tasks)
        .map(|task| {
            let store = Arc::clone(store);
            tokio::spawn(async move {
                for i in (task..total).step_by(usize::try_from(tasks).expect("few")) {
                    let commit = store.commit(batch(i.wrapping_mul(7)), Syncing::AsConfigured);
                    commit.await.expect("the disk is healthy");
                }
            })
        })
        .collect();
    for task in running {
        task.await.expect("no task fails");
    }
    started.elapsed()
}

fn bench_store(criterion: &mut Criterion, name: &str, store: &Arc<dyn Store>) {
    let runtime = runtime();
    let mut group = criterion.benchmark_group(name);
    group.throughput(Throughput::Elements(1));
    runtime.block_on(commit_from_tasks(store, 64, KEYS));
    for tasks in [1_u64, 16, 64] {
        group.bench_function(BenchmarkId::new("commit_1KiB", tasks), |bencher| {
            bencher.iter_custom(|total| runtime.block_on(commit_from_tasks(store, tasks, total)));
        });
    }
    group.bench_function("get_1KiB_hit", |bencher| {
        let mut i = 0_u64;
        bencher.iter(|| {
            i = i.wrapping_add(7_919);
            store.get_cached(Space::Records, &key(i)).expect("readable")
        });
    });
    group.finish();
}

/// Appends 1 KiB to a file and fsyncs it: what no commit of a single task can beat.
fn limit(criterion: &mut Criterion) {
    let mut file = tempfile::tempfile().expect("room for a file");
    criterion.bench_function("limit/fdatasync_1KiB", |bencher| {
        bencher.iter(|| file.write_all(&VALUE).and_then(|()| file.sync_data()).expect("healthy"));
    });
}

fn rocks(criterion: &mut Criterion) {
    let dir = tempfile::tempdir().expect("room for a directory");
    let store = RocksStore::open(dir.path(), &RocksOptions::default()).expect("opens");
    bench_store(criterion, "rocks", &(Arc::new(store) as Arc<dyn Store>));
}

fn memory(criterion: &mut Criterion) {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new(Durability::Sync));
    bench_store(criterion, "memory", &store);
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(4));
    targets = limit, rocks, memory
}
criterion_main!(benches);
