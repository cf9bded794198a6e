//! How evenly the ring is shared out, and how little moves when it changes: clusters of 1 to 100 nodes
//! with random weights and zones, each changed in several ways. A table, by number of nodes; the worst
//! of all draws in each cell.

use std::time::Duration;

use anyhow::ensure;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use starling::protocol::ring::{Member, Table};
use starling::types::{NodeId, PartitionCount, ReplicationFactor, Weight, Zone};
use tokio::time::Instant;

const SIZES: [usize; 11] = [1, 2, 3, 4, 5, 7, 10, 20, 30, 50, 100];
const PARTITIONS: u32 = 1_024;
/// Up to so many nodes it is known how few replicas can move at all; above, only a bound of that.
const EXACT_UP_TO: usize = 10;
/// Clusters of each size.
const DRAWS: u64 = 40;

/// What was found of one size.
#[derive(Default)]
struct Row {
    /// By how many partitions a node's share is off.
    deviation: f64,
    /// Sets that span fewer zones than they could.
    violations: usize,
    /// Replicas made anew for each that the loads force to be: in all changes together, and the worst.
    moved: usize,
    forced: usize,
    worst: f64,
    longest: Duration,
}

fn main() -> anyhow::Result<()> {
    println!("{PARTITIONS} partitions, n = 3, {DRAWS} clusters of each size, 4 changes of each");
    println!("weights 0.25 to 4 (zoned: 1 to 6 zones, one: a single zone)");
    println!();
    println!(
        "{:>5} {:>6} {:>12} {:>10} {:>9} {:>9} {:>8} {:>8} {:>9}",
        "nodes", "zones", "off by", "zones", "moved", "forced", "ratio", "worst", "longest"
    );
    for zoned in [false, true] {
        for nodes in SIZES {
            let mut row = Row::default();
            for draw in 0..DRAWS {
                measure(nodes, zoned, draw, &mut row);
            }
            let ratio = row.moved as f64 / row.forced.max(1) as f64;
            println!(
                "{nodes:>5} {:>6} {:>7.3} part. {:>5} viol. {:>9} {:>9} {ratio:>8.3} {:>8.3} {:>6} ms",
                if zoned { "1 to 6" } else { "one" },
                row.deviation,
                row.violations,
                row.moved,
                row.forced,
                row.worst,
                row.longest.as_millis(),
            );
            ensure!(row.deviation < 1.0 + 1e-6, "a share is off by more than one partition");
            ensure!(row.violations == 0, "a set spans fewer zones than it could");
            let is_bound_good = nodes <= EXACT_UP_TO || !zoned;
            ensure!(!is_bound_good || ratio <= 1.02, "more than 2 % above what has to move");
        }
    }
    println!();
    println!(
        "Up to {EXACT_UP_TO} nodes \"forced\" is the fewest there can be, above a lower bound of it,"
    );
    println!("which zones may not allow to be reached.");
    Ok(())
}

fn measure(nodes: usize, zoned: bool, draw: u64, row: &mut Row) {
    let mut random = StdRng::seed_from_u64(draw * 1_000 + nodes as u64);
    let zones = if zoned { random.random_range(1..=6) } else { 1 };
    let members: Vec<Member> = (0..nodes).map(|id| member(id, zones, &mut random)).collect();
    let table = compute(None, &members, row);
    for change in 0..4 {
        let after = changed(&members, change, zones, &mut random);
        let next = compute(Some(&table), &after, row);
        let factor = ReplicationFactor::default();
        let forced = match nodes <= EXACT_UP_TO {
            true => table.fewest_moves(&after, factor),
            false => table.forced_moves(&after, factor),
        };
        let moved = Table::moves(&table, &next);
        row.moved += moved;
        row.forced += forced;
        if forced > 0 {
            row.worst = row.worst.max(moved as f64 / forced as f64);
        }
    }
}

fn compute(previous: Option<&Table>, members: &[Member], row: &mut Row) -> Table {
    let partitions = PartitionCount::new(PARTITIONS).expect("a power of two");
    let begun = Instant::now();
    let table = Table::compute(previous, members, ReplicationFactor::default(), partitions);
    row.longest = row.longest.max(begun.elapsed());
    row.deviation = row.deviation.max(table.deviation(members));
    row.violations += table.zone_violations(members).len();
    table
}

fn member(id: usize, zones: usize, random: &mut StdRng) -> Member {
    Member {
        id: NodeId::new(&format!("node-{id}")).expect("a valid name"),
        zone: Zone::new(&format!("zone-{}", random.random_range(0..zones))).expect("a valid name"),
        weight: weight(random),
    }
}

fn weight(random: &mut StdRng) -> Weight {
    Weight::from_thousandths(250 * random.random_range(1..=16)).expect("in range")
}

/// A node joins, leaves, takes another share, or two join at once.
fn changed(members: &[Member], change: usize, zones: usize, random: &mut StdRng) -> Vec<Member> {
    let mut after = members.to_vec();
    let place = random.random_range(0..members.len());
    match change {
        0 => after.push(member(members.len(), zones, random)),
        1 if members.len() > 1 => drop(after.remove(place)),
        2 => after[place].weight = weight(random),
        _ => after.extend((0..2).map(|i| member(members.len() + i, zones, random))),
    }
    after
}
