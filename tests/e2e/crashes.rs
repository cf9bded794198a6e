//! All nodes end at once, as a crash or as asked: what was acknowledged is there, and actors are
//! retired where they must be and only there (correctness, section 2).

use tokio::time::Instant;

use crate::cluster::{Cluster, STOP_WITHIN};
use crate::http::{Request, ask};
use crate::load::{Load, assert_nothing_lost};

const RETIRED: &str = "starling_actors_retired_total";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_of_all_nodes_loses_nothing_and_retires_actors() {
    let mut cluster = Cluster::start(3).await;
    let load = Load::start(&cluster, 6);
    load.progress(500).await;
    (0..3).for_each(|i| load.tolerate(i));
    cluster.kill9_all();
    let written = load.stop().await;
    (0..3).for_each(|i| cluster.launch(i));
    cluster.wait_ready().await;
    assert_nothing_lost(&cluster, &written, "quorum").await;
    assert_nothing_lost(&cluster, &written, "all").await;
    for i in 0..3 {
        assert!(cluster.metric(i, RETIRED).await > 0.0, "node {i} retired no actors");
    }
    assert!(written.iter().all(|client| client.acknowledged > 0), "{written:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_of_all_nodes_retires_no_actor() {
    let mut cluster = Cluster::start(3).await;
    let load = Load::start(&cluster, 4);
    load.progress(200).await;
    let written = load.stop().await;
    for round in 0..2 {
        cluster.sigterm_all().await;
        (0..3).for_each(|i| cluster.launch(i));
        cluster.wait_ready().await;
        for i in 0..3 {
            assert_eq!(cluster.metric(i, RETIRED).await, 0.0, "node {i}, round {round}");
        }
        assert_nothing_lost(&cluster, &written, "all").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_takes_at_most_ten_seconds_even_under_load_and_with_a_dead_peer() {
    let mut cluster = Cluster::start(3).await;
    let load = Load::start(&cluster, 6);
    load.progress(200).await;
    load.avoid(2);
    cluster.pause(2);
    load.progress(100).await;
    // What waits for the paused node, which may not be known to be down yet.
    let slow = tokio::spawn({
        let request = Request::put("/v1/kv/stop/slow?consistency=all&timeout=60s", "slow");
        let address = cluster.http(0);
        async move { ask(address, &request).await }
    });
    // Without node 0 there is one of three, which is no quorum.
    load.tolerate(0);
    load.tolerate(1);
    let began = Instant::now();
    let status = cluster.sigterm(0).await;
    assert!(status.success(), "{status}: {}", cluster.nodes[0].log());
    assert!(began.elapsed() <= STOP_WITHIN, "{:?}", began.elapsed());
    // Answered or cut off: which of them is not promised, but no 500.
    drop(slow.await.expect("no 500"));
    let written = load.stop().await;
    cluster.resume(2);
    cluster.launch(0);
    cluster.wait_ready().await;
    assert_nothing_lost(&cluster, &written, "quorum").await;
    cluster.sigterm_all().await;
}
