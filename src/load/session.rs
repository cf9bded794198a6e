//! One client: a connection that is opened again when it breaks, and what operations do on it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rand::rngs::StdRng;
use serde::Deserialize;
use tokio::time::timeout;

use super::answer::Answer;
use super::connection::Connection;
use super::request::{Requests, Target};
use super::values::{Values, WrongValue};
use super::workload::Operation;

/// What came of an operation that was answered as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It was done.
    Done,
    /// It found several values.
    Siblings,
    /// There was no value.
    Missing,
}

/// Why an operation failed, in words that are few enough to count by.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// A status that is no success, and the code of its error.
    #[error("{0} {1}")]
    Refused(u16, String),
    /// The node did not answer in time.
    #[error("no answer")]
    NoAnswer,
    /// There is no connection, or it broke.
    #[error("connection: {0}")]
    Connection(io::ErrorKind),
    /// What came is no answer that can be read.
    #[error("unreadable answer")]
    Unreadable,
    /// The value that was read is wrong.
    #[error("wrong value: {0}")]
    Wrong(#[from] WrongValue),
}

impl Failure {
    /// Whether a later try may do: the node is busy or not ready, or too few replicas have answered. What
    /// some of them have stored then is stored once more.
    pub(super) fn is_for_now(&self) -> bool {
        matches!(self, Self::Refused(429 | 503, _))
    }

    /// Whether the connection must be opened again.
    fn breaks_connection(&self) -> bool {
        matches!(self, Self::NoAnswer | Self::Connection(_) | Self::Unreadable)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::InvalidData => Self::Unreadable,
            kind => Self::Connection(kind),
        }
    }
}

/// What a session is made for.
#[derive(Clone, Debug)]
pub(super) struct Purpose {
    pub nodes: Arc<[SocketAddr]>,
    pub target: Target,
    pub values: Arc<Values>,
    /// Whether each value that is read is checked.
    pub is_verifying: bool,
    /// How long an answer may take.
    pub patience: Duration,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Session {
    purpose: Purpose,
    node: usize,
    requests: Requests,
    connection: Option<Connection>,
    context: Vec<u8>,
}

impl Session {
    /// The client of this number: the nodes get clients in turn.
    pub fn new(purpose: Purpose, number: usize) -> Self {
        let node = number % purpose.nodes.len();
        let requests = Requests::new(&purpose.target, purpose.nodes[node]);
        Self { purpose, node, requests, connection: None, context: Vec::new() }
    }

    /// Does it, and opens the connection first if there is none.
    pub async fn perform(
        &mut self,
        operation: Operation,
        key: u64,
        rng: &mut StdRng,
    ) -> Result<Outcome, Failure> {
        let done = timeout(self.purpose.patience, self.attempt(operation, key, rng)).await;
        let done = done.unwrap_or(Err(Failure::NoAnswer));
        let is_over = self.connection.as_ref().is_none_or(Connection::is_over);
        if is_over || done.as_ref().is_err_and(Failure::breaks_connection) {
            self.connection = None;
        }
        if done.as_ref().is_err_and(Failure::breaks_connection) {
            self.turn_to_next();
        }
        done
    }

    /// A node that does not answer is left for the next one, as a client library would.
    fn turn_to_next(&mut self) {
        self.node = (self.node + 1) % self.purpose.nodes.len();
        self.requests = Requests::new(&self.purpose.target, self.purpose.nodes[self.node]);
    }

    /// The node that it is connected to, or would be.
    pub fn node(&self) -> SocketAddr {
        self.purpose.nodes[self.node]
    }

    /// Opens the connection, so that the first request does not pay for it.
    pub async fn connect(&mut self) -> Result<(), Failure> {
        if self.connection.is_none() {
            let node = self.purpose.nodes[self.node];
            self.connection = Some(Connection::open(node).await?);
        }
        Ok(())
    }

    async fn attempt(
        &mut self,
        operation: Operation,
        key: u64,
        rng: &mut StdRng,
    ) -> Result<Outcome, Failure> {
        match operation {
            Operation::Read => self.read(key).await,
            Operation::Write | Operation::Insert => self.write(key, rng, false).await,
            Operation::ReadModifyWrite => {
                let found = self.read(key).await?;
                self.write(key, rng, true).await?;
                Ok(found)
            }
        }
    }

    async fn read(&mut self, key: u64) -> Result<Outcome, Failure> {
        self.connect().await?;
        let connection = self.connection.as_mut().ok_or(Failure::Unreadable)?;
        let answer = connection.exchange(self.requests.read(key)).await?;
        self.context.clear();
        self.context.extend_from_slice(answer.context);
        let checker = self.purpose.is_verifying.then_some(&*self.purpose.values);
        match answer.status {
            200 => {
                checker.map_or(Ok(()), |values| values.check(key, answer.body))?;
                Ok(Outcome::Done)
            }
            300 => {
                checker.map_or(Ok(()), |values| check_siblings(values, key, answer.body))?;
                Ok(Outcome::Siblings)
            }
            404 if answer.error == b"not-found" => Ok(Outcome::Missing),
            _ => Err(refusal(&answer)),
        }
    }

    async fn write(
        &mut self,
        key: u64,
        rng: &mut StdRng,
        has_read: bool,
    ) -> Result<Outcome, Failure> {
        self.connect().await?;
        let connection = self.connection.as_mut().ok_or(Failure::Unreadable)?;
        let context = has_read.then_some(self.context.as_slice());
        let request = self.requests.write(key, &self.purpose.values, rng, context);
        let answer = connection.exchange(request).await?;
        match answer.status {
            200..300 => Ok(Outcome::Done),
            _ => Err(refusal(&answer)),
        }
    }
}

fn refusal(answer: &Answer<'_>) -> Failure {
    let code = String::from_utf8_lossy(answer.error);
    Failure::Refused(answer.status, code.into_owned())
}

/// The body of a 300, as far as it is checked.
#[derive(Deserialize)]
struct Siblings {
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    value: Option<String>,
}

fn check_siblings(values: &Values, key: u64, body: &[u8]) -> Result<(), Failure> {
    let found: Siblings = serde_json::from_slice(body).map_err(|_| Failure::Unreadable)?;
    for value in found.siblings.iter().filter_map(|sibling| sibling.value.as_ref()) {
        let value = STANDARD.decode(value).map_err(|_| Failure::Unreadable)?;
        values.check(key, &value)?;
    }
    Ok(())
}
