//! Context tokens that must not work: nothing is written.

use crate::cluster::Cluster;
use crate::http::Request;

const KEY: &str = "/v1/kv/tokens/k";

/// The same token with one character changed in its middle.
fn forged(token: &str) -> String {
    let mut characters: Vec<char> = token.chars().collect();
    let middle = characters.len() / 2;
    characters[middle] = if characters[middle] == 'A' { 'B' } else { 'A' };
    characters.into_iter().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_that_are_not_of_this_key_and_cluster_are_refused() {
    let cluster = Cluster::start(3).await;
    let stranger = Cluster::start(1).await;
    let token = |answer: crate::http::Answer| answer.expect(204).context().to_owned();
    let own = token(cluster.ask(0, Request::put(KEY, "value")).await);
    let of_other_key = token(cluster.ask(0, Request::put("/v1/kv/tokens/other", "value")).await);
    let of_other_bucket = token(cluster.ask(0, Request::put("/v1/kv/other/k", "value")).await);
    let of_other_cluster = token(stranger.ask(0, Request::put(KEY, "value")).await);
    let of_nothing = cluster.ask(0, Request::get("/v1/kv/tokens/never")).await;
    let of_nothing = of_nothing.expect_problem(404, "not-found").context().to_owned();
    let huge = format!("{own}{}", "A".repeat(8_192));
    let bad = [
        "",
        "x",
        "NONE",
        "****************",
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        &forged(&own),
        &own[..own.len() - 4],
        &own[4..],
        &format!("{own}AAAA"),
        &format!("{own}="),
        &of_other_key,
        &of_other_bucket,
        &of_other_cluster,
        &of_nothing,
        &huge,
        &"A".repeat(30_000),
    ];
    for context in bad {
        let put = Request::put(KEY, "forged").context(context);
        let delete = Request::delete(KEY).context(context);
        for request in [put, delete] {
            let answer = cluster.ask(1, request).await.expect_problem(400, "invalid-context");
            assert_eq!(answer.json()["maybe_applied"], false, "{context}");
        }
    }
    let read = cluster.ask(2, Request::get(format!("{KEY}?consistency=all"))).await.expect(200);
    assert_eq!((read.text().as_str(), read.header("Starling-Siblings")), ("value", Some("1")));
    // And the right one works, through any node.
    cluster.ask(2, Request::put(KEY, "next").context(&own)).await.expect(204);
    assert_eq!(cluster.ask(0, Request::get(KEY)).await.expect(200).text(), "next");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conditions_keep_a_write_from_what_has_changed() {
    let cluster = Cluster::start(3).await;
    let first = cluster.ask(0, Request::put(KEY, "first").header("If-None-Match", "*")).await;
    let etag = first.expect(204).header("ETag").expect("one version has a tag").to_owned();
    let again = Request::put(KEY, "again").header("If-None-Match", "*");
    let refused = cluster.ask(1, again).await.expect_problem(412, "precondition-failed");
    assert_eq!(refused.header("ETag"), Some(etag.as_str()));
    let second = Request::put(KEY, "second").header("If-Match", &etag);
    cluster.ask(2, second).await.expect(204);
    let stale = Request::put(KEY, "stale").header("If-Match", &etag);
    cluster.ask(0, stale).await.expect_problem(412, "precondition-failed");
    let malformed = Request::put(KEY, "malformed").header("If-Match", "no-quotes");
    cluster.ask(0, malformed).await.expect_problem(400, "invalid-request");
    assert_eq!(cluster.ask(1, Request::get(KEY)).await.expect(200).text(), "second");
}
