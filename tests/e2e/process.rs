//! A process of the binary: started, signalled, waited for, and never left behind.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, sleep};

/// The binary under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_starling");

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(20);

/// A running process; killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

/// A command that knows nothing of the environment's settings.
pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command.args(arguments).stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("STARLING_") {
            command.env_remove(name);
        }
    }
    command
}

/// Runs a command to its end. What a node says goes to stderr.
pub async fn run(arguments: &[&str]) -> Output {
    let mut command = tokio::process::Command::from(command(arguments));
    let output = command.kill_on_drop(true).output();
    let output = tokio::time::timeout(Duration::from_secs(60), output).await;
    output.expect("it ends").expect("it starts")
}

impl Process {
    /// Starts a node; its log is appended to.
    pub fn server(settings: &Path, flags: &[&str], log: &Path) -> Self {
        // Ends with this process even where that is killed. The system counts the thread: tests
        // start nodes from the one that they run in.
        let parent = std::process::id().to_string();
        let settings = settings.to_str().expect("UTF-8");
        let arguments = ["server", "--config", settings, "--parent-pid", &parent];
        Self::start(&[&arguments[..], flags].concat(), log)
    }

    /// Starts a command; both its outputs are appended to the log.
    pub fn start(arguments: &[&str], log: &Path) -> Self {
        let open = || File::options().append(true).create(true).open(log).expect("the log opens");
        let mut command = command(arguments);
        let child = command.stdout(open()).stderr(open()).spawn().expect("it starts");
        Self { child, log: log.to_owned() }
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().cast_signed()).expect("a process id");
        kill_process(pid, signal).expect("a child can be signalled");
    }

    /// The status, if it has ended.
    pub fn try_wait(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("an own child")
    }

    /// Waits until it has ended by itself.
    pub async fn wait(&mut self, within: Duration) -> ExitStatus {
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = self.try_wait() {
                return status;
            }
            assert!(Instant::now() < deadline, "did not end within {within:?}: {}", self.log());
            sleep(POLL).await;
        }
    }

    /// Kills it, and waits until it is gone.
    pub fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        self.child.wait().expect("an own child");
    }

    pub fn log(&self) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Waits until a condition holds.
pub async fn eventually<F: Future<Output = bool>>(
    what: &str,
    within: Duration,
    mut holds: impl FnMut() -> F,
) {
    let deadline = Instant::now() + within;
    while !holds().await {
        assert!(Instant::now() < deadline, "not within {within:?}: {what}");
        sleep(POLL).await;
    }
}
