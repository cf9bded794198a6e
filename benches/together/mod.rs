//! Nodes that run in the benchmark's own process, on loopback and RocksDB: what is counted for the
//! process is the work of all of them together.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::ensure;
use starling::config::{Overrides, Settings};
use starling::server::{self, Start};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

/// A node's place.
pub struct Place {
    /// Of its settings, with its data in it.
    pub folder: PathBuf,
    /// Where clients reach it.
    pub http: SocketAddr,
    peer: SocketAddr,
}

/// A node that runs in this process.
pub struct Running {
    stop: oneshot::Sender<()>,
    ended: JoinHandle<anyhow::Result<()>>,
}

/// Nodes of one cluster, running or not.
pub struct Cluster {
    /// One for each.
    pub places: Vec<Place>,
    _folder: TempDir,
}

impl Cluster {
    /// Founders that don't run yet; `further` goes into the settings of each.
    ///
    /// # Errors
    /// No free ports, or no folders.
    pub fn new(nodes: usize, further: &str) -> anyhow::Result<Self> {
        // Not the system's folder for temporary files, which may be memory: fsync must cost.
        let folder = TempDir::new_in(env!("CARGO_TARGET_TMPDIR"))?;
        let listeners: Vec<TcpListener> = (0..2 * nodes)
            .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
            .collect::<Result<_, _>>()?;
        let address = |i: usize| listeners[i].local_addr();
        let mut places = Vec::new();
        for i in 0..nodes {
            let folder = folder.path().join(format!("node-{}", i + 1));
            std::fs::create_dir(&folder)?;
            places.push(Place { folder, http: address(2 * i)?, peer: address(2 * i + 1)? });
        }
        let founders: Vec<String> = places
            .iter()
            .enumerate()
            .map(|(i, place)| format!("{{ id = \"node-{}\", peer = \"{}\" }}", i + 1, place.peer))
            .collect();
        for (i, place) in places.iter().enumerate() {
            let mut text = format!(
                "id = \"node-{}\"\nhttp = \"{}\"\npeer = \"{}\"\ndata_dir = {:?}\n\
                 replication_factor = {}\ninitial_nodes = [{}]\n",
                i + 1,
                place.http,
                place.peer,
                place.folder.join("data"),
                nodes.min(3),
                founders.join(", ")
            );
            text.push_str(further);
            std::fs::write(place.folder.join("starling.toml"), text)?;
        }
        Ok(Self { places, _folder: folder })
    }

    /// Starts one.
    ///
    /// # Errors
    /// Wrong settings.
    pub fn start(&self, i: usize) -> anyhow::Result<Running> {
        let file = self.places[i].folder.join("starling.toml");
        let settings =
            Settings::load(Some(&file), std::iter::empty(), Overrides::default())?.settings;
        let (stop, stopped) = oneshot::channel();
        let ended = tokio::spawn(server::run(settings, Start::GoOn, async move {
            // Dropped is stopped too.
            drop(stopped.await);
        }));
        Ok(Running { stop, ended })
    }

    /// Starts all, and waits until they are ready.
    ///
    /// # Errors
    /// A node that does not get ready.
    pub async fn start_all(&self) -> anyhow::Result<Vec<Running>> {
        let running = (0..self.places.len()).map(|i| self.start(i)).collect::<Result<_, _>>()?;
        for place in &self.places {
            ready(place.http).await?;
        }
        Ok(running)
    }
}

impl Running {
    /// Stops it, and waits until it has.
    ///
    /// # Errors
    /// The node's own.
    pub async fn stop(self) -> anyhow::Result<()> {
        drop(self.stop);
        self.ended.await?
    }
}

/// Made once: making one costs more than a request.
///
/// # Errors
/// What keeps it from being made.
pub fn client() -> anyhow::Result<reqwest::Client> {
    static CLIENT: OnceLock<reqwest::Client> = OnceLock::new();
    if let Some(client) = CLIENT.get() {
        return Ok(client.clone());
    }
    let client = reqwest::Client::builder().no_proxy().build()?;
    Ok(CLIENT.get_or_init(|| client).clone())
}

/// What a node answers.
///
/// # Errors
/// No answer, or one that is an error.
pub async fn get(address: SocketAddr, path: &str) -> anyhow::Result<String> {
    let answer = client()?.get(format!("http://{address}{path}")).send().await?;
    Ok(answer.error_for_status()?.text().await?)
}

/// Waits until a node is ready.
///
/// # Errors
/// It does not get ready.
pub async fn ready(address: SocketAddr) -> anyhow::Result<()> {
    let begun = Instant::now();
    while get(address, "/readyz").await.is_err() {
        ensure!(begun.elapsed() < Duration::from_secs(120), "{address} does not get ready");
        sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}
