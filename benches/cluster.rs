//! Three nodes with three replicas of each key, synced, sharing this machine with the generator.

mod load;
mod nodes;

use self::load::plan::{Mix, Workload};

const WORKLOADS: [Workload; 4] = [
    Workload { name: "PUT quorum", mix: Mix::Put, query: "" },
    Workload { name: "GET quorum", mix: Mix::Get, query: "" },
    Workload { name: "GET one", mix: Mix::Get, query: "consistency=one" },
    Workload { name: "half and half, quorum", mix: Mix::Half, query: "" },
];

fn main() -> anyhow::Result<()> {
    load::run(nodes::bench("three nodes, N=3, 1 KiB, 10,000 keys, synced", 3, &WORKLOADS))
}
