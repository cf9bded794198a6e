use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use crate::peer::loopback::LoopbackNetwork;
use crate::peer::{
    BreakReason, CallError, Condition, Handler, Lane, NotSentReason, PeerAddress, Transport,
};

/// Echoes after a pause; tells what came in.
struct Echo {
    pause: Duration,
    seen: mpsc::UnboundedSender<Bytes>,
}

impl Handler for Echo {
    fn call(self: Arc<Self>, request: Bytes) -> BoxFuture<'static, Bytes> {
        async move {
            sleep(self.pause).await;
            self.seen.send(request.clone()).expect("the test looks");
            request
        }
        .boxed()
    }

    fn receive(self: Arc<Self>, message: Bytes) {
        self.seen.send(message).expect("the test looks");
    }
}

/// Two nodes, of which `a` calls `b`.
struct Pair {
    network: LoopbackNetwork,
    a: PeerAddress,
    b: PeerAddress,
    transport: Arc<dyn Transport>,
    seen_by_b: mpsc::UnboundedReceiver<Bytes>,
    _seen_by_a: mpsc::UnboundedReceiver<Bytes>,
}

fn pair(pause: Duration) -> Pair {
    let network = LoopbackNetwork::new(1);
    let [a, b] = ["a:1", "b:1"].map(|text| PeerAddress::new(text).expect("an address"));
    let (seen, _seen_by_a) = mpsc::unbounded_channel();
    let transport = network.attach(a.clone(), Arc::new(Echo { pause, seen }));
    let (seen, seen_by_b) = mpsc::unbounded_channel();
    network.attach(b.clone(), Arc::new(Echo { pause, seen }));
    Pair { network, a, b, transport, seen_by_b, _seen_by_a }
}

const SECOND: Duration = Duration::from_secs(1);

impl Pair {
    fn call(&self) -> BoxFuture<'static, Result<Bytes, CallError>> {
        let request = Bytes::from_static(b"x");
        self.transport.call(&self.b, Lane::Data, request, Instant::now() + SECOND)
    }
}

#[tokio::test(start_paused = true)]
async fn calls_are_answered_and_messages_arrive() {
    let mut pair = pair(Duration::ZERO);
    assert_eq!(pair.call().await, Ok(Bytes::from_static(b"x")));
    assert_eq!(pair.seen_by_b.recv().await, Some(Bytes::from_static(b"x")));
    pair.transport.send(&pair.b, Lane::Control, Bytes::from_static(b"y"));
    assert_eq!(pair.seen_by_b.recv().await, Some(Bytes::from_static(b"y")));
}

#[tokio::test(start_paused = true)]
async fn a_cut_swallows_silently_until_it_heals() {
    let mut pair = pair(Duration::ZERO);
    pair.network.cut(&pair.a, &pair.b);
    let began = Instant::now();
    assert_eq!(pair.call().await, Err(CallError::TimedOut));
    assert_eq!(began.elapsed(), SECOND);
    assert!(pair.seen_by_b.try_recv().is_err());
    pair.network.heal(&pair.a, &pair.b);
    assert!(pair.call().await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_cut_of_the_way_back_loses_the_answer_only() {
    let mut pair = pair(Duration::ZERO);
    pair.network.cut(&pair.b, &pair.a);
    assert_eq!(pair.call().await, Err(CallError::TimedOut));
    assert!(pair.seen_by_b.try_recv().is_ok());
}

#[tokio::test(start_paused = true)]
async fn an_isolated_node_reaches_nobody_but_itself() {
    let pair = pair(Duration::ZERO);
    pair.network.isolate(&pair.a);
    assert_eq!(pair.call().await, Err(CallError::TimedOut));
    let deadline = Instant::now() + SECOND;
    assert!(pair.transport.call(&pair.a, Lane::Data, Bytes::new(), deadline).await.is_ok());
    pair.network.rejoin(&pair.a);
    assert!(pair.call().await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn absent_and_refusing_nodes_are_told_at_once() {
    let pair = pair(Duration::ZERO);
    let began = Instant::now();
    pair.network.refuse(&pair.a, &pair.b);
    let unreachable = Err(CallError::NotSent(NotSentReason::Unreachable));
    assert_eq!(pair.call().await, unreachable);
    assert_eq!(pair.transport.condition(&pair.b), Condition::Failing);
    pair.network.heal_all();
    assert_eq!(pair.transport.condition(&pair.b), Condition::Good);
    pair.network.detach(&pair.b);
    assert_eq!(pair.call().await, unreachable);
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_crash_breaks_calls_in_flight() {
    let pair = pair(SECOND / 2);
    let call = tokio::spawn(pair.call());
    sleep(SECOND / 4).await;
    pair.network.detach(&pair.b);
    let broken = Err(CallError::Broken(BreakReason::Closed));
    assert_eq!(call.await.expect("no panic"), broken);
}

#[tokio::test(start_paused = true)]
async fn a_handler_runs_on_when_its_caller_is_gone() {
    let mut pair = pair(SECOND / 2);
    let call = tokio::spawn(pair.call());
    sleep(SECOND / 4).await;
    call.abort();
    assert!(pair.seen_by_b.recv().await.is_some());
    assert_eq!(pair.transport.statistics()[0].in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn silence_with_calls_in_flight_is_a_stall() {
    let pair = pair(Duration::ZERO);
    pair.network.cut(&pair.a, &pair.b);
    let call = tokio::spawn(pair.call());
    sleep(SECOND * 2 / 5).await;
    assert_eq!(pair.transport.condition(&pair.b), Condition::Good);
    sleep(SECOND / 5).await;
    assert_eq!(pair.transport.condition(&pair.b), Condition::Stalled);
    call.await.expect("no panic").expect_err("cut");
    assert_eq!(pair.transport.condition(&pair.b), Condition::Good);
}

#[tokio::test(start_paused = true)]
async fn delays_add_up_over_both_ways() {
    let pair = pair(Duration::ZERO);
    let ms = Duration::from_millis;
    pair.network.delay(&pair.a, &pair.b, ms(10)..=ms(10));
    pair.network.delay(&pair.b, &pair.a, ms(5)..=ms(5));
    let began = Instant::now();
    pair.call().await.expect("slow is not lost");
    assert_eq!(began.elapsed(), ms(15));
}

#[test]
fn one_seed_gives_one_run() {
    let run = || {
        let outcomes = Arc::new(Mutex::new(Vec::new()));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let pair = pair(Duration::ZERO);
            pair.network.lose(&pair.a, &pair.b, 0.3);
            pair.network.delay(&pair.b, &pair.a, Duration::ZERO..=2 * SECOND);
            let began = Instant::now();
            let calls = (0..100).map(|number| {
                let (call, outcomes) = (pair.call(), Arc::clone(&outcomes));
                tokio::spawn(async move {
                    let result = call.await;
                    let outcome = (number, result, began.elapsed());
                    outcomes.lock().expect("no panic").push(outcome);
                })
            });
            futures_util::future::join_all(calls).await;
        });
        Arc::into_inner(outcomes).expect("all ended").into_inner().expect("no panic")
    };
    let first = run();
    assert!(first.iter().any(|(_, result, _)| result.is_ok()));
    assert!(first.iter().any(|(_, result, _)| result.is_err()));
    assert_eq!(first, run());
}
