//! Answers to GET and HEAD.

use base64::Engine;
use starling::protocol::causality::{Content, Shown, Text, Value};

use crate::client::Reply;
use crate::node::{SET, Server, Step, VERSION_1, VERSION_2, one, siblings, value, version};

fn check_key_headers(reply: &Reply) {
    for (name, value) in [
        ("cache-control", "no-store"),
        ("vary", "Accept"),
        ("x-content-type-options", "nosniff"),
        ("content-security-policy", "sandbox"),
        ("starling-epoch", "7"),
    ] {
        assert_eq!(reply.header(name), Some(value), "{name}: {reply:?}");
    }
    assert!(reply.header("starling-request-id").is_some());
}

#[tokio::test]
async fn one_value_is_200_as_stored() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let stored = Value {
        content_type: Some(Text::from("text/x; charset=utf-8")),
        content_encoding: Some(Text::from("br")),
        meta: vec![(Text::from("owner"), Text::from("me"))],
        ..value(&b"\0raw\xff"[..])
    };
    for method in ["GET", "HEAD"] {
        let stored = version(1, Content::Value(stored.clone()));
        server.script.then(Step::Found(Shown::One(stored), 1));
        let reply = client.ask(method, "/v1/kv/b/k", &[("Range", "bytes=0-1")]).await;
        assert_eq!(reply.status, 200);
        let body: &[u8] = if method == "GET" { b"\0raw\xff" } else { b"" };
        assert_eq!(reply.body, body);
        check_key_headers(&reply);
        let etag = format!("\"{SET}\"");
        for (name, value) in [
            ("content-length", "5"),
            ("content-type", "text/x; charset=utf-8"),
            ("content-encoding", "br"),
            ("starling-meta-owner", "me"),
            ("starling-version", VERSION_1),
            ("starling-siblings", "1"),
            ("starling-acks", "2/2/3"),
            ("starling-context", "a-context-token-made-up"),
            ("etag", &etag),
            ("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT"),
        ] {
            assert_eq!(reply.header(name), Some(value), "{method} {name}");
        }
    }
}

#[tokio::test]
async fn the_default_type_is_octet_stream_and_accept_does_not_matter() {
    let server = Server::start().await;
    server.script.then(one(""));
    let reply = server.client().await.ask("GET", "/v1/kv/b/k", &[("Accept", "text/html")]).await;
    assert_eq!((reply.status, reply.body.len()), (200, 0));
    assert_eq!(reply.header("content-type"), Some("application/octet-stream"));
    assert_eq!(reply.header("content-length"), Some("0"));
}

#[tokio::test]
async fn nothing_is_404_with_the_context() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for deleted in [false, true] {
        server.script.then(Step::Found(Shown::Nothing { deleted }, 0));
        let reply = client.ask("GET", "/v1/kv/b/k", &[("Accept", "text/html")]).await;
        assert_eq!((reply.status, reply.problem().as_str()), (404, "not-found"));
        check_key_headers(&reply);
        assert_eq!(reply.header("starling-deleted"), deleted.then_some("true"));
        assert_eq!(reply.header("starling-context"), Some("a-context-token-made-up"));
        assert_eq!(reply.header("starling-acks"), Some("2/2/3"));
        assert_eq!(
            (&reply.json()["required"], &reply.json()["acknowledged"]),
            (&2.into(), &2.into())
        );
    }
}

#[tokio::test]
async fn siblings_are_300_as_json() {
    let server = Server::start().await;
    let mut client = server.client().await;
    server.script.then(siblings(b"\xff\xd8"));
    let reply = client.ask("GET", "/v1/kv/b/k", &[]).await;
    assert_eq!((reply.status, reply.header("content-type")), (300, Some("application/json")));
    check_key_headers(&reply);
    assert_eq!(reply.header("etag"), Some(&*format!("\"{SET}.j\"")));
    assert_eq!(reply.header("starling-siblings"), Some("2"));
    assert_eq!(reply.header("starling-version"), None);
    let value = base64::engine::general_purpose::STANDARD.encode(b"\xff\xd8");
    assert_eq!(
        reply.json(),
        serde_json::json!({"context": "a-context-token-made-up", "siblings": [
            {
                "version": VERSION_1, "deleted": false, "content_type": "image/jpeg",
                "content_encoding": "gzip", "meta": {"colour": "red"},
                "modified": "1994-11-06T08:49:37.042Z", "value": value
            },
            {
                "version": VERSION_2, "deleted": true, "content_type": null,
                "content_encoding": null, "meta": {},
                "modified": "1994-11-06T08:49:37.042Z", "value": null
            }
        ]})
    );
}

#[tokio::test]
async fn siblings_are_300_as_multipart_where_that_is_wanted() {
    let server = Server::start().await;
    let mut client = server.client().await;
    // The first name that the node draws is 32 zeros: it occurs in the value.
    let body = b"\xff\r\n--starling-00000000000000000000000000000000\r\n\r\nx\r\n";
    server.script.then(siblings(body));
    let headers = [("Accept", "multipart/mixed, application/json;q=0.5"), ("X-Request-Id", "r")];
    let reply = client.ask("GET", "/v1/kv/b/k", &headers).await;
    assert_eq!(reply.status, 300);
    assert_eq!(reply.header("etag"), Some(&*format!("\"{SET}.m\"")));
    let content_type = reply.header("content-type").expect("a type").to_owned();
    let boundary = content_type.strip_prefix("multipart/mixed; boundary=\"").expect(&content_type);
    let parts = parse_multipart(&reply.body, boundary.trim_end_matches('"'));
    let [(full, full_body), (deleted, deleted_body)] = &parts[..] else { panic!("{parts:?}") };
    assert_eq!((&full_body[..], &deleted_body[..]), (&body[..], &b""[..]));
    for line in [
        "Content-Type: image/jpeg",
        &format!("Starling-Version: {VERSION_1}"),
        "Content-Encoding: gzip",
        "Starling-Meta-colour: red",
    ] {
        assert!(full.lines().any(|got| got == line), "{line} in {full}");
    }
    assert!(!full.contains("Starling-Deleted"));
    for line in ["Starling-Deleted: true", &format!("Starling-Version: {VERSION_2}")] {
        assert!(deleted.lines().any(|got| got == line), "{line} in {deleted}");
    }
}

/// RFC 2046, section 5.1.1: heads and bodies of the parts.
fn parse_multipart(body: &[u8], boundary: &str) -> Vec<(String, Vec<u8>)> {
    let delimiter = format!("\r\n--{boundary}").into_bytes();
    let whole = [b"\r\n", body].concat();
    let mut starts: Vec<usize> = Vec::new();
    for at in 0..whole.len() {
        if whole[at..].starts_with(&delimiter) {
            starts.push(at);
        }
    }
    let last = *starts.last().expect("an end");
    assert_eq!(&whole[last + delimiter.len()..], b"--\r\n");
    let parts = starts.windows(2).map(|pair| {
        let part = &whole[pair[0] + delimiter.len()..pair[1]];
        let part = part.strip_prefix(b"\r\n").expect("a line end");
        let gap = part.windows(4).position(|w| w == b"\r\n\r\n").expect("an empty line");
        (String::from_utf8(part[..gap].to_vec()).expect("plain"), part[gap + 4..].to_vec())
    });
    parts.collect()
}

#[tokio::test]
async fn siblings_that_nothing_can_show_are_406() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for accept in ["text/plain", "*/*;q=0", "application/json;q=0"] {
        server.script.then(siblings(b""));
        let reply = client.ask("GET", "/v1/kv/b/k", &[("Accept", accept)]).await;
        assert_eq!((reply.status, reply.problem().as_str()), (406, "not-acceptable"), "{accept}");
    }
}

#[tokio::test]
async fn head_of_siblings_has_neither_length_nor_type() {
    let server = Server::start().await;
    let mut client = server.client().await;
    server.script.then(siblings(b"x"));
    let reply = client.ask("HEAD", "/v1/kv/b/k", &[("Accept", "multipart/mixed")]).await;
    assert_eq!(reply.status, 300);
    assert_eq!((reply.header("content-length"), reply.header("content-type")), (None, None));
    assert_eq!(reply.header("etag"), Some(&*format!("\"{SET}.m\"")));
    assert_eq!(reply.header("starling-siblings"), Some("2"));
    assert_eq!(reply.header("transfer-encoding"), None);
    // The connection still works, and HEAD of an error says how long its body would be.
    server.script.then(Step::Found(Shown::Nothing { deleted: true }, 0));
    let reply = client.ask("HEAD", "/v1/kv/b/k", &[]).await;
    assert_eq!((reply.status, reply.header("starling-error")), (404, Some("not-found")));
    assert!(reply.header("content-length").is_some_and(|len| len != "0"));
    assert_eq!(client.ask("GET", "/v1/kv/b/k", &[]).await.status, 200);
}

#[tokio::test]
async fn one_version_is_read_by_its_name() {
    let server = Server::start().await;
    let mut client = server.client().await;
    server.script.then(Step::Found(Shown::One(version(2, Content::Value(value("two")))), 2));
    let reply = client.ask("GET", &format!("/v1/kv/b/k?version={VERSION_2}"), &[]).await;
    assert_eq!((reply.status, &reply.body[..]), (200, &b"two"[..]));
    assert_eq!(server.script.last_get().version.as_deref(), Some(VERSION_2));
    assert_eq!(reply.header("starling-version"), Some(VERSION_2));
    assert_eq!(reply.header("starling-siblings"), Some("2"));
    assert_eq!(reply.header("etag"), None, "the set's tag names all of it");
    server.script.then(Step::Found(Shown::One(version(2, Content::Tombstone)), 2));
    let reply = client.ask("GET", &format!("/v1/kv/b/k?version={VERSION_2}"), &[]).await;
    assert_eq!((reply.status, reply.header("starling-deleted")), (200, Some("true")));
}

#[tokio::test]
async fn large_values_arrive_whole() {
    let server = Server::start().await;
    let large: Vec<u8> = (0..3_000_000_u32).map(|i| (i % 251) as u8).collect();
    let mut client = server.client().await;
    for _ in 0..3 {
        server.script.then(one(large.clone()));
        let reply = client.ask("GET", "/v1/kv/b/k", &[]).await;
        assert!(reply.body == large, "{} bytes", reply.body.len());
    }
}
