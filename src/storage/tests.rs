//! What holds of every store, run against each implementation; what is special to one stands in
//! its own module.

mod crash;
mod model;
mod suite;
