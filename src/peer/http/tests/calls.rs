//! Calls and messages over connections that hold.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use tokio::time::Instant;

use super::{Event, HELD, LONG, Node, PANIC, call, eventually, spawned, transport};
use crate::peer::http::{HttpOptions, HttpTransport};
use crate::peer::{CallError, Condition, Lane, NotSentReason, Transport};

#[tokio::test]
async fn requests_are_answered_on_every_lane() {
    let (node, transport) = (Node::new(), transport());
    for lane in Lane::ALL {
        for request in [Bytes::new(), Bytes::from_static(b"hello")] {
            let deadline = Instant::now() + LONG;
            let answer = transport.call(&node.address, lane, request.clone(), deadline).await;
            assert_eq!(answer, Ok(request));
        }
    }
    let statistics = transport.statistics();
    let [peer] = &statistics[..] else { panic!("one peer: {statistics:?}") };
    assert_eq!((peer.calls, peer.failures, peer.in_flight), (6, 0, 0));
    assert_eq!((peer.connects, peer.condition), (3, Condition::Good));
    assert!(peer.bytes_sent > 10 && peer.bytes_received > 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_calls_at_once_get_each_their_own_answer() {
    let (node, transport) = (Node::new(), transport());
    let requests: Vec<_> = (0..10_000_u32).map(|n| Bytes::from(n.to_string())).collect();
    let calls = requests.iter().map(|request| spawned(&transport, &node.address, request.clone()));
    let answers = join_all(calls).await;
    for (request, answer) in requests.into_iter().zip(answers) {
        assert_eq!(answer.expect("no panic"), Ok(request));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn large_frames_go_both_ways_beside_small_ones() {
    let (node, transport) = (Node::new(), transport());
    let large: Bytes = (0..8_u32 << 20).map(|n| (n % 251) as u8).collect();
    let calls = (0..40).map(|n| {
        let request = if n % 10 == 0 { large.clone() } else { Bytes::from(vec![n; 10]) };
        let answer = spawned(&transport, &node.address, request.clone());
        async move { assert_eq!(answer.await.expect("no panic"), Ok(request)) }
    });
    join_all(calls).await;
}

#[tokio::test]
async fn messages_sent_before_the_first_connection_arrive() {
    let (node, transport) = (Node::new(), transport());
    for message in [&b"1"[..], b"2"] {
        transport.send(&node.address, Lane::Control, Bytes::from_static(message));
    }
    for message in [&b"1"[..], b"2"] {
        assert_eq!(node.event().await, Event::Received(Bytes::from_static(message)));
    }
}

#[tokio::test]
async fn a_call_ends_by_its_deadline_and_its_late_answer_is_dropped() {
    let (node, transport) = (Node::new(), transport());
    let deadline = Instant::now() + Duration::from_millis(200);
    let late = transport.call(&node.address, Lane::Data, Bytes::from_static(HELD), deadline);
    assert_eq!(late.await, Err(CallError::TimedOut));
    assert!(Instant::now() >= deadline);
    assert_eq!(node.event().await, Event::Begun);
    node.echo.gate.add_permits(1);
    assert_eq!(node.event().await, Event::Done);
    assert!(call(&transport, &node.address, "next").await.is_ok());
    assert_eq!(transport.statistics()[0].connects, 1, "the connection holds");
}

#[tokio::test]
async fn a_call_whose_deadline_has_passed_is_not_sent() {
    let (node, transport) = (Node::new(), transport());
    let passed = transport.call(&node.address, Lane::Data, Bytes::new(), Instant::now());
    assert_eq!(passed.await, Err(CallError::NotSent(NotSentReason::DeadlinePassed)));
}

#[tokio::test]
async fn a_dropped_call_disturbs_no_other_and_its_handler_runs_on() {
    let (node, transport) = (Node::new(), transport());
    let dropped = spawned(&transport, &node.address, HELD);
    let kept = spawned(&transport, &node.address, HELD);
    assert_eq!((node.event().await, node.event().await), (Event::Begun, Event::Begun));
    dropped.abort();
    dropped.await.expect_err("aborted");
    node.echo.gate.add_permits(2);
    assert_eq!((node.event().await, node.event().await), (Event::Done, Event::Done));
    assert_eq!(kept.await.expect("no panic"), Ok(Bytes::from_static(HELD)));
    eventually("nothing in flight", || transport.statistics()[0].in_flight == 0).await;
}

#[tokio::test]
async fn a_handler_runs_to_its_end_though_the_caller_is_gone() {
    let (node, transport) = (Node::new(), transport());
    let caller = spawned(&transport, &node.address, HELD);
    assert_eq!(node.event().await, Event::Begun);
    drop(transport);
    caller.await.expect("no panic").expect_err("shut down");
    eventually("hung up", || node.server.statistics().connections == 0).await;
    node.echo.gate.add_permits(1);
    assert_eq!(node.event().await, Event::Done);
}

#[tokio::test]
async fn a_handler_that_panics_harms_only_its_caller() {
    let (node, transport) = (Node::new(), transport());
    let deadline = Instant::now() + Duration::from_millis(100);
    let unlucky = transport.call(&node.address, Lane::Data, Bytes::from_static(PANIC), deadline);
    assert_eq!(unlucky.await, Err(CallError::TimedOut));
    assert!(call(&transport, &node.address, "next").await.is_ok());
    assert_eq!(transport.statistics()[0].connects, 1);
}

#[tokio::test]
async fn a_request_larger_than_a_frame_is_not_sent() {
    let node = Node::new();
    let options = HttpOptions { max_frame_bytes: 100, ..HttpOptions::default() };
    let transport = HttpTransport::new(options, 1);
    let too_large = call(&transport, &node.address, vec![0; 101]).await;
    assert_eq!(too_large, Err(CallError::NotSent(NotSentReason::TooLarge)));
    assert!(call(&transport, &node.address, vec![0; 100]).await.is_ok());
}

#[tokio::test]
async fn a_connection_with_all_handlers_busy_is_read_again_when_one_is_free() {
    let options = HttpOptions { max_handlers: 2, ..HttpOptions::default() };
    let (node, transport) = (Node::with(options), transport());
    let held: Vec<_> = (0..2).map(|_| spawned(&transport, &node.address, HELD)).collect();
    assert_eq!((node.event().await, node.event().await), (Event::Begun, Event::Begun));
    let waiting = spawned(&transport, &node.address, "waiting");
    node.echo.gate.add_permits(2);
    for call in held.into_iter().chain([waiting]) {
        assert!(call.await.expect("no panic").is_ok());
    }
}

#[tokio::test]
async fn a_stop_lets_begun_requests_be_answered() {
    let (node, transport) = (Node::new(), transport());
    let begun = spawned(&transport, &node.address, HELD);
    assert_eq!(node.event().await, Event::Begun);
    let echo = Arc::clone(&node.echo);
    let stopped = tokio::spawn(node.server.shutdown(LONG));
    echo.gate.add_permits(1);
    assert_eq!(begun.await.expect("no panic"), Ok(Bytes::from_static(HELD)));
    stopped.await.expect("no panic");
    let after = call(&transport, &node.address, "after").await;
    assert!(after.is_err_and(CallError::is_not_sent));
}

#[tokio::test]
async fn a_stop_waits_no_longer_than_its_bound() {
    let (node, transport) = (Node::new(), transport());
    let begun = spawned(&transport, &node.address, HELD);
    assert_eq!(node.event().await, Event::Begun);
    node.server.shutdown(Duration::from_millis(20)).await;
    assert!(matches!(begun.await.expect("no panic"), Err(CallError::Broken(_))));
}
