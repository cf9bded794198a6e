//! What one request costs in records, contexts and tokens: values of 1 KiB, three actors.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};

use starling::protocol::causality::{
    Content, Context, ContextToken, Record, Summary, TokenKey, Value, token_cover_after_write,
};
use starling::types::{ActorId, Bucket, ClusterId, HlcStamp, Key, KeyPath};

const ACTORS: [ActorId; 3] =
    [ActorId::new(0x1f3a << 48), ActorId::new(0x72c1 << 48), ActorId::new(0xe905 << 48)];

fn value() -> Content {
    Content::Value(Value {
        content_type: Some("application/octet-stream".into()),
        body: Bytes::from(vec![0x5a; 1_024]),
        ..Value::default()
    })
}

fn write(record: &mut Record, seen: &Context, actor: ActorId) {
    record.update(seen, value(), HlcStamp::new(1_795_000_000_000, 0), actor, 0);
}

/// A key that each of three replicas has overwritten a hundred times.
fn record() -> Record {
    let mut record = Record::absent();
    for turn in 0..300 {
        let seen = record.context().clone();
        write(&mut record, &seen, ACTORS[turn % 3]);
    }
    record
}

/// The same one write later.
fn newer() -> Record {
    let mut newer = record();
    let seen = newer.context().clone();
    write(&mut newer, &seen, ACTORS[0]);
    newer
}

fn records(c: &mut Criterion) {
    let (old, new) = (record(), newer());
    let mut concurrent = record();
    write(&mut concurrent, old.context(), ACTORS[1]);
    let merged = |mut into: Record, from: &Record| {
        assert_eq!(black_box(into.merge(from)).alarms, []);
        into
    };
    let mut group = c.benchmark_group("record");
    group.bench_function("merge equal", |b| {
        b.iter_batched(|| new.clone(), |r| merged(r, &new), BatchSize::SmallInput);
    });
    group.bench_function("merge newer", |b| {
        b.iter_batched(|| old.clone(), |r| merged(r, &new), BatchSize::SmallInput);
    });
    group.bench_function("merge concurrent", |b| {
        b.iter_batched(|| concurrent.clone(), |r| merged(r, &new), BatchSize::SmallInput);
    });
    let content = value();
    group.bench_function("update", |b| {
        let stamp = HlcStamp::new(1, 0);
        let setup = || (old.clone(), content.clone());
        let update = |(mut record, content): (Record, Content)| {
            record.update(old.context(), content, stamp, ACTORS[2], 0);
            record
        };
        b.iter_batched(setup, update, BatchSize::SmallInput);
    });
    group.bench_function("digest", |b| b.iter(|| black_box(&new).digest()));
    group.finish();
}

fn codec(c: &mut Criterion) {
    let record = record();
    let (sent, stored) = (record.to_bytes(), record.to_stored_bytes());
    let mut group = c.benchmark_group("codec 1 KiB");
    group.bench_function("encode stored", |b| b.iter(|| black_box(&record).to_stored_bytes()));
    group.bench_function("decode stored", |b| {
        b.iter(|| Record::from_stored_bytes(black_box(stored.clone())));
    });
    group.bench_function("summary of stored", |b| {
        b.iter(|| Summary::from_stored_bytes(black_box(&stored)));
    });
    group.bench_function("encode sent", |b| b.iter(|| black_box(&record).to_bytes()));
    group.bench_function("decode sent", |b| {
        b.iter(|| Record::from_bytes(black_box(sent.clone())));
    });
    group.finish();
}

fn tokens(c: &mut Criterion) {
    let record = record();
    let own = record.dots().next().expect("it holds one version");
    let key = TokenKey::from_cluster_id(ClusterId::new(7));
    let bucket = Bucket::new("bucket").expect("valid");
    let path = KeyPath { bucket, key: Key::new(&b"some/ordinary/key"[..]).expect("valid") };
    let token = ContextToken::seal(record.context(), &path, &key);
    let mut group = c.benchmark_group("token");
    group.bench_function("seal", |b| {
        b.iter(|| ContextToken::seal(black_box(record.context()), &path, &key));
    });
    group.bench_function("open", |b| {
        b.iter(|| ContextToken::open(black_box(&token), &path, &key));
    });
    group.bench_function("cover after write", |b| {
        b.iter(|| token_cover_after_write(black_box(&record), record.context(), &[], own));
    });
    group.finish();
}

criterion_group!(benches, records, codec, tokens);
criterion_main!(benches);
