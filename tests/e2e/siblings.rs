//! Concurrent writers: siblings where both must stay, one value where a context joins them, never
//! siblings in an `lww` bucket.

use tokio::task::JoinSet;

use crate::cluster::Cluster;
use crate::http::{Client, Request};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_writers_with_one_stale_context_leave_two_siblings_and_the_joined_one_leaves_one() {
    let cluster = Cluster::start(3).await;
    for key in ["a", "b", "c"] {
        let target = format!("/v1/kv/fork/{key}");
        let first = cluster.ask(0, Request::put(&target, "first")).await.expect(204);
        let stale = first.context();
        let left = Request::put(&target, "left").context(stale);
        let right = Request::put(&target, "right").context(stale);
        let (left, right) = tokio::join!(cluster.ask(1, left), cluster.ask(2, right));
        left.expect(204);
        right.expect(204);
        let read = cluster.ask(0, Request::get(&target)).await.expect(300);
        let mut values = read.values();
        values.sort();
        assert_eq!(values, [b"left".to_vec(), b"right".to_vec()]);
        assert_eq!(read.header("Starling-Siblings"), Some("2"));
        let joined = Request::put(&target, "joined").context(read.context());
        cluster.ask(1, joined).await.expect(204);
        for i in 0..3 {
            let read = cluster.ask(i, Request::get(&target)).await.expect(200);
            assert_eq!(
                (read.text().as_str(), read.header("Starling-Siblings")),
                ("joined", Some("1"))
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn siblings_come_raw_one_by_one_or_in_parts() {
    let cluster = Cluster::start(3).await;
    let target = "/v1/kv/forms/key";
    for (i, value) in ["one", "two"].into_iter().enumerate() {
        cluster.ask(i, Request::put(target, value).context("none")).await.expect(204);
    }
    let json = cluster.ask(2, Request::get(target)).await.expect(300).json();
    for sibling in json["siblings"].as_array().expect("siblings") {
        let version = sibling["version"].as_str().expect("a version");
        let one = cluster.ask(0, Request::get(format!("{target}?version={version}"))).await;
        assert!(["one", "two"].contains(&one.expect(200).text().as_str()));
    }
    let request = Request::get(target).header("Accept", "multipart/mixed");
    let parts = cluster.ask(0, request).await.expect(300);
    assert!(parts.header("Content-Type").is_some_and(|t| t.starts_with("multipart/mixed")));
    assert!(parts.text().contains("\r\n\r\none") && parts.text().contains("\r\n\r\ntwo"));
    let request = Request::get(target).header("Accept", "text/plain");
    cluster.ask(1, request).await.expect_problem(406, "not-acceptable");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_lww_bucket_never_answers_300() {
    let cluster = Cluster::with(3, "buckets.lww.resolve = \"lww\"\n").await;
    let mut tasks = JoinSet::new();
    for task in 0..6 {
        let mut clients: Vec<Client> = cluster.http_all().into_iter().map(Client::new).collect();
        tasks.spawn(async move {
            for round in 0..30 {
                let target = format!("/v1/kv/lww/key-{}", round % 3);
                let put = Request::put(&target, format!("{task}/{round}"));
                // Half of them say outright that they want to stand beside what is there.
                let put = if round % 2 == 0 { put.context("none") } else { put };
                let (writer, reader) = ((task + round) % 3, (task + round + 1) % 3);
                clients[writer].send(&put).await.expect("an answer").expect(204);
                let answer = clients[reader].send(&Request::get(&target)).await;
                answer.expect("an answer").expect(200);
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.expect("no 300");
    }
    for key in 0..3 {
        let target = format!("/v1/kv/lww/key-{key}?consistency=all");
        let winner = cluster.ask(0, Request::get(&target)).await.expect(200).text();
        for i in 1..3 {
            let other = cluster.ask(i, Request::get(&target)).await.expect(200).text();
            assert_eq!(other, winner, "all nodes choose the same");
        }
    }
}
