//! What is there before anything is measured.

use std::net::SocketAddr;

use anyhow::{Context, ensure};
use futures_util::future::try_join_all;

use crate::load::connection::Connection;
use crate::load::requests::Requests;

/// How many connections share the work.
const FILLERS: u32 = 64;

/// Stores a value under each key.
///
/// # Errors
/// What could not be stored.
pub async fn fill(addresses: &[SocketAddr], keys: u32) -> anyhow::Result<()> {
    let one = |filler: u32| async move {
        let address = addresses[filler as usize % addresses.len()];
        let mut connection = Connection::open(address).await?;
        let mut requests = Requests::new("", filler.into());
        for key in (filler..keys).step_by(FILLERS as usize) {
            let status = connection.exchange(requests.put(key)).await?;
            ensure!(status / 100 == 2, "storing a value was answered with {status}");
        }
        Ok(())
    };
    try_join_all((0..FILLERS).map(one)).await.context("can't store the values to read").map(drop)
}
