//! The bounds of the transport. The defaults suit production; tests shorten times.

use std::time::Duration;

/// Bounds and times of the HTTP transport, for the side that dials and the side that listens.
#[derive(Clone, Debug)]
pub struct HttpOptions {
    /// The largest request, answer or one-way message, in bytes. Default 64 MiB, at most 4 GiB
    /// less one. The same on all nodes: a larger frame ends the connection.
    pub max_frame_bytes: usize,
    /// How many bytes may wait to be written to one peer and lane. Default 64 MiB. A single frame
    /// is taken whatever its size if nothing else waits.
    pub max_queue_bytes: usize,
    /// How many frames may wait to be written to one peer and lane. Default 65,536.
    pub max_queue_frames: usize,
    /// How many requests of one incoming connection are worked on at once; above it the connection
    /// is not read. Default 16,384.
    pub max_handlers: usize,
    /// How many incoming connections are held; above it a new one is closed at once. Default 1024.
    pub max_connections: usize,
    /// How long an incoming connection may take to send its HTTP request. Default 10 s.
    pub header_timeout: Duration,
    /// How long connecting may take, upgrade included, and how long a call waits for it.
    /// Default 1 s.
    pub connect_timeout: Duration,
    /// The pause after the first failed attempt to connect; it doubles with each. Default 50 ms.
    pub backoff_first: Duration,
    /// The longest pause between attempts to connect. Default 2 s.
    pub backoff_max: Duration,
    /// A connection that carried nothing for so long is closed and its peer forgotten.
    /// Default 5 min.
    pub idle_timeout: Duration,
    /// With requests outstanding and nothing heard for so long, the peer is asked for a sign of
    /// life. Default 200 ms.
    pub ping_after: Duration,
    /// With requests outstanding and nothing heard for so long, the peer is
    /// [`Stalled`](crate::peer::Condition::Stalled). Default 500 ms.
    pub stalled_after: Duration,
    /// With requests outstanding and nothing heard for so long, the connection is given up: a new
    /// one works at once when the network is back, the old one only after TCP's own back-off.
    /// Default 5 s.
    pub silent_after: Duration,
}

impl Default for HttpOptions {
    fn default() -> Self {
        Self {
            max_frame_bytes: 64 << 20,
            max_queue_bytes: 64 << 20,
            max_queue_frames: 65_536,
            max_handlers: 16_384,
            max_connections: 4096,
            header_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(1),
            backoff_first: Duration::from_millis(50),
            backoff_max: Duration::from_secs(2),
            idle_timeout: Duration::from_secs(300),
            ping_after: Duration::from_millis(200),
            stalled_after: Duration::from_millis(500),
            silent_after: Duration::from_secs(5),
        }
    }
}
