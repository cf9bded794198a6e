//! Data directories and ports that a node must not take: exit code 1, and one clear line.

use std::path::PathBuf;

use crate::cluster::Cluster;
use crate::http::Request;
use crate::process;

/// Runs node i's settings with flags to its end; what the last line says.
async fn refusal(cluster: &Cluster, i: usize, flags: &[&str]) -> String {
    let settings = cluster.nodes[i].settings();
    let mut arguments = vec!["server", "--config", settings.to_str().expect("UTF-8")];
    arguments.extend(flags);
    let output = process::run(&arguments).await;
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    let said: Vec<&str> = stderr.lines().filter(|line| line.starts_with("starling: ")).collect();
    assert_eq!(said.len(), 1, "one clear line: {stderr}");
    assert_eq!(stderr.lines().last(), said.first().copied(), "{stderr}");
    said[0].to_owned()
}

fn text(path: PathBuf) -> String {
    path.into_os_string().into_string().expect("UTF-8")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_of_another_node_is_refused() {
    let mut cluster = Cluster::start(2).await;
    cluster.ask(0, Request::put("/v1/kv/b/k?consistency=all", "value")).await.expect(204);
    assert!(cluster.sigterm(1).await.success());
    assert!(cluster.sigterm(0).await.success());
    let others = text(cluster.nodes[1].data_dir());
    let said = refusal(&cluster, 0, &["--data-dir", &others]).await;
    assert!(said.contains("belongs to node node-2"), "{said}");
    // Nothing of it was changed.
    (0..2).for_each(|i| cluster.launch(i));
    cluster.wait_ready().await;
    let read = cluster.ask(1, Request::get("/v1/kv/b/k?consistency=all")).await;
    assert_eq!(read.expect(200).text(), "value");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_of_another_cluster_is_refused() {
    let mut one = Cluster::start(1).await;
    assert!(one.sigterm(0).await.success());
    let mut other = Cluster::start(3).await;
    assert!(other.sigterm(0).await.success());
    let foreign = text(one.nodes[0].data_dir());
    let said = refusal(&other, 0, &["--data-dir", &foreign]).await;
    assert!(said.contains("the data directory belongs to cluster"), "{said}");
    other.launch(0);
    other.wait_ready().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_or_a_port_in_use_is_refused() {
    let cluster = Cluster::start(1).await;
    let spare = Cluster::planned(1, "");
    let used = text(cluster.nodes[0].data_dir());
    let said = refusal(&spare, 0, &["--data-dir", &used]).await;
    assert!(said.contains("in use by another process"), "{said}");
    let http = cluster.nodes[0].http.address().to_string();
    let said = refusal(&spare, 0, &["--http", &http]).await;
    assert!(said.contains("can't listen for clients") && said.contains(&http), "{said}");
    let peer = cluster.nodes[0].peer.address().to_string();
    let said = refusal(&spare, 0, &["--peer", &peer, "--advertise-peer", &peer]).await;
    assert!(said.contains("can't listen for peers") && said.contains(&peer), "{said}");
    cluster.ask(0, Request::put("/v1/kv/b/k", "value")).await.expect(204);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_can_not_be_one_is_refused() {
    let cluster = Cluster::planned(1, "");
    let file = cluster.folder().join("file");
    std::fs::write(&file, "not a directory").expect("written");
    let said = refusal(&cluster, 0, &["--data-dir", &text(file)]).await;
    assert!(said.contains("file"), "{said}");
    let below_proc = refusal(&cluster, 0, &["--data-dir", "/proc/starling"]).await;
    assert!(below_proc.contains("/proc/starling"), "{below_proc}");
}
