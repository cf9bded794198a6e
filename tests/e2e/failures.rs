//! One of three nodes fails under load: no request through the others does.

use std::time::Duration;

use crate::cluster::Cluster;
use crate::http::Request;
use crate::load::{Load, assert_nothing_lost};

const CLIENTS: usize = 6;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_node_costs_only_what_was_in_flight_through_it() {
    let mut cluster = Cluster::start(3).await;
    let load = Load::start(&cluster, CLIENTS);
    load.progress(300).await;
    load.avoid(2);
    cluster.kill9(2);
    load.progress(300).await;
    cluster.wait_state(0, 2, "down").await;
    cluster.wait_state(1, 2, "down").await;
    load.progress(300).await;
    cluster.launch(2);
    cluster.wait_ready().await;
    load.avoid_none();
    load.progress(300).await;
    let written = load.stop().await;
    assert_nothing_lost(&cluster, &written, "quorum").await;
    assert_nothing_lost(&cluster, &written, "all").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_node_costs_only_what_was_in_flight_through_it() {
    let seconds = std::env::var("STARLING_TEST_PAUSE_SECONDS").ok();
    let pause = seconds.map_or(10, |seconds| seconds.parse().expect("a number of seconds"));
    let mut cluster = Cluster::start(3).await;
    let load = Load::start(&cluster, CLIENTS);
    load.progress(300).await;
    load.avoid(2);
    cluster.pause(2);
    let paused_until = tokio::time::Instant::now() + Duration::from_secs(pause);
    load.progress(300).await;
    cluster.wait_state(0, 2, "down").await;
    load.progress(100).await;
    // How long it is away is the point of the test, not how long something takes.
    tokio::time::sleep_until(paused_until).await;
    cluster.resume(2);
    cluster.wait_ready().await;
    load.avoid_none();
    load.progress(300).await;
    let written = load.stop().await;
    assert_nothing_lost(&cluster, &written, "all").await;
    assert_nothing_lost(&cluster, &written, "quorum").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_up_again_can_be_asked_at_once() {
    let cluster = Cluster::start(3).await;
    let load = Load::start(&cluster, CLIENTS);
    load.progress(100).await;
    load.avoid(2);
    cluster.pause(2);
    cluster.wait_state(0, 2, "down").await;
    cluster.ask(0, Request::put("/v1/kv/back/k", "meanwhile")).await.expect(204);
    // Long enough for whoever tries to reach it to try but seldom.
    tokio::time::sleep(Duration::from_secs(15)).await;
    cluster.resume(2);
    cluster.wait_state(0, 2, "up").await;
    let read = cluster.ask(0, Request::get("/v1/kv/back/k?consistency=all")).await.expect(200);
    assert_eq!(read.text(), "meanwhile");
    load.stop().await;
}
