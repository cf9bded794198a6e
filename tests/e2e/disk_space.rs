//! A disk that fills up: writes are refused in good time, reads go on, and so do writes once there
//! is room. The disk is a small tmpfs, which takes root to mount.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::cluster::Cluster;
use crate::http::{Answer, Request};
use crate::process::eventually;

const DISK: &str = "160m";
/// More than is written while nobody looks at the disk.
const FLOOR: &str = "storage.min_free_bytes = \"64MiB\"\n";
/// So low that the disk is full before it is reached.
const NO_FLOOR: &str = "storage.min_free_bytes = 1\n";
const BALLAST: usize = 32 << 20;
const VALUE: usize = 256 << 10;

/// A mounted tmpfs; unmounted when dropped, which must be after the nodes on it.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None` where that takes rights that the test does not have.
    fn mount(at: &Path) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: a small disk can only be mounted by root");
            return None;
        }
        fs::create_dir_all(at).expect("a folder");
        let options = format!("size={DISK}");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(at);
        let output = mount.output().expect("mount can be run");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "root can't mount a tmpfs here: {said}");
        Some(Self(at.to_owned()))
    }

    fn ballast(&self) -> PathBuf {
        self.0.join("ballast")
    }

    /// Adds to the ballast until this much room is left: what the store frees by itself does not
    /// let writes go on.
    fn leave(&self, bytes: u64) {
        let found = rustix::fs::statvfs(&self.0).expect("it is mounted");
        let more = (found.f_bavail * found.f_frsize).saturating_sub(bytes);
        let more = vec![0; usize::try_from(more).expect("less than the disk")];
        let mut file = fs::File::options().append(true).open(self.ballast()).expect("it is there");
        file.write_all(&more).expect("there is room for it");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: where a test failed, the node may be alive until the cluster is dropped.
        let unmounted = Command::new("umount").arg("-l").arg(&self.0).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            eprintln!("{} stays mounted", self.0.display());
        }
    }
}

/// A cluster whose last node has a small disk, with a ballast on it.
async fn cluster_on_small_disk(nodes: usize, settings: &str) -> Option<(Cluster, SmallDisk)> {
    let mut cluster = Cluster::planned(nodes, settings);
    let disk = SmallDisk::mount(&cluster.nodes[nodes - 1].folder.join("data"))?;
    // The data directory is all of the disk but the ballast, which no store minds.
    fs::write(disk.ballast(), vec![0; BALLAST]).expect("there is room for it");
    (0..nodes).for_each(|i| cluster.launch(i));
    cluster.wait_ready().await;
    Some((cluster, disk))
}

/// A value that takes as much room in files as it is long.
fn incompressible(number: usize) -> Vec<u8> {
    let mut state = number as u64 + 1;
    let mut next = || {
        // xorshift64 (Marsaglia, *Xorshift RNGs*, 2003).
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..VALUE).map(|_| next()).collect()
}

/// Writes through a node until it is refused; how many it took, and the refusal.
async fn fill(cluster: &Cluster, i: usize, query: &str) -> (usize, Answer) {
    for number in 0..1_000 {
        let target = format!("/v1/kv/full/{number}{query}");
        let answer = cluster.ask(i, Request::put(target, incompressible(number))).await;
        if answer.status != 204 {
            return (number, answer);
        }
        // A tmpfs is faster than any disk that the floor is made for.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("the disk does not fill up");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_writes_serves_reads_and_recovers() {
    let Some((mut cluster, disk)) = cluster_on_small_disk(1, FLOOR).await else { return };
    let (written, refusal) = fill(&cluster, 0, "").await;
    let refusal = refusal.expect_problem(507, "disk-full");
    assert_eq!(refusal.json()["maybe_applied"], false);
    assert!(written > 10, "it took {written} values");
    disk.leave(16 << 20);
    for number in 0..written {
        let answer = cluster.ask(0, Request::get(format!("/v1/kv/full/{number}"))).await;
        assert_eq!(answer.expect(200).body.len(), VALUE);
    }
    cluster.assert_untouched("full", &written.to_string()).await;
    let delete = cluster.ask(0, Request::delete("/v1/kv/full/0")).await;
    delete.expect_problem(507, "disk-full");
    fs::remove_file(disk.ballast()).expect("the ballast is there");
    eventually("writes go on", Duration::from_secs(30), || async {
        cluster.ask(0, Request::put("/v1/kv/full/again", "value")).await.status == 204
    })
    .await;
    assert!(cluster.sigterm(0).await.success());
    drop(cluster);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_full_disk_of_three_costs_only_the_level_all() {
    let Some((mut cluster, disk)) = cluster_on_small_disk(3, FLOOR).await else { return };
    let (written, refusal) = fill(&cluster, 0, "?consistency=all").await;
    assert!(written > 10, "it took {written} values");
    assert!(matches!(refusal.status, 503 | 504 | 507), "{refusal:?}: {}", refusal.text());
    for i in 0..3 {
        let target = format!("/v1/kv/full/quorum-{i}");
        let answer = cluster.ask(i, Request::put(&target, "value")).await;
        // The full node may mint nothing; whether another one does it for it is its choice.
        assert!(matches!(answer.status, 204) || (i == 2 && answer.status == 507), "{answer:?}");
        let read = cluster.ask(2, Request::get("/v1/kv/full/0?consistency=all")).await;
        assert_eq!(read.expect(200).body.len(), VALUE);
    }
    fs::remove_file(disk.ballast()).expect("the ballast is there");
    eventually("writes at all go on", Duration::from_secs(30), || async {
        let request = Request::put("/v1/kv/full/again?consistency=all", "value");
        cluster.ask(0, request).await.status == 204
    })
    .await;
    cluster.sigterm_all().await;
    drop(cluster);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_full_to_the_last_byte_loses_nothing_that_was_acknowledged() {
    let Some((mut cluster, disk)) = cluster_on_small_disk(1, NO_FLOOR).await else { return };
    let (written, refusal) = fill(&cluster, 0, "").await;
    // The write that met the end of the disk may be there; later ones are refused.
    assert!(matches!(refusal.status, 503 | 504 | 507), "{refusal:?}: {}", refusal.text());
    for _ in 0..5 {
        let answer = cluster.ask(0, Request::put("/v1/kv/full/later", incompressible(0))).await;
        assert!(matches!(answer.status, 503 | 504 | 507), "{answer:?}: {}", answer.text());
    }
    fs::remove_file(disk.ballast()).expect("the ballast is there");
    cluster.kill9(0);
    cluster.launch(0);
    cluster.wait_ready().await;
    for number in 0..written {
        let answer = cluster.ask(0, Request::get(format!("/v1/kv/full/{number}"))).await;
        assert_eq!(answer.expect(200).body.len(), VALUE);
    }
    // The start has moved the log into files; where the log was not removed yet, both filled the disk.
    eventually("writes go on", Duration::from_secs(30), || async {
        cluster.ask(0, Request::put("/v1/kv/full/again", "value")).await.status == 204
    })
    .await;
    drop(cluster);
}
