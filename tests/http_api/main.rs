//! The client API on a real socket: a scripted node behind it, raw TCP clients in front.

mod client;
mod node;

mod bounds;
mod conditions;
mod documents;
mod errors;
mod keys;
mod parameters;
mod reads;
mod stopping;
mod writes;
