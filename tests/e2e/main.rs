//! Whole processes: the binary, real ports on loopback, real signals, real disks.
//!
//! One test binary, so that it links once. Each test has a cluster of its own ([`cluster`]), whose
//! end checks every log: no panic, no internal error.

mod cluster;
mod http;
mod load;
mod ports;
mod process;

mod bench;
mod bodies;
mod bucket_keys;
mod command_line;
mod connections;
mod crashes;
mod directories;
mod disk_space;
mod failures;
mod garbage;
mod growing;
mod hang_ups;
mod mending;
mod parameters;
mod routes;
mod settings;
mod siblings;
mod tokens;
mod whole_cluster;
