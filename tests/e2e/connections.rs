//! A crowd of connections from another process, which has a limit of open files of its own.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::cluster::Cluster;
use crate::http::{Client, Request};
use crate::process::eventually;

const MAX_CONNECTIONS: usize = 2_000;
const CROWD: usize = 5_000;
const ADDRESS: &str = "CROWD_ADDRESS";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_thousand_connections_are_served_or_turned_away() {
    let settings = format!("max_connections = {MAX_CONNECTIONS}\nheader_timeout = \"120s\"\n");
    let cluster = Cluster::with(1, &settings).await;
    let mut early = Client::new(cluster.http(0));
    let put = |value: &'static str| Request::put("/v1/kv/crowd/k", value);
    early.send(&put("before")).await.expect("an answer").expect(204);
    let address = cluster.http(0);
    let crowd = tokio::task::spawn_blocking(move || Crowd::gather(address));
    let crowd = crowd.await.expect("the crowd gathers");
    assert!(crowd.connected > MAX_CONNECTIONS + 100, "this machine's limit of files is too low");
    // One place is the early client's; the test's own questions before may still hold others.
    let left = crowd.connected - crowd.turned_away;
    assert!((MAX_CONNECTIONS - 20..MAX_CONNECTIONS).contains(&left), "{left} are left");
    // Whoever has a place is served; another one is turned away, in words.
    early.send(&put("meanwhile")).await.expect("an answer").expect(204);
    let late = cluster.ask(0, Request::get("/v1/kv/crowd/k")).await;
    late.expect_problem(503, "too-many-connections");
    let refused = early.send(&Request::get("/metrics")).await.expect("an answer").text();
    assert!(refused.contains("starling_connections_refused_total"), "{refused}");
    crowd.disperse();
    eventually("there is a place again", Duration::from_secs(60), || async {
        let answer = crate::http::ask(address, &Request::get("/v1/kv/crowd/k")).await;
        answer.is_ok_and(|answer| answer.status == 200)
    })
    .await;
    cluster.ask(0, put("after")).await.expect(204);
    let read = cluster.ask(0, Request::get("/v1/kv/crowd/k")).await;
    assert_eq!(read.expect(200).text(), "after");
}

/// The other process: this very binary, told by a variable to be the crowd.
struct Crowd {
    child: std::process::Child,
    connected: usize,
    turned_away: usize,
}

impl Crowd {
    fn gather(address: SocketAddr) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("this binary"))
            .args(["--exact", "connections::be_a_crowd", "--nocapture"])
            .env(ADDRESS, address.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let counts = lines.map_while(Result::ok).find_map(|line| {
            let (connected, turned_away) = line.split_once("crowd ")?.1.split_once(' ')?;
            Some((connected.parse().ok()?, turned_away.parse().ok()?))
        });
        let (connected, turned_away) = counts.expect("the crowd counts itself");
        Self { child, connected, turned_away }
    }

    fn disperse(mut self) {
        drop(self.child.stdin.take());
        assert!(self.child.wait().expect("an own child").success(), "the crowd is content");
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        // It may have dispersed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// No test: what the other process does.
#[test]
fn be_a_crowd() {
    let Ok(address) = std::env::var(ADDRESS) else { return };
    let address: SocketAddr = address.parse().expect("an address");
    let files = raise_file_limit();
    let size = CROWD.min(files.saturating_sub(50));
    let connections: Vec<TcpStream> = (0..size).map(|_| connect(address)).collect();
    let turned_away = connections.iter().filter(|connection| is_turned_away(connection)).count();
    println!("crowd {} {turned_away} ", connections.len());
    std::io::stdout().flush().expect("the parent listens");
    // Until the parent has seen enough.
    let _ = std::io::stdin().read(&mut [0]);
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&address, Duration::from_secs(30));
    stream.expect("the node accepts everybody, if only to say no")
}

/// Those with a place hear nothing, as they ask nothing; the others hear why at once, and were
/// answered in the order in which they came.
fn is_turned_away(mut connection: &TcpStream) -> bool {
    connection.set_read_timeout(Some(Duration::from_millis(1))).expect("a timeout");
    let mut said = [0; 512];
    match connection.read(&mut said) {
        Ok(0) | Err(_) => false,
        Ok(len) => {
            let said = String::from_utf8_lossy(&said[..len]);
            assert!(said.starts_with("HTTP/1.1 503 "), "{said}");
            true
        }
    }
}

fn raise_file_limit() -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // Where it can't be raised, the crowd is as large as it may be.
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).is_ok();
    let limit = if raised { maximum } else { current };
    limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
}
