//! Paths, methods, forms and types that are not there.

use crate::cluster::Cluster;
use crate::http::Request;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_paths_methods_and_types_say_what_is_right() {
    let cluster = Cluster::start(1).await;
    for target in [
        "/",
        "/v1",
        "/v1/kv",
        "/v2/kv/b/k",
        "/v1/cluster/",
        "/healthz/",
        "/errors/none",
        "//",
        "/..",
    ] {
        cluster.ask(0, Request::get(target)).await.expect_problem(404, "no-such-route");
    }
    for (method, target, allow) in [
        ("POST", "/v1/kv/b/k", "GET, HEAD, PUT, DELETE"),
        ("PATCH", "/v1/kv64/b/aw", "GET, HEAD, PUT, DELETE"),
        ("BREW", "/v1/kv/b/k", "GET, HEAD, PUT, DELETE"),
        ("PUT", "/v1/cluster", "GET, HEAD"),
        ("GET", "/v1/cluster/plan", "POST"),
        ("DELETE", "/healthz", "GET, HEAD"),
        ("POST", "/metrics", "GET, HEAD"),
    ] {
        let answer = cluster.ask(0, Request::new(method, target).body("")).await;
        let answer = answer.expect_problem(405, "method-not-allowed");
        assert_eq!(answer.header("Allow"), Some(allow), "{method} {target}");
    }
    for target in ["/v1/cluster/plan", "/v1/cluster/apply"] {
        let request = Request::new("POST", target).body("{}");
        cluster.ask(0, request).await.expect_problem(415, "unsupported-media-type");
    }
    let ranged = Request::put("/v1/kv/b/k", "v").header("Content-Range", "bytes 0-0/1");
    cluster.ask(0, ranged).await.expect_problem(400, "invalid-request");
    let no_text = Request::get("/v1/kv/b/k").header("Accept", "text/nothing;;q=x");
    cluster.ask(0, no_text).await.expect_problem(404, "not-found");
    cluster.assert_untouched("b", "k").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn type_encoding_and_metadata_come_back_as_they_were_sent() {
    let cluster = Cluster::start(3).await;
    let sent = [
        ("Content-Type", "text/x-odd; charset=\"utf-8\""),
        ("Content-Encoding", "x-made-up"),
        ("Starling-Meta-Owner", "somebody"),
    ];
    let put = Request::put("/v1/kv/types/k", "value");
    let put = sent.iter().fold(put, |put, (name, value)| put.header(name, *value));
    cluster.ask(0, put).await.expect(204);
    for method in ["GET", "HEAD"] {
        let answer = cluster.ask(1, Request::new(method, "/v1/kv/types/k")).await.expect(200);
        for (name, value) in sent {
            assert_eq!(answer.header(name), Some(value), "{method}");
        }
        for (name, value) in [
            ("Cache-Control", "no-store"),
            ("Vary", "Accept"),
            ("X-Content-Type-Options", "nosniff"),
            ("Content-Security-Policy", "sandbox"),
            ("Content-Length", "5"),
        ] {
            assert_eq!(answer.header(name), Some(value), "{method}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_document_of_a_real_node_is_there() {
    let cluster = Cluster::start(1).await;
    let description = cluster.ask(0, Request::get("/openapi.json")).await.expect(200).json();
    assert!(description["openapi"].as_str().is_some_and(|version| version.starts_with("3.")));
    let metrics = cluster.ask(0, Request::get("/metrics")).await.expect(200).text();
    let samples = metrics.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    for sample in samples {
        assert!(sample.starts_with("starling_"), "{sample}");
        let value = sample.rsplit(' ').next().unwrap_or_default();
        assert!(value.parse::<f64>().is_ok(), "{sample}");
    }
    for target in ["/v1/cluster", "/v1/cluster/ring", "/v1/buckets", "/v1/buckets/b"] {
        assert!(cluster.ask(0, Request::get(target)).await.expect(200).json().is_object());
    }
}
