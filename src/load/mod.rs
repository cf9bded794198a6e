//! The load generator: what `starling bench` and the benchmarks of HTTP drive nodes with.
//!
//! It shares the machine's cores with what it measures, so it speaks HTTP/1.1 over bare sockets, reads
//! no more of an answer than it needs, and runs on threads that share nothing while they measure:
//!
//! ```text
//! Plan ─▶ run ─┬▶ thread: connections ─▶ Recorder ─┐ an Interval a second
//!              └▶ thread: connections ─▶ Recorder ─┴▶ Report ─▶ table, JSON, chart, comparison
//! ```
//!
//! - **Closed loop**: a connection sends its next request when the last one is answered. It shows what
//!   a store can take; its latencies leave out that a slow answer holds back the requests behind it.
//! - **Open loop** (a rate): requests are due at fixed times, whatever the answers do, and a latency
//!   counts from when its request was *due* (Tene, "How NOT to Measure Latency": no coordinated
//!   omission). What was due and never sent is counted, too.
//!
//! It knows the HTTP API and nothing of what is behind it.

pub mod answer;
mod clock;
pub mod connection;
pub mod keys;
pub mod pace;
pub mod plan;
pub mod recorder;
pub mod report;
pub mod request;
pub mod run;
mod session;
pub mod values;
mod worker;
pub mod workload;

pub use self::plan::{Length, Pace, Plan};
pub use self::report::Report;
pub use self::run::run;
