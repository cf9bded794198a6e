//! The binary as its users meet it: exit codes, what goes to stdout and stderr, `starling dev`.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tempfile::TempDir;

const DEADLINE: Duration = Duration::from_secs(60);

fn starling(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_starling"));
    command.args(arguments).env_remove("STARLING_NODE").stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> Output {
    starling(arguments).output().expect("runs")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[track_caller]
fn assert_code(output: &Output, code: i32) {
    assert_eq!(output.status.code(), Some(code), "{}{}", stdout(output), stderr(output));
}

/// Waits until something holds.
#[track_caller]
#[expect(clippy::disallowed_methods, reason = "real processes take real time")]
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < DEADLINE, "{what}: not within {DEADLINE:?}");
        sleep(Duration::from_millis(50));
    }
}

/// A base port from which the ports of three nodes are free.
fn free_base_port() -> u16 {
    let free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
    let first = 20_000 + u16::try_from(std::process::id() % 400).expect("small") * 100;
    let bases = (first..=64_000).step_by(30).chain((20_000..first).step_by(30));
    let all_free = |base: &u16| [0, 1, 10, 11, 20, 21].iter().all(|offset| free(base + offset));
    bases.into_iter().find(all_free).expect("some ports are free")
}

/// A running `starling dev`, ended with its nodes when dropped.
struct Dev {
    process: Child,
    base_port: u16,
    folder: TempDir,
}

impl Dev {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let base_port = free_base_port();
        let process = Self::spawn(folder.path(), base_port);
        let dev = Self { process, base_port, folder };
        dev.ready()
    }

    fn spawn(folder: &Path, base_port: u16) -> Child {
        let folder = folder.to_str().expect("UTF-8");
        let port = base_port.to_string();
        let mut command = starling(&["dev", "--data-dir", folder, "--base-port", &port]);
        command.stdout(Stdio::piped()).spawn().expect("starts")
    }

    fn ready(mut self) -> Self {
        let stdout = self.process.stdout.take().expect("piped");
        let mut lines = BufReader::new(stdout).lines().map_while(Result::ok);
        assert!(lines.any(|line| line == "ready"), "dev ended before it was ready");
        self
    }

    fn again(mut self) -> Self {
        self.process = Self::spawn(self.folder.path(), self.base_port);
        self.ready()
    }

    fn url(&self, node: u16) -> String {
        format!("http://127.0.0.1:{}", self.base_port + 10 * (node - 1))
    }

    fn client(&self, node: u16, arguments: &[&str]) -> Output {
        starling(arguments).args(["--node", &self.url(node)]).output().expect("runs")
    }

    fn pid(&self, node: u16) -> Pid {
        let file = self.folder.path().join(format!("node-{node}/pid"));
        let text = std::fs::read_to_string(file).expect("a pid file");
        Pid::from_raw(text.trim().parse().expect("a number")).expect("not 0")
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.process.id().cast_signed()).expect("not 0");
        kill_process(pid, signal).expect("it runs");
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        // An error: it has ended already.
        let _ended = self.process.kill();
        let _status = self.process.wait();
    }
}

fn is_gone(pid: Pid) -> bool {
    test_kill_process(pid).is_err()
}

#[test]
fn wrong_use_ends_with_2_and_failure_with_1() {
    assert_code(&run(&["frobnicate"]), 2);
    assert_code(&run(&["get", "b"]), 2);
    assert_code(&run(&["get", "-b", "k", "--node", "http://127.0.0.1:1"]), 2);
    assert_code(&run(&["get", "b", "k", "--node", "https://127.0.0.1:1"]), 2);
    assert_code(&run(&["server", "--http", "nowhere"]), 2);
    let unreachable = run(&["get", "b", "k", "--node", "http://127.0.0.1:1"]);
    assert_code(&unreachable, 1);
    assert!(stderr(&unreachable).starts_with("starling: can't reach http://127.0.0.1:1"));
    assert_eq!(stderr(&unreachable).lines().count(), 1);
    let version = run(&["--version"]);
    assert_code(&version, 0);
    assert_eq!(stdout(&version), format!("starling {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn check_config_says_all_that_is_wrong() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("starling.toml");
    let path = file.to_str().expect("UTF-8");
    std::fs::write(&file, "id = 'a'\n").expect("written");
    assert_code(&run(&["check-config", path]), 0);
    std::fs::write(&file, "id = ''\nport = 3\n").expect("written");

    let plain = run(&["check-config", path]);
    let json = run(&["check-config", path, "--json"]);

    assert_code(&plain, 1);
    assert!(stderr(&plain).contains(&format!("{path}:1: `id`")), "{}", stderr(&plain));
    assert!(stderr(&plain).contains(&format!("{path}:2: `port`")), "{}", stderr(&plain));
    assert_code(&json, 1);
    let report: serde_json::Value = serde_json::from_slice(&json.stdout).expect("JSON");
    assert_eq!(report["errors"].as_array().map(Vec::len), Some(2));
}

#[test]
fn values_and_siblings_make_the_round_through_the_command_line() {
    let dev = Dev::start();
    assert_code(&dev.client(1, &["put", "b", "..", "one"]), 0);
    let got = dev.client(2, &["get", "b", "..", "--show-context"]);
    assert_code(&got, 0);
    assert_eq!(stdout(&got), "one");
    let context = stderr(&got).trim().strip_prefix("context: ").expect("a context").to_owned();

    assert_code(&dev.client(1, &["put", "b", "..", "two", "--context", &context]), 0);
    assert_code(&dev.client(3, &["put", "b", "..", "three", "--context", &context]), 0);
    let siblings = dev.client(2, &["get", "b", "..", "--consistency", "all"]);
    assert_code(&siblings, 3);
    assert!(stdout(&siblings).contains("sibling 2 of 2"), "{}", stdout(&siblings));
    let json = dev.client(2, &["get", "b", "..", "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).expect("JSON");
    let joined = json["context"].as_str().expect("a context").to_owned();

    let mut put = starling(&["put", "b", "..", "-", "--context", &joined, "--node", &dev.url(1)]);
    let mut put = put.stdin(Stdio::piped()).spawn().expect("starts");
    put.stdin.take().expect("piped").write_all(b"\xff\0").expect("written");
    assert!(put.wait().expect("ends").success());
    assert_eq!(dev.client(3, &["get", "b", ".."]).stdout, b"\xff\0");
    assert_code(&dev.client(1, &["delete", "b", ".."]), 0);
    assert_code(&dev.client(1, &["get", "b", ".."]), 1);

    let status = dev.client(1, &["cluster", "status"]);
    assert!(stdout(&status).contains("3 nodes: 3 up"), "{}", stdout(&status));
    assert_code(&dev.client(1, &["cluster", "ring"]), 0);
    assert_code(&dev.client(1, &["cluster", "explain", "b", ".."]), 0);
}

#[test]
fn dev_lets_the_dead_lie_stops_cleanly_and_keeps_its_data() {
    let mut dev = Dev::start();
    assert_code(&dev.client(1, &["put", "b", "k", "kept"]), 0);
    let killed = dev.pid(2);
    kill_process(killed, Signal::KILL).expect("it runs");
    eventually("node-2 is gone", || is_gone(killed));
    assert_eq!(stdout(&dev.client(1, &["get", "b", "k"])), "kept");

    let folder = dev.folder.path().to_str().expect("UTF-8").to_owned();
    let second = run(&["dev", "--data-dir", &folder, "--base-port", "64000"]);
    assert_code(&second, 1);
    assert!(stderr(&second).contains("another `starling dev` is running"), "{}", stderr(&second));
    let port = dev.base_port.to_string();
    let elsewhere = tempfile::tempdir().expect("a folder");
    let elsewhere = elsewhere.path().to_str().expect("UTF-8");
    let taken = run(&["dev", "--data-dir", elsewhere, "--base-port", &port]);
    assert_code(&taken, 1);
    assert!(stderr(&taken).contains(&format!("port {port}, node-1's")), "{}", stderr(&taken));

    let survivors = [dev.pid(1), dev.pid(3)];
    assert_eq!(dev.pid(2), killed, "nobody has started it again");
    dev.signal(Signal::TERM);
    assert!(dev.process.wait().expect("ends").success());
    assert!(survivors.into_iter().all(is_gone));
    let other = run(&["dev", "--data-dir", &folder, "--base-port", &port, "--nodes", "2"]);
    assert!(stderr(&other).contains("made with --nodes 3"), "{}", stderr(&other));

    let dev = dev.again();
    assert_eq!(stdout(&dev.client(2, &["get", "b", "k"])), "kept");
}

#[test]
fn nodes_end_with_a_dev_that_is_killed() {
    let mut dev = Dev::start();
    let nodes = [1, 2, 3].map(|node| dev.pid(node));
    kill_process(nodes[2], Signal::STOP).expect("it runs");
    dev.signal(Signal::KILL);
    dev.process.wait().expect("ends");
    eventually("all nodes are gone", || nodes.into_iter().all(is_gone));
}

#[test]
fn fresh_empties_no_folder_that_is_not_its_own() {
    let folder = tempfile::tempdir().expect("a folder");
    let precious = folder.path().join("precious");
    std::fs::write(&precious, "x").expect("written");
    let path = folder.path().to_str().expect("UTF-8");
    let output = run(&["dev", "--fresh", "--data-dir", path]);
    assert_code(&output, 1);
    assert!(stderr(&output).contains("no dev cluster"), "{}", stderr(&output));
    assert!(precious.exists());
}
