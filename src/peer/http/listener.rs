//! The listening side: accepts connections, upgrades them, serves them.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

use crate::peer::http::line::{Line, Volume};
use crate::peer::http::notice::Notice;
use crate::peer::http::options::HttpOptions;
use crate::peer::http::session::{Session, SessionEnd};
use crate::peer::http::wire::Wire;
use crate::peer::http::{socket, upgrade};
use crate::peer::transport::Handler;

/// The pause after accepting failed, which is for want of file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The peer port, taken but not served yet.
#[derive(Debug)]
pub struct PeerListener {
    listener: TcpListener,
    options: HttpOptions,
}

impl PeerListener {
    pub(super) fn bind(address: SocketAddr, options: HttpOptions) -> io::Result<Self> {
        Ok(Self { listener: socket::listen(address)?, options })
    }

    /// The address that is listened on; tells the port if 0 was asked for.
    ///
    /// # Errors
    /// Those of the system call.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves the port with a handler, in tasks of this runtime, until the server is shut down or
    /// dropped.
    pub fn serve(self, handler: Arc<dyn Handler>) -> PeerServer {
        let stop = watch::Sender::new(false);
        let counters = Arc::new(ListenerCounters::default());
        let acceptor = Acceptor {
            listener: self.listener,
            service: Arc::new(Service {
                handler,
                options: self.options,
                counters: Arc::clone(&counters),
                notice: Notice::default(),
            }),
            stop: stop.subscribe(),
        };
        PeerServer { stop, counters, task: tokio::spawn(acceptor.run()) }
    }
}

/// The peer port, served. Dropping it ends its connections at once.
#[derive(Debug)]
pub struct PeerServer {
    stop: watch::Sender<bool>,
    counters: Arc<ListenerCounters>,
    task: JoinHandle<()>,
}

impl PeerServer {
    /// Stops accepting and reading, lets what was begun be answered for at most `bound`, closes.
    /// Handlers that take longer run on; their answers are dropped.
    pub async fn shutdown(mut self, bound: Duration) {
        self.stop.send_replace(true);
        if timeout(bound, &mut self.task).await.is_err() {
            self.task.abort();
        }
    }

    /// Figures for metrics.
    pub fn statistics(&self) -> ListenerStatistics {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ListenerStatistics {
            connections: read(&self.counters.connections),
            refused: read(&self.counters.refused),
            wrong: read(&self.counters.wrong),
            bytes_sent: self.counters.volume.sent(),
            bytes_received: self.counters.volume.received(),
        }
    }
}

/// Figures of the peer port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenerStatistics {
    /// Connections now, those that have yet to be upgraded included.
    pub connections: u64,
    /// Connections closed at once because there were too many.
    pub refused: u64,
    /// Connections ended because what came was no HTTP request for the upgrade, or no frame.
    pub wrong: u64,
    /// Bytes written in frames.
    pub bytes_sent: u64,
    /// Bytes read in frames.
    pub bytes_received: u64,
}

#[derive(Debug, Default)]
struct ListenerCounters {
    connections: AtomicU64,
    refused: AtomicU64,
    wrong: AtomicU64,
    volume: Arc<Volume>,
}

struct Acceptor {
    listener: TcpListener,
    service: Arc<Service>,
    stop: watch::Receiver<bool>,
}

impl Acceptor {
    async fn run(self) {
        let mut stop = self.stop.clone();
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                stopped = stop.changed() => {
                    if stopped.is_err() {
                        return;
                    }
                    break;
                }
                Some(_) = connections.join_next() => {}
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => self.begin(stream, &mut connections),
                    Err(error) => {
                        self.service.notice.warn("cannot accept connections", &error);
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
        drop(self.listener);
        while connections.join_next().await.is_some() {}
    }

    fn begin(&self, stream: TcpStream, connections: &mut JoinSet<()>) {
        let service = Arc::clone(&self.service);
        if connections.len() >= service.options.max_connections {
            service.counters.refused.fetch_add(1, Ordering::Relaxed);
            service.notice.warn("refused a connection", &"there are as many as may be");
            return;
        }
        let open = OpenConnection::new(&service.counters);
        let stop = self.stop.clone();
        connections.spawn(async move {
            service.serve(stream, stop).await;
            drop(open);
        });
    }
}

/// Counts one connection while it lives, however it ends.
struct OpenConnection(Arc<ListenerCounters>);

impl OpenConnection {
    fn new(counters: &Arc<ListenerCounters>) -> Self {
        counters.connections.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(counters))
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What all connections share.
struct Service {
    handler: Arc<dyn Handler>,
    options: HttpOptions,
    counters: Arc<ListenerCounters>,
    notice: Notice,
}

impl Service {
    /// One connection, from its acceptance to its end.
    async fn serve(&self, stream: TcpStream, mut stop: watch::Receiver<bool>) {
        if let Err(error) = socket::configure(&stream) {
            tracing::debug!(%error, "a connection ended before it began");
            return;
        }
        let upgraded = tokio::select! {
            upgraded = timeout(self.options.header_timeout, self.upgraded(stream)) => upgraded,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        match upgraded {
            Ok(Some(upgraded)) => self.serve_frames(upgraded, stop).await,
            Ok(None) => {}
            Err(_) => self.wrong(&"no request in time"),
        }
    }

    /// Speaks HTTP until a request is for the upgrade. `None`: none was.
    async fn upgraded(&self, stream: TcpStream) -> Option<Upgraded> {
        let asked: Mutex<Option<OnUpgrade>> = Mutex::new(None);
        let service = service_fn(|mut request: Request<Incoming>| {
            let (response, upgrades) = upgrade::answer(&request);
            if upgrades {
                let mut asked = asked.lock().expect("nothing panics while it holds the upgrade");
                *asked = Some(hyper::upgrade::on(&mut request));
            } else {
                self.wrong(&response.status());
            }
            std::future::ready(Ok::<_, std::convert::Infallible>(response))
        });
        let served = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        if let Err(error) = served.with_upgrades().await {
            self.wrong(&error);
            return None;
        }
        let asked = asked.into_inner().expect("nothing panics while it holds the upgrade");
        asked?.await.ok()
    }

    async fn serve_frames(&self, upgraded: Upgraded, stop: watch::Receiver<bool>) {
        let (stream, read_ahead): (TcpStream, Bytes) = upgrade::into_socket(upgraded);
        let line = Arc::new(Line::new(&self.options, Arc::clone(&self.counters.volume)));
        let max_payload = self.options.max_frame_bytes;
        let wire = Wire::new(stream, &read_ahead, max_payload, Arc::clone(&line));
        let session = Session::new(Arc::clone(&self.handler), line, &self.options);
        match Arc::new(session).run(wire, stop).await {
            SessionEnd::Wrong(error) => self.wrong(&error),
            end @ (SessionEnd::Broken(_) | SessionEnd::Drained) => {
                tracing::debug!(%end, "an incoming connection ended");
            }
        }
    }

    fn wrong(&self, detail: &dyn std::fmt::Display) {
        self.counters.wrong.fetch_add(1, Ordering::Relaxed);
        self.notice.warn("ended an incoming connection", detail);
    }
}
