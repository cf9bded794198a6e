//! Where a peer listens.

use std::fmt;
use std::net::{Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The longest name of a host, in bytes (RFC 1035, section 2.3.4).
const MAX_HOST_BYTES: usize = 253;

/// Why a text is no address of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a peer address is host:port, the host a name, an IPv4 or a [bracketed] IPv6 address")]
pub struct PeerAddressError;

/// `host:port` as it was written, checked in form: the host is a name, an IPv4 address or an IPv6
/// address in brackets, the port is not 0. Names are resolved when connecting, each time anew, so
/// that a peer may move.
///
/// Two addresses are equal if their text is; ordered and hashed by text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PeerAddress(Arc<str>);

impl PeerAddress {
    /// Checks and takes an address.
    ///
    /// # Errors
    /// [`PeerAddressError`] unless it is `host:port`.
    pub fn new(text: &str) -> Result<Self, PeerAddressError> {
        let (host, port) = text.rsplit_once(':').ok_or(PeerAddressError)?;
        let digits = port.bytes().all(|b| b.is_ascii_digit());
        let port: u16 = port.parse().map_err(|_| PeerAddressError)?;
        (digits && port != 0 && is_host(host)).then(|| Self(text.into())).ok_or(PeerAddressError)
    }

    /// The text, `host:port`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_host(host: &str) -> bool {
    if let Some(inner) = host.strip_prefix('[') {
        let inner = inner.strip_suffix(']');
        return inner.is_some_and(|text| text.parse::<Ipv6Addr>().is_ok());
    }
    let tail = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    let head = host.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric);
    head && host.len() <= MAX_HOST_BYTES && host.bytes().all(tail)
}

impl TryFrom<SocketAddr> for PeerAddress {
    type Error = PeerAddressError;

    /// The address of a bound socket; an error for port 0 and for IPv6 addresses with a scope.
    fn try_from(address: SocketAddr) -> Result<Self, PeerAddressError> {
        Self::new(&address.to_string())
    }
}

impl FromStr for PeerAddress {
    type Err = PeerAddressError;

    fn from_str(text: &str) -> Result<Self, PeerAddressError> {
        Self::new(text)
    }
}

impl TryFrom<String> for PeerAddress {
    type Error = PeerAddressError;

    fn try_from(text: String) -> Result<Self, PeerAddressError> {
        Self::new(&text)
    }
}

impl From<PeerAddress> for String {
    fn from(address: PeerAddress) -> Self {
        address.0.as_ref().into()
    }
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::PeerAddress;

    #[test]
    fn addresses_are_host_and_port() {
        for good in ["a:1", "node-1.example:7001", "127.0.0.1:65535", "[::1]:7001"] {
            assert_eq!(PeerAddress::new(good).map(String::from).as_deref(), Ok(good));
        }
        for bad in ["", "a", ":1", "a:", "a:0", "a:65536", "a:+1", "::1:80", "[::1]", "[x]:1"] {
            assert!(PeerAddress::new(bad).is_err(), "{bad:?}");
        }
        for bad in ["a b:1", "a/b:1", "a\r\n:1", "http://a:1", "-a:1", &"x".repeat(254)] {
            assert!(PeerAddress::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn bound_sockets_have_valid_addresses() {
        for text in ["127.0.0.1:1", "[::1]:9"] {
            let socket: SocketAddr = text.parse().expect("a socket address");
            assert_eq!(PeerAddress::new(text), PeerAddress::try_from(socket));
        }
    }
}
