//! Clients that write and read without a pause while nodes fail, and notice what must not happen:
//! a failure of a node that lives, and a read that shows less than was acknowledged.
//!
//! Each client has a key of its own and writes 1, 2, 3, ... to it, so that what is lost shows. A
//! write with an unknown outcome may stand beside later ones, so the greatest sibling counts.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::http::{Answer, Client, Request};
use crate::process::eventually;

/// How long a client waits before it gives a paused node up.
const PATIENCE: Duration = Duration::from_secs(12);

/// What one client was told.
#[derive(Clone, Debug)]
pub struct Written {
    /// Its key's path.
    pub target: String,
    /// The last value that was acknowledged.
    pub acknowledged: u64,
    /// The last value that was sent.
    pub sent: u64,
}

/// Running clients.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<Written>>,
}

#[derive(Debug)]
struct Shared {
    nodes: Vec<SocketAddr>,
    /// One bit for each node that is not to be asked.
    avoided: AtomicU64,
    /// One bit for each node that may fail.
    may_fail: AtomicU64,
    stop: AtomicBool,
    done: AtomicU64,
    /// What went wrong though it must not.
    wrong: Mutex<Vec<String>>,
}

impl Load {
    /// Starts clients that ask all nodes in turn.
    pub fn start(cluster: &Cluster, clients: usize) -> Self {
        let shared = Arc::new(Shared {
            nodes: cluster.http_all(),
            avoided: AtomicU64::new(0),
            may_fail: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            done: AtomicU64::new(0),
            wrong: Mutex::default(),
        });
        let client = |number| tokio::spawn(Worker::new(&shared, number).run());
        Self { clients: (0..clients).map(client).collect(), shared }
    }

    /// From now on node i may fail.
    pub fn tolerate(&self, i: usize) {
        self.shared.may_fail.fetch_or(1 << i, Ordering::SeqCst);
    }

    /// From now on node i is not asked, and what it was asked may fail.
    pub fn avoid(&self, i: usize) {
        self.tolerate(i);
        self.shared.avoided.fetch_or(1 << i, Ordering::SeqCst);
    }

    /// From now on all nodes are asked, and none may fail.
    pub fn avoid_none(&self) {
        self.shared.may_fail.store(0, Ordering::SeqCst);
        self.shared.avoided.store(0, Ordering::SeqCst);
    }

    /// Waits until so many more operations have succeeded.
    pub async fn progress(&self, operations: u64) {
        let goal = self.shared.done.load(Ordering::SeqCst) + operations;
        let what = format!("{operations} more operations");
        eventually(&what, Duration::from_secs(90), || async {
            self.check();
            self.shared.done.load(Ordering::SeqCst) >= goal
        })
        .await;
    }

    fn check(&self) {
        let wrong = self.shared.wrong.lock().expect("no panic while it is held");
        assert!(wrong.is_empty(), "{} things went wrong:\n{}", wrong.len(), wrong.join("\n"));
    }

    /// Stops the clients, and checks that nothing went wrong.
    pub async fn stop(mut self) -> Vec<Written> {
        self.shared.stop.store(true, Ordering::SeqCst);
        let mut written = Vec::new();
        for client in self.clients.drain(..) {
            written.push(client.await.expect("a client does not panic"));
        }
        self.check();
        written
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.clients.iter().for_each(JoinHandle::abort);
    }
}

struct Worker {
    shared: Arc<Shared>,
    clients: Vec<Client>,
    /// Whose turn it is.
    turn: usize,
    written: Written,
}

impl Worker {
    fn new(shared: &Arc<Shared>, number: usize) -> Self {
        let client = |address: &SocketAddr| Client::new(*address).patience(PATIENCE);
        let target = format!("/v1/kv/load/client-{number}");
        Self {
            shared: Arc::clone(shared),
            clients: shared.nodes.iter().map(client).collect(),
            turn: number,
            written: Written { target, acknowledged: 0, sent: 0 },
        }
    }

    async fn run(mut self) -> Written {
        while !self.shared.stop.load(Ordering::SeqCst) {
            self.write().await;
            self.write().await;
            self.read().await;
        }
        self.written
    }

    async fn write(&mut self) {
        self.written.sent += 1;
        let request = Request::put(&self.written.target, self.written.sent.to_string());
        if self.ask(&request, &[204]).await.is_some() {
            self.written.acknowledged = self.written.sent;
        }
    }

    async fn read(&mut self) {
        let request = Request::get(&self.written.target);
        let Some(answer) = self.ask(&request, &[200, 300, 404]).await else { return };
        let (newest, written) = (newest(&answer), &self.written);
        if newest < written.acknowledged {
            self.wrong(format!("a read gives {newest} after {written:?} was acknowledged"));
        }
    }

    /// Asks the next node; `None` where it failed as it may.
    async fn ask(&mut self, request: &Request, allowed: &[u16]) -> Option<Answer> {
        let node = self.next_node();
        let answer = self.clients[node].send(request).await;
        match answer {
            Ok(answer) if allowed.contains(&answer.status) => {
                self.shared.done.fetch_add(1, Ordering::SeqCst);
                Some(answer)
            }
            _ if is_set(&self.shared.may_fail, node) => {
                // A node that is gone refuses at once.
                tokio::time::sleep(Duration::from_millis(5)).await;
                None
            }
            Ok(answer) => {
                self.wrong(format!("node {node}: {request:?}: {answer:?}: {}", answer.text()));
                None
            }
            Err(error) => {
                self.wrong(format!("node {node}: {request:?}: {error}"));
                None
            }
        }
    }

    fn next_node(&mut self) -> usize {
        loop {
            self.turn = (self.turn + 1) % self.clients.len();
            if !is_set(&self.shared.avoided, self.turn) {
                return self.turn;
            }
            // Its process may be another one when it is asked again.
            self.clients[self.turn].disconnect();
        }
    }

    fn wrong(&self, what: String) {
        self.shared.wrong.lock().expect("no panic while it is held").push(what);
    }
}

fn is_set(bits: &AtomicU64, i: usize) -> bool {
    bits.load(Ordering::SeqCst) & 1 << i != 0
}

/// The greatest value of an answer; 0 where there is none.
pub fn newest(answer: &Answer) -> u64 {
    let number = |value: &Vec<u8>| String::from_utf8_lossy(value).parse::<u64>().expect("a number");
    answer.values().iter().map(number).max().unwrap_or(0)
}

/// Checks through every node that each acknowledged write is there. A level that can't be reached
/// yet is waited for; a wrong answer is not.
pub async fn assert_nothing_lost(cluster: &Cluster, written: &[Written], level: &str) {
    for client in written {
        for i in 0..cluster.nodes.len() {
            let request = Request::get(format!("{}?consistency={level}", client.target));
            let newest = newest(&reached(cluster, i, &request).await);
            let expected = client.acknowledged..=client.sent;
            assert!(expected.contains(&newest), "node {i} at {level}: {newest}, {client:?}");
        }
    }
}

/// An answer at the level asked for.
async fn reached(cluster: &Cluster, i: usize, request: &Request) -> Answer {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let answer = cluster.ask(i, request.clone()).await;
        // Only that a node is not known to be up yet: who is known to be up has to answer.
        if answer.status != 503 || Instant::now() > deadline {
            return answer;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
