//! Clients that hang up in the middle: a write is there as a whole or not at all.

use std::time::Duration;

use crate::cluster::Cluster;
use crate::http::{Connection, Request};
use crate::process::eventually;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_hangs_up_in_the_middle_of_a_body_has_written_nothing() {
    let cluster = Cluster::start(3).await;
    let request = Request::put("/v1/kv/hang/half", vec![b'x'; 200_000]).to_bytes();
    for (round, len) in [60, 100, 1_000, 100_000, request.len() - 1].into_iter().enumerate() {
        let node = cluster.http(round % 3);
        let mut connection = Connection::open(node).await.expect("the node accepts");
        connection.send(&request[..len]).await.expect("sent");
        if round % 2 == 0 {
            connection.finish_sending().await.expect("shut down");
            let answer = connection.answer("PUT").await;
            // It may be told so, or not.
            assert!(answer.is_err() || answer.is_ok_and(|answer| answer.status == 400));
        }
    }
    all_closed(&cluster).await;
    cluster.assert_untouched("hang", "half").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_wait_for_the_answer_has_written_all_or_nothing() {
    const SIZE: usize = 50_000;
    let cluster = Cluster::start(3).await;
    for round in 0..40_usize {
        let target = format!("/v1/kv/hang/whole-{round}");
        let request = Request::put(target, vec![b'y'; SIZE]).to_bytes();
        let node = cluster.http(round % 3);
        let mut connection = Connection::open(node).await.expect("the node accepts");
        connection.send(&request).await.expect("sent");
    }
    all_closed(&cluster).await;
    let mut written = 0;
    for round in 0..40_usize {
        let target = format!("/v1/kv/hang/whole-{round}?consistency=all");
        let answer = cluster.ask((round + 1) % 3, Request::get(&target)).await;
        let is_there = answer.status == 200;
        match is_there {
            true => {
                assert!(answer.body == vec![b'y'; SIZE], "{target} is not whole");
                written += 1;
            }
            false => drop(answer.expect_problem(404, "not-found")),
        }
        // What was read at `all` stays.
        let again = cluster.ask(round % 3, Request::get(&target)).await;
        assert_eq!(again.status == 200, is_there, "{target}");
    }
    assert!(written > 0, "a sent request is served though nobody waits for the answer");
}

/// Waits until no node has a client any more but the one that asks.
async fn all_closed(cluster: &Cluster) {
    for i in 0..cluster.nodes.len() {
        let what = format!("node {i} has noticed that all clients are gone");
        eventually(&what, Duration::from_secs(60), || async {
            cluster.metric(i, "starling_connections_open").await <= 1.0
        })
        .await;
    }
}
