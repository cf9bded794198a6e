//! How the server stops.

use tokio::net::TcpStream;

use crate::client::head;
use crate::node::{Server, Step};

#[tokio::test]
async fn idle_connections_end_at_once_and_running_requests_are_finished() {
    let mut server = Server::start().await;
    let mut idle = server.client().await;
    assert_eq!(idle.ask("GET", "/healthz", &[]).await.status, 200);
    let silent = server.client().await;
    server.script.then(Step::Waits);
    let mut busy = server.client().await;
    busy.send(head("GET", "/v1/kv/b/k", &[])).await;
    server.script.waiting.notified().await;
    server.begin_stop();
    idle.closed().await;
    silent.closed().await;
    server.script.go_on.notify_one();
    let reply = busy.reply("GET").await;
    assert_eq!((reply.status, &reply.body[..]), (200, &b"late"[..]));
    assert_eq!(reply.header("connection"), Some("close"));
    drop(busy);
    let address = server.address;
    server.stopped().await;
    assert!(TcpStream::connect(address).await.is_err(), "the port is closed");
}
