//! How keys and buckets are read out of paths.

use tokio::time::sleep;

use crate::client::{Reply, head};
use crate::node::{SHORT, Server, one};

async fn key_of(server: &Server, target: &str) -> Vec<u8> {
    let reply = server.client().await.ask("GET", target, &[]).await;
    assert_eq!(reply.status, 200, "{target}: {reply:?}");
    server.script.last_get().path.key.as_bytes().to_vec()
}

async fn refused(server: &Server, target: &str, status: u16, code: &str) -> Reply {
    let reply = server.client().await.ask("GET", target, &[]).await;
    assert_eq!((reply.status, reply.problem().as_str()), (status, code), "{target}");
    reply
}

#[tokio::test]
async fn keys_are_the_raw_rest_of_the_path_percent_decoded_once() {
    let server = Server::start().await;
    for (target, key) in [
        ("/v1/kv/b/plain", &b"plain"[..]),
        ("/v1/kv/b//", b"/"),
        ("/v1/kv/b/a//b/../c/./d", b"a//b/../c/./d"),
        ("/v1/kv/b/..", b".."),
        ("/v1/kv/b/a%2Fb%2f", b"a/b/"),
        ("/v1/kv/b/%00%FF", b"\0\xff"),
        ("/v1/kv/b/a+b%20c%2B", b"a+b c+"),
        ("/v1/kv/b/%252F", b"%2F"),
        ("/v1/kv/b/k%3Fr=1?r=1", b"k?r=1"),
        ("/v1/kv64/b/_w", b"\xff"),
        ("/v1/kv64/b/_w==", b"\xff"),
        ("http://somewhere/v1/kv/b/absolute", b"absolute"),
    ] {
        assert_eq!(key_of(&server, target).await, key, "{target}");
    }
    let longest = "x".repeat(2_048);
    assert_eq!(key_of(&server, &format!("/v1/kv/b/{longest}")).await.len(), 2_048);
    let encoded = "%aa".repeat(2_048);
    assert_eq!(key_of(&server, &format!("/v1/kv/b/{encoded}")).await.len(), 2_048);
}

#[tokio::test]
async fn what_is_no_key_or_bucket_is_refused_by_name() {
    let server = Server::start().await;
    for target in [
        "/v1/kv/b",
        "/v1/kv/b/",
        "/v1/kv64/b",
        "/v1/kv64/b/",
        "/v1/kv/b/%zz",
        "/v1/kv/b/%",
        "/v1/kv/b/%4",
        "/v1/kv64/b/!",
        "/v1/kv64/b/_x",
        "/v1/explain/b",
        "/v1/kv/b?r=1",
    ] {
        refused(&server, target, 400, "invalid-key").await;
    }
    refused(&server, &format!("/v1/kv/b/{}", "x".repeat(2_049)), 400, "invalid-key").await;
    for target in ["/v1/kv/", "/v1/kv//k", "/v1/kv/.b/k", "/v1/kv/b%2Fc/k", "/v1/kv/%zz/k"] {
        refused(&server, target, 400, "invalid-bucket").await;
    }
    refused(&server, &format!("/v1/kv/{}/k", "b".repeat(129)), 400, "invalid-bucket").await;
    for target in ["/", "/v1/kv", "/v1/cluster/", "/v2/kv/b/k", "/healthz/", "/errors/none"] {
        refused(&server, target, 404, "no-such-route").await;
    }
}

#[tokio::test]
async fn targets_of_16_kib_are_read_and_longer_ones_are_414() {
    let server = Server::start().await;
    let fitting = format!("/v1/kv/b/k?version={}", "v".repeat(16_384 - 19));
    assert_eq!(fitting.len(), 16_384);
    assert_eq!(server.client().await.ask("GET", &fitting, &[]).await.status, 200);
    refused(&server, &format!("{fitting}v"), 414, "target-too-long").await;
    for len in [60_000, 70_000, 400_000] {
        refused(&server, &format!("/v1/kv/b/{}", "x".repeat(len)), 414, "target-too-long").await;
    }
}

#[tokio::test]
async fn other_methods_are_405_with_allow() {
    let server = Server::start().await;
    for (method, target, allow) in [
        ("POST", "/v1/kv/b/k", "GET, HEAD, PUT, DELETE"),
        ("OPTIONS", "/v1/kv/b/k", "GET, HEAD, PUT, DELETE"),
        ("PATCH", "/v1/kv64/b/aw", "GET, HEAD, PUT, DELETE"),
        ("BREW", "/v1/kv/b/k", "GET, HEAD, PUT, DELETE"),
        ("PUT", "/v1/cluster", "GET, HEAD"),
        ("GET", "/v1/cluster/plan", "POST"),
        ("DELETE", "/v1/repair", "GET, HEAD, POST"),
        ("OPTIONS", "/healthz", "GET, HEAD"),
        ("POST", "/metrics", "GET, HEAD"),
    ] {
        let mut client = server.client().await;
        let reply = client.ask(method, target, &[]).await;
        assert_eq!((reply.status, reply.problem().as_str()), (405, "method-not-allowed"));
        assert_eq!(reply.header("allow"), Some(allow), "{method} {target}");
    }
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let requests: String = (0..50).map(|i| head("GET", &format!("/v1/kv/b/k{i}"), &[])).collect();
    let put = "PUT /v1/kv/b/p HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc";
    client.send(format!("{requests}{put}{}BROKEN\r\n\r\n", head("GET", "/nowhere", &[]))).await;
    for _ in 0..50 {
        assert_eq!(client.reply("GET").await.body, b"default");
    }
    assert_eq!(client.reply("PUT").await.status, 204);
    assert_eq!(client.reply("GET").await.problem(), "no-such-route");
    let refused = client.reply("GET").await;
    assert_eq!((refused.status, refused.problem().as_str()), (400, "invalid-request"));
    client.closed().await;
    let keys: Vec<_> = server
        .script
        .gets
        .lock()
        .expect("no panic")
        .iter()
        .map(|get| String::from_utf8(get.path.key.as_bytes().to_vec()).expect("plain"))
        .collect();
    assert_eq!(keys, (0..50).map(|i| format!("k{i}")).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_refusal_waits_for_the_answers_before_it() {
    let server = Server::start().await;
    let large: Vec<u8> = b"HTTP/1.1 400 Bad Request\r\n\r\n".repeat(40_000);
    for _ in 0..20 {
        server.script.then(one(large.clone()));
    }
    let mut client = server.client().await;
    let requests = head("GET", "/v1/kv/b/k", &[]).repeat(20);
    client.send(format!("{requests}BROKEN\r\n\r\n")).await;
    // Meanwhile, the answers fill all buffers on the way.
    sleep(SHORT).await;
    for _ in 0..20 {
        let reply = client.reply("GET").await;
        assert!(reply.status == 200 && reply.body == large);
    }
    assert_eq!(client.reply("GET").await.problem(), "invalid-request");
    client.closed().await;
}

#[tokio::test]
async fn offers_to_upgrade_are_passed_over() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let offer = [("Connection", "Upgrade, HTTP2-Settings"), ("Upgrade", "h2c")];
    for _ in 0..3 {
        assert_eq!(client.ask("GET", "/v1/kv/b/k", &offer).await.body, b"default");
    }
    assert_eq!(client.ask_with(("PUT", "/v1/kv/b/k"), &offer, "x").await.status, 204);
    assert_eq!(client.ask("CONNECT", "localhost:1", &[]).await.problem(), "no-such-route");
}

#[tokio::test]
async fn http_1_0_is_answered_and_closed() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.send("GET /v1/kv/b/k HTTP/1.0\r\n\r\n").await;
    assert_eq!(client.reply("GET").await.body, b"default");
    client.closed().await;
}
