//! The folder of a dev cluster: a marker that says it is one, and a folder for each node.

use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

use super::plan::{NodePlan, Plan};
use crate::config::{Overrides, Settings};

/// Only a folder with this file is ever emptied. It says what the cluster was made of, and is
/// locked while one runs there.
const MARKER: &str = "starling-dev.toml";

/// What a cluster was made of; its nodes know each other by it and can't be given another.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Made {
    nodes: usize,
    base_port: u16,
}

/// A folder that is ours alone, until this is dropped.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    marker: File,
}

impl Folder {
    /// Makes the folder or takes an earlier one, and locks it.
    pub(super) fn claim(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        fs::create_dir_all(path).with_context(|| format!("can't make the folder {shown}"))?;
        let path = path.canonicalize().with_context(|| format!("can't find {shown}"))?;
        refuse_foreign(&path)?;
        let marker = open_marker(&path)?;
        match marker.try_lock() {
            Ok(()) => Ok(Self { path, marker }),
            Err(TryLockError::WouldBlock) => {
                bail!(
                    "another `starling dev` is running in {shown}; stop it or name another \
                     --data-dir"
                )
            }
            Err(TryLockError::Error(error)) => Err(error).context("can't lock the folder"),
        }
    }

    /// Writes what the nodes need; with `fresh`, deletes everything else first.
    pub(super) fn prepare(&mut self, plan: &Plan, fresh: bool) -> anyhow::Result<()> {
        if fresh {
            empty(&self.path)?;
            self.marker.set_len(0).context("can't empty the folder's marker")?;
        }
        made_alike(&mut self.marker, plan, &self.path)?;
        plan.nodes().iter().try_for_each(|node| self.prepare_node(node, plan))
    }

    fn node(&self, node: &NodePlan) -> PathBuf {
        self.path.join(&node.id)
    }

    pub(super) fn log(&self, node: &NodePlan) -> PathBuf {
        self.node(node).join("log")
    }

    pub(super) fn pid(&self, node: &NodePlan) -> PathBuf {
        self.node(node).join("pid")
    }

    pub(super) fn settings(&self, node: &NodePlan) -> PathBuf {
        self.node(node).join("starling.toml")
    }

    /// What a node said last.
    pub(super) fn last_log_line(&self, node: &NodePlan) -> Option<String> {
        let log = fs::read(self.log(node)).ok()?;
        String::from_utf8_lossy(&log).lines().last().map(str::to_owned)
    }

    /// The folder and the settings of a node; settings of an earlier run are kept if they still fit.
    fn prepare_node(&self, node: &NodePlan, plan: &Plan) -> anyhow::Result<()> {
        let data_dir = self.node(node).join("data");
        fs::create_dir_all(&data_dir)
            .with_context(|| format!("can't make the folder {}", data_dir.display()))?;
        let file = self.settings(node);
        if file.exists() {
            return check_settings(&file, node, &data_dir);
        }
        let data_dir = data_dir.to_str().context("the path of --data-dir must be UTF-8")?;
        let pid_file = self.pid(node);
        let pid_file = pid_file.to_str().context("the path of --data-dir must be UTF-8")?;
        fs::write(&file, settings_of(node, plan, (data_dir, pid_file))?)
            .with_context(|| format!("can't write {}", file.display()))
    }
}

/// A folder with something in it, but without our marker, is none of our business.
fn refuse_foreign(path: &Path) -> anyhow::Result<()> {
    let is_empty = fs::read_dir(path)?.next().is_none();
    if !is_empty && !path.join(MARKER).exists() {
        let shown = path.display();
        bail!("{shown} holds other things and no dev cluster; name another --data-dir");
    }
    Ok(())
}

fn open_marker(path: &Path) -> anyhow::Result<File> {
    let path = path.join(MARKER);
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(false);
    options.open(&path).with_context(|| format!("can't open {}", path.display()))
}

/// Empties the folder but for the marker, whose lock is held.
fn empty(path: &Path) -> anyhow::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_name() == MARKER {
            continue;
        }
        let path = entry.path();
        let removed = match entry.file_type()?.is_dir() {
            true => fs::remove_dir_all(&path),
            false => fs::remove_file(&path),
        };
        match removed {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("can't delete {}", path.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Writes what the cluster is made of, or checks it against what is there.
fn made_alike(marker: &mut File, plan: &Plan, path: &Path) -> anyhow::Result<()> {
    let wanted = Made { nodes: plan.nodes().len(), base_port: plan.base_port };
    let mut text = String::new();
    marker.read_to_string(&mut text).context("can't read the folder's marker")?;
    if text.is_empty() {
        marker.rewind()?;
        return marker
            .write_all(toml::to_string(&wanted)?.as_bytes())
            .context("can't write the folder's marker");
    }
    let Made { nodes, base_port } = toml::from_str(&text)
        .with_context(|| format!("{MARKER} in {} is damaged", path.display()))?;
    if (Made { nodes, base_port }) != wanted {
        bail!(
            "{} holds a cluster made with --nodes {nodes} --base-port {base_port}; use these, or \
             --fresh to delete it, or another --data-dir",
            path.display()
        );
    }
    Ok(())
}

/// The file of an earlier run may have been edited, or the folder moved.
fn check_settings(file: &Path, node: &NodePlan, data_dir: &Path) -> anyhow::Result<()> {
    let settings = Settings::load(Some(file), std::iter::empty(), Overrides::default())?.settings;
    let found = (settings.id.as_str(), settings.http, settings.peer, settings.data_dir.as_path());
    if found != (node.id.as_str(), node.http, node.peer, data_dir) {
        bail!(
            "{} must say id = {:?}, http = \"{}\", peer = \"{}\", data_dir = {:?}; mend it, or \
             delete it to have it written anew",
            file.display(),
            node.id,
            node.http,
            node.peer,
            data_dir
        );
    }
    Ok(())
}

/// The settings of node i, for its file.
fn settings_of(
    node: &NodePlan,
    plan: &Plan,
    (data_dir, pid_file): (&str, &str),
) -> anyhow::Result<String> {
    let mut table = toml::Table::new();
    table.insert("id".into(), node.id.clone().into());
    table.insert("http".into(), node.http.to_string().into());
    table.insert("peer".into(), node.peer.to_string().into());
    table.insert("data_dir".into(), data_dir.into());
    // So that a node that is started again by hand is found by it too.
    table.insert("pid_file".into(), pid_file.into());
    let founders = plan.nodes().iter().map(|node| {
        let id = ("id".to_owned(), toml::Value::from(node.id.clone()));
        let peer = ("peer".to_owned(), toml::Value::from(node.peer.to_string()));
        toml::Value::Table([id, peer].into_iter().collect())
    });
    table.insert("initial_nodes".into(), toml::Value::Array(founders.collect()));
    let text = toml::to_string(&table).context("can't write settings as TOML")?;
    Ok(format!(
        "# Written by `starling dev`, which reads it again and keeps what you change.\n{text}"
    ))
}
