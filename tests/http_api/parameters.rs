//! What a request can ask for.

use std::time::Duration;

use starling::types::Level;
use tokio::time::Instant;

use crate::node::Server;

#[tokio::test]
async fn terms_reach_the_node_from_the_query_and_from_headers() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let before = Instant::now();
    let target = "/v1/kv/b/k?consistency=all&sloppy=true&timeout=30s";
    assert_eq!(client.ask("GET", target, &[]).await.status, 200);
    let terms = server.script.last_get().terms;
    assert_eq!((terms.level, terms.sloppy), (Some(Level::All), Some(true)));
    let left = terms.deadline - before;
    assert!(left > Duration::from_secs(29) && left < Duration::from_secs(40), "{left:?}");
    let headers = [
        ("Starling-R", "2"),
        ("Starling-Consistency", "one"),
        ("Starling-Timeout", "700ms"),
        ("Starling-Sloppy", "false"),
        ("Starling-Context", "whatever: reads pass it over"),
        ("Starling-Meta-x", "y"),
    ];
    assert_eq!(client.ask("GET", "/v1/kv/b/k?r=2", &headers).await.status, 200);
    let terms = server.script.last_get().terms;
    assert_eq!(terms.level, Level::parse_count("2").ok());
    assert_eq!(terms.sloppy, Some(false));
    assert_eq!(client.ask("GET", "/v1/kv/b/k?", &[]).await.status, 200);
    let terms = server.script.last_get().terms;
    assert_eq!((terms.level, terms.sloppy), (None, None));
    assert_eq!(client.ask("DELETE", "/v1/kv/b/k?consistency=any&w=1", &[]).await.status, 204);
}

#[tokio::test]
async fn wrong_parameters_are_400_and_level_errors_name_n() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for (method, query, names_n) in [
        ("GET", "consistency=any", true),
        ("GET", "w=1", true),
        ("PUT", "r=1", true),
        ("DELETE", "r=1", true),
        ("GET", "r=0", true),
        ("GET", "r=abc", true),
        ("GET", "r=", true),
        ("GET", "r=-1", true),
        ("GET", "consistency=most", true),
        ("GET", "consistency=ONE", true),
        ("GET", "timeout=0s", false),
        ("GET", "timeout=61s", false),
        ("GET", "timeout=5", false),
        ("GET", "timeout=1.5s", false),
        ("GET", "sloppy=yes", false),
        ("GET", "sloppy", false),
        ("GET", "unknown=1", false),
        ("GET", "r=1&r=2", false),
        ("GET", "r=%zz", false),
        ("PUT", "version=x", false),
        ("PUT", "context=none", false),
        ("DELETE", "w=1&w=2", false),
    ] {
        let reply = client.ask(method, &format!("/v1/kv/b/k?{query}"), &[]).await;
        assert_eq!((reply.status, reply.problem().as_str()), (400, "invalid-parameter"), "{query}");
        let json = reply.json();
        let detail = json["detail"].as_str().expect("a text");
        assert_eq!(detail.contains("n is 3"), names_n, "{query}: {detail}");
        let is_write = method != "GET";
        assert_eq!(json.get("maybe_applied"), is_write.then_some(&false.into()), "{query}");
    }
    assert!(server.script.writes.lock().expect("no panic").is_empty());
    assert!(server.script.gets.lock().expect("no panic").is_empty());
}

#[tokio::test]
async fn headers_and_query_must_agree() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for headers in [
        &[("Starling-R", "1")][..],
        &[("Starling-R", "2"), ("Starling-R", "3")],
        &[("Starling-Unheard-Of", "1")],
    ] {
        let reply = client.ask("GET", "/v1/kv/b/k?r=2", headers).await;
        assert_eq!(reply.problem(), "invalid-parameter", "{headers:?}");
    }
    let twice = [("Starling-R", "2"), ("Starling-R", "2")];
    assert_eq!(client.ask("GET", "/v1/kv/b/k?r=2&r=2", &twice).await.status, 200);
    let reply = client.ask("GET", "/v1/kv/b/k", &[("Starling-Timeout", "5s\u{e9}")]).await;
    assert_eq!(reply.problem(), "invalid-request");
}

#[tokio::test]
async fn fixed_routes_take_no_unknown_parameters() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for target in [
        "/v1/cluster",
        "/v1/cluster/ring",
        "/v1/buckets",
        "/v1/buckets/b",
        "/healthz",
        "/readyz",
        "/metrics",
        "/openapi.json",
        "/errors/internal",
        "/v1/repair",
        "/v1/explain/b/k",
    ] {
        let reply = client.ask("GET", &format!("{target}?x=1"), &[]).await;
        assert_eq!(reply.problem(), "invalid-parameter", "{target}");
    }
}

#[tokio::test]
async fn request_ids_come_back_where_they_are_usable() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let id = |reply: crate::client::Reply| {
        reply.header("starling-request-id").expect("always there").to_owned()
    };
    let given = [("Starling-Request-Id", "my.id-1"), ("X-Request-Id", "other")];
    assert_eq!(id(client.ask("GET", "/v1/kv/b/k", &given).await), "my.id-1");
    assert_eq!(server.script.last_get().terms.request_id.as_str(), "my.id-1");
    let other = [("Starling-Request-Id", "not good"), ("X-Request-Id", "other")];
    assert_eq!(id(client.ask("GET", "/nowhere", &other).await), "other");
    for unusable in ["a b", "\u{e9}", &"x".repeat(129)] {
        let made = id(client.ask("GET", "/healthz", &[("X-Request-Id", unusable)]).await);
        assert_eq!(made.len(), 32, "{unusable}");
    }
}
