//! The machine's limit of one HTTP hop: axum, which takes and gives 1 KiB and stores nothing.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Context;
use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use axum::serve::ListenerExt;
use bytes::Bytes;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use super::generator::{Measured, measure};
use super::plan::{Mix, Plan, Row, Workload};

/// What the limit was, by row.
#[derive(Debug, Default)]
pub struct Limits(Vec<(Row, Measured)>);

impl Limits {
    /// The limit for requests of this kind over as many connections.
    pub fn of(&self, row: &Row) -> Option<&Measured> {
        let is_same = |limit: &Row| {
            (limit.workload.mix, limit.connections) == (row.workload.mix, row.connections)
        };
        self.0.iter().find(|(limit, _)| is_same(limit)).map(|(_, measured)| measured)
    }

    /// All of them, in the order they were measured in.
    pub fn iter(&self) -> impl Iterator<Item = (&Row, &Measured)> {
        self.0.iter().map(|(row, measured)| (row, measured))
    }
}

/// Measures the limits that these rows are to be compared with.
///
/// # Errors
/// What keeps the server from running or the generator from reaching it.
pub async fn measure_limits(rows: &[Row], plan: &Plan) -> anyhow::Result<Limits> {
    let server = Server::start()?;
    let mut limits = Limits::default();
    for row in rows.iter().map(limit_of) {
        if limits.of(&row).is_none() {
            let measured = measure(&row, &[server.address], plan).await?;
            limits.0.push((row, measured));
        }
    }
    Ok(limits)
}

fn limit_of(row: &Row) -> Row {
    let name = match row.workload.mix {
        Mix::Put => "limit: PUT",
        Mix::Get => "limit: GET",
        Mix::Half => "limit: half and half",
    };
    Row { workload: Workload { name, query: "", ..row.workload }, ..*row }
}

/// On threads of its own, one for each processor.
#[derive(Debug)]
pub struct Server {
    /// Where it listens: a free port.
    pub address: SocketAddr,
    runtime: Option<Runtime>,
}

impl Server {
    /// Starts it.
    ///
    /// # Errors
    /// No free port, or no threads.
    pub fn start() -> anyhow::Result<Self> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = Runtime::new().context("can't start the limit's threads")?;
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).expect("it listens");
            let listener = listener.tap_io(|io| io.set_nodelay(true).expect("it is connected"));
            axum::serve(listener, router()).await
        });
        Ok(Self { address, runtime: Some(runtime) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Waiting is not allowed on the generator's thread, and there is nothing to wait for.
            runtime.shutdown_background();
        }
    }
}

fn router() -> Router {
    static VALUE: [u8; 1_024] = [0x5a; 1_024];
    let read = async || Bytes::from_static(&VALUE);
    let write = async |body: Bytes| {
        assert_eq!(body.len(), VALUE.len());
        StatusCode::NO_CONTENT
    };
    Router::new().route("/v1/kv/{bucket}/{*key}", get(read).put(write))
}
