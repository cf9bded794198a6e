//! The second step of placement: brings every node's load within its bounds, at the least cost.
//!
//! Successive shortest paths (Ahuja, Magnanti, Orlin, *Network Flows*, sections 9.7 and 9.8). The
//! paths' costs, and at one cost their lengths, never fall from one search to the next; so after
//! each search a whole batch of paths of that very cost and length is taken, as in Dinic's maximum
//! flow, and each is still a shortest one. The number of searches is then that of different
//! lengths, which is small.

use super::ideal::NodeIndex;
use super::plan::{Plan, Scatter, Swap};
use super::search::Search;
use super::walk::Walk;

/// Balances a plan that is the cheapest for its loads; it stays that.
pub(super) fn rebalance(plan: &mut Plan) {
    while !plan.is_balanced() {
        let search = Search::run(plan);
        let end =
            search.nearest_end(plan).expect("a flow within the bounds exists, so a path does");
        let taken = if end.is_single_edge() {
            take_single_swaps(plan, end.cost())
        } else {
            Walk::new(plan, &search, end).take_all()
        };
        assert!(taken > 0, "the path that was found is there");
    }
}

/// Makes single swaps of at most this cost from nodes that give to nodes that take; how many.
fn take_single_swaps(plan: &mut Plan, cost: i64) -> usize {
    let mut takers: Vec<NodeIndex> = nodes_that(plan, Plan::takes);
    // Scattered, and one replica of a set at a time, so that what a node gives away comes from sets
    // with many different partners and what a node takes goes to such.
    let mut order: Vec<usize> = (0..plan.partitions()).collect();
    order.sort_by_cached_key(|&partition| Scatter::new(partition).next());
    let mut taken = 0;
    for round in 0..plan.ideal.width {
        for &partition in &order {
            let place = (partition + round) % plan.ideal.width;
            let from = plan.row(partition)[place];
            if !plan.gives(usize::from(from)) {
                continue;
            }
            if let Some(swap) = best_swap(plan, &takers, partition, from, cost) {
                plan.swap(swap);
                taken += 1;
                takers.retain(|&node| plan.takes(usize::from(node)));
                if takers.is_empty() {
                    return taken;
                }
            }
        }
    }
    taken
}

fn nodes_that(plan: &Plan, test: impl Fn(&Plan, usize) -> bool) -> Vec<NodeIndex> {
    (0..plan.nodes()).filter(|&node| test(plan, node)).map(|node| node as NodeIndex).collect()
}

/// The affordable swap to the hungriest taker.
fn best_swap(
    plan: &Plan,
    takers: &[NodeIndex],
    partition: usize,
    from: NodeIndex,
    cost: i64,
) -> Option<Swap> {
    let swap_to = |to| Swap { partition, from, to };
    let mut ties = Scatter::new(partition * plan.nodes() + usize::from(from));
    let taker = ties.pick_max(
        takers.iter().copied(),
        |to| plan.hunger(usize::from(to)),
        |to| plan.may_swap(swap_to(to)) && plan.cost(swap_to(to)) <= cost,
    );
    taker.map(swap_to)
}
