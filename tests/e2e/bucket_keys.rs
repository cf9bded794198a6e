//! Keys and buckets of every kind, stored and read through different nodes.

use crate::cluster::Cluster;
use crate::http::Request;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_bytes_are_a_key_and_none_is_normalised() {
    let cluster = Cluster::start(3).await;
    let longest = "x".repeat(2_048);
    let longest_encoded = "%FF".repeat(2_048);
    let keys = [
        "plain",
        "%00",
        "a%00b",
        "%FF%FE",
        "/",
        "//",
        "a//b",
        ".",
        "..",
        "../..",
        "a/../b",
        "a/b",
        "a/",
        "/a",
        "a+b",
        "a%20b",
        "%25",
        "%3Fr=1",
        "%23",
        "k%C3%A9y",
        &longest,
        &longest_encoded,
    ];
    for (number, key) in keys.iter().enumerate() {
        let request = Request::put(format!("/v1/kv/keys/{key}"), format!("value {number}"));
        cluster.ask(number % 3, request).await.expect(204);
    }
    // All are different: no later one has replaced an earlier one.
    for (number, key) in keys.iter().enumerate() {
        let request = Request::get(format!("/v1/kv/keys/{key}"));
        let answer = cluster.ask((number + 1) % 3, request).await.expect(200);
        assert_eq!(answer.text(), format!("value {number}"), "{key}");
    }
    for (one, other) in
        [("/v1/kv/keys/%FF%FE", "/v1/kv64/keys/__4"), ("/v1/kv/keys/a%2Fb", "/v1/kv/keys/a/b")]
    {
        let [one, other] = [one, other].map(Request::get);
        let (one, other) = (cluster.ask(0, one).await, cluster.ask(1, other).await);
        assert_eq!(one.expect(200).body, other.expect(200).body);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_key_or_bucket_is_refused_for_every_method() {
    let cluster = Cluster::start(1).await;
    let too_long = format!("/v1/kv/b/{}", "x".repeat(2_049));
    let too_long_encoded = format!("/v1/kv/b/{}", "%00".repeat(2_049));
    let long_bucket = format!("/v1/kv/{}/k", "b".repeat(129));
    let cases = [
        ("/v1/kv/b", "invalid-key"),
        ("/v1/kv/b/", "invalid-key"),
        ("/v1/kv64/b/", "invalid-key"),
        ("/v1/kv64/b/!", "invalid-key"),
        ("/v1/kv64/b/a", "invalid-key"),
        ("/v1/kv/b/%", "invalid-key"),
        ("/v1/kv/b/%0", "invalid-key"),
        ("/v1/kv/b/%zz", "invalid-key"),
        (&too_long, "invalid-key"),
        (&too_long_encoded, "invalid-key"),
        ("/v1/kv//k", "invalid-bucket"),
        ("/v1/kv/.b/k", "invalid-bucket"),
        ("/v1/kv/-b/k", "invalid-bucket"),
        ("/v1/kv/a%00b/k", "invalid-bucket"),
        ("/v1/kv/%FF/k", "invalid-bucket"),
        (&long_bucket, "invalid-bucket"),
    ];
    for (target, code) in cases {
        for request in
            [Request::get(target), Request::put(target, "value"), Request::delete(target)]
        {
            cluster.ask(0, request).await.expect_problem(400, code);
        }
        let answer = cluster.ask(0, Request::new("HEAD", target)).await.expect(400);
        assert_eq!(answer.header("Starling-Error"), Some(code), "{target}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn targets_and_headers_beyond_all_bounds_are_refused() {
    let cluster = Cluster::start(1).await;
    let target = format!("/v1/kv/b/{}", "x".repeat(17_000));
    cluster.ask(0, Request::get(target)).await.expect_problem(414, "target-too-long");
    let large = Request::get("/v1/kv/b/k").header("X-Large", "x".repeat(60_000));
    cluster.ask(0, large).await.expect_problem(431, "headers-too-large");
    let meta = Request::put("/v1/kv/b/k", "v").header("Starling-Meta-Large", "x".repeat(4_097));
    cluster.ask(0, meta).await.expect_problem(431, "headers-too-large");
    cluster.assert_untouched("b", "k").await;
}
