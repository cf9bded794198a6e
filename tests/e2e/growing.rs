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

/// Which process is killed in a transition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    /// The node that comes.
    Joining,
    /// The node that goes.
    Leaving,
    /// A node that stays, from which others take in.
    Source,
    /// The node through which the operator has begun.
    Starter,
}

/// A node takes another's place three times; in each phase once, a process is killed and started
/// again.
async fn nodes_are_replaced_though_one_is_killed(victim: Victim) {
    let (starter, source) = (0, 1);
    let mut cluster = Cluster::start(3).await;
    let load = Load::start(&cluster, 4);
    load.progress(200).await;
    load.avoid(2);
    let mut leaving = 2;
    for phase in ["prepare", "switch", "finish"] {
        let joining = cluster.add_candidate();
        let [old, new] = [leaving, joining].map(|i| cluster.nodes[i].id.clone());
        let change = json!({"join": [cluster.joiner(joining)], "replace": {old: new}});
        let layout = cluster.layout_version(starter).await;
        cluster.apply(starter, change).await;
        let killed = match victim {
            Victim::Joining => joining,
            Victim::Leaving => leaving,
            Victim::Source => source,
            Victim::Starter => starter,
        };
        let witness = if victim == Victim::Source { starter } else { source };
        cluster.wait_phase(witness, layout, phase).await;
        if [source, starter].contains(&killed) {
            load.tolerate(killed);
        }
        cluster.kill9(killed);
        tokio::time::sleep(Duration::from_millis(300)).await;
        cluster.launch(killed);
        // Who has left does not get ready again.
        if killed != leaving {
            cluster.wait_node_ready(killed).await;
        }
        cluster.wait_settled(witness).await;
        cluster.wait_node_ready(joining).await;
        load.avoid_none();
        load.avoid(2);
        load.progress(100).await;
        cluster.sigterm(leaving).await;
        leaving = joining;
    }
    let written = load.stop().await;
    let members = [starter, source, leaving];
    let nodes = std::mem::take(&mut cluster.nodes).into_iter().enumerate();
    cluster.nodes = nodes.filter(|(i, _)| members.contains(i)).map(|(_, node)| node).collect();
    assert_nothing_lost(&cluster, &written, "all").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_replaced_though_the_joining_node_is_killed_in_each_phase() {
    nodes_are_replaced_though_one_is_killed(Victim::Joining).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_replaced_though_the_leaving_node_is_killed_in_each_phase() {
    nodes_are_replaced_though_one_is_killed(Victim::Leaving).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_replaced_though_a_source_is_killed_in_each_phase() {
    nodes_are_replaced_though_one_is_killed(Victim::Source).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_replaced_though_who_began_it_is_killed_in_each_phase() {
    nodes_are_replaced_though_one_is_killed(Victim::Starter).await;
}
