//! The port for clients: accepting, the limit of connections, and stopping.
//!
//! An accept loop of our own over hyper's connections, because the frameworks' loops set neither
//! TCP_NODELAY nor any limit or timeout. HTTP/1.1 only: clients of a key-value store hold a few
//! connections with small requests, which HTTP/2 would frame, compress and multiplex at a cost
//! above that of the request; and its streams would need limits of their own.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};

use super::app::{App, HttpLimits, Observer};
use super::connection;
use super::error::Code;
use crate::node::operation::Service;

/// Connections that the system accepts ahead of us.
const BACKLOG: u32 = 4_096;
/// Refused connections that are told so with care; those beyond get a few bytes and a close.
const MAX_GOODBYES: usize = 64;
/// How long a refused client is listened to, so that it sees the refusal.
const GOODBYE_LINGER: Duration = Duration::from_millis(500);
/// How long accepting pauses when the system has no more descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How often that is logged.
const LOG_EVERY: Duration = Duration::from_secs(5);

/// Opens the port for clients.
///
/// # Errors
/// What the system says, if it can't be opened.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // Connections of the process before may linger on the port.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves clients until `stop` is done; then takes no more connections and no more requests, and
/// returns when those that were being answered are. The caller bounds how long that may take.
pub async fn serve(
    listener: TcpListener,
    service: Arc<dyn Service>,
    observer: Arc<dyn Observer>,
    limits: HttpLimits,
    stop: impl Future<Output = ()>,
) {
    let (stopped, stopping) = watch::channel(false);
    let (alive, mut all_gone) = mpsc::channel::<()>(1);
    let server = Server {
        app: Arc::new(App::new(service, observer, limits)),
        protocol: connection::protocol(),
        open: Arc::default(),
        goodbyes: Arc::default(),
        stopping,
        alive,
    };
    tokio::select! {
        biased;
        () = stop => {}
        () = server.accept_all(&listener) => {}
        () = server.app.admission.watch(|load| server.app.observer.load(load)) => {}
    }
    drop(listener);
    stopped.send_replace(true);
    // Each connection holds a sender; nothing is ever sent.
    drop(server);
    while all_gone.recv().await.is_some() {}
}

struct Server {
    app: Arc<App>,
    protocol: hyper::server::conn::http1::Builder,
    open: Arc<AtomicUsize>,
    goodbyes: Arc<AtomicUsize>,
    stopping: watch::Receiver<bool>,
    alive: mpsc::Sender<()>,
}

/// One of a limited number.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(taken: &Arc<AtomicUsize>, max: usize) -> Option<Self> {
        let place = Self(Arc::clone(taken));
        // Over the limit, dropping the place gives it back.
        (taken.fetch_add(1, Ordering::Relaxed) < max).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Counts a connection as closed however its task ends.
struct Counted(Arc<App>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.observer.connection_closed();
    }
}

impl Server {
    async fn accept_all(&self, listener: &TcpListener) {
        let mut last_logged: Option<Instant> = None;
        loop {
            match listener.accept().await {
                Ok((stream, _)) => self.take(stream),
                // The client gave up before it was its turn.
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    // Most likely out of descriptors: they come back when connections end.
                    if last_logged.is_none_or(|at| at.elapsed() >= LOG_EVERY) {
                        tracing::warn!(%error, "can't accept connections; pausing");
                        last_logged = Some(Instant::now());
                    }
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn take(&self, stream: TcpStream) {
        // Where it fails, the client is gone, and the first read will say so.
        let _ = stream.set_nodelay(true);
        let Some(place) = Place::take(&self.open, self.app.limits.max_connections) else {
            return self.turn_away(stream);
        };
        self.app.observer.connection_opened();
        let counted = Counted(Arc::clone(&self.app));
        let (app, protocol) = (Arc::clone(&self.app), self.protocol.clone());
        let (stopping, alive) = (self.stopping.clone(), self.alive.clone());
        tokio::spawn(async move {
            let _held = (place, counted, alive);
            connection::drive(app, protocol, stream, stopping).await;
        });
    }

    fn turn_away(&self, stream: TcpStream) {
        self.app.observer.connection_refused();
        let max = self.app.limits.max_connections;
        let detail = format!(
            "this node has {max} connections, its limit; use fewer, keep them open, or connect \
             to another node"
        );
        let answer = self.app.refuse(Code::TooManyConnections, &detail);
        let place = Place::take(&self.goodbyes, MAX_GOODBYES);
        tokio::spawn(async move {
            let mut stream = stream;
            match place {
                Some(_held) => {
                    connection::say_goodbye(&mut stream, answer, GOODBYE_LINGER).await;
                }
                None => {
                    let bytes = connection::encode(answer).await;
                    write_at_once(stream, &bytes);
                }
            }
        });
    }
}

/// As much as the socket takes without waiting for anybody. Past tokio, which has not heard yet
/// that a new socket can be written to.
fn write_at_once(stream: TcpStream, bytes: &[u8]) {
    if let Ok(mut stream) = stream.into_std() {
        // The client may be gone; there is nobody else to tell.
        let _ = io::Write::write(&mut stream, bytes);
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}
