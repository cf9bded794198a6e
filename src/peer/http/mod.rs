//! The real transport, on the peer port.
//!
//! A connection begins as HTTP/1.1 and is upgraded at once (`upgrade.rs`): a peer port that a
//! browser, a load balancer or a wrong node reaches by mistake answers in words, and nothing but
//! our own protocol gets further. From then on both sides speak frames (`frame.rs`) on the bare
//! socket: many calls in flight on one long-lived connection for each peer and lane, each written
//! as soon as the socket is free, together with whatever else was queued by then.
//!
//! Rejected, because an exchange of its own costs about as much as a client's whole request, on
//! both sides (`performance.md`, "Where the time goes"):
//! - an HTTP request a message: heads to write and to parse, and one exchange at a time on each
//!   connection;
//! - streams of HTTP/2: frames, header tables and windows for each message, windows that default
//!   to 64 KiB, and cancelled streams that are counted until they end the connection.
//!
//! What holds:
//! - A call is reported as [not sent](crate::peer::CallError::NotSent) only if its frame never left
//!   the outbox (`outbox.rs`).
//! - A handler that was begun runs to its end, whatever becomes of its caller.
//! - Everything is bounded: frames, queues, requests worked on, connections, times. Who exceeds a
//!   bound loses its connection or its call, never the listener.
//! - Two nodes that dial each other have each their own connections; an answer goes back on the
//!   connection that its request came on.
//!
//! One connection is served by one task for both directions (`wire.rs`); `link.rs` keeps it,
//! `breaker.rs` says when to dial again, `session.rs` hands requests to the node.

mod breaker;
mod client;
mod connection;
mod dial;
mod frame;
mod line;
mod link;
mod listener;
mod notice;
mod options;
mod outbox;
mod peer;
mod session;
mod socket;
mod statistics;
mod upgrade;
mod wire;

#[cfg(test)]
mod tests;

pub use client::HttpTransport;
pub use listener::{ListenerStatistics, PeerListener, PeerServer};
pub use options::HttpOptions;
