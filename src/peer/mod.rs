//! Between nodes: how a message reaches a peer, and how its answer comes back.
//!
//! [`transport`] is the seam that `node` is written against. [`http`] is the real transport, over
//! the peer port; [`loopback`] connects several nodes of one process, with faults to inject, so
//! that the very same node runs in a simulation. A transport moves opaque bytes: it knows neither
//! messages nor epochs. What the bytes say is in [`messages`].

pub mod address;
pub mod http;
pub mod loopback;
pub mod messages;
pub mod transport;

pub use address::{PeerAddress, PeerAddressError};
pub use transport::{
    BreakReason, CallError, Condition, Handler, Lane, NotSentReason, PeerStatistics, Transport,
};
