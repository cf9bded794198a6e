//! `starling bench` against a real node.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::cluster::Cluster;
use crate::http::{Request, ask};

/// Runs it to its end; it must not hold up the test's own runtime, which reads the nodes' output.
async fn bench(node: &str, arguments: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_starling"));
    command.env_clear().args(["bench", "--node", node]).args(arguments.split_whitespace());
    let run = tokio::task::spawn_blocking(move || command.output());
    run.await.expect("no panic").expect("it starts")
}

fn json(output: &Output) -> Value {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).expect("it was written")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bench_counts_what_it_asked_for_and_keeps_its_results() {
    let cluster = Cluster::start(1).await;
    let node = cluster.nodes[0].http.address().to_string();
    let folder = tempfile::tempdir().expect("a folder");
    let [save, chart, log] = ["a.json", "a.html", "a.hlog"].map(|name| folder.path().join(name));
    let arguments = format!(
        "ycsb-f --keys 50 --connections 8 --threads 2 --warm-up 0.2 --count 1500 --verify --json \
         --save {} --chart {} --histograms {}",
        save.display(),
        chart.display(),
        log.display()
    );
    let report = json(&bench(&node, &arguments).await);
    assert_eq!(report["total"]["count"], 1_500);
    assert_eq!(report["errors"], serde_json::json!({}));
    let [reads, writes] = ["read", "read-modify-write"]
        .map(|kind| report["operations"][kind]["count"].as_u64().expect("a count"));
    assert_eq!(reads + writes, 1_500);
    assert!(reads > 500 && writes > 500, "{reads} {writes}");
    assert_eq!(serde_json::from_str::<Value>(&read(&save)).expect("JSON"), report);
    assert!(read(&chart).contains("<svg"));
    assert!(read(&log).lines().any(|line| line.starts_with("Tag=read-modify-write,")));

    let save = save.to_str().expect("UTF-8");
    let compared = bench(&node, &format!("--compare {save} {save}")).await;
    assert!(text(&compared.stdout).contains("1.000"), "{}", text(&compared.stdout));
    let other = bench(&node, &format!("--compare {save} {}", log.display())).await;
    assert_eq!(other.status.code(), Some(1));
    assert!(text(&other.stderr).contains("no file of starling bench"), "{}", text(&other.stderr));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_loop_sends_what_is_due_or_says_that_it_did_not() {
    let cluster = Cluster::start(1).await;
    let node = cluster.nodes[0].http.address().to_string();
    let arguments = "write --rate 700 --warm-up 0 --duration 1 --connections 4 --json";
    let report = json(&bench(&node, arguments).await);
    let failed: u64 =
        report["errors"].as_object().expect("errors").values().filter_map(Value::as_u64).sum();
    let due = report["total"]["count"].as_u64().expect("a count")
        + report["unsent"].as_u64().expect("a count")
        + failed;
    assert_eq!(due, 700);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_that_was_never_stored_fails_a_run_that_verifies() {
    let cluster = Cluster::start(1).await;
    let http = cluster.nodes[0].http.address();
    let node = http.to_string();
    let arguments = "read --keys 4 --warm-up 0 --count 200 --verify";
    assert!(bench(&node, arguments).await.status.success());
    let wrong = Request::put("/v1/kv/bench/key-00000002", "not what was stored");
    ask(http, &wrong).await.expect("an answer").expect(204);
    let found = bench(&node, &format!("{arguments} --no-load")).await;
    assert_eq!(found.status.code(), Some(1), "{}", text(&found.stdout));
    assert!(text(&found.stdout).contains("wrong value"), "{}", text(&found.stdout));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_not_be_run_is_said_in_one_line() {
    for (node, arguments, code, says) in [
        ("127.0.0.1:1", "read", 1, "can't reach 127.0.0.1:1"),
        ("127.0.0.1:1", "ycsb-e", 2, "ranges"),
        ("127.0.0.1:1", "frobnicate", 2, "ycsb-f"),
        ("127.0.0.1:1", "--rate 0", 2, "--rate"),
        ("127.0.0.1:1", "--value-bytes x", 2, "value"),
        ("127.0.0.1:1", "--distribution hot", 2, "hot-set"),
        ("https://a/b", "read", 2, "--node"),
        ("127.0.0.1:1", "--save /no/such/folder/file", 1, "can't write"),
    ] {
        let output = bench(node, arguments).await;
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments}: {stderr}");
        assert!(stderr.contains(says) && stderr.lines().count() == 1, "{arguments}: {stderr}");
    }
}
