//! What the simulator itself must hold: the same seed gives the same run, and bugs are found.
//! Needs `--release --features sim`. That no seed fails is looked at by `starling-sim`.

mod determinism;
mod planted_bugs;
