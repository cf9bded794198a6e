//! `starling bench` against a real node.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

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

/// A busy machine: what has to be stored before a run is asked for again, and what is measured is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_busy_node_refuses_to_load_is_tried_again() {
    let node = BusyNode::start(3);
    let arguments = "read --keys 5 --connections 2 --warm-up 0 --count 2 --json";
    let measured = json(&bench(&node.address, arguments).await);
    assert_eq!(measured["total"]["count"], 2, "{measured}");
    assert_eq!(
        node.asked.load(Ordering::SeqCst),
        3 + 5 + 2,
        "each value once, and what was refused"
    );
    let busy = BusyNode::start(3);
    let measured =
        bench(&busy.address, "write --no-load --connections 2 --warm-up 0 --count 4 --json");
    let measured = json(&measured.await);
    assert_eq!(measured["total"]["count"], 1, "a refusal is a result: {measured}");
    assert_eq!(busy.asked.load(Ordering::SeqCst), 4);
}

/// What answers the first requests with 429, and all others as if it had done them.
struct BusyNode {
    address: String,
    asked: Arc<AtomicUsize>,
}

impl BusyNode {
    fn start(refused: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it listens").to_string();
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&asked);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let counted = Arc::clone(&counted);
                std::thread::spawn(move || answer(stream, &counted, refused));
            }
        });
        Self { address, asked }
    }
}

/// Answers requests with bodies on one connection, until it ends.
fn answer(stream: TcpStream, asked: &AtomicUsize, refused: usize) {
    let mut requests = BufReader::new(stream);
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            if requests.read_line(&mut line).is_ok_and(|read| read == 0) {
                return;
            }
            if line == "\r\n" {
                break;
            }
            let header = line.to_ascii_lowercase();
            if let Some(value) = header.strip_prefix("content-length:") {
                length = value.trim().parse().expect("a length");
            }
        }
        let mut body = vec![0; length];
        requests.read_exact(&mut body).expect("a whole body");
        let status = match asked.fetch_add(1, Ordering::SeqCst) < refused {
            true => "429 Too Many Requests\r\nRetry-After: 1\r\nStarling-Error: overloaded",
            false => "200 OK",
        };
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
        requests.get_mut().write_all(answer.as_bytes()).expect("it is written");
    }
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
