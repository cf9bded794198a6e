//! Hinted handoff and sloppy quorums (correctness, section 4).

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::world::{World, address, id, path, values_of};
use crate::node::operation::{ChangeRequest, RecoverRequest};
use crate::node::replica::Place;
use crate::peer::messages::{Carried, Refusal};
use crate::protocol::operation::OperationError;
use crate::storage::{Batch, MemoryStore, Space, Store, Syncing};
use crate::types::{KeyPath, Level, ReplicationFactor};

fn keys(count: usize) -> Vec<KeyPath> {
    (0..count).map(|i| path("b", &format!("key-{i}"))).collect()
}

/// A key whose replicas, of four nodes, are not the fourth.
async fn key_outside_of(world: &World, node: usize) -> KeyPath {
    for i in 0.. {
        let key = path("b", &format!("outside-{i}"));
        let (_, replicas) = world.member(1).node.place_of(&key).expect("it serves");
        if !replicas.contains(&id(node)) {
            return key;
        }
    }
    unreachable!("some key lies elsewhere")
}

#[tokio::test(start_paused = true)]
async fn a_node_that_was_down_for_a_minute_has_everything_within_seconds_before_any_read() {
    let mut world = World::new(3).started().await;
    world.settle().await;
    world.crash(3);
    let keys = keys(60);
    for (i, key) in keys.iter().enumerate() {
        world.put(i % 2 + 1, key, "v").ok().await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(world.count(1, Space::Hints) + world.count(2, Space::Hints) >= keys.len());
    world.start(&[3]).await;
    world
        .within(5, "it has everything", |world| keys.iter().all(|key| world.is_everywhere(key)))
        .await;
    world
        .within(5, "no hint is left", |world| (1..=3).all(|i| world.count(i, Space::Hints) == 0))
        .await;
    assert!(world.metric(1, "starling_hints_total") > 0.0);
    world.assert_trees_are_right().await;
}

#[tokio::test(start_paused = true)]
async fn a_write_that_one_replica_misses_in_passing_is_brought_to_it() {
    let world = World::new(3).started().await;
    world.settle().await;
    let key = path("b", "k");
    world.network.refuse(&address(1), &address(3));
    world.put(1, &key, "v").ok().await;
    world.network.heal_all();
    world.within(3, "it is everywhere", |world| world.is_everywhere(&key)).await;
}

#[tokio::test(start_paused = true)]
async fn hints_survive_a_restart_of_their_holder() {
    let mut world = World::new(3).configure(|settings| {
        // So that hints alone can do it.
        settings.repair.interval = Duration::from_secs(365 * 24 * 3_600);
    });
    world.start(&[1, 2, 3]).await;
    world.settle().await;
    world.crash(3);
    world.settle().await;
    let key = path("b", "k");
    world.put(1, &key, "v").ok().await;
    world.crash(1);
    world.start(&[1]).await;
    assert_eq!(world.count(1, Space::Hints), 1);
    world.start(&[3]).await;
    world.within(10, "it is everywhere", |world| world.is_everywhere(&key)).await;
}

#[tokio::test(start_paused = true)]
async fn that_none_is_kept_is_said_only_once_a_power_cut_brings_none_back() {
    let mut world = World::new(3).started().await;
    world.settle().await;
    world.crash(3);
    world.settle().await;
    let key = path("b", "k");
    world.put(1, &key, "v").ok().await;
    let after_a_power_cut =
        |world: &World| world.member(1).store.crash().entries(Space::Hints).len();
    world.start(&[3]).await;
    let begun = Instant::now();
    while world.count(1, Space::Hints) > 0 {
        assert!(begun.elapsed() < Duration::from_secs(10), "it is brought");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(after_a_power_cut(&world), 1, "removing it is not fsynced by itself");
    let (vnode, _) = world.member(1).node.place_of(&key).expect("it serves");
    assert!(world.member(1).node.has_no_hints(vnode).await.expect("readable"));
    assert_eq!(after_a_power_cut(&world), 0);
}

#[tokio::test(start_paused = true)]
async fn a_sloppy_write_at_all_is_acknowledged_with_a_fallback_that_may_even_restart() {
    let mut world = World::new(4).started().await;
    world.settle().await;
    let key = key_outside_of(&world, 4).await;
    world.crash(3);
    // Neither known to be down, nor reachable.
    let early = world.put(1, &key, "early").sloppy().level(Level::All).ok().await;
    assert_eq!((early.acks.got, early.acks.n), (3, 3));
    world.settle().await;
    let strict = world.put(1, &key, "strict").level(Level::All).send().await;
    assert!(matches!(strict, Err(OperationError::Unavailable(_))), "{strict:?}");
    let late = world.put(1, &key, "late").sloppy().level(Level::All).ok().await;
    assert_eq!((late.acks.got, late.acks.n), (3, 3));
    assert_eq!(world.count(4, Space::Hints), 1);
    world.crash(4);
    world.start(&[4]).await;
    assert_eq!(world.count(4, Space::Hints), 1);
    world.start(&[3]).await;
    world
        .within(10, "the replica has it", |world| {
            world.stored(3, &key).is_some_and(|record| record.context().contains(late.version))
        })
        .await;
    world.within(5, "the hint is gone", |world| world.count(4, Space::Hints) == 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_sloppy_read_counts_the_nodes_that_stand_in_for_replicas() {
    let mut world = World::new(5).started().await;
    world.settle().await;
    let key = path("b", "k");
    let (_, replicas) = world.member(1).node.place_of(&key).expect("it serves");
    let down: Vec<usize> = (1..=5).filter(|i| replicas[1..].contains(&id(*i))).collect();
    let first = (1..=5).find(|i| id(*i) == replicas[0]).expect("one of five");
    down.iter().for_each(|i| world.crash(*i));
    world.settle().await;
    world.put(first, &key, "v").sloppy().ok().await;
    let strict = world.get_at(first, &key, Level::Quorum).await;
    assert!(matches!(strict, Err(OperationError::Unavailable(_))), "{strict:?}");
    let sloppy = world.get_sloppy(first, &key, Level::All).await.expect("others stand in");
    assert_eq!((values_of(&sloppy), sloppy.reached.acks.got), (vec!["v".to_owned()], 3));
}

#[tokio::test(start_paused = true)]
async fn any_is_kept_by_the_accepting_node_alone_and_comes_to_the_replicas() {
    let world = World::new(4).started().await;
    world.settle().await;
    let key = key_outside_of(&world, 4).await;
    world.network.isolate(&address(4));
    // A forward that is only in doubt is not done a second time.
    let doubt =
        world.put(4, &key, "u").level(Level::Any).within(Duration::from_secs(1)).send().await;
    assert!(doubt.expect_err("in doubt").maybe_applied());
    world.settle().await;
    let written = world.put(4, &key, "v").level(Level::Any).ok().await;
    assert_eq!((written.acks.got, written.acks.required, written.acks.n), (1, 1, 3));
    // A second one, by the context of the first, replaces it.
    world.put(4, &key, "w").level(Level::Any).context(&written.context).ok().await;
    assert_eq!(world.count(4, Space::Hints), 1);
    world.network.rejoin(&address(4));
    world.within(10, "the hint is gone", |world| world.count(4, Space::Hints) == 0).await;
    let values = world.values(1, &key).await;
    assert!(values.contains(&"w".to_owned()) && !values.contains(&"v".to_owned()), "{values:?}");
}

#[tokio::test(start_paused = true)]
async fn a_counted_hint_outlives_any_age_and_others_do_not() {
    let mut world = World::new(4)
        .configure(|settings| settings.hints.max_age = Duration::from_secs(60))
        .started()
        .await;
    world.settle().await;
    let key = key_outside_of(&world, 4).await;
    world.crash(3);
    world.settle().await;
    world.put(1, &key, "counted").sloppy().level(Level::All).ok().await;
    for i in 0..10 {
        world.put(1, &path("b", &format!("key-{i}")), "not counted").ok().await;
    }
    let uncounted = |world: &World| world.count(1, Space::Hints) + world.count(2, Space::Hints);
    assert!(uncounted(&world) > 0);
    tokio::time::sleep(Duration::from_secs(3_600)).await;
    assert_eq!(uncounted(&world), 0);
    assert_eq!(world.count(4, Space::Hints), 1);
    world.start(&[3]).await;
    world.within(10, "the replica has it", |world| world.stored(3, &key).is_some()).await;
}

/// Has node 1 keep another key's record of this one for node 3, as a fallback does.
async fn keep_for_an_answer(world: &World, key: &KeyPath) {
    let other = path("b", "other");
    world.put(1, &other, "counted").ok().await;
    let node = &world.member(1).node;
    let (vnode, _) = node.place_of(key).expect("it serves");
    let record = world.stored(1, &other).expect("just written").to_stored_bytes();
    let carried = Carried { record, purge: node.vnodes.purge_number(vnode) };
    let deadline = Instant::now() + Duration::from_secs(5);
    let place = Place::new(vnode, key.clone());
    node.keep_record(&place, Some(id(3)), carried, deadline).await.expect("there is room");
}

#[tokio::test(start_paused = true)]
async fn what_is_kept_for_an_answer_is_not_removed_with_the_hint_that_stood_in_its_place() {
    let mut world = World::new(3).started().await;
    world.settle().await;
    world.crash(3);
    world.settle().await;
    let key = path("b", "k");
    world.put(1, &key, "v").ok().await;
    let before = world.member(1).store.entries(Space::Hints);
    assert_eq!(before.len(), 1);
    keep_for_an_answer(&world, &key).await;
    world.network.refuse(&address(1), &address(3));
    world.start(&[3]).await;
    world.network.heal_all();
    // What was read before is brought now.
    assert!(world.member(1).node.replay_piece(&before).await);
    let now = world.member(1).store.entries(Space::Hints);
    assert!(now.iter().any(|(key, value)| *key == before[0].0 && *value != before[0].1));
    let has_both = |world: &World| world.stored(3, &key).is_some_and(|r| r.versions().len() == 2);
    world.within(10, "the replica has both", has_both).await;
}

#[tokio::test(start_paused = true)]
async fn a_write_that_a_replica_misses_leaves_what_is_kept_for_an_answer() {
    let mut world = World::new(3).started().await;
    world.settle().await;
    world.crash(3);
    world.settle().await;
    let key = path("b", "k");
    keep_for_an_answer(&world, &key).await;
    world.put(1, &key, "v").ok().await;
    world.start(&[3]).await;
    let has_both = |world: &World| world.stored(3, &key).is_some_and(|r| r.versions().len() == 2);
    world.within(10, "the replica has both", has_both).await;
    world.within(10, "no hint is left", |world| world.count(1, Space::Hints) == 0).await;
}

#[tokio::test(start_paused = true)]
async fn hints_that_are_brought_together_are_brought_whatever_one_of_them_meets() {
    let mut world = World::new(3)
        .configure(|settings| settings.repair.interval = Duration::from_secs(365 * 24 * 3_600))
        .started()
        .await;
    world.settle().await;
    world.crash(3);
    world.settle().await;
    let node = &world.member(1).node;
    let (vnode, _) = node.place_of(&path("b", "0")).expect("it serves");
    let is_there = |key: &KeyPath| node.place_of(key).is_some_and(|(of, _)| of == vnode);
    let keys: Vec<KeyPath> =
        (0..).map(|i| path("b", &i.to_string())).filter(is_there).take(9).collect();
    for key in &keys {
        world.put(1, key, "v").ok().await;
    }
    assert_eq!(world.count(1, Space::Hints), keys.len());
    // One goes alone: its record is not there any more.
    let place = Place::new(vnode, keys[4].clone());
    let mut batch = Batch::default();
    batch.delete(Space::Records, place.key().clone());
    let gone = world.member(1).store.commit(batch, Syncing::Always).await;
    gone.expect("it takes writes");
    world.start(&[3]).await;
    let others = keys.iter().enumerate().filter(|(i, _)| *i != 4);
    let others: Vec<&KeyPath> = others.map(|(_, key)| key).collect();
    let has_others = |world: &World| others.iter().all(|key| world.stored(3, key).is_some());
    world.within(10, "the replica has the others", has_others).await;
    world.within(10, "no hint is left", |world| world.count(1, Space::Hints) == 0).await;
}

#[tokio::test(start_paused = true)]
async fn where_no_hints_are_kept_none_is_counted() {
    let mut world =
        World::new(4).configure(|settings| settings.hints.max_bytes = 0).started().await;
    world.settle().await;
    let key = key_outside_of(&world, 4).await;
    world.crash(3);
    world.settle().await;
    let refused = world.put(1, &key, "v").sloppy().level(Level::All).send().await;
    assert!(matches!(refused, Err(OperationError::LevelNotReached { .. })), "{refused:?}");
    assert_eq!((1..=4).filter(|i| *i != 3).map(|i| world.count(i, Space::Hints)).sum::<usize>(), 0);
}

/// Four nodes, of which the fourth keeps a write for the third, which is down; and its key.
async fn kept_for_an_answer() -> (World, KeyPath) {
    let mut world = World::new(4).started().await;
    world.settle().await;
    let key = key_outside_of(&world, 4).await;
    world.crash(3);
    world.settle().await;
    world.put(1, &key, "v").sloppy().level(Level::All).ok().await;
    assert_eq!(world.count(4, Space::Hints), 1);
    (world, key)
}

#[tokio::test(start_paused = true)]
async fn a_hint_stays_where_nobody_is_left_to_take_it() {
    let (mut world, key) = kept_for_an_answer().await;
    world.crash(1);
    world.crash(2);
    world.settle().await;
    let lost = RecoverRequest { survivors: [id(4)].into(), lost: (1..=3).map(id).collect() };
    world.member(4).node.recover(lost).await.expect("a majority is gone");
    world.within(10, "it goes on alone", |world| world.serves(4)).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(world.count(4, Space::Hints), 1, "it is the only copy");
    // Once it holds the key itself, it has what it kept.
    let alone = ChangeRequest { accept_loss: true, ..ChangeRequest::default() };
    world.change(4, alone).await.expect("the lost are sent away");
    world.settled(60).await;
    world.within(60, "it is brought", |world| world.count(4, Space::Hints) == 0).await;
    assert_eq!(values_of(&world.get_at(4, &key, Level::One).await.expect("it is here")), ["v"]);
}

/// What a node that comes in the place of its lost disk has taken is gone if that is aborted.
#[tokio::test(start_paused = true)]
async fn a_hint_for_a_lost_disk_stays_until_the_others_have_it() {
    let (mut world, key) = kept_for_an_answer().await;
    let durability = world.durability();
    world.put_disk(3, MemoryStore::new(durability));
    world.start_candidate(3, false).await;
    world.settle().await;
    // The transition can't end, and node 4 does not reach all that hold the key.
    for a in [3, 4] {
        world.network.refuse(&address(a), &address(2));
        world.network.refuse(&address(2), &address(a));
    }
    let itself = ChangeRequest { replace: [(id(3), id(3))].into(), ..ChangeRequest::default() };
    world.change(1, itself).await.expect("it waits for that");
    world.within(30, "it prepares", |world| world.serves(3)).await;
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(world.state(4).transition.is_some());
    assert_eq!(world.count(4, Space::Hints), 1);
    world.network.heal_all();
    world.settled(60).await;
    world.within(60, "it is brought", |world| world.count(4, Space::Hints) == 0).await;
    world.within(60, "the new disk has it", |world| world.stored(3, &key).is_some()).await;
}

/// The same where nobody else holds the key.
#[tokio::test(start_paused = true)]
async fn a_hint_for_replicas_that_are_all_lost_is_not_brought_to_what_an_abort_drops() {
    let mut world = World::new(5).configure(|settings| {
        settings.replication_factor = ReplicationFactor::new(2).expect("valid");
    });
    world.start(&[1, 2, 3, 4, 5]).await;
    world.settle().await;
    let is_theirs = |key: &KeyPath| {
        let (_, mut replicas) = world.member(1).node.place_of(key).expect("it serves");
        replicas.sort();
        replicas == [id(3), id(4)]
    };
    let keys: Vec<KeyPath> = keys(200).into_iter().filter(is_theirs).collect();
    world.crash(3);
    world.settle().await;
    for key in &keys {
        world.put(4, key, "v").sloppy().level(Level::All).ok().await;
    }
    world.crash(4);
    let kept = |world: &World| [2, 5].map(|i| world.count(i, Space::Hints));
    let before = kept(&world);
    assert!(before.iter().sum::<usize>() > 0);
    for i in [3, 4] {
        let durability = world.durability();
        world.put_disk(i, MemoryStore::new(durability));
        world.start_candidate(i, false).await;
    }
    world.settle().await;
    let themselves = ChangeRequest {
        replace: [(id(3), id(3)), (id(4), id(4))].into(),
        accept_loss: true,
        ..ChangeRequest::default()
    };
    world.change(2, themselves).await.expect("they wait for that");
    // Node 1 drives the transition, and does not hear how far they are.
    world.network.refuse(&address(1), &address(3));
    world.network.refuse(&address(1), &address(4));
    world.within(30, "they prepare", |world| world.serves(3) && world.serves(4)).await;
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(world.state(2).transition.is_some());
    assert_eq!(kept(&world), before);
    world.network.heal_all();
    world.settled(60).await;
    let is_drained = |world: &World| (1..=5).all(|i| world.count(i, Space::Hints) == 0);
    world.within(60, "they are brought", is_drained).await;
    for key in &keys {
        assert_eq!(world.values(1, key).await, ["v"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_that_a_replica_misses_leaves_a_damaged_hint() {
    let mut world = World::new(3).started().await;
    world.settle().await;
    world.crash(3);
    world.settle().await;
    let key = path("b", "k");
    keep_for_an_answer(&world, &key).await;
    let store = Arc::clone(&world.member(1).store);
    let damaged = |store: &MemoryStore| {
        let hints = store.entries(Space::Hints).into_iter();
        hints.filter(|(hint, _)| hint.ends_with(b"k")).collect::<Vec<_>>()
    };
    let (hint, value) = damaged(&store).remove(0);
    store.damage(Space::Hints, hint, value.slice(1..));
    let before = damaged(&store);
    world.put(1, &key, "v").ok().await;
    assert_eq!(damaged(&store), before);
    assert!(world.metric(1, "starling_hints_total") > 0.0);
    let node = &world.member(1).node;
    let (vnode, _) = node.place_of(&key).expect("it serves");
    let record = world.stored(1, &key).expect("just written").to_stored_bytes();
    let carried = Carried { record, purge: node.vnodes.purge_number(vnode) };
    let deadline = Instant::now() + Duration::from_secs(5);
    let kept = node.keep_record(&Place::new(vnode, key), Some(id(3)), carried, deadline).await;
    assert_eq!(kept, Err(Refusal::StoreFailed), "counted nowhere");
    assert_eq!(damaged(&store), before);
}

#[tokio::test(start_paused = true)]
async fn a_damaged_hint_stays_until_its_loss_is_accepted() {
    let mut world = World::new(3).started().await;
    world.settle().await;
    world.crash(3);
    world.settle().await;
    let (key, other) = (path("b", "k"), path("b", "other"));
    world.put(1, &key, "v").ok().await;
    world.put(1, &other, "v").ok().await;
    let store = Arc::clone(&world.member(1).store);
    let hints = store.entries(Space::Hints);
    assert_eq!(hints.len(), 2);
    let (hint, value) = &hints[0];
    store.damage(Space::Hints, hint.clone(), value.slice(1..));
    world.start(&[3]).await;
    world.within(10, "the other one is gone", |world| world.count(1, Space::Hints) == 1).await;
    assert_eq!(store.entries(Space::Hints)[0].0, hint);
    let released = world.member(2).node.begin_repair(true).await.expect("all are up");
    assert_eq!((released, world.count(1, Space::Hints)), (1, 0));
    world.within(5, "none is counted", |world| world.member(1).node.hints_view().is_empty()).await;
    let both = [key, other];
    world
        .within(60, "it has everything", |world| both.iter().all(|key| world.is_everywhere(key)))
        .await;
}
