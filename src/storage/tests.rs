//! What holds of every store, run against each implementation, and what a restart finds.

mod crash;
mod directory;
mod model;
mod process;
mod suite;

use std::path::Path;

use super::{Durability, RocksOptions, RocksStore};

fn open(dir: &Path, durability: Durability) -> RocksStore {
    let options = RocksOptions { durability, ..RocksOptions::default() };
    RocksStore::open(dir, &options).expect("a healthy directory")
}
