//! Ports for nodes. Below the range that the system takes for outgoing connections, so that none
//! of them gets the port of a node that is down; and reserved among all tests of all processes by
//! a UDP socket on the same number, which nobody else here uses.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};

const LOWEST: u32 = 20_000;
const COUNT: u32 = 12_000;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A port of a test's own, until it is dropped.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _reserved: UdpSocket,
}

impl Port {
    /// Any free one.
    pub fn any() -> Self {
        let port = (0..COUNT).find_map(|_| Self::reserve(candidate()));
        port.expect("a free port")
    }

    /// The first of a row of free ones, `offsets` above it; all of them.
    pub fn row(offsets: &[u16]) -> Vec<Self> {
        let row = (0..COUNT).find_map(|_| {
            let base = candidate();
            offsets.iter().map(|offset| Self::reserve(base + offset)).collect::<Option<Vec<_>>>()
        });
        row.expect("a row of free ports")
    }

    fn reserve(number: u16) -> Option<Self> {
        let reserved = UdpSocket::bind((Ipv4Addr::LOCALHOST, number)).ok()?;
        TcpListener::bind((Ipv4Addr::LOCALHOST, number)).ok()?;
        Some(Self { number, _reserved: reserved })
    }

    pub fn number(&self) -> u16 {
        self.number
    }

    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.number).into()
    }
}

/// Processes begin at different places, so that they seldom meet.
fn candidate() -> u16 {
    let start = std::process::id().wrapping_mul(7_919);
    let step = NEXT.fetch_add(1, Ordering::Relaxed).wrapping_mul(31);
    (LOWEST + start.wrapping_add(step) % COUNT) as u16
}
