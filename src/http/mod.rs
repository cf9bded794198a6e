//! The client API: HTTP/1.1 on a port of its own. Nothing of the peer protocol is reachable here.
//!
//! What holds: every answer that is an error is a problem document (RFC 9457), those of the HTTP
//! server included; [`error`] is the only map from causes to statuses; everything a client can
//! make the node hold (connections, heads, bodies, requests, time) is bounded by [`HttpLimits`].
//!
//! The way of a request: `server` accepts, `connection` drives hyper over `wire`, `app` routes by
//! the table in `router`, `kv` parses into the node's own types and asks the
//! [`Service`](crate::node::operation::Service), and `answer` and `error` turn what comes back
//! into HTTP.

mod admission;
mod answer;
mod app;
mod body;
mod buckets;
mod cluster;
mod connection;
pub mod error;
mod headers;
mod json;
mod kv;
pub mod openapi;
mod ops;
mod parameters;
mod preconditions;
mod query;
pub mod router;
mod server;
mod target;
mod wire;

pub use admission::Load;
pub use app::{HttpLimits, Observer};
pub use server::{listen, serve};
