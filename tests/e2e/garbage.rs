//! Bytes that are no requests, on both ports: the node stays well.

use std::net::SocketAddr;

use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::cluster::Cluster;
use crate::http::{Connection, Request};

/// What is sent, besides random bytes.
fn nonsense() -> Vec<Vec<u8>> {
    vec![
        b"\0".to_vec(),
        b"\r\n\r\n\r\n".to_vec(),
        b"GET".to_vec(),
        b"GET / HTTP/1.1\r\n".to_vec(),
        b"GET /v1/kv/b/k HTTP/9.9\r\n\r\n".to_vec(),
        b"GET /v1/kv/b/k HTTP/1.1\r\nHost: test\r\nX\r\n\r\n".to_vec(),
        b"PUT /v1/kv/b/k HTTP/1.1\r\nHost: test\r\nContent-Length: x\r\n\r\n".to_vec(),
        b"PUT /v1/kv/b/k HTTP/1.1\r\nHost: test\r\nContent-Length: -1\r\n\r\n".to_vec(),
        b"PUT /v1/kv/b/k HTTP/1.1\r\nHost: test\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"
            .to_vec(),
        b"PUT /v1/kv/b/k HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"
            .to_vec(),
        b"PUT /v1/kv/b/k HTTP/1.1\r\nHost: test\r\nContent-Length: 99999999999999999999\r\n\r\n"
            .to_vec(),
        b"POST /starling/peer HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\n\r\n\xff\xff\xff\xff"
            .to_vec(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        vec![b'A'; 300_000],
        [b"GET /".to_vec(), vec![b'a'; 300_000]].concat(),
        [b"GET / HTTP/1.1\r\nX: ".to_vec(), vec![b'a'; 300_000]].concat(),
        b"X: y\r\n".repeat(20_000),
        vec![0xff; 100_000],
    ]
}

/// Sends bytes; then ends its side, hangs up, or waits for the end, by turns.
async fn throw(address: SocketAddr, bytes: &[u8], turn: usize) {
    let mut connection = Connection::open(address).await.expect("the node accepts");
    // It may hang up in the middle.
    let _ = connection.send(bytes).await;
    if turn.is_multiple_of(3) {
        let _ = connection.finish_sending().await;
        let said = connection.rest().await;
        let said = String::from_utf8_lossy(&said);
        assert!(!said.starts_with("HTTP/1.1 5"), "{bytes:?}: {said}");
    }
}

async fn throw_everything(address: SocketAddr, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    for (turn, bytes) in nonsense().into_iter().enumerate() {
        throw(address, &bytes, 0).await;
        throw(address, &bytes, turn + 1).await;
    }
    for turn in 0..60 {
        let mut bytes = vec![0; 1 << (turn % 17)];
        random.fill_bytes(&mut bytes);
        throw(address, &bytes, turn).await;
    }
}

async fn assert_well(cluster: &Cluster, round: &str) {
    for i in 0..cluster.nodes.len() {
        cluster.ask(i, Request::get("/healthz")).await.expect(200);
        cluster.ask(i, Request::get("/readyz")).await.expect(200);
        cluster.ask(i, Request::put("/v1/kv/well/k?consistency=all", round)).await.expect(204);
        let read = cluster.ask(i, Request::get("/v1/kv/well/k?consistency=all")).await;
        assert_eq!(read.expect(200).text(), round);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_on_the_client_port_harms_nobody() {
    let cluster = Cluster::start(1).await;
    throw_everything(cluster.http(0), 1).await;
    assert_well(&cluster, "after the client port").await;
    cluster.assert_untouched("b", "k").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_on_the_peer_port_harms_nobody() {
    let cluster = Cluster::start(3).await;
    assert_well(&cluster, "before").await;
    throw_everything(cluster.nodes[0].peer.address(), 2).await;
    assert_well(&cluster, "after the peer port").await;
    // The client API is not to be had there.
    let mut connection =
        Connection::open(cluster.nodes[0].peer.address()).await.expect("it accepts");
    let _ = connection.send(&Request::get("/v1/kv/well/k").to_bytes()).await;
    let _ = connection.finish_sending().await;
    let said = connection.rest().await;
    assert!(!String::from_utf8_lossy(&said).contains(" 200 "), "{said:?}");
    cluster.assert_untouched("b", "k").await;
}
