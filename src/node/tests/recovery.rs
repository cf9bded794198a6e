//! Forced recovery, where a majority is lost.

use std::collections::BTreeSet;
use std::time::Duration;

use super::topology::keys;
use super::world::{World, id};
use crate::node::operation::{ChangeRequest, RecoverRequest, TopologyError};
use crate::peer::messages::{Answer, Recovery};
use crate::types::Level;

#[tokio::test(start_paused = true)]
async fn a_cluster_goes_on_without_a_majority_that_is_lost() {
    let mut world = World::new(5).started().await;
    world.settle().await;
    let keys = keys(40);
    for key in &keys {
        world.put(1, key, "v").level(Level::All).ok().await;
    }
    let survivors: BTreeSet<_> = [id(1), id(2)].into();
    let lost: BTreeSet<_> = [id(3), id(4), id(5)].into();
    let request = RecoverRequest { survivors, lost };
    let early = world.member(1).node.recover(request.clone()).await;
    assert!(matches!(early, Err(TopologyError::Alive(_))), "{early:?}");
    for i in 3..6 {
        world.crash(i);
    }
    world.settle().await;
    let stuck =
        world.change(1, ChangeRequest { leave: [id(5)].into(), ..Default::default() }).await;
    assert!(matches!(stuck, Err(TopologyError::NoMajority(_))), "{stuck:?}");
    let recovery = recovery_of(&world, &request);
    world.member(1).node.recover(request).await.expect("a majority is gone");
    world.within(30, "both serve", |w| w.serves(1) && w.serves(2)).await;
    let drop_lost = ChangeRequest { accept_loss: true, ..ChangeRequest::default() };
    world.change(2, drop_lost).await.expect("the lost are sent away");
    world.settled(60).await;
    assert_eq!(world.state(2).nodes.len(), 2);
    world.put(1, &keys[0], "after").ok().await;
    // A third survivor might have been away since it had kept the recovery, and wait for this one.
    assert_eq!(recovering(&world, 1, &recovery).await, Ok(()));
    world.crash(1);
    world.start(&[1]).await;
    assert_eq!(recovering(&world, 1, &recovery).await, Ok(()), "after a restart too");
    let mut other = recovery;
    other.state.nodes.pop();
    recovering(&world, 1, &other).await.expect_err("it went on without that");
}

/// The recovery that a node begins.
fn recovery_of(world: &World, request: &RecoverRequest) -> Recovery {
    let RecoverRequest { survivors, lost } = request;
    let survivors = survivors.iter().cloned().collect();
    Recovery { state: world.state(1).recovered(lost), survivors }
}

/// What a node says when it is told of a recovery.
async fn recovering(world: &World, i: usize, recovery: &Recovery) -> Result<(), String> {
    match world.member(i).node.answer_recover(recovery.clone()).await {
        Ok(Answer::Recovering(kept)) => kept,
        other => panic!("{other:?}"),
    }
}

/// It has to retire its actors first, and to make its trees.
#[tokio::test(start_paused = true)]
async fn a_node_that_is_starting_begins_no_recovery_that_would_have_it_serve() {
    let mut world = World::new(5).started().await;
    world.settle().await;
    let request = RecoverRequest { survivors: [id(1)].into(), lost: (2..=5).map(id).collect() };
    for i in 2..=5 {
        world.crash(i);
    }
    world.settle().await;
    let recovery = recovery_of(&world, &request);
    let node = &world.member(1).node;
    node.suspend("as in a start");
    recovering(&world, 1, &recovery).await.expect_err("it does not serve");
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(!world.serves(1));
    node.resume();
    assert_eq!(recovering(&world, 1, &recovery).await, Ok(()));
    world.within(10, "it goes on", |world| world.serves(1)).await;
}

#[tokio::test(start_paused = true)]
async fn a_recovery_that_a_survivor_can_not_keep_stops_nobody() {
    let mut world = World::new(5).started().await;
    for i in 2..=5 {
        world.crash(i);
    }
    world.settle().await;
    let survivors = [id(1), id(2)].into();
    let request = RecoverRequest { survivors, lost: (3..=5).map(id).collect() };
    world.member(1).node.recover(request).await.expect_err("one of them is down");
    assert!(world.serves(1));
    let request = RecoverRequest { survivors: [id(1)].into(), lost: (2..=5).map(id).collect() };
    world.member(1).node.recover(request).await.expect("it is up");
    world.within(10, "it goes on", |world| world.serves(1)).await;
}

/// Neither the first survivor of both, nor all of one are asked by the other.
#[tokio::test(start_paused = true)]
async fn of_two_operators_of_whom_one_counts_the_other_as_lost_one_has_their_way() {
    let mut world = World::new(7).started().await;
    for i in 4..=7 {
        world.crash(i);
    }
    world.settle().await;
    let all =
        RecoverRequest { survivors: [id(1), id(2), id(3)].into(), lost: (4..=7).map(id).collect() };
    let two =
        RecoverRequest { survivors: [id(2), id(3)].into(), lost: [1, 4, 5, 6, 7].map(id).into() };
    let (node, other) = (&world.member(1).node, &world.member(2).node);
    drop(tokio::join!(node.recover(all), other.recover(two)));
    world.within(30, "they serve", |world| world.serves(2) && world.serves(3)).await;
    assert_eq!(world.state(2), world.state(3));
}

#[tokio::test(start_paused = true)]
async fn of_two_operators_who_count_differently_one_has_their_way() {
    let mut world = World::new(7).started().await;
    for i in 4..=7 {
        world.crash(i);
    }
    world.settle().await;
    let lost = |from: usize| (from..=7).map(id).collect();
    let two = RecoverRequest { survivors: [id(1), id(2)].into(), lost: lost(3) };
    let three = RecoverRequest { survivors: [id(1), id(2), id(3)].into(), lost: lost(4) };
    let (node, other) = (&world.member(1).node, &world.member(2).node);
    let (two, three) = tokio::join!(node.recover(two), other.recover(three));
    assert!(two.is_ok() != three.is_ok(), "{two:?}, {three:?}");
    let survivors = if two.is_ok() { 2 } else { 3 };
    world.within(30, "they serve", |world| (1..=survivors).all(|i| world.serves(i))).await;
    assert_eq!(world.state(1), world.state(2));
}
