//! Real sockets, so real time: what is waited for is an event, with a bound that only a hang meets.

mod calls;
mod intruders;
mod links;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, Semaphore, mpsc};
use tokio::time::{Instant, sleep, timeout};

use crate::peer::http::{HttpOptions, HttpTransport, PeerServer};
use crate::peer::{CallError, Handler, Lane, PeerAddress, Transport};

/// Longer than anything takes that does not hang.
const LONG: Duration = Duration::from_secs(60);
/// A request that the handler holds until the gate has a permit.
const HELD: &[u8] = b"hold this";
/// A request that makes the handler panic.
const PANIC: &[u8] = b"panic";

/// Echoes; holds [`HELD`] at its gate.
struct Echo {
    gate: Semaphore,
    events: mpsc::UnboundedSender<Event>,
}

#[derive(Debug, PartialEq, Eq)]
enum Event {
    Begun,
    Done,
    Received(Bytes),
}

impl Echo {
    fn tell(&self, event: Event) {
        // A test that does not look has dropped the other end.
        let _ = self.events.send(event);
    }
}

impl Handler for Echo {
    fn call(self: Arc<Self>, request: Bytes) -> BoxFuture<'static, Bytes> {
        async move {
            assert_ne!(request, PANIC, "as asked for");
            if request == HELD {
                self.tell(Event::Begun);
                self.gate.acquire().await.expect("never closed").forget();
                self.tell(Event::Done);
            }
            request
        }
        .boxed()
    }

    fn receive(self: Arc<Self>, message: Bytes) {
        self.tell(Event::Received(message));
    }
}

/// A listening node.
struct Node {
    server: PeerServer,
    echo: Arc<Echo>,
    events: Mutex<mpsc::UnboundedReceiver<Event>>,
    socket: SocketAddr,
    address: PeerAddress,
}

impl Node {
    fn on(socket: SocketAddr, options: HttpOptions) -> std::io::Result<Self> {
        let listener = HttpTransport::bind(socket, options)?;
        let socket = listener.local_address()?;
        let (events, receiver) = mpsc::unbounded_channel();
        let echo = Arc::new(Echo { gate: Semaphore::new(0), events });
        Ok(Self {
            server: listener.serve(Arc::clone(&echo) as Arc<dyn Handler>),
            echo,
            events: Mutex::new(receiver),
            socket,
            address: PeerAddress::try_from(socket).expect("bound"),
        })
    }

    fn with(options: HttpOptions) -> Self {
        Self::on(any(), options).expect("a free port")
    }

    fn new() -> Self {
        Self::with(HttpOptions::default())
    }

    async fn event(&self) -> Event {
        let mut events = self.events.lock().await;
        timeout(LONG, events.recv()).await.expect("no hang").expect("the node lives")
    }
}

fn any() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn transport() -> HttpTransport {
    HttpTransport::new(HttpOptions::default(), 1)
}

/// A call with a deadline that only a hang meets.
fn call(
    transport: &HttpTransport,
    to: &PeerAddress,
    request: impl Into<Bytes>,
) -> BoxFuture<'static, Result<Bytes, CallError>> {
    transport.call(to, Lane::Data, request.into(), Instant::now() + LONG)
}

/// Spawns a call and lets it begin.
fn spawned(
    transport: &HttpTransport,
    to: &PeerAddress,
    request: impl Into<Bytes>,
) -> tokio::task::JoinHandle<Result<Bytes, CallError>> {
    tokio::spawn(call(transport, to, request))
}

/// Waits for what no event tells.
async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let looking = async {
        while !holds() {
            sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(LONG, looking).await.unwrap_or_else(|_| panic!("never: {what}"));
}

const UPGRADE: &[u8] = b"GET /v1/peer HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\n\
    Upgrade: starling-peer/1\r\nStarling-Lane: data\r\n\r\n";

/// Reads up to the end of an HTTP head.
async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("a head"));
    }
    String::from_utf8(head).expect("a head is text")
}

/// A peer that agrees to the upgrade and then does nothing, like a stopped process.
struct Mute {
    listener: TcpListener,
    address: PeerAddress,
}

impl Mute {
    async fn new() -> Self {
        let listener = TcpListener::bind(any()).await.expect("a free port");
        let socket = listener.local_addr().expect("bound");
        Self { listener, address: PeerAddress::try_from(socket).expect("bound") }
    }

    async fn accept(&self) -> TcpStream {
        let (mut stream, _) = self.listener.accept().await.expect("a connection");
        read_head(&mut stream).await;
        let agreed = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
            Upgrade: starling-peer/1\r\n\r\n";
        stream.write_all(agreed).await.expect("the dialler waits for it");
        stream
    }
}
