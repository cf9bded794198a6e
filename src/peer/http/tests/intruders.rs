//! What does not belong on the peer port does no harm there.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{LONG, Node, UPGRADE, call, eventually, read_head, transport};
use crate::peer::http::HttpOptions;
use crate::peer::http::frame::{Frame, FrameKind};

/// Sends bytes and reads what comes back until the node closes.
async fn provoke(node: &Node, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(node.socket).await.expect("the node listens");
    // The node may close before it has read everything.
    let _ = stream.write_all(bytes).await;
    read_rest(&mut stream).await
}

async fn read_rest(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let _ = timeout(LONG, stream.read_to_end(&mut answer)).await.expect("the node closes");
    String::from_utf8_lossy(&answer).into_owned()
}

/// The node still serves.
async fn check_alive(node: &Node) {
    assert!(call(&transport(), &node.address, "alive?").await.is_ok());
}

async fn upgraded(node: &Node) -> TcpStream {
    let mut stream = TcpStream::connect(node.socket).await.expect("the node listens");
    stream.write_all(UPGRADE).await.expect("the node reads");
    assert!(read_head(&mut stream).await.starts_with("HTTP/1.1 101 "));
    stream
}

fn encoded(kind: FrameKind, payload: &'static [u8]) -> Vec<u8> {
    let mut buffer = BytesMut::new();
    Frame::new(kind, 1, Bytes::from_static(payload)).put_head(&mut buffer);
    buffer.extend_from_slice(payload);
    buffer.to_vec()
}

#[tokio::test]
async fn http_requests_are_answered_in_words() {
    let node = Node::new();
    let upgrade = std::str::from_utf8(UPGRADE).expect("text");
    for (request, status) in [
        ("GET /v1/peer HTTP/1.1\r\nHost: a\r\n\r\n", "426"),
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", "404"),
        ("PUT /kv/a/b HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", "404"),
        ("POST /v1/peer HTTP/1.1\r\nHost: a\r\nContent-Length: 9999\r\n\r\n", "405"),
        (&upgrade.replace("starling-peer/1", "websocket"), "426"),
        (&upgrade.replace("data", "fast"), "400"),
    ] {
        let answer = provoke(&node, request.as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request}: {answer}");
        assert!(answer.ends_with('\n'), "says why: {answer}");
    }
    assert_eq!(node.server.statistics().wrong, 6);
    check_alive(&node).await;
}

#[tokio::test]
async fn garbage_is_hung_up_on() {
    let node = Node::new();
    let endless_head = [b"GET / HTTP/1.1\r\nx: ".to_vec(), vec![b'y'; 1 << 20]].concat();
    for bytes in [&b"\x16\x03\x01\x02\x00\x01"[..], b"\0\0\0\0\r\n\r\n", b"hello\r\n\r\n"] {
        provoke(&node, bytes).await;
    }
    provoke(&node, &endless_head).await;
    check_alive(&node).await;
    assert!(node.server.statistics().wrong >= 4);
}

#[tokio::test]
async fn wrong_frames_end_their_connection_only() {
    let node = Node::new();
    let mut damaged = encoded(FrameKind::Request, b"payload");
    *damaged.last_mut().expect("a payload") ^= 1;
    let mut endless = encoded(FrameKind::Request, b"");
    endless[..4].copy_from_slice(&u32::MAX.to_be_bytes());
    let mut unknown = encoded(FrameKind::Request, b"");
    unknown[4] = 99;
    let backwards = encoded(FrameKind::Answer, b"");
    for (count, bytes) in [damaged, endless, unknown, backwards].iter().enumerate() {
        let mut stream = upgraded(&node).await;
        stream.write_all(bytes).await.expect("the node reads");
        assert_eq!(read_rest(&mut stream).await, "");
        eventually("counted", || node.server.statistics().wrong == count as u64 + 1).await;
    }
    check_alive(&node).await;
}

#[tokio::test]
async fn frames_sent_along_with_the_upgrade_are_read() {
    let node = Node::new();
    let mut stream = TcpStream::connect(node.socket).await.expect("the node listens");
    let all = [UPGRADE, &encoded(FrameKind::Request, b"early")].concat();
    stream.write_all(&all).await.expect("the node reads");
    read_head(&mut stream).await;
    let mut answer = vec![0; encoded(FrameKind::Answer, b"early").len()];
    stream.read_exact(&mut answer).await.expect("an answer");
    assert_eq!(answer, encoded(FrameKind::Answer, b"early"));
}

#[tokio::test]
async fn who_reads_no_answers_is_read_no_more_until_it_does() {
    const COUNT: usize = 1024;
    let node = Node::with(HttpOptions { max_queue_bytes: 1 << 20, ..HttpOptions::default() });
    let (mut reader, mut writer) = upgraded(&node).await.into_split();
    let request = encoded(FrameKind::Request, &[7; 64 << 10]);
    let answers_bytes = COUNT * request.len();
    let writing = tokio::spawn(async move {
        for _ in 0..COUNT {
            writer.write_all(&request).await.expect("the node reads at last");
        }
        writer
    });
    // Nothing tells that nothing more is read. Too short a wait would miss a fault, not invent one.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let read = node.server.statistics().bytes_received;
    assert!(read < answers_bytes as u64 / 2, "{read}");
    let mut answers = vec![0; answers_bytes];
    timeout(LONG, reader.read_exact(&mut answers)).await.expect("no hang").expect("all answers");
    writing.await.expect("no panic");
}

#[tokio::test]
async fn half_a_frame_and_silence_hold_up_nobody() {
    let node = Node::new();
    let mut stream = upgraded(&node).await;
    let frame = encoded(FrameKind::Request, b"never whole");
    stream.write_all(&frame[..20]).await.expect("the node reads");
    check_alive(&node).await;
    timeout(LONG, node.server.shutdown(2 * LONG)).await.expect("the stop is not held up either");
}

#[tokio::test]
async fn who_sends_no_request_in_time_is_hung_up_on() {
    let header_timeout = Duration::from_millis(50);
    let node = Node::with(HttpOptions { header_timeout, ..HttpOptions::default() });
    assert_eq!(provoke(&node, b"").await, "");
    assert_eq!(provoke(&node, b"GET /v1/peer HT").await, "");
    assert_eq!(node.server.statistics().wrong, 2);
    let upgraded = upgraded(&node).await;
    assert_eq!(node.server.statistics().connections, 1);
    drop(upgraded);
}

#[tokio::test]
async fn connections_above_the_limit_are_closed_at_once() {
    let node = Node::with(HttpOptions { max_connections: 1, ..HttpOptions::default() });
    let first = upgraded(&node).await;
    assert_eq!(provoke(&node, UPGRADE).await, "");
    assert_eq!(node.server.statistics().refused, 1);
    drop(first);
    eventually("room", || node.server.statistics().connections == 0).await;
    check_alive(&node).await;
}
