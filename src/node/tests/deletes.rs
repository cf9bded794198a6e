//! Deletes that stay deleted, and leave nothing behind (correctness, section 6).

use std::time::Duration;

use super::world::{World, address, path, values_of};
use crate::peer::messages::{Answer, Carried, PurgeAnswer, PurgeOrder, Refusal};
use crate::storage::Space;
use crate::types::{KeyPath, Level, PurgeNumber, VnodeId};

const GRACE: Duration = Duration::from_secs(120);

fn keys(count: usize) -> Vec<KeyPath> {
    (0..count).map(|i| path("b", &format!("key-{i}"))).collect()
}

async fn three() -> World {
    World::new(3).configure(|settings| settings.gc_grace = GRACE).started().await
}

fn is_empty(world: &World) -> bool {
    (1..=3).all(|i| {
        [Space::Records, Space::Deletes, Space::Trees, Space::Hints]
            .iter()
            .all(|space| world.count(i, *space) == 0)
    })
}

#[tokio::test(start_paused = true)]
async fn deleted_keys_are_gone_for_good_once_all_replicas_agree_and_not_before() {
    let mut world = three().await;
    world.settle().await;
    let keys = keys(100);
    for key in &keys {
        world.put(1, key, "v").ok().await;
    }
    world.settle().await;
    world.crash(3);
    for key in &keys {
        world.delete(2, key).ok().await;
    }
    tokio::time::sleep(GRACE * 10).await;
    assert_eq!(world.count(1, Space::Deletes), keys.len(), "one is down: nothing is purged");
    assert!(keys.iter().all(|key| world.stored(1, key).is_some_and(|r| r.all_tombstones())));
    world.start(&[3]).await;
    world.within(30, "it knows", |world| keys.iter().all(|key| world.is_everywhere(key))).await;
    assert_eq!(world.count(3, Space::Deletes), keys.len());
    world.within(20 * GRACE.as_secs(), "all is gone", is_empty).await;
    for key in &keys {
        assert!(values_of(&world.get_at(3, key, Level::All).await.expect("up")).is_empty());
    }
    tokio::time::sleep(GRACE * 10).await;
    assert!(is_empty(&world), "and nothing comes back");
    assert_eq!(world.metric(1, "starling_tombstones"), 0.0);
    assert!((1..=3).map(|i| world.metric(i, "starling_purged_keys_total")).sum::<f64>() >= 100.0);
}

#[tokio::test(start_paused = true)]
async fn a_record_beside_a_live_value_is_not_purged() {
    let world = three().await;
    world.settle().await;
    let key = path("b", "k");
    let first = world.put(1, &key, "first").seen_nothing().ok().await;
    world.put(1, &key, "second").seen_nothing().ok().await;
    world.delete(1, &key).context(&first.context).ok().await;
    tokio::time::sleep(GRACE * 10).await;
    assert_eq!(world.values(2, &key).await, ["-", "second"]);
}

#[tokio::test(start_paused = true)]
async fn a_key_is_written_anew_after_its_purge_with_dots_that_were_never_used() {
    let world = three().await;
    world.settle().await;
    let key = path("b", "k");
    let old = world.put(1, &key, "old").ok().await;
    let deleted = world.delete(1, &key).ok().await;
    world.within(20 * GRACE.as_secs(), "it is gone", is_empty).await;
    let new = world.put(1, &key, "new").ok().await;
    assert!(new.version != old.version && new.version != deleted.version);
    assert_eq!(world.values(2, &key).await, ["new"]);
    // A client that still works from the old context neither loses the new value nor comes to see
    // the old one.
    let late = world.put(3, &key, "late").context(&old.context).ok().await;
    assert_eq!(world.values(2, &key).await, ["late", "new"]);
    world.put(3, &key, "both").context(&late.context).ok().await;
    assert_eq!(world.values(1, &key).await, ["both", "new"]);
}

#[tokio::test(start_paused = true)]
async fn what_was_read_before_a_purge_is_refused_after_it() {
    let world = three().await;
    world.settle().await;
    let key = path("b", "k");
    world.put(1, &key, "old").level(Level::All).ok().await;
    let node = &world.member(1).node;
    let vnode = node.layout().expect("it serves").state.vnode_of(&key);
    let place = crate::node::replica::Place::new(vnode, key.clone());
    // On its way for hours.
    let late: Carried = node.carried(&place).await.expect("it reads").expect("it is there");
    world.delete(1, &key).level(Level::All).ok().await;
    world.within(20 * GRACE.as_secs(), "it is gone", is_empty).await;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
    let at = node.layout().expect("it serves").stamp;
    let merged = node.merge(&at, &place, late, &super::world::id(2), deadline).await;
    assert_eq!(merged, Err(Refusal::StalePurge(PurgeNumber::new(1))));
    assert!(is_empty(&world));
}

#[tokio::test(start_paused = true)]
async fn a_hint_stops_the_purging_of_its_partition_until_it_was_brought() {
    let world = World::new(4).configure(|settings| settings.gc_grace = GRACE).started().await;
    world.settle().await;
    let key = path("b", "k");
    let (_, replicas) = world.member(1).node.place_of(&key).expect("it serves");
    let outside = (1..=4).find(|i| !replicas.contains(&super::world::id(*i))).expect("one of four");
    let inside = (1..=4).find(|i| replicas[0] == super::world::id(*i)).expect("one of four");
    world.put(inside, &key, "v").level(Level::All).ok().await;
    let deleted = world.delete(inside, &key).level(Level::All).ok().await;
    // Kept for a replica, and not brought while that is out of reach from there.
    world.network.isolate(&address(outside));
    world.settle().await;
    world
        .put(outside, &path("b", "k"), "kept")
        .level(Level::Any)
        .context(&deleted.context)
        .ok()
        .await;
    assert_eq!(world.count(outside, Space::Hints), 1);
    tokio::time::sleep(GRACE * 10).await;
    world.network.rejoin(&address(outside));
    world.within(60, "the hint is brought", |world| world.count(outside, Space::Hints) == 0).await;
    assert_eq!(world.values(inside, &key).await, ["kept"], "what it kept was not purged away");
}

/// A message that told it may come a second time, after the key is gone, and carries the number of the
/// purge that removed it.
#[tokio::test(start_paused = true)]
async fn what_was_kept_and_told_under_a_number_stops_the_purge_of_that_number() {
    let mut world = World::new(4).configure(|settings| settings.gc_grace = GRACE).started().await;
    world.settle().await;
    let key = path("b", "k");
    let (vnode, replicas) = world.member(1).node.place_of(&key).expect("it serves");
    let outside = (1..=4).find(|i| !replicas.contains(&super::world::id(*i))).expect("one of four");
    world.network.isolate(&address(outside));
    world.settle().await;
    world.put(outside, &key, "kept").level(Level::Any).ok().await;
    assert_eq!(world.count(outside, Space::Hints), 1);
    let member = world.member(outside);
    let number = PurgeNumber::new(1);
    member.node.vnodes.enter_purge(vnode, number, &*member.store).await.expect("it is kept");
    world.network.rejoin(&address(outside));
    world.within(60, "the hint is brought", |world| world.count(outside, Space::Hints) == 0).await;
    assert!(!keeps_none(&world, outside, vnode, number).await);
    assert!(keeps_none(&world, outside, vnode, number.next()).await);
    // Nor does it know after a restart what it had told before.
    world.crash(outside);
    world.start(&[outside]).await;
    assert!(!keeps_none(&world, outside, vnode, number.next()).await);
    assert!(keeps_none(&world, outside, vnode, number.next().next()).await);
}

async fn keeps_none(world: &World, i: usize, vnode: VnodeId, number: PurgeNumber) -> bool {
    let node = &world.member(i).node;
    let at = node.layout().expect("it serves").stamp;
    let answer = node.answer_purge(&at, vnode, PurgeOrder::NoHints(number)).await;
    match answer.expect("nothing changes") {
        Answer::Purge(PurgeAnswer::Done(none)) => none,
        other => panic!("{other:?}"),
    }
}

/// Where all others have stripped it, nothing else shows that the key was deleted.
#[tokio::test(start_paused = true)]
async fn husks_are_given_to_whoever_mends() {
    let world = three().await;
    world.settle().await;
    let (deleted, key) = (path("b", "deleted"), path("b", "k"));
    world.delete(1, &deleted).level(Level::All).ok().await;
    let tombstone = world.stored(1, &deleted).expect("just deleted");
    let record = tombstone.stripped().expect("nothing else").to_stored_bytes();
    let node = &world.member(1).node;
    let at = node.layout().expect("it serves").stamp;
    let vnode = world.state(1).vnode_of(&key);
    let place = crate::node::replica::Place::new(vnode, key.clone());
    let husk = Carried { record, purge: PurgeNumber::default() };
    let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
    node.merge(&at, &place, husk, &super::world::id(2), deadline).await.expect("nothing is newer");
    let page = node.answer_page(vnode, None, 1 << 20, None).await.expect("readable");
    let Answer::Page(page) = page else { panic!("{page:?}") };
    assert!(page.records.iter().any(|(path, _)| *path == key));
}
