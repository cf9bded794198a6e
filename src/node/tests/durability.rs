//! What outlives a power cut, a clean stop, a copied or exchanged disk.

use super::world::{World, path, values_of};
use crate::node::directory::DirectoryError;
use crate::node::{Phase, StartError};
use crate::protocol::causality::MAX_TOKEN_CHARS;
use crate::protocol::operation::OperationError;
use crate::storage::{CommitFault, Durability, MemoryStore};
use crate::types::{Level, PartitionCount};

const ALL: [usize; 3] = [1, 2, 3];

#[tokio::test(start_paused = true)]
async fn a_power_cut_of_all_nodes_loses_nothing_and_retires_the_actors() {
    let mut world = World::new(3).started().await;
    let keys: Vec<_> = (0..50).map(|i| path("b", &format!("key-{i}"))).collect();
    for (i, key) in keys.iter().enumerate() {
        world.put(i % 3 + 1, key, &format!("v{i}")).ok().await;
    }
    ALL.iter().for_each(|i| world.crash(*i));
    world.start(&ALL).await;
    for (i, key) in keys.iter().enumerate() {
        assert_eq!(world.values(i % 3 + 1, key).await, [format!("v{i}")]);
    }
    for i in ALL {
        assert!(world.retired(i) > 0.0, "node-{i} went on with its actors");
    }
}

#[tokio::test(start_paused = true)]
async fn a_clean_stop_keeps_the_actors() {
    let mut world = World::new(3).started().await;
    let key = path("b", "k");
    for i in ALL {
        world.put(i, &key, &format!("v{i}")).ok().await;
    }
    for i in ALL {
        world.stop(i).await;
        world.start(&[i]).await;
        assert_eq!(world.retired(i), 0.0, "restarted alone");
    }
    for i in ALL {
        world.stop(i).await;
    }
    world.start(&ALL).await;
    for i in ALL {
        assert_eq!(world.retired(i), 0.0, "restarted together");
    }
    assert_eq!(world.values(1, &key).await, ["v3"]);
}

#[tokio::test(start_paused = true)]
async fn a_clean_stop_that_no_peer_confirms_retires_the_actors() {
    let mut world = World::new(3).started().await;
    world.put(1, &path("b", "k"), "v").level(Level::All).ok().await;
    for i in ALL {
        world.put(i, &path("b", &format!("k{i}")), "v").ok().await;
    }
    world.stop(1).await;
    world.crash(2);
    world.crash(3);
    world.start(&[1]).await;
    assert!(world.retired(1) > 0.0);
}

#[tokio::test(start_paused = true)]
async fn a_copy_of_a_cleanly_stopped_disk_does_not_pass_as_the_disk() {
    let mut world = World::new(3).started().await;
    let key = path("b", "k");
    world.put(1, &key, "v").ok().await;
    world.stop(1).await;
    let copy = world.take_disk(1);
    let original = copy.crash();
    world.put_disk(1, original);
    world.start(&[1]).await;
    world.put(1, &key, "later").ok().await;
    world.crash(1);
    world.put_disk(1, copy);
    for attempt in 1..=3 {
        let outcome = world.try_start(&[1]).await.remove(0);
        assert!(matches!(outcome, Err(StartError::RolledBack { .. })), "{attempt}: {outcome:?}");
        world.crash(1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_was_away_does_not_vouch_for_an_old_copy() {
    let mut world = World::new(3).started().await;
    let key = path("b", "k");
    world.put(1, &key, "v").level(Level::All).ok().await;
    world.stop(1).await;
    let copy = world.take_disk(1);
    world.put_disk(1, copy.crash());
    world.crash(3);
    world.start(&[1]).await;
    world.put(1, &key, "later").ok().await;
    world.stop(1).await;
    drop(world.take_disk(1));
    world.put_disk(1, copy);
    world.crash(2);
    world.start(&[3]).await;
    world.start(&[1]).await;
    assert!(world.retired(1) > 0.0, "node-3 knows nothing of the start in between");
}

#[tokio::test(start_paused = true)]
async fn a_stranger_at_a_peers_address_stops_nobody_else() {
    let mut world = World::new(3).started().await;
    let key = path("b", "k");
    world.crash(3);
    for i in [1, 2] {
        world.stop(i).await;
        world.start(&[i]).await;
    }
    let alone = |s: &mut crate::config::Settings| s.initial_nodes.clear();
    world.put_disk(3, MemoryStore::new(Durability::Sync));
    world = world.configure(alone);
    world.start(&[3]).await;
    world.settle().await;
    world.put(1, &key, "v").ok().await;
    assert_eq!(world.values(2, &key).await, ["v"]);
    world.stop(1).await;
    world.start(&[1]).await;
    assert_eq!(world.values(1, &key).await, ["v"]);
}

#[tokio::test(start_paused = true)]
async fn an_empty_disk_under_a_known_name_serves_nothing() {
    let mut world = World::new(3).started().await;
    let key = path("b", "k");
    world.put(1, &key, "v").ok().await;
    world.crash(2);
    world.put_disk(2, MemoryStore::new(Durability::Sync));
    world.start_candidate(2, false).await;
    world.settle().await;
    let phase = world.member(2).node.phase().borrow().clone();
    assert!(matches!(phase, Phase::Starting(_)), "{phase:?}");
    let refused = world.get_at(2, &key, Level::One).await;
    assert!(matches!(refused, Err(OperationError::NotReady(_))), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn the_disk_of_another_node_is_refused() {
    let mut world = World::new(3).started().await;
    world.crash(1);
    world.crash(2);
    let disk = world.take_disk(2);
    world.put_disk(1, disk);
    let outcome = world.try_start(&[1]).await.remove(0);
    let expected = matches!(outcome, Err(StartError::Directory(DirectoryError::OtherNode { .. })));
    assert!(expected, "{outcome:?}");
}

#[tokio::test(start_paused = true)]
async fn the_disk_of_another_cluster_is_refused() {
    let mut here = World::new(3).started().await;
    let mut there = World::new(3)
        .configure(|s| s.partitions = PartitionCount::new(32).expect("a power of two"))
        .started()
        .await;
    here.crash(1);
    there.crash(1);
    let disk = there.take_disk(1);
    here.put_disk(1, disk);
    let outcome = here.try_start(&[1]).await.remove(0);
    assert!(matches!(outcome, Err(StartError::OtherCluster { .. })), "{outcome:?}");
}

#[tokio::test(start_paused = true)]
async fn a_failed_batch_retires_the_actor_and_the_write_may_be_applied() {
    let mut world = World::new(3).started().await;
    let key = path("b", "k");
    world.put(1, &key, "a").level(Level::All).ok().await;
    for fault in [CommitFault::UnknownAndLost, CommitFault::UnknownButApplied] {
        let before = world.retired(1);
        world.member(1).store.fail_next_commit(fault);
        let failed = world.put(1, &key, "b").level(Level::All).send().await;
        assert!(failed.expect_err("one copy failed").maybe_applied());
        assert_eq!(world.retired(1), before + 1.0);
        let written = world.put(1, &key, "c").level(Level::All).ok().await;
        assert_eq!(written.siblings, 1);
        assert_eq!(world.values(2, &key).await, ["c"]);
    }
    world.stop(1).await;
    world.start(&[1]).await;
    assert!(world.retired(1) > 0.0, "a run with a failed batch never ends as a clean one");
}

#[tokio::test(start_paused = true)]
async fn without_sync_a_crashed_node_counts_towards_no_read_until_it_was_mended() {
    let mut world = World::new(3).configure(|s| s.durability = Durability::Os).started().await;
    let keys: Vec<_> = (0..40).map(|i| path("b", &format!("key-{i}"))).collect();
    for key in &keys {
        world.put(1, key, "v").level(Level::All).ok().await;
    }
    world.crash(1);
    world.start(&[1]).await;
    for key in &keys {
        assert_eq!(world.values(1, key).await, ["v"], "a quorum never misses it");
    }
    world.settle().await;
    for key in &keys {
        let one = world.get_at(1, key, Level::One).await.expect("it was mended");
        assert_eq!(values_of(&one), ["v"]);
    }
}

/// P11: each of these restarts draws a new actor, so the key's context grows by one; what a client
/// carries does not grow beyond its bound, and nothing else breaks.
#[tokio::test(start_paused = true)]
async fn a_thousand_unclean_restarts_leave_tokens_within_their_bound() {
    let mut world = World::new(3).started().await;
    let key = path("b", "k");
    let mut token = world.put(1, &key, "0").level(Level::All).ok().await.context;
    for restart in 1..=1_000 {
        world.crash(1);
        world.start(&[1]).await;
        let value = restart.to_string();
        let written = world.put(1, &key, &value).context(&token).level(Level::All).ok().await;
        assert_eq!(written.siblings, 1, "after restart {restart}");
        token = written.context;
        assert!(token.len() <= MAX_TOKEN_CHARS, "after restart {restart}: {}", token.len());
    }
    assert_eq!(world.retired(1), 1.0, "each start retires what the one before it drew");
    assert_eq!(world.values(2, &key).await, ["1000"]);
}
