//! The machine's limit: what one HTTP hop with 1 KiB costs where nothing is stored. Everything else
//! that speaks HTTP is compared with this, measured in the same run. `cargo bench --bench http -- serve`
//! only runs that server, for other load generators.

#[expect(dead_code, reason = "the other benchmarks of HTTP use the rest of it")]
mod load;

use self::load::limit::{Server, measure_limits};
use self::load::plan::{Mix, Plan, Workload, rows};
use self::load::table::Table;

const WORKLOADS: [Workload; 3] = [
    Workload { name: "PUT", mix: Mix::Put, query: "" },
    Workload { name: "GET", mix: Mix::Get, query: "" },
    Workload { name: "half and half", mix: Mix::Half, query: "" },
];

fn main() -> anyhow::Result<()> {
    if std::env::args().any(|argument| argument == "serve") {
        let server = Server::start()?;
        println!(
            "http://{}/v1/kv/bench/KEY takes and gives 1 KiB; end with Ctrl-C",
            server.address
        );
        return load::run(std::future::pending());
    }
    load::run(async {
        let plan = Plan::from_environment()?;
        let limits = measure_limits(&rows(&WORKLOADS, &plan), &plan).await?;
        Table::begin("axum without storage, 1 KiB", limits).end()
    })
}
