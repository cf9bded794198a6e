//! PUT and DELETE.

use starling::node::operation::Seen;
use starling::protocol::causality::{Content, Context, Value};

use crate::client::head;
use crate::node::{SET, Server, VERSION_1};

fn written(server: &Server) -> Value {
    match server.script.last_write().content {
        Content::Value(value) => value,
        Content::Tombstone => panic!("a tombstone"),
    }
}

#[tokio::test]
async fn put_stores_the_body_with_what_belongs_to_it() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let headers = [
        ("Content-Type", "Text/X;  y=\"z\""),
        ("Content-Encoding", "gzip, br"),
        ("Starling-Meta-Zoo", "last"),
        ("starling-meta-art", "first"),
    ];
    let reply = client.ask_with(("PUT", "/v1/kv/b/k?w=2"), &headers, b"\0body\xff").await;
    assert_eq!((reply.status, reply.body.len()), (204, 0));
    let etag = format!("\"{SET}\"");
    for (name, value) in [
        ("starling-context", Some("the-new-context-token")),
        ("starling-version", Some(VERSION_1)),
        ("starling-siblings", Some("1")),
        ("starling-acks", Some("2/2/3")),
        ("starling-epoch", Some("7")),
        ("etag", Some(&*etag)),
        ("cache-control", Some("no-store")),
        ("content-length", None),
        ("content-type", None),
    ] {
        assert_eq!(reply.header(name), value, "{name}");
    }
    let value = written(&server);
    assert_eq!(value.body, &b"\0body\xff"[..]);
    assert_eq!(value.content_type.as_deref(), Some("Text/X;  y=\"z\""));
    assert_eq!(value.content_encoding.as_deref(), Some("gzip, br"));
    let meta: Vec<_> = value.meta.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    assert_eq!(meta, [("art", "first"), ("zoo", "last")]);
}

#[tokio::test]
async fn naming_the_default_type_and_naming_none_is_the_same_value() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.ask_with(("PUT", "/v1/kv/b/k"), &[], "v").await;
    let unnamed = written(&server);
    let named = [("Content-Type", "application/octet-stream")];
    client.ask_with(("PUT", "/v1/kv/b/k"), &named, "v").await;
    assert_eq!(unnamed, written(&server));
}

#[tokio::test]
async fn bodies_come_in_any_framing() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.send("PUT /v1/kv/b/k HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(client.reply("PUT").await.status, 204);
    assert_eq!(written(&server).body.len(), 0, "no body is an empty value");
    let chunked = [("Transfer-Encoding", "chunked")];
    client.send(head("PUT", "/v1/kv/b/k", &chunked)).await;
    client.send("3\r\nabc\r\n4;x=y\r\ndefg\r\n0\r\nTrailer: x\r\n\r\n").await;
    assert_eq!(client.reply("PUT").await.status, 204);
    assert_eq!(written(&server).body, "abcdefg");
    let large = vec![7; 900_000];
    assert_eq!(client.ask_with(("PUT", "/v1/kv/b/k"), &[], &large).await.status, 204);
    assert!(written(&server).body == large);
    client.send(head("PUT", "/v1/kv/b/k", &chunked)).await;
    client.send("zz\r\nabc\r\n").await;
    let reply = client.reply("PUT").await;
    assert_eq!((reply.status, reply.problem().as_str()), (400, "invalid-request"));
    client.closed().await;
    assert_eq!(server.script.writes.lock().expect("no panic").len(), 3);
}

#[tokio::test]
async fn what_the_writer_has_seen_is_what_it_says() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for (token, seen) in [
        (None, Seen::OwnRead),
        (Some("none"), Seen::Nothing),
        (Some("a-good-context-token"), Seen::Token(Context::default())),
    ] {
        let headers: Vec<_> = token.map(|token| ("Starling-Context", token)).into_iter().collect();
        for method in ["PUT", "DELETE"] {
            assert_eq!(client.ask(method, "/v1/kv/b/k", &headers).await.status, 204);
            assert_eq!(server.script.last_write().seen, seen);
        }
    }
    let done = server.script.writes.lock().expect("no panic").len();
    let long = "A".repeat(8_193);
    for bad in ["", "foreign", "NONE", "!!", &long] {
        let headers = [("Starling-Context", bad)];
        let reply = client.ask_with(("PUT", "/v1/kv/b/k"), &headers, "x").await;
        assert_eq!((reply.status, reply.problem().as_str()), (400, "invalid-context"), "{bad}");
        assert_eq!(reply.json()["maybe_applied"], false);
    }
    assert_eq!(server.script.writes.lock().expect("no panic").len(), done);
}

#[tokio::test]
async fn delete_writes_a_tombstone_and_drops_a_body() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let reply = client.ask_with(("DELETE", "/v1/kv/b/k"), &[], "dropped").await;
    assert_eq!(reply.status, 204);
    assert_eq!(server.script.last_write().content, Content::Tombstone);
    assert_eq!(client.ask("GET", "/v1/kv/b/k", &[]).await.status, 200, "the connection goes on");
}

#[tokio::test]
async fn malformed_writes_are_refused_before_the_body_is_looked_at() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let large = "v".repeat(4_090);
    for (headers, status, code) in [
        (&[("Content-Range", "bytes 0-1/2")][..], 400, "invalid-request"),
        (&[("Content-Type", "text/\u{e9}")], 400, "invalid-request"),
        (&[("Starling-Meta-a", "\u{e9}")], 400, "invalid-request"),
        (&[("Starling-Meta-", "x")], 400, "invalid-request"),
        (&[("Starling-Meta-a", "1"), ("Starling-Meta-a", "2")], 400, "invalid-request"),
        (&[("Content-Type", "a/b"), ("Content-Type", "c/d")], 400, "invalid-request"),
        (&[("Starling-Meta-abcdefg", &large)], 431, "headers-too-large"),
        (&[("If-Match", "unquoted")], 400, "invalid-request"),
    ] {
        let reply = client.ask_with(("PUT", "/v1/kv/b/k"), headers, "body").await;
        assert_eq!((reply.status, reply.problem().as_str()), (status, code), "{headers:?}");
        assert_eq!(reply.json()["maybe_applied"], false);
    }
    let fitting = [("Starling-Meta-abcdef", large.as_str())];
    assert_eq!(client.ask_with(("PUT", "/v1/kv/b/k"), &fitting, "body").await.status, 204);
    assert_eq!(server.script.writes.lock().expect("no panic").len(), 1);
}
