//! Rings that change under load: nodes join, leave, are replaced, and are killed while they do.

use std::fs;
use std::time::Duration;

use serde_json::json;

use crate::cluster::Cluster;
use crate::load::{Load, assert_nothing_lost};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_grows_and_shrinks_under_load_and_loses_nothing() {
    let mut cluster = Cluster::start(3).await;
    let load = Load::start(&cluster, 4);
    load.progress(300).await;
    let fourth = cluster.add_candidate();
    cluster.apply(0, json!({"join": [cluster.joiner(fourth)]})).await;
    cluster.wait_settled(0).await;
    cluster.wait_ready().await;
    load.progress(300).await;
    let (fifth, sixth) = (cluster.add_candidate(), cluster.add_candidate());
    let both = json!({"join": [cluster.joiner(fifth), cluster.joiner(sixth)]});
    cluster.apply(fourth, both).await;
    cluster.wait_settled(fourth).await;
    cluster.wait_ready().await;
    load.progress(300).await;
    // Clients ask the founders only: the others leave again.
    for leaving in [sixth, fifth, fourth] {
        cluster.apply(0, json!({"leave": [cluster.nodes[leaving].id]})).await;
        cluster.wait_settled(0).await;
        cluster.sigterm(leaving).await;
        cluster.nodes.remove(leaving);
        load.progress(200).await;
    }
    let written = load.stop().await;
    assert_nothing_lost(&cluster, &written, "all").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_goes_on_though_the_new_node_and_a_source_are_killed_in_it() {
    let mut cluster = Cluster::start(3).await;
    let load = Load::start(&cluster, 4);
    load.progress(300).await;
    let fourth = cluster.add_candidate();
    cluster.apply(0, json!({"join": [cluster.joiner(fourth)]})).await;
    for victim in [fourth, 2, fourth] {
        tokio::time::sleep(Duration::from_millis(300)).await;
        load.tolerate(victim);
        cluster.kill9(victim);
        cluster.launch(victim);
        cluster.wait_node_ready(victim).await;
    }
    cluster.wait_settled(0).await;
    cluster.wait_ready().await;
    load.progress(200).await;
    let written = load.stop().await;
    assert_nothing_lost(&cluster, &written, "all").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_killed_and_wiped_is_replaced_by_another() {
    let mut cluster = Cluster::start(3).await;
    let load = Load::start(&cluster, 4);
    load.progress(300).await;
    load.avoid(2);
    cluster.kill9(2);
    fs::remove_dir_all(cluster.nodes[2].data_dir()).expect("it is deleted");
    let fourth = cluster.add_candidate();
    let change = json!({
        "join": [cluster.joiner(fourth)],
        "replace": {"node-3": "node-4"},
        "dead": ["node-3"],
    });
    cluster.apply(0, change).await;
    cluster.wait_settled(0).await;
    cluster.wait_node_ready(fourth).await;
    load.progress(200).await;
    let written = load.stop().await;
    // Node 3 is none of the cluster any more.
    cluster.nodes.remove(2);
    assert_nothing_lost(&cluster, &written, "all").await;
}
