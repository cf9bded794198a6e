//! Making a connection: TCP, then the upgrade.

use std::io;

use bytes::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::peer::address::PeerAddress;
use crate::peer::http::{socket, upgrade};
use crate::peer::transport::Lane;

/// Why no connection was made. All of them may pass.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    #[error("connecting: {0}")]
    Connect(#[from] io::Error),
    #[error("asking for the upgrade: {0}")]
    Http(#[from] hyper::Error),
    #[error("what listens there is no peer: it answered {0}")]
    Refused(http::StatusCode),
    #[error("no answer in time")]
    TimedOut,
}

/// Connects to a peer. Gives the socket and what was read beyond the HTTP head. Not bounded in
/// time.
///
/// # Errors
/// [`DialError`].
pub(super) async fn dial(to: &PeerAddress, lane: Lane) -> Result<(TcpStream, Bytes), DialError> {
    let stream = TcpStream::connect(to.as_str()).await?;
    socket::configure(&stream)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let exchange = async {
        let response = sender.send_request(upgrade::request(to, lane)).await?;
        if !upgrade::is_accepted(&response) {
            return Err(DialError::Refused(response.status()));
        }
        Ok(hyper::upgrade::on(response).await?)
    };
    let mut exchange = std::pin::pin!(exchange);
    // The connection makes the exchange go on; its own end is told through the exchange.
    let upgraded = tokio::select! {
        biased;
        result = &mut exchange => result,
        _ = connection.with_upgrades() => exchange.await,
    };
    upgraded.map(upgrade::into_socket)
}
