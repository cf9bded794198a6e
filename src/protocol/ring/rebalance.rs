//! The second step of placement: brings every node's load within its bounds, at the least cost.
//!
//! Successive shortest paths (Ahuja, Magnanti, Orlin, *Network Flows*, section 9.7). The paths'
//! costs never fall from one search to the next, which allows two short cuts that keep the optimum:
//! all paths of one search that are still there after the ones before, at the same cost, are taken
//! too; and so is any single swap from a node that gives to one that takes at that cost.

use super::ideal::NodeIndex;
use super::plan::{Plan, Swap, scatter};
use super::search::{Path, Search};

/// Balances a plan that is the cheapest for its loads; it stays that.
pub(super) fn rebalance(plan: &mut Plan) {
    while !plan.is_balanced() {
        let search = Search::run(plan);
        let ends = search.ends(plan);
        let Some(&(cost, _)) = ends.first() else {
            debug_assert!(false, "a flow within the bounds exists, hence a path to it");
            return;
        };
        let taken = ends
            .iter()
            .take_while(|end| end.0 == cost)
            .filter(|end| take_path(plan, &search.path_to(end.1), cost))
            .count();
        debug_assert!(taken > 0, "nothing disturbs the first path");
        if taken == 0 {
            return;
        }
        take_single_swaps(plan, cost);
    }
}

/// Makes the swaps of a path if it is still there and still costs the same.
fn take_path(plan: &mut Plan, path: &Path, cost: i64) -> bool {
    let passes = path.pass.is_none_or(|(into, out)| plan.has_room(into) && plan.has_spare(out));
    if !(plan.gives(path.start) && plan.takes(path.end) && passes) {
        return false;
    }
    let mut spent = 0;
    for (done, &swap) in path.swaps.iter().enumerate() {
        if !plan.may_swap(swap) {
            undo(plan, &path.swaps[..done]);
            return false;
        }
        spent += plan.cost(swap);
        plan.swap(swap);
    }
    if spent != cost {
        undo(plan, &path.swaps);
    }
    spent == cost
}

fn undo(plan: &mut Plan, swaps: &[Swap]) {
    swaps.iter().rev().for_each(|swap| plan.swap(swap.reversed()));
}

/// Makes every single swap of at most this cost from a node that gives to one that takes.
fn take_single_swaps(plan: &mut Plan, cost: i64) {
    let mut takers: Vec<NodeIndex> = nodes_that(plan, Plan::takes);
    // Scattered, so that what a node gives away comes from sets with many different partners.
    let mut order: Vec<usize> = (0..plan.partitions()).collect();
    order.sort_by_cached_key(|&partition| scatter(partition));
    for partition in order {
        for place in 0..plan.ideal.width {
            let from = plan.row(partition)[place];
            if !plan.gives(usize::from(from)) {
                continue;
            }
            if let Some(swap) = best_swap(plan, &takers, partition, from, cost) {
                plan.swap(swap);
                takers.retain(|&node| plan.takes(usize::from(node)));
            }
        }
        if takers.is_empty() {
            return;
        }
    }
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
    let (before, after) = takers.split_at(scatter(partition) % takers.len().max(1));
    let mut best: Option<(Swap, f64)> = None;
    for &to in after.iter().chain(before) {
        let swap = Swap { partition, from, to };
        let hunger = plan.hunger(usize::from(to));
        if best.is_none_or(|(_, greatest)| hunger > greatest)
            && plan.may_swap(swap)
            && plan.cost(swap) <= cost
        {
            best = Some((swap, hunger));
        }
    }
    best.map(|(swap, _)| swap)
}
