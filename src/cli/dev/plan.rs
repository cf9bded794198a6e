//! Which nodes there are to be, and on which ports.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use anyhow::{Context as _, bail};

use crate::cli::exit::WrongUsage;

/// One node that is to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NodePlan {
    pub(super) id: String,
    pub(super) http: SocketAddr,
    pub(super) peer: SocketAddr,
}

/// All of them.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) base_port: u16,
    nodes: Vec<NodePlan>,
}

impl Plan {
    /// `count` nodes; node i has the HTTP port `base_port` + 10·(i−1).
    pub(super) fn new(count: u16, base_port: u16) -> Result<Self, WrongUsage> {
        let highest = u32::from(base_port) + 10 * u32::from(count - 1) + 1;
        if base_port == 0 || highest > u32::from(u16::MAX) {
            let message = format!("--base-port {base_port} leaves no room for {count} nodes");
            return Err(WrongUsage(message));
        }
        let address = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let node = |index: u16| NodePlan {
            id: format!("node-{}", index + 1),
            http: address(base_port + 10 * index),
            peer: address(base_port + 10 * index + 1),
        };
        Ok(Self { base_port, nodes: (0..count).map(node).collect() })
    }

    pub(super) fn nodes(&self) -> &[NodePlan] {
        &self.nodes
    }

    /// Finds out before anything is started whether all ports are free.
    pub(super) fn check_ports(&self) -> anyhow::Result<()> {
        for node in &self.nodes {
            check_port(node.http, &node.id, "HTTP")?;
            check_port(node.peer, &node.id, "peer")?;
        }
        Ok(())
    }
}

fn check_port(address: SocketAddr, id: &str, what: &str) -> anyhow::Result<()> {
    match TcpListener::bind(address) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            let port = address.port();
            bail!("port {port}, {id}'s {what} port, is taken; choose others with --base-port")
        }
        Err(error) => Err(error).with_context(|| format!("can't listen on {address}")),
    }
}
