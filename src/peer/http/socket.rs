//! What every socket between peers is set to.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use rustix::net::sockopt::{
    set_socket_keepalive, set_tcp_keepcnt, set_tcp_keepidle, set_tcp_keepintvl, set_tcp_nodelay,
    set_tcp_user_timeout,
};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;
/// A peer that is gone without a word (power, cable) is noticed on an idle connection after
/// idle + 3 intervals.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_PROBES: u32 = 3;
/// The same for a connection with unacknowledged bytes, which the kernel would keep for 15 min.
const USER_TIMEOUT_MS: u32 = 20_000;

/// No delay for small writes (with one, an exchange may take 40 ms), and death is noticed.
///
/// # Errors
/// Those of the system calls.
pub(super) fn configure(stream: &TcpStream) -> io::Result<()> {
    set_tcp_nodelay(stream, true)?;
    set_socket_keepalive(stream, true)?;
    set_tcp_keepidle(stream, KEEPALIVE_IDLE)?;
    set_tcp_keepintvl(stream, KEEPALIVE_INTERVAL)?;
    set_tcp_keepcnt(stream, KEEPALIVE_PROBES)?;
    set_tcp_user_timeout(stream, USER_TIMEOUT_MS)?;
    Ok(())
}

/// Listens; connections may be made from now on, though nobody accepts them yet.
///
/// # Errors
/// Those of the system calls, the address added: taken, not ours, not allowed.
pub(super) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    bound(address).map_err(|error| {
        io::Error::new(error.kind(), format!("peer address {address} cannot be used: {error}"))
    })
}

fn bound(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A port in TIME_WAIT may be used again: a node restarts at once.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}
