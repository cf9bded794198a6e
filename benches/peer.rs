//! Round trips of 1 KiB over the peer transport, on loopback, client and server in one process.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all, ready};
use starling::peer::http::{HttpOptions, HttpTransport};
use starling::peer::{Handler, Lane, PeerAddress, Transport};
use tokio::runtime::Runtime;
use tokio::time::Instant;

/// Calls of one measured round.
const CALLS: usize = 1024;
const BYTES: usize = 1024;

/// Answers with the request: at once, or from a task that had to be woken.
#[derive(Clone, Copy)]
enum Echo {
    AtOnce,
    AfterYield,
}

impl Handler for Echo {
    fn call(self: Arc<Self>, request: Bytes) -> BoxFuture<'static, Bytes> {
        match *self {
            Self::AtOnce => ready(request).boxed(),
            Self::AfterYield => async move {
                tokio::task::yield_now().await;
                request
            }
            .boxed(),
        }
    }

    fn receive(self: Arc<Self>, _message: Bytes) {}
}

/// `in_flight` callers, each one call after the other.
async fn round(transport: &Arc<HttpTransport>, to: &PeerAddress, in_flight: usize) {
    let callers = (0..in_flight).map(|_| {
        let (transport, to) = (Arc::clone(transport), to.clone());
        tokio::spawn(async move {
            let request = Bytes::from(vec![7; BYTES]);
            for _ in 0..CALLS / in_flight {
                let deadline = Instant::now() + Duration::from_secs(10);
                let answer = transport.call(&to, Lane::Data, request.clone(), deadline).await;
                assert_eq!(answer.map(|bytes| bytes.len()), Ok(BYTES));
            }
        })
    });
    for ended in join_all(callers).await {
        ended.expect("no caller panics");
    }
}

fn round_trips(criterion: &mut Criterion) {
    for (name, echo) in [("at_once", Echo::AtOnce), ("after_yield", Echo::AfterYield)] {
        let runtime = Runtime::new().expect("a runtime");
        let _entered = runtime.enter();
        let any = "127.0.0.1:0".parse().expect("an address");
        let listener = HttpTransport::bind(any, HttpOptions::default()).expect("a free port");
        let address = listener.local_address().expect("bound");
        let to = PeerAddress::try_from(address).expect("a peer address");
        let _server = listener.serve(Arc::new(echo));
        let transport = Arc::new(HttpTransport::new(HttpOptions::default(), 1));
        let mut group = criterion.benchmark_group(format!("peer_1KiB_{name}"));
        group.throughput(Throughput::Elements(CALLS as u64));
        for in_flight in [1, 16, 64] {
            group.bench_function(format!("{in_flight}_in_flight"), |bencher| {
                bencher.iter(|| runtime.block_on(round(&transport, &to, in_flight)));
            });
        }
        group.finish();
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(5));
    targets = round_trips
}
criterion_main!(benches);
