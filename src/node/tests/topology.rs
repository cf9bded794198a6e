//! A ring that changes: joining, leaving, replacing, buckets of their own n, lost majorities.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

use super::world::{World, address, id, path};
use crate::node::imprint::encode_digest;
use crate::node::operation::{BucketChange, ChangeRequest, JoinRequest, TopologyError};
use crate::node::replica::Place;
use crate::node::trees::Trees;
use crate::node::{Node, Phase};
use crate::peer::messages::{Answer, Carried, Request};
use crate::protocol::cluster::TransitionPhase;
use crate::storage::schema::{parse_tree_key, record_key};
use crate::storage::{Cached, MemoryStore, Space, Store, Syncing};
use crate::types::{Bucket, KeyPath, Level, PurgeNumber, ReplicationFactor, VnodeId};

pub(super) fn keys(count: usize) -> Vec<KeyPath> {
    (0..count).map(|i| path("b", &format!("key-{i}"))).collect()
}

fn join(i: usize) -> ChangeRequest {
    let peer = Some(address(i).to_string());
    let join = vec![JoinRequest { id: id(i), peer, zone: None, weight: None }];
    ChangeRequest { join, ..ChangeRequest::default() }
}

/// Three nodes with the same value under each key, and a fourth that can be taken in.
async fn three_and_a_candidate(keys: &[KeyPath]) -> World {
    let mut world = World::new(3).started().await;
    world.settle().await;
    write_all(&world, 1, keys, "v").await;
    world.start_candidate(4, false).await;
    world.settle().await;
    world
}

async fn write_all(world: &World, through: usize, keys: &[KeyPath], value: &str) {
    for key in keys {
        world.put(through, key, value).ok().await;
    }
}

/// Each node reads each key, at quorum.
async fn assert_read_everywhere(world: &World, nodes: &[usize], keys: &[KeyPath], value: &str) {
    for through in nodes {
        for key in keys {
            assert_eq!(world.values(*through, key).await, [value], "{key:?} through {through}");
        }
    }
}

/// What each replica of each key holds is the same.
fn assert_converged(world: &World, keys: &[KeyPath], n: usize) {
    for key in keys {
        let (vnode, replicas) = world.member(1).node.place_of(key).expect("it serves");
        assert_eq!((replicas.len(), vnode.table.get() as usize >= n), (n, true), "{key:?}");
        let holders =
            replicas.iter().map(|id| id.as_str()["node-".len()..].parse().expect("named"));
        let held: Vec<_> = holders.map(|i: usize| world.stored(i, key)).collect();
        assert!(held[0].is_some() && held.iter().all(|other| *other == held[0]), "{key:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_taken_in_is_fsynced_before_a_merge_that_it_left_nothing_to_do_for_is_acknowledged()
 {
    let world = three_and_a_candidate(&[]).await;
    world.change(1, join(4)).await.expect("it fits");
    world.within(5, "it prepares", |world| world.serves(4)).await;
    let member = world.member(4);
    let layout = member.node.layout().expect("it serves");
    let transition = layout.state.transition.as_ref().expect("it has not ended");
    assert_eq!(transition.phase, TransitionPhase::Prepare);
    let comes = |key: &KeyPath| layout.is_incoming(layout.state.next_vnode_of(key));
    let key = keys(100).into_iter().find(comes).expect("three quarters of all do");
    let place = Place::new(layout.state.next_vnode_of(&key), key.clone());
    let carried = Carried { record: written(&key).await, purge: PurgeNumber::default() };
    // What a page brings; the node's own work does not come in between, as nothing waits here.
    let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
    let from = (&id(1), Syncing::Later);
    let page = vec![(key.clone(), carried.clone())];
    let taken = member.node.merge_all(&layout.stamp, place.vnode, page, from, deadline).await;
    assert_eq!(taken, [(key, Ok(None))]);
    let after_a_power_cut = || {
        let found = member.store.crash().get_cached(Space::Records, place.key());
        matches!(found, Ok(Cached::Hit(Some(_))))
    };
    assert!(!after_a_power_cut());
    let merged = member.node.merge(&layout.stamp, &place, carried, &id(1), deadline).await;
    assert_eq!(merged, Ok(None), "nothing to do");
    assert!(after_a_power_cut());
}

/// The stored record of a key, written at another cluster: this one has nothing of it.
async fn written(key: &KeyPath) -> Bytes {
    let other = World::new(1).started().await;
    other.put(1, key, "v").ok().await;
    other.stored(1, key).expect("it was written").to_stored_bytes()
}

/// Neither what comes nor what goes is listed where nothing differs.
#[tokio::test(start_paused = true)]
async fn a_quiet_ring_changes_without_a_list_of_what_it_holds() {
    let keys = keys(200);
    let world = three_and_a_candidate(&keys).await;
    world.change(1, join(4)).await.expect("it fits");
    world.settled(60).await;
    assert_converged(&world, &keys, 3);
    let sent = |message: &str| -> usize { (1..=4).map(|i| sent_by(&world, i, message)).sum() };
    assert!(sent("page") > 0 && sent("same-roots") > 0);
    for list in ["digests", "husks", "lacks", "fetch"] {
        assert_eq!(sent(list), 0, "{list}");
    }
}

/// How many answers to such messages a node counts, of each peer and outcome one series.
fn sent_by(world: &World, i: usize, message: &str) -> usize {
    let text = world.member(i).metrics.encode();
    let label = format!("message=\"{message}\"");
    let is_it = |line: &&str| line.starts_with("starling_replica_calls") && line.contains(&label);
    text.lines().filter(is_it).count()
}

/// What a pass has to show, equal roots do, unless one of the trees may be wrong.
#[tokio::test(start_paused = true)]
async fn a_replica_with_the_same_root_lists_nothing_for_who_passes_over_it() {
    let keys = keys(50);
    let world = World::new(1).started().await;
    write_all(&world, 1, &keys, "v").await;
    let node = &world.member(1).node;
    let (vnode, _) = node.place_of(&keys[0]).expect("it serves");
    let listed = async |root| {
        let request = Request::Digests { vnode, to: vnode.table, after: None, root };
        match node.answer_taker(request).await {
            Ok(Answer::Digests(page)) => page.entries.len(),
            other => panic!("{other:?}"),
        }
    };
    let root = node.trees.known_root(vnode);
    let all = listed(None).await;
    assert!(all > 0 && root.is_some());
    assert_eq!(listed(root).await, 0);
    assert_eq!(listed(root.map(|root| root ^ 1)).await, all);
    let known = root.expect("its trees are loaded");
    assert_eq!(same_roots(node, &[(vnode, known), (vnode, known ^ 1)]).await, [true, false]);
    node.trees.doubt(vnode);
    assert_eq!(listed(root).await, all, "it may lack something");
    assert_eq!(same_roots(node, &[(vnode, known)]).await, [false]);
    assert_eq!(node.trees.known_root(vnode), None);
}

/// Of which of some vnodes a node says to have this root.
async fn same_roots(node: &Arc<Node>, roots: &[(VnodeId, u64)]) -> Vec<bool> {
    match node.answer_taker(Request::SameRoots(roots.to_vec())).await {
        Ok(Answer::SameRoots(same)) => same.iter().map(Option::is_some).collect(),
        other => panic!("{other:?}"),
    }
}

/// It may have been read before it was dropped.
#[tokio::test(start_paused = true)]
async fn a_vnode_that_is_dropped_while_the_trees_are_made_has_no_root_that_is_known() {
    let world = World::new(1).started().await;
    let node = &world.member(1).node;
    let (vnode, _) = node.place_of(&path("b", "key")).expect("it serves");
    let trees = Trees::default();
    trees.forget(vnode);
    trees.load(&*world.member(1).store, node.shape()).await.expect("a store in memory");
    assert_eq!(trees.known_root(vnode), None);
    trees.forget(vnode);
    assert_eq!(trees.known_root(vnode), Some(0), "nothing is there now");
}

/// Deleted keys are counted by vnode: what is dropped is counted no longer, without a look at the rest.
#[tokio::test(start_paused = true)]
async fn deleted_keys_are_counted_where_they_are_after_a_change() {
    let keys = keys(60);
    let world = three_and_a_candidate(&keys).await;
    for key in &keys[..40] {
        world.delete(1, key).ok().await;
    }
    for step in 0..2 {
        if step == 0 {
            world.change(2, join(4)).await.expect("it is applied");
        } else {
            let narrower = BucketChange { n: Some(1), ..BucketChange::default() };
            let bucket = Bucket::new("b").expect("valid");
            world.member(2).node.change_bucket(bucket, Some(narrower)).await.expect("it fits");
        }
        world.settled(60).await;
        let mut all = 0;
        for i in 1..=4 {
            let member = world.member(i);
            let counted = member.node.trees.deleted();
            let there = member.store.entries(Space::Deletes).len();
            assert_eq!(counted.tombstones + counted.husks, there as i64, "node-{i}");
            all += there;
        }
        assert!(all >= 40, "they are not purged yet");
    }
}

#[tokio::test(start_paused = true)]
async fn a_fourth_node_joins_under_load_and_leaves_again() {
    let keys = keys(200);
    let world = three_and_a_candidate(&keys).await;
    assert!(!world.serves(4), "a candidate until applied");
    let shown = world.member(2).node.cluster_view().expect("it serves");
    let roles: Vec<_> = shown.nodes.iter().map(|node| (node.id.clone(), node.role)).collect();
    assert_eq!(roles[3], (id(4), crate::node::view::NodeRole::Candidate), "{roles:?}");
    world.change(1, join(4)).await.expect("it fits");
    let mut round = 0;
    while world.state(1).layout_version.get() == 1 {
        round += 1;
        tokio::time::sleep(Duration::from_millis(50)).await;
        let waits = || world.member(1).node.cluster_view().expect("it serves").transition;
        assert!(round < 200, "it ends: {:?}", waits());
        for (i, key) in keys.iter().enumerate().skip(round % 7).step_by(7) {
            let value = format!("during-{round}");
            world.put(1 + (i + round) % 3, key, &value).ok().await;
            assert_eq!(world.values(1 + i % 3, key).await, [value], "{key:?} in round {round}");
        }
    }
    world.settled(60).await;
    write_all(&world, 2, &keys, "after").await;
    world.settle().await;
    assert_read_everywhere(&world, &[1, 2, 3, 4], &keys, "after").await;
    assert_converged(&world, &keys, 3);
    let held: usize = (1..5).map(|i| world.count(i, Space::Records)).sum();
    assert_eq!(held, 600, "what was held before is dropped");
    let leave = ChangeRequest { leave: [id(1)].into(), ..ChangeRequest::default() };
    world.change(4, leave).await.expect("it fits");
    world.settled(60).await;
    assert_read_everywhere(&world, &[2, 3, 4], &keys, "after").await;
    let phase = world.member(1).node.phase().borrow().clone();
    assert!(matches!(phase, Phase::Refusing(_)), "who has left serves nothing: {phase:?}");
    assert_eq!(world.count(1, Space::Records), 0);
    world.assert_trees_are_right().await;
}

#[tokio::test(start_paused = true)]
async fn one_node_grows_to_three_that_apply_for_themselves() {
    let mut world = World::new(1).started().await;
    let keys = keys(50);
    write_all(&world, 1, &keys, "v").await;
    world.start_candidate(2, true).await;
    world.start_candidate(3, true).await;
    world.within(60, "both are in", |world| world.state(1).nodes.len() == 3).await;
    world.settled(60).await;
    assert_read_everywhere(&world, &[1, 2, 3], &keys, "v").await;
    assert_converged(&world, &keys, 3);
}

#[tokio::test(start_paused = true)]
async fn a_lost_node_is_replaced_by_another_and_a_wiped_one_by_itself() {
    let keys = keys(100);
    let mut world = three_and_a_candidate(&keys).await;
    let replace = ChangeRequest {
        replace: [(id(3), id(4))].into(),
        dead: [id(3)].into(),
        ..ChangeRequest::default()
    };
    let alive = world.change(1, replace.clone()).await;
    assert!(matches!(alive, Err(TopologyError::Alive(_))), "{alive:?}");
    world.crash(3);
    world.settle().await;
    write_all(&world, 1, &keys, "w").await;
    world.change(1, replace).await.expect("it is dead");
    world.settled(60).await;
    assert_read_everywhere(&world, &[1, 2, 4], &keys, "w").await;
    world.crash(4);
    world.wipe(4);
    world.start_candidate(4, true).await;
    world.within(60, "it is in again", |world| world.serves(4)).await;
    world.settled(60).await;
    world.settle().await;
    assert_converged(&world, &keys, 3);
}

#[tokio::test(start_paused = true)]
async fn a_founder_that_comes_back_empty_to_a_ring_that_has_grown_takes_its_place_again() {
    let keys = keys(60);
    let mut world = three_and_a_candidate(&keys).await;
    world.change(1, join(4)).await.expect("it fits");
    world.settled(60).await;
    world.crash(3);
    world.settle().await;
    write_all(&world, 1, &keys, "w").await;
    // It knows the founders by its settings, and that is no cluster of those any more.
    let durability = world.durability();
    world.put_disk(3, MemoryStore::new(durability));
    world.start_candidate(3, false).await;
    world.settle().await;
    assert!(!world.serves(3));
    let itself = ChangeRequest { replace: [(id(3), id(3))].into(), ..ChangeRequest::default() };
    world.change(1, itself).await.expect("it waits for that");
    world.within(60, "it is in again", |world| world.serves(3)).await;
    world.settled(60).await;
    world.settle().await;
    assert_read_everywhere(&world, &[1, 2, 3, 4], &keys, "w").await;
    assert_converged(&world, &keys, 3);
}

#[tokio::test(start_paused = true)]
async fn of_two_changes_asked_of_one_node_at_once_one_is_decided() {
    let world = World::new(5).started().await;
    world.settle().await;
    let weigh = |i: usize| ChangeRequest {
        weight: [(id(i), crate::types::Weight::new(2.0).expect("in range"))].into(),
        ..ChangeRequest::default()
    };
    for round in 0..20 {
        let late = async {
            tokio::time::sleep(Duration::from_micros(250 * round)).await;
            world.change(1, weigh(3)).await
        };
        let (one, other) = tokio::join!(world.change(1, weigh(2)), late);
        assert!(one.is_ok() != other.is_ok(), "{round}: {one:?}, {other:?}");
        // The same epoch is the same state everywhere.
        world.settled(60).await;
        let back = ChangeRequest {
            weight: [2, 3].map(|i| (id(i), crate::types::Weight::default())).into(),
            ..ChangeRequest::default()
        };
        world.change(1, back).await.expect("nothing else runs");
        world.settled(60).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_read_that_repairs_waits_for_a_replica_that_has_just_been_taken_in() {
    let mut world = World::new(3).configure(|s| s.hints.max_bytes = 0).started().await;
    world.settle().await;
    let key = path("b", "key");
    world.put(1, &key, "v").level(Level::All).ok().await;
    world.start_candidate(4, false).await;
    world.settle().await;
    // Node 3 lacks this, and nothing but a read brings it there soon.
    world.network.cut(&address(1), &address(3));
    world.put(1, &key, "w").ok().await;
    world.network.heal(&address(1), &address(3));
    for i in 1..4 {
        let slow = Duration::from_millis(200);
        world.network.delay(&address(4), &address(i), slow..=slow);
    }
    let replace = ChangeRequest { replace: [(id(3), id(4))].into(), ..ChangeRequest::default() };
    world.change(1, replace).await.expect("it fits");
    world.crash(2);
    assert!(!world.serves(4), "it is still starting");
    // The repair needs two of the new set: nodes 1, 2 and 4.
    assert_eq!(world.values(1, &key).await, ["w"]);
    world.start(&[2]).await;
    world.settled(60).await;
}

#[tokio::test(start_paused = true)]
async fn an_abort_returns_to_the_old_sets() {
    let keys = keys(100);
    let world = three_and_a_candidate(&keys).await;
    world.change(1, join(4)).await.expect("it fits");
    // It can't take anything in: the transition waits.
    for i in 1..4 {
        let slow = Duration::from_secs(30);
        world.network.delay(&address(4), &address(i), slow..=slow);
    }
    let second =
        world.change(2, ChangeRequest { leave: [id(2)].into(), ..Default::default() }).await;
    assert!(matches!(second, Err(TopologyError::Running(_))), "{second:?}");
    write_all(&world, 1, &keys, "w").await;
    let before = world.state(1).epoch;
    world.member(2).node.abort().await.expect("one runs");
    assert!(matches!(world.member(2).node.abort().await, Err(TopologyError::NoTransition)));
    world.network.heal_all();
    world.within(30, "all know", |w| (1..4).all(|i| w.state(i).epoch > before)).await;
    assert_eq!(world.state(1).layout_version.get(), 1);
    assert_read_everywhere(&world, &[1, 2, 3], &keys, "w").await;
}

#[tokio::test(start_paused = true)]
async fn a_write_that_no_replica_took_outlives_an_abort() {
    let mut world = World::new(3).configure(|settings| {
        settings.replication_factor = ReplicationFactor::new(2).expect("valid");
    });
    world.start(&[1, 2, 3]).await;
    world.start_candidate(4, false).await;
    world.settle().await;
    // What node 4 is to take in it can't reach: the transition stays where it is.
    let cut = |a: usize, b: usize| {
        world.network.refuse(&address(a), &address(b));
        world.network.refuse(&address(b), &address(a));
    };
    let replace = ChangeRequest { replace: [(id(3), id(4))].into(), ..join(4) };
    world.change(2, replace).await.expect("it fits");
    cut(1, 4);
    cut(3, 4);
    world.within(10, "it prepares", |world| world.serves(4)).await;
    cut(1, 2);
    cut(3, 2);
    world.settle().await;
    let layout = world.member(2).node.layout().expect("it serves");
    let is_elsewhere = |key: &KeyPath| {
        let set = layout.replica_set(key);
        set.local.is_none() && set.peers.iter().any(|peer| peer.id == id(4))
    };
    let key = keys(100).into_iter().find(is_elsewhere).expect("a third of all is");
    world.put(2, &key, "kept").level(Level::Any).ok().await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(world.count(2, Space::Hints), 1, "node 4 alone is not enough");
    world.network.heal_all();
    world.settle().await;
    if world.state(1).transition.is_some() {
        world.member(1).node.abort().await.expect("it has not ended");
    }
    world.settled(60).await;
    world.within(60, "it is brought", |world| world.count(2, Space::Hints) == 0).await;
    assert_eq!(world.values(1, &key).await, ["kept"]);
}

#[tokio::test(start_paused = true)]
async fn a_former_holder_keeps_what_it_can_not_read_until_it_can() {
    let keys = keys(200);
    let mut world = three_and_a_candidate(&keys).await;
    let holder = 3;
    // It asks the others what they lack before it drops anything.
    for i in [1, 2, 4] {
        let slow = Duration::from_millis(100);
        world.network.delay(&address(holder), &address(i), slow..=slow);
    }
    world.change(1, join(4)).await.expect("it fits");
    while world.state(1).transition.is_some() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let state = world.state(1);
    let was_held = |key: &&KeyPath| {
        let vnode = state.vnode_of(key);
        state.former.iter().any(|former| former.node == id(holder) && former.has(vnode))
    };
    let key = keys.iter().find(was_held).expect("some vnodes have moved");
    let vnode = state.vnode_of(key);
    // Before it has dropped anything.
    world.crash(holder);
    let disk = world.take_disk(holder);
    let place = record_key(vnode, key);
    let Ok(Cached::Hit(Some(stored))) = disk.get_cached(Space::Records, &place) else {
        panic!("{key:?} is held by node-{holder} no more");
    };
    // A digest that nobody has, of a record that a later release wrote.
    let entries = disk.entries(Space::Trees);
    let is_of_key = |(entry, _): &&(Bytes, Bytes)| {
        parse_tree_key(entry).is_ok_and(|(of, _, path)| (of, &path) == (vnode, key))
    };
    let (digest, _) = entries.iter().find(is_of_key).expect("it has a digest");
    disk.damage(Space::Trees, digest.clone(), encode_digest(digest, 1));
    let whole = [&[u8::MAX], &stored[1..stored.len() - 8]].concat();
    let newer = Bytes::from([&whole[..], &xxh3_64(&whole).to_be_bytes()].concat());
    disk.damage(Space::Records, place.clone(), newer.clone());
    world.put_disk(holder, disk);
    world.start(&[holder]).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    let store = &world.member(holder).store;
    let held = store.get_cached(Space::Records, &place);
    assert!(matches!(held, Ok(Cached::Hit(Some(held))) if held == newer), "it is not dropped");
    assert!(!world.state(1).former.is_empty());
    store.damage(Space::Records, place.clone(), stored);
    world.settled(60).await;
    assert!(matches!(store.get_cached(Space::Records, &place), Ok(Cached::Hit(None))));
    assert_read_everywhere(&world, &[1, 2, 3, 4], &keys, "v").await;
    assert_converged(&world, &keys, 3);
}

#[tokio::test(start_paused = true)]
async fn a_bucket_gets_an_n_of_its_own_and_loses_it_again() {
    let mut world = World::new(5).started().await;
    world.settle().await;
    let keys: Vec<KeyPath> = (0..60).map(|i| path("wide", &format!("k{i}"))).collect();
    let others = keys_of("b", 60);
    write_all(&world, 1, &keys, "v").await;
    write_all(&world, 1, &others, "v").await;
    let bucket = Bucket::new("wide").expect("valid");
    for n in [5, 1, 3] {
        let change = BucketChange { n: Some(n), ..BucketChange::default() };
        let node = &world.member(2).node;
        let (view, moves) =
            node.change_bucket(bucket.clone(), Some(change)).await.expect("it fits");
        assert_eq!((view.n, moves), (n, true));
        let value = format!("n{n}");
        write_all(&world, 3, &keys, &value).await;
        world.settled(60).await;
        world.settle().await;
        assert_read_everywhere(&world, &[1, 2, 3, 4, 5], &keys, &value).await;
        assert_converged(&world, &keys, n as usize);
        assert_converged(&world, &others, 3);
        let held: usize = (1..6).map(|i| world.count(i, Space::Records)).sum();
        assert_eq!(held, 60 * n as usize + 60 * 3);
        world.assert_trees_are_right().await;
    }
    world.crash(5);
}

/// A node that has yet to drop what another change of a bucket left gives none of it to the next.
#[tokio::test(start_paused = true)]
async fn what_a_bucket_has_left_in_another_table_is_not_taken_in_with_the_next_bucket() {
    let world = World::new(5).started().await;
    world.settle().await;
    let widen = async |bucket: &str| {
        let change = BucketChange { n: Some(5), ..BucketChange::default() };
        let bucket = Bucket::new(bucket).expect("valid");
        world.member(2).node.change_bucket(bucket, Some(change)).await.expect("it fits");
    };
    let [first, second] = ["first", "second"].map(|bucket| keys_of(bucket, 1).remove(0));
    write_all(&world, 1, &[first.clone(), second.clone()], "v").await;
    let before = world.state(1).vnode_of(&first);
    widen("first").await;
    world.settled(60).await;
    let home = world.state(1).vnode_of(&first);
    assert_ne!(home, before);
    widen("second").await;
    let node = &world.member(2).node;
    let layout = node.layout().expect("it serves");
    assert!(layout.state.transition.is_some());
    let to = home.table;
    let from = layout.state.vnode_of(&second);
    assert!(node.goes_to(&layout, from, &second, to));
    assert!(node.goes_to(&layout, home, &first, to), "where it is at home");
    assert!(!node.goes_to(&layout, before, &first, to), "what is left of it");
}

fn keys_of(bucket: &str, count: usize) -> Vec<KeyPath> {
    (0..count).map(|i| path(bucket, &format!("key-{i}"))).collect()
}
