//! One node, which is a cluster of one: HTTP and RocksDB, synced, with no peers to wait for.

mod load;
mod nodes;

use self::load::plan::{Mix, Workload};

const WORKLOADS: [Workload; 3] = [
    Workload { name: "PUT", mix: Mix::Put, query: "" },
    Workload { name: "GET", mix: Mix::Get, query: "" },
    Workload { name: "half and half", mix: Mix::Half, query: "" },
];

fn main() -> anyhow::Result<()> {
    load::run(nodes::bench("one node, 1 KiB, 10,000 keys, synced", 1, &WORKLOADS))
}
