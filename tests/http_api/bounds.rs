//! What clients can't do to a node: stall it, fill it, or confuse it.

use std::time::Duration;

use starling::http::HttpLimits;
use tokio::time::sleep;

use crate::client::{Client, head};
use crate::node::{SHORT, Server, Step, limits, one};

#[tokio::test]
async fn what_is_no_http_is_answered_with_a_problem() {
    let server = Server::start().await;
    let many: String = (0..101).map(|i| format!("h{i}: x\r\n")).collect();
    let large = format!("GET / HTTP/1.1\r\nX-Large: {}\r\n\r\n", "x".repeat(60_000));
    let endless = format!("GET / HTTP/1.1\r\nX-Large: {}", "x".repeat(600_000));
    for (bytes, status, code) in [
        ("NONSENSE\r\n\r\n", 400, "invalid-request"),
        ("GET / HTTP/9.9\r\n\r\n", 400, "invalid-request"),
        ("GET /v1/kv/b/a<b HTTP/1.1\r\n\r\n", 400, "invalid-request"),
        ("GET / HTTP/1.1\r\nbad header\r\n\r\n", 400, "invalid-request"),
        ("GET / HTTP/1.1\r\nbad\u{e9}: x\r\n\r\n", 400, "invalid-request"),
        ("PUT / HTTP/1.1\r\nContent-Length: x\r\n\r\n", 400, "invalid-request"),
        (
            "PUT / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            400,
            "invalid-request",
        ),
        ("PUT / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", 400, "invalid-request"),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "invalid-request"),
        ("\x16\x03\x01\x02\x00\x01\x00\x01\u{fc}\x03\x03\r\n\r\n", 400, "invalid-request"),
        (&format!("GET / HTTP/1.1\r\n{many}\r\n"), 431, "headers-too-large"),
        (&large, 431, "headers-too-large"),
        (&endless, 431, "headers-too-large"),
    ] {
        let mut client = server.client().await;
        client.try_send(bytes).await;
        let reply = client.reply("GET").await;
        let short: String = bytes.chars().take(60).collect();
        assert_eq!((reply.status, reply.problem().as_str()), (status, code), "{short:?}");
        assert_eq!(reply.header("connection"), Some("close"));
        client.closed().await;
    }
    let mut client = server.client().await;
    assert_eq!(client.ask("GET", "/healthz", &[]).await.status, 200);
    client.send("NONSENSE\r\n\r\n").await;
    assert_eq!(client.reply("GET").await.problem(), "invalid-request");
}

#[tokio::test]
async fn headers_that_stop_arriving_are_408() {
    let server = Server::with(HttpLimits { header_timeout: SHORT, ..limits() }).await;
    let mut client = server.client().await;
    client.send("GET /healthz HTTP/1.1\r\n").await;
    let reply = client.reply("GET").await;
    assert_eq!((reply.status, reply.problem().as_str()), (408, "body-timeout"));
    client.closed().await;
    // Byte by byte it is no better: the time is for the whole head.
    let mut client = server.client().await;
    assert_eq!(client.ask("GET", "/healthz", &[]).await.status, 200);
    for byte in head("PUT", "/v1/kv/b/k", &[]).as_bytes() {
        if !client.try_send([*byte]).await {
            break;
        }
        sleep(SHORT / 10).await;
    }
    let reply = client.reply("PUT").await;
    assert_eq!((reply.status, reply.problem().as_str()), (408, "body-timeout"));
    assert_eq!(reply.json()["maybe_applied"], false);
    // Whoever never says a word gets none.
    server.client().await.closed().await;
}

#[tokio::test]
async fn idle_connections_are_closed_without_a_word() {
    let server = Server::with(HttpLimits { idle_timeout: SHORT, ..limits() }).await;
    let mut client = server.client().await;
    for _ in 0..3 {
        assert_eq!(client.ask("GET", "/healthz", &[]).await.status, 200);
        sleep(SHORT / 2).await;
    }
    client.closed().await;
}

#[tokio::test]
async fn slow_answers_are_no_idleness() {
    let limits =
        HttpLimits { idle_timeout: SHORT, header_timeout: SHORT, body_timeout: SHORT, ..limits() };
    let server = Server::with(limits).await;
    let mut client = server.client().await;
    server.script.then(Step::Waits);
    client.send(head("GET", "/v1/kv/b/k", &[])).await;
    sleep(SHORT * 4).await;
    server.script.go_on.notify_one();
    assert_eq!(client.reply("GET").await.body, b"late");
}

#[tokio::test]
async fn a_body_that_stops_halfway_is_408_and_not_written() {
    let server = Server::with(HttpLimits { body_timeout: SHORT, ..limits() }).await;
    for framing in [("Content-Length", "10"), ("Transfer-Encoding", "chunked")] {
        let mut client = server.client().await;
        client.send(head("PUT", "/v1/kv/b/k", &[framing])).await;
        client.send("5\r\nab").await;
        let reply = client.reply("PUT").await;
        assert_eq!((reply.status, reply.problem().as_str()), (408, "body-timeout"));
        assert_eq!(reply.json()["maybe_applied"], false);
        assert_eq!(reply.header("connection"), Some("close"));
        client.closed().await;
    }
    // A slow one that goes on arriving is taken.
    let mut client = server.client().await;
    client.send(head("PUT", "/v1/kv/b/k", &[("Content-Length", "6")])).await;
    for byte in ["a", "b", "c", "d", "e", "f"] {
        sleep(SHORT / 3).await;
        client.send(byte).await;
    }
    assert_eq!(client.reply("PUT").await.status, 204);
    assert_eq!(server.script.writes.lock().expect("no panic").len(), 1);
}

#[tokio::test]
async fn a_client_that_hangs_up_within_its_body_writes_nothing() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.send(head("PUT", "/v1/kv/b/k", &[("Content-Length", "10")])).await;
    client.send("half").await;
    client.finish_sending().await;
    let reply = client.reply("PUT").await;
    assert_eq!((reply.status, reply.problem().as_str()), (400, "invalid-request"));
    assert!(server.script.writes.lock().expect("no panic").is_empty());
}

#[tokio::test]
async fn a_client_that_has_finished_sending_is_still_answered() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.send(head("GET", "/v1/kv/b/k", &[])).await;
    client.finish_sending().await;
    assert_eq!(client.reply("GET").await.status, 200);
    client.closed().await;
}

#[tokio::test]
async fn too_large_values_are_413_by_their_announcement_and_by_their_size() {
    let server = Server::start().await;
    // Announced: answered before a byte of it comes, and what comes is read and dropped.
    let mut client = server.client().await;
    client.send(head("PUT", "/v1/kv/b/k", &[("Content-Length", "5000000")])).await;
    let reply = client.reply("PUT").await;
    assert_eq!((reply.status, reply.problem().as_str()), (413, "value-too-large"));
    assert_eq!(reply.json()["maybe_applied"], false);
    assert_eq!(reply.header("connection"), Some("close"));
    // The whole of it sent at once: the answer is seen all the same.
    let mut client = server.client().await;
    let body = vec![0; 5_000_000];
    let reply = client.ask_with(("PUT", "/v1/kv/b/k"), &[], &body).await;
    assert_eq!((reply.status, reply.problem().as_str()), (413, "value-too-large"));
    client.finish_sending().await;
    client.closed().await;
    // Counted.
    let mut client = server.client().await;
    client.send(head("PUT", "/v1/kv/b/k", &[("Transfer-Encoding", "chunked")])).await;
    for _ in 0..20 {
        client.send("10000\r\n").await;
        client.send(vec![0; 65_536]).await;
        client.send("\r\n").await;
    }
    let reply = client.reply("PUT").await;
    assert_eq!((reply.status, reply.problem().as_str()), (413, "value-too-large"));
    assert!(server.script.writes.lock().expect("no panic").is_empty());
    // The limit itself fits.
    let mut client = server.client().await;
    let body = vec![0; 1_000_000];
    assert_eq!(client.ask_with(("PUT", "/v1/kv/b/k"), &[], &body).await.status, 204);
}

#[tokio::test]
async fn expect_100_continue_is_honoured() {
    let server = Server::start().await;
    let expect = ("Expect", "100-continue");
    let mut client = server.client().await;
    client.send(head("PUT", "/v1/kv/b/k", &[expect, ("Content-Length", "4")])).await;
    assert_eq!(client.reply("PUT").await.status, 100);
    client.send("body").await;
    assert_eq!(client.reply("PUT").await.status, 204);
    for (target, len, status) in
        [("/v1/kv/b/k", "5000000", 413), ("/v1/kv/b/k?r=1", "4", 400), ("/nowhere", "4", 404)]
    {
        let mut client = server.client().await;
        client.send(head("PUT", target, &[expect, ("Content-Length", len)])).await;
        let reply = client.reply("PUT").await;
        assert_eq!(reply.status, status, "the body is not asked for");
        reply.problem();
        assert_eq!(reply.header("connection"), Some("close"));
        client.finish_sending().await;
        client.closed().await;
    }
}

#[tokio::test]
async fn an_error_with_a_small_body_keeps_the_connection() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for _ in 0..3 {
        let reply = client.ask_with(("PUT", "/v1/kv/b/k?r=1"), &[], vec![0; 10_000]).await;
        assert_eq!((reply.status, reply.header("connection")), (400, None));
    }
    let reply = client.ask_with(("GET", "/v1/kv/b/k"), &[], "strange, but allowed").await;
    assert_eq!(reply.status, 200);
}

#[tokio::test]
async fn connections_beyond_the_limit_are_turned_away() {
    let server = Server::with(HttpLimits { max_connections: 3, ..limits() }).await;
    let mut within: Vec<Client> = Vec::new();
    for _ in 0..3 {
        let mut client = server.client().await;
        assert_eq!(client.ask("GET", "/healthz", &[]).await.status, 200);
        within.push(client);
    }
    for _ in 0..3 {
        let mut client = server.client().await;
        let reply = client.reply("GET").await;
        assert_eq!((reply.status, reply.problem().as_str()), (503, "too-many-connections"));
        assert_eq!(reply.header("connection"), Some("close"));
        client.closed().await;
    }
    for client in &mut within {
        assert_eq!(client.ask("GET", "/healthz", &[]).await.status, 200);
    }
    drop(within);
    for attempt in 0.. {
        let mut client = server.client().await;
        if client.ask("GET", "/healthz", &[]).await.status == 200 {
            break;
        }
        assert!(attempt < 100, "places come back");
        sleep(Duration::from_millis(20)).await;
    }
    assert!(server.script.refused.load(std::sync::atomic::Ordering::Relaxed) >= 3);
}

#[tokio::test]
async fn a_flood_of_connections_hurts_nobody_within_the_limit() {
    let server = Server::with(HttpLimits { max_connections: 4, ..limits() }).await;
    let mut within = server.client().await;
    assert_eq!(within.ask("GET", "/healthz", &[]).await.status, 200);
    let mut flood = Vec::new();
    for _ in 0..400 {
        flood.push(server.client().await);
        if flood.len() % 50 == 0 {
            assert_eq!(within.ask("GET", "/healthz", &[]).await.status, 200);
        }
    }
    drop(flood);
    assert_eq!(within.ask("GET", "/v1/kv/b/k", &[]).await.status, 200);
}

#[tokio::test]
async fn requests_beyond_the_limit_are_429_and_health_is_exempt() {
    let server = Server::with(HttpLimits { max_requests: 1, ..limits() }).await;
    server.script.then(Step::Waits);
    let mut busy = server.client().await;
    busy.send(head("GET", "/v1/kv/b/k", &[])).await;
    server.script.waiting.notified().await;
    let mut other = server.client().await;
    let reply = other.ask_with(("PUT", "/v1/kv/b/k"), &[], "body").await;
    assert_eq!((reply.status, reply.problem().as_str()), (429, "overloaded"));
    assert_eq!(reply.header("retry-after"), Some("1"));
    assert_eq!(reply.json()["maybe_applied"], false);
    for target in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(other.ask("GET", target, &[]).await.status, 200, "{target}");
    }
    server.script.go_on.notify_one();
    assert_eq!(busy.reply("GET").await.status, 200);
    assert_eq!(other.ask("GET", "/v1/kv/b/k", &[]).await.status, 200);
}

/// One request after the other is answered, so that each waits for all before it.
#[tokio::test]
async fn while_requests_queue_fewer_are_taken_at_once() {
    const AT_ONCE: usize = 80;
    let server = Server::start().await;
    let mut clients = Vec::new();
    for _ in 0..AT_ONCE {
        clients.push(server.client().await);
    }
    let answering = async {
        loop {
            server.script.go_on.notify_one();
            sleep(Duration::from_millis(2)).await;
        }
    };
    let asking = futures_util::future::select_all(clients.iter_mut().map(|client| {
        let asking = async {
            loop {
                server.script.then(Step::Waits);
                let status = client.ask("GET", "/v1/kv/b/k", &[]).await.status;
                if status == 429 {
                    return;
                }
                assert_eq!(status, 200);
            }
        };
        Box::pin(asking)
    }));
    tokio::select! {
        () = answering => unreachable!("it goes on"),
        _ = asking => {}
    }
    // Nobody asks any more: all are taken again.
    while server.answers_at_once(AT_ONCE).await < AT_ONCE {}
}

#[tokio::test]
async fn a_client_that_takes_no_answer_is_dropped() {
    let server = Server::with(HttpLimits { body_timeout: SHORT, ..limits() }).await;
    let mut client = server.client().await;
    server.script.then(one(vec![0; 50_000_000]));
    client.send(head("GET", "/v1/kv/b/k", &[])).await;
    for attempt in 0.. {
        if server.script.open.load(std::sync::atomic::Ordering::Relaxed) == 0 && attempt > 2 {
            break;
        }
        assert!(attempt < 100, "it is still held");
        sleep(SHORT / 3).await;
    }
    drop(client);
}
