//! What one node missed comes to it: by hints, by anti-entropy alone, after its disk was lost; and
//! deletes stay deleted (correctness, sections 4 to 6 and 8).
//!
//! With `STARLING_TEST_KEYS` these run with as many keys as asked for.

use std::fs;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;

use crate::cluster::Cluster;
use crate::http::{Answer, Client, Request};
use crate::load::{Load, assert_nothing_lost};
use crate::process::eventually;

/// How many keys a test writes.
fn count() -> usize {
    let keys = std::env::var("STARLING_TEST_KEYS").ok();
    keys.map_or(600, |keys| keys.parse().expect("a number of keys"))
}

fn target(i: usize) -> String {
    format!("/v1/kv/mending/key-{i}")
}

/// Sends a request for each key, over some connections, through these nodes in turn.
async fn each(
    cluster: &Cluster,
    through: &[usize],
    keys: std::ops::Range<usize>,
    request: impl Fn(usize) -> Request,
) -> Vec<Answer> {
    const CONNECTIONS: usize = 16;
    let request = &request;
    let lane = |lane: usize| async move {
        let mut client = Client::new(cluster.http(through[lane % through.len()]));
        let mut answers = Vec::new();
        for i in (keys.start..keys.end).skip(lane).step_by(CONNECTIONS) {
            answers.push(client.send(&request(i)).await.expect("an answer"));
        }
        answers
    };
    let lanes = stream::iter((0..CONNECTIONS).map(lane)).buffer_unordered(CONNECTIONS);
    lanes.collect::<Vec<_>>().await.into_iter().flatten().collect()
}

async fn write_all(cluster: &Cluster, through: &[usize], value: &str) {
    for answer in each(cluster, through, 0..count(), |i| Request::put(target(i), value)).await {
        answer.expect(204);
    }
}

/// Whether a node holds all keys, as it says itself. Repairs nothing.
async fn holds_all(cluster: &Cluster, node: usize) -> bool {
    let sample = (0..count()).step_by((count() / 100).max(1));
    for i in sample {
        let answer = cluster.ask(0, Request::get(format!("/v1/explain/mending/key-{i}"))).await;
        let replicas = answer.expect(200).json()["replicas"].as_array().cloned();
        let id = cluster.nodes[node].id.as_str();
        let replicas = replicas.expect("replicas");
        let own = replicas.iter().find(|replica| replica["node"] == id).expect("a replica");
        if own["versions"].as_array().is_none_or(Vec::is_empty) {
            return false;
        }
    }
    true
}

async fn returns_with_everything(settings: &str) {
    let mut cluster = Cluster::with(3, settings).await;
    cluster.kill9(2);
    write_all(&cluster, &[0, 1], "v").await;
    cluster.wait_state(0, 2, "down").await;
    write_all(&cluster, &[0, 1], "w").await;
    cluster.launch(2);
    cluster.wait_ready().await;
    eventually("it has everything", Duration::from_secs(60), || holds_all(&cluster, 2)).await;
    eventually("no hints are left", Duration::from_secs(60), || async {
        let hints = [
            cluster.metric(0, "starling_hints_stored").await,
            cluster.metric(1, "starling_hints_stored").await,
        ];
        hints == [0.0, 0.0]
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_down_gets_everything_by_hints_before_any_read() {
    returns_with_everything("repair.interval = \"1h\"\n").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_down_gets_everything_by_anti_entropy_alone() {
    returns_with_everything("hints.max_bytes = 0\n").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_with_a_lost_disk_is_filled_and_no_quorum_read_misses_anything_meanwhile() {
    let mut cluster = Cluster::start(3).await;
    write_all(&cluster, &[0, 1, 2], "v").await;
    let load = Load::start(&cluster, 4);
    load.progress(200).await;
    load.avoid(2);
    cluster.kill9(2);
    fs::remove_dir_all(cluster.nodes[2].data_dir()).expect("it is deleted");
    cluster.launch_with(2, &["--rebuild"]);
    cluster.wait_ready().await;
    load.avoid_none();
    for i in (0..count()).step_by((count() / 50).max(1)) {
        let read = cluster.ask(2, Request::get(target(i))).await.expect(200);
        assert_eq!(read.text(), "v", "through the node that is being filled");
    }
    eventually("it is complete", Duration::from_secs(120), || async {
        cluster.metric(2, "starling_incomplete_vnodes").await == 0.0 && holds_all(&cluster, 2).await
    })
    .await;
    load.progress(200).await;
    let written = load.stop().await;
    assert_nothing_lost(&cluster, &written, "all").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_can_not_be_opened_names_the_way_out_and_is_rebuilt() {
    let mut cluster = Cluster::start(3).await;
    write_all(&cluster, &[0, 1, 2], "v").await;
    cluster.sigterm(2).await;
    let manifests = fs::read_dir(cluster.nodes[2].data_dir()).expect("a folder");
    let manifest = manifests
        .map(|entry| entry.expect("an entry").path())
        .find(|path| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("MANIFEST"))
        })
        .expect("a manifest");
    fs::write(&manifest, b"damaged").expect("it is damaged");
    cluster.launch(2);
    let status = cluster.ended(2).await;
    assert_eq!(status.code(), Some(1));
    let log = cluster.nodes[2].log();
    assert!(log.contains("starling server --rebuild"), "{log}");
    cluster.launch_with(2, &["--rebuild"]);
    cluster.wait_ready().await;
    eventually("it is complete", Duration::from_secs(120), || async {
        cluster.metric(2, "starling_incomplete_vnodes").await == 0.0 && holds_all(&cluster, 2).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sloppy_write_reaches_its_replica_though_the_fallback_was_restarted() {
    let mut cluster = Cluster::start(4).await;
    // A key that nodes 0, 1 and 2 hold.
    let mut key = None;
    for i in 0.. {
        let answer = cluster.ask(0, Request::get(format!("/v1/explain/sloppy/k{i}"))).await;
        let replicas = answer.expect(200).json()["replicas"].clone();
        let holders = replicas.as_array().expect("replicas").clone();
        if holders.iter().all(|replica| replica["node"] != cluster.nodes[3].id.as_str()) {
            key = Some(format!("k{i}"));
            break;
        }
    }
    let key = key.expect("some key is there");
    let target = format!("/v1/kv/sloppy/{key}");
    cluster.kill9(2);
    cluster.wait_state(0, 2, "down").await;
    let strict = cluster.ask(0, Request::put(format!("{target}?w=3"), "v")).await;
    strict.expect_problem(503, "unavailable");
    let sloppy = cluster.ask(0, Request::put(format!("{target}?w=3&sloppy=true"), "v")).await;
    assert_eq!(sloppy.expect(204).header("Starling-Acks"), Some("3/3/3"));
    let repair = cluster.ask(3, Request::get("/v1/repair")).await.expect(200).json();
    assert_eq!(repair["hints"][0]["target"], cluster.nodes[2].id.as_str(), "{repair}");
    cluster.kill9(3);
    cluster.launch(3);
    cluster.wait_node_ready(3).await;
    cluster.launch(2);
    cluster.wait_ready().await;
    eventually("its replica has it", Duration::from_secs(60), || async {
        let read = Request::get(format!("{target}?r=1"));
        let own = cluster.ask(2, read).await;
        own.status == 200 && cluster.metric(3, "starling_hints_stored").await == 0.0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleted_keys_are_gone_from_all_replicas_after_the_grace_and_never_come_back() {
    let settings = "gc_grace = \"2s\"\nallow_short_gc_grace = true\nrepair.interval = \"5s\"\n";
    let mut cluster = Cluster::with(3, settings).await;
    write_all(&cluster, &[0, 1, 2], "v").await;
    cluster.kill9(2);
    let deleted = count() / 2;
    for answer in each(&cluster, &[0, 1], 0..deleted, |i| Request::delete(target(i))).await {
        answer.expect(204);
    }
    // A grace and more, with one replica down.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(cluster.metric(0, "starling_purged_keys_total").await, 0.0);
    cluster.launch(2);
    cluster.wait_ready().await;
    eventually("all is purged", Duration::from_secs(120), || async {
        let mut left = 0.0;
        for i in 0..3 {
            left += cluster.metric(i, "starling_tombstones").await;
            left += cluster.metric(i, "starling_husks").await;
        }
        let purged: f64 = cluster.metric(0, "starling_purged_keys_total").await
            + cluster.metric(1, "starling_purged_keys_total").await
            + cluster.metric(2, "starling_purged_keys_total").await;
        left == 0.0 && purged >= deleted as f64
    })
    .await;
    for i in (0..deleted).step_by((deleted / 100).max(1)) {
        cluster.assert_untouched("mending", &format!("key-{i}")).await;
    }
    for i in (deleted..count()).step_by((deleted / 100).max(1)) {
        let read = cluster.ask(i % 3, Request::get(format!("{}?r=3", target(i)))).await;
        assert_eq!(read.expect(200).text(), "v");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repair_on_request_compares_all_replicas() {
    let cluster = Cluster::start(3).await;
    write_all(&cluster, &[0, 1, 2], "v").await;
    let node = format!("http://{}", cluster.http(0));
    let output = crate::process::run(&["cluster", "repair", "--wait", "--node", &node]).await;
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("repair debt") && text.contains("node-3"), "{text}");
    let begun = cluster.ask(1, Request::new("POST", "/v1/repair")).await;
    assert_eq!(begun.expect(202).json()["released"], 0);
}
