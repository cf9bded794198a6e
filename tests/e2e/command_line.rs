//! `starling dev`, and the commands for keys against it.

use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use rustix::process::{Pid, Signal, test_kill_process};
use tempfile::TempDir;

use crate::http::{Request, ask};
use crate::ports::Port;
use crate::process::{self, Process, eventually};

/// How long `dev` may take to be ready.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// A running `starling dev`.
struct Dev {
    process: Process,
    ports: Vec<Port>,
    folder: TempDir,
}

impl Dev {
    async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let ports = Port::row(&[0, 1, 10, 11, 20, 21]);
        let process = launch(folder.path(), &ports, &[]);
        let dev = Self { process, ports, folder };
        dev.wait_ready().await;
        dev
    }

    async fn wait_ready(&self) {
        eventually("dev says ready", READY_WITHIN, || async {
            self.process.log().lines().any(|line| line == "ready")
        })
        .await;
    }

    fn node(&self, i: usize) -> PathBuf {
        self.folder.path().join(format!("dev/node-{i}"))
    }

    fn pid(&self, i: usize) -> Pid {
        let text = std::fs::read_to_string(self.node(i).join("pid")).expect("a pid file");
        Pid::from_raw(text.trim().parse().expect("a number")).expect("a process id")
    }

    /// The URL of node i, from 1.
    fn url(&self, i: usize) -> String {
        format!("http://{}", self.ports[2 * (i - 1)].address())
    }

    async fn stop(&mut self) {
        self.process.signal(Signal::TERM);
        let status = self.process.wait(Duration::from_secs(15)).await;
        assert!(status.success(), "{status}: {}", self.process.log());
    }

    fn assert_logs_clean(&self) {
        for i in 1..=3 {
            let log = std::fs::read_to_string(self.node(i).join("log")).expect("a log");
            assert!(!log.contains("panicked") && !log.contains("internal error"), "{log}");
        }
    }
}

fn launch(folder: &Path, ports: &[Port], more: &[&str]) -> Process {
    let base_port = ports[0].number().to_string();
    let data_dir = folder.join("dev");
    let data_dir = data_dir.to_str().expect("UTF-8");
    let arguments = ["dev", "--nodes", "3", "--base-port", &base_port, "--data-dir", data_dir];
    Process::start(&[&arguments[..], more].concat(), &folder.join("dev.log"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dev_runs_three_nodes_of_which_one_can_be_killed_and_stops_all() {
    let mut dev = Dev::start().await;
    for i in 1..=3 {
        assert!(dev.process.log().contains(&dev.url(i)), "the URLs are shown");
        assert!(dev.node(i).join("starling.toml").exists());
    }
    let pids = [1, 2, 3].map(|i| dev.pid(i));
    rustix::process::kill_process(pids[2], Signal::KILL).expect("it runs");
    eventually("dev says that node-3 has ended", READY_WITHIN, || async {
        dev.process.log().contains("node-3 has ended")
    })
    .await;
    let put = Request::put("/v1/kv/dev/k", "without node-3");
    ask(dev.ports[0].address(), &put).await.expect("an answer").expect(204);
    let read = ask(dev.ports[2].address(), &Request::get("/v1/kv/dev/k")).await;
    assert_eq!(read.expect("an answer").expect(200).text(), "without node-3");
    // A killed node is started again by hand.
    let log = dev.folder.path().join("again.log");
    let mut again = Process::server(&dev.node(3).join("starling.toml"), &[], &log);
    eventually("node-3 is ready again", READY_WITHIN, || async {
        let answer = ask(dev.ports[4].address(), &Request::get("/readyz")).await;
        answer.is_ok_and(|answer| answer.status == 200)
    })
    .await;
    dev.stop().await;
    for pid in pids {
        assert!(test_kill_process(pid).is_err(), "{pid:?} outlived dev");
    }
    again.signal(Signal::TERM);
    assert!(again.wait(Duration::from_secs(10)).await.success());
    dev.assert_logs_clean();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dev_keeps_its_data_and_begins_anew_when_asked() {
    let mut dev = Dev::start().await;
    let put = Request::put("/v1/kv/dev/k", "kept");
    ask(dev.ports[0].address(), &put).await.expect("an answer").expect(204);
    let get = Request::get("/v1/kv/dev/k?consistency=all");
    for (more, status) in [(&[][..], 200), (&["--fresh"][..], 404)] {
        dev.stop().await;
        let log = dev.folder.path().join("dev.log");
        std::fs::remove_file(log).expect("the log of the run before");
        dev.process = launch(dev.folder.path(), &dev.ports, more);
        dev.wait_ready().await;
        ask(dev.ports[2].address(), &get).await.expect("an answer").expect(status);
    }
    dev.stop().await;
    dev.assert_logs_clean();
}

/// Runs a command for a key at node i; its output.
async fn run(dev: &Dev, i: usize, arguments: &[&str]) -> Output {
    process::run(&[arguments, &["--node", &dev.url(i)]].concat()).await
}

#[track_caller]
fn check(output: &Output, code: i32, stdout: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), stdout, "{stderr}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_go_round_by_the_command_line_and_siblings_exit_with_3() {
    let mut dev = Dev::start().await;
    check(&run(&dev, 1, &["put", "cli", "k", "first"]).await, 0, "");
    check(&run(&dev, 2, &["get", "cli", "k"]).await, 0, "first");
    check(&run(&dev, 3, &["put", "cli", "k", "second", "--context", "none"]).await, 0, "");
    let siblings = run(&dev, 1, &["get", "cli", "k"]).await;
    assert_eq!(siblings.status.code(), Some(3));
    let shown = String::from_utf8_lossy(&siblings.stdout).into_owned();
    assert!(shown.contains("first") && shown.contains("second"), "{shown}");
    let context = shown.lines().find_map(|line| line.strip_prefix("context: "));
    let context = context.expect("the context is shown");
    check(&run(&dev, 2, &["put", "cli", "k", "joined", "--context", context]).await, 0, "");
    check(&run(&dev, 3, &["get", "cli", "k", "--consistency", "all"]).await, 0, "joined");
    check(&run(&dev, 1, &["delete", "cli", "k"]).await, 0, "");
    let gone = run(&dev, 2, &["get", "cli", "k"]).await;
    check(&gone, 1, "");
    let said = String::from_utf8_lossy(&gone.stderr).into_owned();
    assert!(said.starts_with("starling: ") && said.lines().count() == 1, "{said}");
    let json = run(&dev, 1, &["cluster", "status", "--json"]).await;
    let status: serde_json::Value = serde_json::from_slice(&json.stdout).expect("JSON");
    assert_eq!(status["nodes"].as_array().map(Vec::len), Some(3), "{status}");
    dev.stop().await;
    dev.assert_logs_clean();
    let unreachable = run(&dev, 1, &["get", "cli", "k"]).await;
    assert_eq!(unreachable.status.code(), Some(1));
}
