//! Reads and writes while nothing fails: levels, contexts, siblings, policies, conditions.

use super::world::{World, id, path, values_of};
use crate::config::BucketSettings;
use crate::protocol::causality::{Resolve, Shown};
use crate::protocol::operation::{Condition, OperationError};
use crate::types::{Bucket, Level};

#[tokio::test(start_paused = true)]
async fn a_write_is_read_through_every_node_of_five() {
    let world = World::new(5).started().await;
    for i in 0..40 {
        let key = path("b", &format!("key-{i}"));
        let written = world.put(i % 5 + 1, &key, "v").ok().await;
        assert_eq!((written.acks.required, written.acks.n, written.siblings), (2, 3, 1));
        for through in 1..=5 {
            assert_eq!(world.values(through, &key).await, ["v"], "{key:?} through {through}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn put_put_get_through_three_nodes_gives_the_second_value() {
    let world = World::new(3).started().await;
    for i in 0..300 {
        let key = path("b", &format!("key-{i}"));
        let nodes = [i % 3 + 1, (i + 1) % 3 + 1, (i + 2) % 3 + 1];
        world.put(nodes[0], &key, "first").ok().await;
        world.put(nodes[1], &key, "second").ok().await;
        assert_eq!(world.values(nodes[2], &key).await, ["second"]);
    }
}

#[tokio::test(start_paused = true)]
async fn two_writers_with_one_stale_context_leave_two_siblings_and_the_joined_context_one() {
    let world = World::new(3).started().await;
    let key = path("b", "k");
    let stale = world.put(1, &key, "base").ok().await.context;
    world.put(1, &key, "left").context(&stale).ok().await;
    let right = world.put(2, &key, "right").context(&stale).ok().await;
    assert_eq!(right.siblings, 2);
    assert_eq!(right.set, None);
    let both = world.get(3, &key).await;
    assert_eq!(values_of(&both), ["left", "right"]);
    let resolved = world.put(3, &key, "both").context(&both.context).ok().await;
    assert_eq!(resolved.siblings, 1);
    assert!(resolved.set.is_some());
    assert_eq!(world.values(1, &key).await, ["both"]);
}

#[tokio::test(start_paused = true)]
async fn interleaved_writers_from_two_stale_contexts_end_in_two() {
    let world = World::new(3).started().await;
    let key = path("b", "k");
    let base = world.put(1, &key, "base").ok().await.context;
    let mut contexts = [base.clone(), base];
    for i in 0..100 {
        let writer = i % 2;
        let value = format!("{writer}-{i}");
        let written = world.put(i % 3 + 1, &key, &value).context(&contexts[writer]).ok().await;
        contexts[writer] = written.context;
    }
    assert_eq!(world.values(1, &key).await, ["0-98", "1-99"]);
}

#[tokio::test(start_paused = true)]
async fn a_context_of_nothing_adds_beside_what_is_there() {
    let world = World::new(3).started().await;
    let key = path("b", "k");
    world.put(1, &key, "a").ok().await;
    world.put(2, &key, "b").seen_nothing().ok().await;
    assert_eq!(world.values(3, &key).await, ["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn a_deleted_key_is_gone_and_says_so() {
    let world = World::new(3).started().await;
    let key = path("b", "k");
    assert_eq!(world.get(1, &key).await.shown, Shown::Nothing { deleted: false });
    world.put(1, &key, "a").ok().await;
    world.delete(2, &key).ok().await;
    assert_eq!(world.get(3, &key).await.shown, Shown::Nothing { deleted: true });
    world.put(3, &key, "again").ok().await;
    assert_eq!(world.values(1, &key).await, ["again"]);
}

#[tokio::test(start_paused = true)]
async fn an_lww_bucket_shows_one_value_and_its_next_write_removes_the_losers() {
    let lww = BucketSettings { resolve: Resolve::Lww, ..BucketSettings::default() };
    let bucket = Bucket::new("last").expect("valid");
    let world = World::new(3).configure(|s| s.buckets = [(bucket, lww)].into()).started().await;
    let key = path("last", "k");
    world.put(1, &key, "a").ok().await;
    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    world.put(2, &key, "b").seen_nothing().ok().await;
    let answer = world.get(3, &key).await;
    assert_eq!(values_of(&answer), ["b"]);
    let written = world.put(3, &key, "c").context(&answer.context).ok().await;
    assert_eq!(written.siblings, 1);
    assert!(matches!(world.get(1, &key).await.shown, Shown::One(_)));
}

#[tokio::test(start_paused = true)]
async fn conditions_are_checked_against_what_is_there() {
    let world = World::new(3).started().await;
    let key = path("b", "k");
    let first = world.put(1, &key, "a").only_if(Condition::NothingLive).ok().await;
    let refused = world.put(2, &key, "b").only_if(Condition::NothingLive).send().await;
    let Err(OperationError::PreconditionFailed { set, .. }) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!(set, first.set);
    let set = first.set.expect("one version stands");
    world.put(3, &key, "c").only_if(Condition::SetIsOneOf(vec![set])).ok().await;
    let stale = world.put(1, &key, "d").only_if(Condition::SetIsOneOf(vec![set])).send().await;
    assert!(matches!(stale, Err(OperationError::PreconditionFailed { .. })), "{stale:?}");
    assert_eq!(world.values(2, &key).await, ["c"]);
    world.delete(2, &key).only_if(Condition::SomethingLive).ok().await;
    let tomb = world.delete(2, &key).ok().await.set.expect("one version stands");
    world.delete(3, &key).only_if(Condition::SetIsOneOf(vec![tomb])).ok().await;
    let gone = world.delete(1, &key).only_if(Condition::SomethingLive).send().await;
    assert!(matches!(gone, Err(OperationError::PreconditionFailed { .. })), "{gone:?}");
    world.put(1, &key, "e").only_if(Condition::NothingLive).ok().await;
    assert_eq!(world.values(3, &key).await, ["e"]);
}

#[tokio::test(start_paused = true)]
async fn a_write_beyond_max_siblings_is_refused_and_a_resolving_one_is_not() {
    let world = World::new(3).configure(|s| s.max_siblings = 3).started().await;
    let key = path("b", "k");
    for i in 0..3 {
        world.put(1, &key, &format!("v{i}")).seen_nothing().ok().await;
    }
    let refused = world.put(2, &key, "v3").seen_nothing().send().await;
    let Err(OperationError::TooManySiblings { count: 3, context, .. }) = refused else {
        panic!("{refused:?}")
    };
    world.put(2, &key, "one").context(&context).ok().await;
    assert_eq!(world.values(3, &key).await, ["one"]);
}

#[tokio::test(start_paused = true)]
async fn levels_beyond_n_are_refused_before_anything_is_sent() {
    let world = World::new(2).started().await;
    let key = path("b", "k");
    let three = world.put(1, &key, "v").level(Level::Three).send().await;
    assert!(
        matches!(&three, Err(OperationError::Level(text)) if text.contains("n is 2")),
        "{three:?}"
    );
    let read = world.get_at(1, &key, Level::Any).await;
    assert!(matches!(read, Err(OperationError::Level(_))), "{read:?}");
    assert!(values_of(&world.get(2, &key).await).is_empty());
}

#[tokio::test(start_paused = true)]
async fn one_node_alone_is_a_cluster() {
    let world = World::new(1).started().await;
    let key = path("b", "k");
    world.put(1, &key, "v").ok().await;
    assert_eq!(world.values(1, &key).await, ["v"]);
    let view = world.member(1).node.cluster_view().expect("it serves");
    assert_eq!((view.nodes.len(), view.under_replicated), (1, 16));
    assert_eq!(view.this_node, id(1));
}
