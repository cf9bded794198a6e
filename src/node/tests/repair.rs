//! Anti-entropy, damaged and lost disks (correctness, sections 3, 5 and 8). After the tests of
//! `riak_test` that matter: lost partition, lost tree, fewer than N writes, sibling explosion, and
//! that a repair leaves nothing to repair.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::world::{World, address, path, values_of};
use crate::node::Phase;
use crate::node::imprint::{Change, Imprint};
use crate::node::replica::Place;
use crate::protocol::operation::OperationError;
use crate::storage::schema::{MetaKey, parse_record_key, record_key, vnode_range};
use crate::storage::{Batch, CommitFault, Space, Store, Syncing};
use crate::types::{KeyPath, Level, VnodeId};

fn keys(count: usize) -> Vec<KeyPath> {
    (0..count).map(|i| path("b", &format!("key-{i}"))).collect()
}

/// Three nodes that keep no hints.
async fn without_hints() -> World {
    World::new(3).configure(|settings| settings.hints.max_bytes = 0).started().await
}

async fn write_all(world: &World, keys: &[KeyPath], value: &str) {
    for (i, key) in keys.iter().enumerate() {
        world.put(i % 2 + 1, key, value).ok().await;
    }
}

fn repaired(world: &World) -> f64 {
    (1..=3).map(|i| world.metric(i, "starling_repaired_records_total")).sum()
}

async fn is_quiet(world: &World) {
    // What was on its way, and the hints that are removed when it has come.
    world.settle().await;
    let before =
        (repaired(world), (1..=3).map(|i| world.member(i).store.last_sequence()).sum::<u64>());
    tokio::time::sleep(Duration::from_secs(300)).await;
    let after =
        (repaired(world), (1..=3).map(|i| world.member(i).store.last_sequence()).sum::<u64>());
    assert_eq!(before, after, "nothing is left to repair");
    for i in 1..=3 {
        let view = world.member(i).node.repair_view().expect("it serves");
        assert!(view.debt_seconds < 70.0, "compared every minute: {view:?}");
    }
    world.assert_trees_are_right().await;
}

#[tokio::test(start_paused = true)]
async fn without_hints_a_node_that_was_down_has_everything_within_half_a_minute() {
    let mut world = without_hints().await;
    world.settle().await;
    world.crash(3);
    let keys = keys(200);
    write_all(&world, &keys, "v").await;
    world.start(&[3]).await;
    world
        .within(30, "it has everything", |world| keys.iter().all(|key| world.is_everywhere(key)))
        .await;
    is_quiet(&world).await;
}

#[tokio::test(start_paused = true)]
async fn a_wiped_node_takes_part_in_no_quorum_until_it_has_everything() {
    let mut world = World::new(3).started().await;
    world.settle().await;
    let keys = keys(100);
    write_all(&world, &keys, "v").await;
    world.settle().await;
    world.crash(3);
    world.take_disk(3);
    // What it takes in comes slowly, and from one of the two first.
    world.network.delay(&address(2), &address(3), Duration::from_secs(1)..=Duration::from_secs(1));
    world.wipe(3);
    world.start(&[3]).await;
    assert!(world.state(3).transition.is_some(), "it takes its own place");
    for key in &keys {
        assert_eq!(world.values(3, key).await, ["v"], "never missed through the wiped node");
    }
    world.network.heal_all();
    world.settled(60).await;
    assert!(keys.iter().all(|key| world.is_everywhere(key)));
    is_quiet(&world).await;
}

#[tokio::test(start_paused = true)]
async fn a_wiped_node_needs_a_peer_that_knows_it() {
    let mut world = World::new(3).started().await;
    world.crash(3);
    world.take_disk(3);
    world.network.isolate(&address(3));
    world.wipe(3);
    world.start_candidate(3, false).await;
    world.settle().await;
    let phase = world.member(3).node.phase().borrow().clone();
    let is_told = matches!(&phase, Phase::Starting(why) if why.contains("answers"));
    assert!(is_told, "it can't know who it was: {phase:?}");
    world.network.heal_all();
    world.within(60, "it serves", |world| world.serves(3)).await;
    world.settled(60).await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_partition_is_brought_back() {
    let mut world = World::new(3).started().await;
    world.settle().await;
    let keys = keys(100);
    write_all(&world, &keys, "v").await;
    world.settle().await;
    world.stop(3).await;
    let disk = world.take_disk(3);
    let lost: VnodeId = parse_record_key(&disk.entries(Space::Records)[0].0).expect("a record").0;
    let mut batch = Batch::default();
    let prefix = crate::storage::schema::vnode_key(lost);
    for space in [Space::Records, Space::Trees, Space::Deletes] {
        batch.delete_prefix(space, prefix.clone());
    }
    disk.commit(batch, Syncing::Always).await.expect("a store in memory");
    world.put_disk(3, disk);
    world.start(&[3]).await;
    world
        .within(30, "it has everything", |world| keys.iter().all(|key| world.is_everywhere(key)))
        .await;
    is_quiet(&world).await;
}

/// A drop may be on disk though it failed. If the vnode is held here again before the drop is tried
/// once more, what was of it in memory must not pass for what is on disk.
#[tokio::test(start_paused = true)]
async fn after_a_drop_of_unknown_outcome_nothing_in_memory_is_believed() {
    let world = without_hints().await;
    world.settle().await;
    let keys = keys(100);
    write_all(&world, &keys, "v").await;
    world.settle().await;
    for fault in [CommitFault::UnknownButApplied, CommitFault::UnknownAndLost] {
        let member = world.member(1);
        let (vnode, _) = member.node.place_of(&keys[0]).expect("it serves");
        let retired = world.retired(1);
        member.store.fail_next_commit(fault);
        member.node.drop_vnodes(&[vnode]).await.expect_err("planted");
        assert_eq!(world.retired(1), retired + 1.0, "its dots may be gone from here");
        world
            .within(150, "it has everything", |world| keys.iter().all(|k| world.is_everywhere(k)))
            .await;
        world.put(1, &keys[0], "v").level(Level::All).ok().await;
        is_quiet(&world).await;
    }
}

/// A record that is being dropped is gone from the disk before it is from the tree in memory.
#[tokio::test(start_paused = true)]
async fn a_tree_is_not_made_anew_of_what_a_change_has_half_done() {
    let world = without_hints().await;
    world.settle().await;
    let key = path("b", "k");
    world.put(1, &key, "v").level(Level::All).ok().await;
    let member = world.member(1);
    let node = Arc::clone(&member.node);
    let (vnode, _) = node.place_of(&key).expect("it serves");
    let place = Place::new(vnode, key);
    let guard = node.locks.lock(place.key()).await;
    let before = node.imprint_in_indexes(&place).await.expect("readable");
    let change = Change { before, after: Imprint::Absent };
    let mut batch = Batch::default();
    batch.delete(Space::Records, place.key().clone());
    change.add_to(&mut batch, &place, node.shape(), node.clock.wall_ms());
    member.store.commit(batch, Syncing::Always).await.expect("a store in memory");
    let remaking = tokio::spawn({
        let node = Arc::clone(&node);
        async move { node.remake_tree(vnode).await }
    });
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(node.trees.known_root(vnode), None, "it is not made yet");
    node.change_tree(&place, change);
    drop(guard);
    remaking.await.expect("it does not panic").expect("readable");
    assert_eq!(node.wrong_trees().await, Vec::<String>::new());
    assert_eq!(node.trees.known_root(vnode), Some(0));
}

/// Its digests were read before they were gone.
#[tokio::test(start_paused = true)]
async fn a_tree_that_is_forgotten_while_it_is_made_anew_is_in_doubt() {
    let world = without_hints().await;
    let key = path("b", "k");
    world.put(1, &key, "v").level(Level::All).ok().await;
    let node = Arc::clone(&world.member(1).node);
    let (vnode, _) = node.place_of(&key).expect("it serves");
    let guard = node.locks.lock(Place::new(vnode, key).key()).await;
    let remaking = tokio::spawn({
        let node = Arc::clone(&node);
        async move { node.remake_tree(vnode).await }
    });
    tokio::time::sleep(Duration::from_millis(10)).await;
    node.trees.forget(vnode);
    drop(guard);
    remaking.await.expect("it does not panic").expect("readable");
    assert_eq!(node.trees.known_root(vnode), None);
}

#[tokio::test(start_paused = true)]
async fn lost_and_damaged_digests_are_made_anew() {
    let mut world = World::new(3)
        .configure(|settings| settings.repair.scrub_interval = Duration::from_secs(32))
        .started()
        .await;
    world.settle().await;
    let keys = keys(100);
    write_all(&world, &keys, "v").await;
    world.settle().await;
    // All of them, from a release that had none.
    world.crash(3);
    let disk = world.take_disk(3);
    let mut batch = Batch::default();
    for (key, _) in disk.entries(Space::Trees) {
        batch.delete(Space::Trees, key);
    }
    batch.delete(Space::Meta, MetaKey::Trees);
    disk.commit(batch, Syncing::Always).await.expect("a store in memory");
    world.put_disk(3, disk);
    world.start(&[3]).await;
    world.assert_trees_are_right().await;
    // Some of them, while it runs and behind its back.
    let store = &world.member(3).store;
    for (key, value) in store.entries(Space::Trees).into_iter().step_by(3) {
        let mut damaged = value.to_vec();
        damaged[0] ^= 1;
        store.damage(Space::Trees, key, damaged.into());
    }
    assert!(!world.member(3).node.wrong_trees().await.is_empty());
    tokio::time::sleep(Duration::from_secs(120)).await;
    is_quiet(&world).await;
    assert!(world.metric(3, "starling_alarms_total") > 0.0, "somebody should look at that disk");
}

#[tokio::test(start_paused = true)]
async fn what_fewer_than_n_replicas_took_comes_to_all() {
    let world = without_hints().await;
    world.settle().await;
    let keys = keys(50);
    for other in [2, 3] {
        world.network.refuse(&address(1), &address(other));
    }
    for key in &keys {
        world.put(1, key, "v").level(Level::One).ok().await;
    }
    assert!(keys.iter().all(|key| world.stored(3, key).is_none()));
    world.network.heal_all();
    world
        .within(30, "it is everywhere", |world| keys.iter().all(|key| world.is_everywhere(key)))
        .await;
    is_quiet(&world).await;
}

#[tokio::test(start_paused = true)]
async fn a_hundred_writers_with_two_stale_contexts_end_in_exactly_two_siblings() {
    let world = World::new(3).started().await;
    world.settle().await;
    let key = path("b", "k");
    let mut contexts = [0, 1].map(|_| String::new());
    for (i, context) in contexts.iter_mut().enumerate() {
        let first = world.put(1, &key, &format!("chain {i}")).seen_nothing().ok().await;
        *context = first.context;
    }
    for i in 0..100 {
        let context = &mut contexts[i % 2];
        let value = format!("chain {} write {i}", i % 2);
        *context = world.put(i % 3 + 1, &key, &value).context(context).ok().await.context;
        if i == 49 {
            world.network.isolate(&address(3));
            world.put(1, &path("b", "meanwhile"), "v").ok().await;
            world.network.rejoin(&address(3));
        }
    }
    world.within(30, "it is everywhere", |world| world.is_everywhere(&key)).await;
    let expected = ["chain 0 write 98", "chain 1 write 99"];
    assert_eq!(world.values(2, &key).await, expected);
    is_quiet(&world).await;
}

/// Puts bytes that are no record in the place of a key's.
fn corrupt(world: &World, i: usize, key: &KeyPath) {
    let member = world.member(i);
    let vnode = member.node.layout().expect("it serves").state.vnode_of(key);
    member.store.damage(Space::Records, record_key(vnode, key), Bytes::from_static(b"no record"));
}

#[tokio::test(start_paused = true)]
async fn a_vnode_whose_digests_cannot_be_read_holds_up_no_other() {
    let mut world = without_hints().await;
    world.settle().await;
    world.crash(3);
    let keys = keys(100);
    write_all(&world, &keys, "v").await;
    let state = world.state(1);
    let first = keys.iter().map(|key| state.vnode_of(key)).min().expect("there are keys");
    let others: Vec<_> = keys.iter().filter(|key| state.vnode_of(key) != first).collect();
    let unreadable = |world: &World, is_so: bool| {
        let digests = || (Space::Trees, vnode_range(first));
        for i in [1, 2] {
            world.member(i).store.make_unreadable(is_so.then(digests));
        }
    };
    unreadable(&world, true);
    world.start(&[3]).await;
    world
        .within(30, "all others are there", |world| others.iter().all(|k| world.is_everywhere(k)))
        .await;
    assert!(!keys.iter().all(|key| world.is_everywhere(key)));
    unreadable(&world, false);
    world.within(90, "so is the rest", |world| keys.iter().all(|k| world.is_everywhere(k))).await;
}

#[tokio::test(start_paused = true)]
async fn one_damaged_record_leaves_the_other_keys_of_its_vnode_alone() {
    let mut world = World::new(3).started().await;
    world.settle().await;
    let keys = keys(50);
    write_all(&world, &keys, "v").await;
    world.settle().await;
    world.crash(3);
    world.settle().await;
    corrupt(&world, 1, &keys[0]);
    let read = world.get_at(1, &keys[0], Level::Quorum).await;
    let Err(OperationError::Damaged(reached)) = &read else { panic!("{read:?}") };
    assert_eq!((reached.acks.required, reached.acks.n), (2, 3));
    for key in &keys[1..] {
        assert_eq!(world.values(1, key).await, ["v"]);
    }
    world.start(&[3]).await;
    world.within(30, "it is everywhere", |world| world.is_everywhere(&keys[0])).await;
    world.within(30, "it counts again", |world| world.count(1, Space::Quarantine) == 0).await;
    is_quiet(&world).await;
}

#[tokio::test(start_paused = true)]
async fn a_key_whose_only_copies_are_damaged_says_so_until_the_loss_is_accepted() {
    let mut world = World::new(3).started().await;
    world.settle().await;
    let (key, other) = (path("b", "k"), path("b", "other"));
    write_all(&world, &[key.clone(), other.clone()], "v").await;
    world.settle().await;
    (1..=3).for_each(|i| corrupt(&world, i, &key));
    for round in 0..2 {
        for through in 1..=3 {
            let read = world.get_at(through, &key, Level::Quorum).await;
            let Err(error @ OperationError::Damaged(_)) = read else { panic!("{read:?}") };
            assert!(error.to_string().contains("--accept-loss"), "{error}");
            let write = world.put(through, &key, "blind").send().await;
            assert!(matches!(write, Err(OperationError::Damaged(_))), "{write:?}");
        }
        assert_eq!(world.values(1, &other).await, ["v"]);
        if round == 0 {
            // Not forgotten over a restart.
            world.crash(2);
            world.start(&[2]).await;
            world.settle().await;
        }
    }
    let released = world.member(1).node.begin_repair(true).await.expect("all are up");
    assert_eq!(released, 3);
    assert!(values_of(&world.get(2, &key).await).is_empty());
    world.put(3, &key, "again").ok().await;
    assert_eq!(world.values(1, &key).await, ["again"]);
    is_quiet(&world).await;
}

#[tokio::test(start_paused = true)]
async fn a_loss_is_accepted_though_what_was_written_since_is_damaged_too() {
    let world = World::new(1).started().await;
    let key = path("b", "k");
    write_all(&world, std::slice::from_ref(&key), "v").await;
    corrupt(&world, 1, &key);
    let read = world.get_at(1, &key, Level::One).await;
    assert!(matches!(read, Err(OperationError::Damaged(_))), "{read:?}");
    world.settle().await;
    world.put(1, &key, "since").seen_nothing().ok().await;
    corrupt(&world, 1, &key);
    let released = world.member(1).node.begin_repair(true).await.expect("it is up");
    assert_eq!((released, world.count(1, Space::Quarantine)), (1, 0));
    assert!(values_of(&world.get(1, &key).await).is_empty());
}
