//! Bodies of every size, and those that do not come.

use std::time::Duration;

use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::http::{Connection, Request};

const MAX: usize = 64 * 1024;
const SETTINGS: &str = "max_value_bytes = 65536\nheader_timeout = \"1s\"\nbody_timeout = \"1s\"\n";

/// A PUT whose body comes in chunks.
fn chunked(target: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes =
        format!("PUT {target} HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n")
            .into_bytes();
    for chunk in body.chunks(10_000) {
        bytes.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
        bytes.extend_from_slice(chunk);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"0\r\n\r\n");
    bytes
}

async fn open(cluster: &Cluster) -> Connection {
    Connection::open(cluster.http(0)).await.expect("the node accepts")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_greatest_value_is_stored_and_one_byte_more_is_not() {
    let cluster = Cluster::with(3, SETTINGS).await;
    for (key, len) in [("empty", 0), ("one", 1), ("greatest", MAX)] {
        let body = vec![b'x'; len];
        let target = format!("/v1/kv/sizes/{key}");
        cluster.ask(0, Request::put(&target, body.clone())).await.expect(204);
        assert_eq!(cluster.ask(1, Request::get(&target)).await.expect(200).body, body);
        let in_chunks = format!("{target}-chunked");
        let mut connection = open(&cluster).await;
        connection.send(&chunked(&in_chunks, &body)).await.expect("sent");
        connection.answer("PUT").await.expect("an answer").expect(204);
        assert_eq!(cluster.ask(2, Request::get(&in_chunks)).await.expect(200).body, body);
    }
    let body = vec![b'x'; MAX + 1];
    let answer = cluster.ask(0, Request::put("/v1/kv/sizes/more", body.clone())).await;
    let answer = answer.expect_problem(413, "value-too-large");
    assert_eq!(answer.json()["maybe_applied"], false);
    let mut connection = open(&cluster).await;
    // The server may answer before all of it is sent.
    let _ = connection.send(&chunked("/v1/kv/sizes/more-chunked", &body)).await;
    let answer = connection.answer("PUT").await.expect("an answer");
    answer.expect_problem(413, "value-too-large");
    cluster.assert_untouched("sizes", "more").await;
    cluster.assert_untouched("sizes", "more-chunked").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_announced_body_is_refused_or_asked_for_before_it_is_sent() {
    let cluster = Cluster::with(1, SETTINGS).await;
    let head = |len: usize, more: &str| {
        format!(
            "PUT /v1/kv/announced/k HTTP/1.1\r\nHost: test\r\nContent-Length: {len}\r\n{more}\r\n"
        )
    };
    for (len, more) in [(MAX + 1, ""), (usize::MAX, ""), (MAX + 1, "Expect: 100-continue\r\n")] {
        let mut connection = open(&cluster).await;
        connection.send(head(len, more).as_bytes()).await.expect("sent");
        let answer = connection.answer("PUT").await.expect("an answer");
        answer.expect_problem(413, "value-too-large");
    }
    cluster.assert_untouched("announced", "k").await;
    let mut connection = open(&cluster).await;
    connection.send(head(5, "Expect: 100-continue\r\n").as_bytes()).await.expect("sent");
    connection.send(b"value").await.expect("sent");
    connection.answer("PUT").await.expect("an answer").expect(204);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_stops_halfway_is_408_and_nothing_is_written() {
    let cluster = Cluster::with(3, SETTINGS).await;
    let head = "PUT /v1/kv/halfway/k HTTP/1.1\r\nHost: test\r\n";
    for rest in [
        "Content-Length: 100\r\n\r\nhalf",
        "Content-Length: 100\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n64\r\nhalf",
        "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    ] {
        let mut connection = open(&cluster).await;
        connection.send(format!("{head}{rest}").as_bytes()).await.expect("sent");
        let answer = connection.answer("PUT").await.expect("an answer");
        let answer = answer.expect_problem(408, "body-timeout");
        assert_eq!(answer.json()["maybe_applied"], false);
    }
    cluster.assert_untouched("halfway", "k").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_byte_by_byte_are_408() {
    let cluster = Cluster::with(1, SETTINGS).await;
    let mut connection = open(&cluster).await;
    let request = Request::put("/v1/kv/slow/k", "value").to_bytes();
    let began = Instant::now();
    for byte in &request {
        // At this pace the head would take ten times as long as it may.
        tokio::time::sleep(Duration::from_millis(150)).await;
        if began.elapsed() > Duration::from_secs(3) || connection.send(&[*byte]).await.is_err() {
            break;
        }
    }
    let answer = connection.answer("PUT").await.expect("an answer");
    answer.expect_problem(408, "body-timeout");
    cluster.assert_untouched("slow", "k").await;
}
