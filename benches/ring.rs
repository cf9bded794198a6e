//! The ring: hashing, lookups, and placement from small clusters to the largest.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};

use starling::protocol::ring::{Member, Table, token_of};
use starling::types::{
    Bucket, Key, KeyPath, NodeId, PartitionCount, ReplicationFactor, Weight, Zone,
};

const SIZES: [(usize, u32); 3] = [(3, 1_024), (100, 16_384), (1_000, 65_536)];
const ZONES: usize = 3;

/// Nodes of weights 1, 2 and 3 over three zones.
fn members(nodes: usize) -> Vec<Member> {
    let member = |i: usize| Member {
        id: NodeId::new(&format!("node-{i}")).expect("a valid name"),
        zone: Zone::new(&format!("zone-{}", i % ZONES)).expect("a valid name"),
        weight: Weight::new((i / ZONES % 3 + 1) as f64).expect("in range"),
    };
    (0..nodes).map(member).collect()
}

fn compute(previous: Option<&Table>, members: &[Member], partitions: u32) -> Table {
    let partitions = PartitionCount::new(partitions).expect("a power of two");
    Table::compute(previous, members, ReplicationFactor::default(), partitions)
}

fn lookups(c: &mut Criterion) {
    let path = KeyPath {
        bucket: Bucket::new("users").expect("a valid name"),
        key: Key::new(b"0123456789abcdef0123456789abcdef".to_vec()).expect("short enough"),
    };
    c.bench_function("ring/token_of", |b| b.iter(|| token_of(black_box(&path))));

    let table = compute(None, &members(100), 16_384);
    let token = token_of(&path);
    c.bench_function("ring/replicas", |b| {
        b.iter(|| {
            let partition = table.partitions().partition_of(black_box(token));
            table.replicas(partition).map(|node| node.as_str().len()).sum::<usize>()
        })
    });
    let partition = table.partitions().partition_of(token);
    c.bench_function("ring/first_fallback", |b| {
        b.iter(|| table.fallbacks(black_box(partition)).next().cloned())
    });
}

fn placement(c: &mut Criterion) {
    let mut group = c.benchmark_group("ring/placement");
    group.sample_size(10);
    for (nodes, partitions) in SIZES {
        let size = format!("{nodes}x{partitions}");
        let before = members(nodes);
        group.bench_function(BenchmarkId::new("first", &size), |b| {
            b.iter(|| compute(None, black_box(&before), partitions))
        });
        let table = compute(None, &before, partitions);
        let after = members(nodes + 1);
        group.bench_function(BenchmarkId::new("add_a_node", &size), |b| {
            b.iter(|| compute(Some(black_box(&table)), &after, partitions))
        });
    }
    group.finish();
}

criterion_group!(benches, lookups, placement);
criterion_main!(benches);
