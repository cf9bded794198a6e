//! Connections that break, cannot be made, or fall silent.

use std::time::Duration;

use bytes::Bytes;
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep};

use super::{Event, HELD, LONG, Mute, Node, any, call, eventually, spawned, transport};
use crate::peer::http::{HttpOptions, HttpTransport};
use crate::peer::{BreakReason, CallError, Condition, Lane, NotSentReason, PeerAddress, Transport};

/// An address that nobody listens on.
async fn deserted() -> PeerAddress {
    let listener = TcpListener::bind(any()).await.expect("a free port");
    PeerAddress::try_from(listener.local_addr().expect("bound")).expect("bound")
}

#[tokio::test]
async fn a_server_that_dies_breaks_its_calls_and_is_found_again() {
    let (node, transport) = (Node::new(), transport());
    let caught = spawned(&transport, &node.address, HELD);
    assert_eq!(node.event().await, Event::Begun);
    let (socket, address) = (node.socket, node.address.clone());
    drop(node);
    let broken = Err(CallError::Broken(BreakReason::Closed));
    assert_eq!(caught.await.expect("no panic"), broken);
    let mut reborn = None;
    eventually("the port is free", || {
        reborn = Node::on(socket, HttpOptions::default()).ok();
        reborn.is_some()
    })
    .await;
    let deadline = Instant::now() + LONG;
    while let Err(error) = call(&transport, &address, "again").await {
        assert!(error.is_not_sent() && Instant::now() < deadline, "{error}");
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_refused_connection_opens_the_breaker_and_a_probe_closes_it() {
    let transport = transport();
    let address = deserted().await;
    let first = call(&transport, &address, "x").await;
    assert_eq!(first, Err(CallError::NotSent(NotSentReason::Unreachable)));
    assert_eq!(transport.condition(&address), Condition::Failing);
    let second = call(&transport, &address, "x").await;
    assert_eq!(second, Err(CallError::NotSent(NotSentReason::BreakerOpen)));
    transport.send(&address, Lane::Control, Bytes::from_static(b"dropped"));
    assert_eq!(transport.statistics()[0].dropped, 1);

    let socket = address.as_str().parse().expect("an IP address");
    let _node = Node::on(socket, HttpOptions::default()).expect("free again");
    eventually("a probe", || transport.condition(&address) == Condition::Good).await;
    assert!(call(&transport, &address, "x").await.is_ok());
    assert!(transport.statistics()[0].connect_failures >= 1);
}

#[tokio::test]
async fn a_port_without_a_peer_behind_it_is_unreachable() {
    let (mute, transport) = (Mute::new().await, transport());
    let refused = spawned(&transport, &mute.address, "x");
    let (stream, _) = mute.listener.accept().await.expect("a connection");
    drop(stream);
    let unreachable = Err(CallError::NotSent(NotSentReason::Unreachable));
    assert_eq!(refused.await.expect("no panic"), unreachable);
}

#[tokio::test]
async fn a_peer_that_accepts_and_says_nothing_is_unreachable_in_time() {
    let mute = Mute::new().await;
    let options =
        HttpOptions { connect_timeout: Duration::from_millis(50), ..HttpOptions::default() };
    let transport = HttpTransport::new(options, 1);
    let unreachable = Err(CallError::NotSent(NotSentReason::Unreachable));
    assert_eq!(call(&transport, &mute.address, "x").await, unreachable);
}

#[tokio::test]
async fn a_mute_peer_is_stalled_then_given_up() {
    let mute = Mute::new().await;
    let silent_after = Duration::from_millis(900);
    let transport = HttpTransport::new(HttpOptions { silent_after, ..HttpOptions::default() }, 1);
    let began = Instant::now();
    let caught = spawned(&transport, &mute.address, "x");
    let _stream = mute.accept().await;
    eventually("stalled", || transport.condition(&mute.address) == Condition::Stalled).await;
    assert!(began.elapsed() >= Duration::from_millis(500));
    let broken = Err(CallError::Broken(BreakReason::Silent));
    assert_eq!(caught.await.expect("no panic"), broken);
    assert!(began.elapsed() >= silent_after);
}

#[tokio::test]
async fn a_slow_handler_is_not_a_stalled_peer() {
    let node = Node::new();
    let options = HttpOptions {
        ping_after: Duration::from_millis(20),
        stalled_after: Duration::from_secs(3),
        silent_after: Duration::from_secs(3),
        ..HttpOptions::default()
    };
    let transport = HttpTransport::new(options, 1);
    let held = spawned(&transport, &node.address, HELD);
    assert_eq!(node.event().await, Event::Begun);
    let before = transport.statistics()[0].bytes_received;
    eventually("pongs", || transport.statistics()[0].bytes_received > before + 20).await;
    assert_eq!(transport.condition(&node.address), Condition::Good);
    node.echo.gate.add_permits(1);
    assert!(held.await.expect("no panic").is_ok());
}

#[tokio::test]
async fn what_was_still_queued_when_the_connection_broke_was_not_sent() {
    let (mute, transport) = (Mute::new().await, transport());
    let large = Bytes::from(vec![0; 16 << 20]);
    let written = spawned(&transport, &mute.address, large.clone());
    let stream = mute.accept().await;
    eventually("taken", || transport.statistics()[0].bytes_sent > 0).await;
    let queued = spawned(&transport, &mute.address, "queued");
    eventually("queued", || transport.statistics()[0].in_flight == 2).await;
    let expiring = transport.call(
        &mute.address,
        Lane::Data,
        Bytes::from_static(b"queued"),
        Instant::now() + Duration::from_millis(20),
    );
    let expired = Err(CallError::NotSent(NotSentReason::DeadlinePassed));
    assert_eq!(expiring.await, expired);
    let rest = vec![large.clone(), large.clone(), large.clone(), large];
    let mut calls: Vec<_> =
        rest.into_iter().map(|request| spawned(&transport, &mute.address, request)).collect();
    let full = calls.pop().expect("the last").await.expect("no panic");
    assert_eq!(full, Err(CallError::NotSent(NotSentReason::QueueFull)));
    drop(stream);
    let broken = Err(CallError::Broken(BreakReason::Closed));
    assert_eq!(written.await.expect("no panic"), broken);
    for call in calls.into_iter().chain([queued]) {
        let not_sent = Err(CallError::NotSent(NotSentReason::ConnectionEnded));
        assert_eq!(call.await.expect("no panic"), not_sent);
    }
}

#[tokio::test]
async fn a_shut_down_transport_breaks_its_calls_and_sends_no_more() {
    let (node, transport) = (Node::new(), transport());
    let caught = spawned(&transport, &node.address, HELD);
    assert_eq!(node.event().await, Event::Begun);
    transport.shutdown();
    let broken = Err(CallError::Broken(BreakReason::ShutDown));
    assert_eq!(caught.await.expect("no panic"), broken);
    let after = call(&transport, &node.address, "x").await;
    assert_eq!(after, Err(CallError::NotSent(NotSentReason::ShutDown)));
    eventually("closed", || node.server.statistics().connections == 0).await;
}

#[tokio::test]
async fn an_unused_connection_is_closed_and_made_anew_on_use() {
    let node = Node::new();
    let options = HttpOptions {
        ping_after: Duration::from_millis(5),
        idle_timeout: Duration::from_millis(50),
        ..HttpOptions::default()
    };
    let transport = HttpTransport::new(options, 1);
    assert!(call(&transport, &node.address, "x").await.is_ok());
    eventually("closed", || node.server.statistics().connections == 0).await;
    let held = spawned(&transport, &node.address, HELD);
    assert_eq!(node.event().await, Event::Begun);
    sleep(Duration::from_millis(100)).await;
    node.echo.gate.add_permits(1);
    assert!(held.await.expect("no panic").is_ok(), "a call in flight is use");
    assert_eq!(transport.statistics()[0].connects, 2);
}

#[tokio::test]
async fn a_taken_port_shows_when_binding() {
    let node = Node::new();
    let taken = HttpTransport::bind(node.socket, HttpOptions::default());
    let error = taken.expect_err("the port is taken");
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
    assert!(error.to_string().contains(node.address.as_str()), "{error}");
}
