//! Reads and writes while nodes are dead, cut off or slow.

use std::time::Duration;

use tokio::time::Instant;

use super::world::{World, address, id, path, values_of};
use crate::node::view::{NodeState, Readiness};
use crate::protocol::operation::{OperationError, ReplicaOutcome};
use crate::storage::schema::record_key;
use crate::storage::{Batch, Space, Store, Syncing};
use crate::types::Level;

fn state_of(world: &World, seen_by: usize, node: usize) -> NodeState {
    let view = world.member(seen_by).node.cluster_view().expect("it serves");
    view.nodes.iter().find(|n| n.id == id(node)).expect("listed").state
}

#[tokio::test(start_paused = true)]
async fn quorums_go_on_without_one_of_three_before_and_after_it_is_known_to_be_down() {
    let mut world = World::new(3).started().await;
    world.settle().await;
    world.crash(3);
    for round in 0..2 {
        for i in 0..30 {
            let key = path("b", &format!("{round}-{i}"));
            world.put(i % 2 + 1, &key, "v").ok().await;
            assert_eq!(world.values((i + 1) % 2 + 1, &key).await, ["v"]);
        }
        world.settle().await;
        assert_eq!(state_of(&world, 1, 3), NodeState::Down);
        assert_eq!(state_of(&world, 1, 2), NodeState::Up);
    }
}

#[tokio::test(start_paused = true)]
async fn a_dead_node_is_known_as_down_within_five_seconds() {
    let mut world = World::new(3).started().await;
    world.settle().await;
    world.crash(2);
    let dead = Instant::now();
    while state_of(&world, 1, 2) != NodeState::Down || state_of(&world, 3, 2) != NodeState::Down {
        assert!(dead.elapsed() < Duration::from_secs(5), "still not known as down");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn all_is_refused_at_once_when_a_replica_is_known_to_be_down() {
    let mut world = World::new(3).started().await;
    world.settle().await;
    world.crash(2);
    world.settle().await;
    let key = path("b", "k");
    let refused = world.put(1, &key, "v").level(Level::All).send().await;
    let Err(OperationError::Unavailable(reached)) = refused else { panic!("{refused:?}") };
    assert_eq!((reached.acks.got, reached.acks.required, reached.acks.n), (0, 3, 3));
    let down = reached.replicas.iter().find(|r| r.node == id(2)).expect("listed");
    assert_eq!(down.outcome, ReplicaOutcome::Down);
    assert!(values_of(&world.get(1, &key).await).is_empty(), "nothing was sent");
}

#[tokio::test(start_paused = true)]
async fn a_stale_replica_is_mended_by_reads_and_then_it_is_quiet() {
    let world = World::new(3).started().await;
    world.settle().await;
    let key = path("b", "k");
    world.put(1, &key, "old").level(Level::All).ok().await;
    world.network.refuse(&address(1), &address(3));
    world.put(1, &key, "new").ok().await;
    world.network.heal_all();
    // At once, before anything else mends it.
    let all = world.get_at(3, &key, Level::All).await.expect("all are up");
    assert_eq!(values_of(&all), ["new"]);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let repairs = |world: &World| {
        (1..=3).map(|i| world.metric(i, "starling_read_repairs_total")).sum::<f64>()
    };
    let before = repairs(&world);
    assert!(before > 0.0, "the stale replica was mended");
    for through in 1..=3 {
        let one = world.get_at(through, &key, Level::One).await.expect("it reads its own");
        assert_eq!(values_of(&one), ["new"]);
        world.get_at(through, &key, Level::All).await.expect("all are up");
    }
    assert_eq!(repairs(&world), before, "nothing is left to mend");
}

#[tokio::test(start_paused = true)]
async fn a_write_that_may_be_applied_says_so_and_its_context_lets_a_retry_replace_it() {
    let world = World::new(3).started().await;
    let key = path("b", "k");
    world.put(1, &key, "base").level(Level::All).ok().await;
    for other in [2, 3] {
        world.network.cut(&address(1), &address(other));
    }
    let seen = world.get_at(1, &key, Level::One).await.expect("it has it").context;
    let timeout = Duration::from_secs(1);
    let failed = world.put(1, &key, "try").context(&seen).within(timeout).send().await;
    let Err(error @ OperationError::Timeout { .. }) = failed else { panic!("{failed:?}") };
    assert!(error.maybe_applied());
    let OperationError::Timeout { context: Some(context), reached, .. } = error else {
        panic!("a write that was begun brings a context")
    };
    assert_eq!(reached.acks.got, 1);
    world.network.heal_all();
    world.settle().await;
    world.put(2, &key, "try").context(&context).ok().await;
    assert_eq!(values_of(&world.get_at(3, &key, Level::All).await.expect("up")), ["try"]);
}

#[tokio::test(start_paused = true)]
async fn a_blind_retry_through_another_replica_shows_one_value() {
    let world = World::new(3).started().await;
    let key = path("b", "k");
    for other in [2, 3] {
        world.network.cut(&address(1), &address(other));
    }
    let timeout = Duration::from_secs(1);
    let failed = world.put(1, &key, "try").seen_nothing().within(timeout).send().await;
    assert!(failed.expect_err("cut off").maybe_applied());
    world.network.heal_all();
    world.settle().await;
    world.put(2, &key, "try").seen_nothing().ok().await;
    let all = world.get_at(3, &key, Level::All).await.expect("all are up");
    assert_eq!(values_of(&all), ["try"], "twins are shown as one");
}

#[tokio::test(start_paused = true)]
async fn a_silent_replica_delays_reads_but_fails_none() {
    let world = World::new(3).started().await;
    let key = path("b", "k");
    world.put(1, &key, "v").level(Level::All).ok().await;
    world.network.isolate(&address(3));
    for _ in 0..20 {
        let begun = Instant::now();
        assert_eq!(world.values(1, &key).await, ["v"]);
        assert!(begun.elapsed() < Duration::from_secs(1), "it waits for the silent one");
        world.put(2, &key, "v").ok().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_outside_the_set_that_is_cut_off_from_a_replica_forwards_to_another() {
    let world = World::new(5).started().await;
    for i in 0..30 {
        let key = path("b", &format!("key-{i}"));
        let view =
            world.member(1).node.explain(key.clone(), Instant::now() + Duration::from_secs(1));
        let replicas = view.await.expect("it serves").replicas;
        let outside = (1..=5).find(|n| replicas.iter().all(|r| r.node != id(*n)));
        let outside = outside.expect("three of five hold it");
        let first = replicas[0].node.clone();
        let number = (1..=5).find(|n| id(*n) == first).expect("one of five");
        world.network.refuse(&address(outside), &address(number));
        world.put(outside, &key, "v").ok().await;
        assert_eq!(world.values(outside, &key).await, ["v"]);
        world.network.heal_all();
    }
}

#[tokio::test(start_paused = true)]
async fn a_corrupt_record_is_never_served_and_is_mended_from_the_others() {
    let world = World::new(3).started().await;
    world.settle().await;
    let key = path("b", "k");
    world.put(1, &key, "v").level(Level::All).ok().await;
    let member = world.member(1);
    let vnode = member.node.layout().expect("it serves").state.vnode_of(&key);
    let mut batch = Batch::default();
    batch.put(Space::Records, record_key(vnode, &key), &b"not a record"[..]);
    member.store.commit(batch, Syncing::Always).await.expect("the store works");
    assert_eq!(world.values(1, &key).await, ["v"], "the others have it");
    assert!(world.retired(1) >= 1.0, "the vnode's actor was retired");
    world.settle().await;
    let one = world.get_at(1, &key, Level::One).await.expect("mended");
    assert_eq!(values_of(&one), ["v"]);
}

#[tokio::test(start_paused = true)]
async fn readiness_waits_until_it_is_known_who_is_up() {
    let mut world = World::new(3).started().await;
    world.settle().await;
    assert_eq!(world.member(1).node.readiness_view(), Readiness::Ready);
    world.crash(2);
    world.crash(3);
    world.crash(1);
    world.start(&[1]).await;
    assert!(matches!(world.member(1).node.readiness_view(), Readiness::NotReady(_)));
    world.settle().await;
    assert_eq!(world.member(1).node.readiness_view(), Readiness::Ready);
}
