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
    let mut takers = Takers::new(plan);
    // Scattered, and one replica of a set at a time, so that what a node gives away comes from sets
    // with many different partners and what a node takes goes to such.
    let mut order: Vec<usize> = (0..plan.partitions()).collect();
    order.sort_by_cached_key(|&partition| Scatter::new(partition).next());
    let mut taken = 0;
    for round in 0..plan.ideal.width {
        for &partition in &order {
            if takers.zones.is_empty() {
                return taken;
            }
            let place = (partition + round) % plan.ideal.width;
            let from = plan.row(partition)[place];
            if !plan.gives(usize::from(from)) {
                continue;
            }
            if let Some(swap) = takers.best_swap(plan, partition, from, cost) {
                plan.swap(swap);
                taken += 1;
                if !plan.takes(usize::from(swap.to)) {
                    takers.retain(plan);
                }
            }
        }
    }
    taken
}

/// The nodes that take, by zone: a set is open to a zone or not, whatever the node.
struct Takers {
    zones: Vec<(usize, Vec<NodeIndex>)>,
}

impl Takers {
    fn new(plan: &Plan) -> Self {
        let zones = plan.ideal.zones.iter().map(|rule| rule.nodes.clone()).enumerate();
        let mut takers = Self { zones: zones.collect() };
        takers.retain(plan);
        takers
    }

    /// Forgets those that take no more.
    fn retain(&mut self, plan: &Plan) {
        self.zones.retain_mut(|(_, nodes)| {
            nodes.retain(|&node| plan.takes(usize::from(node)));
            !nodes.is_empty()
        });
    }

    /// The affordable swap to the hungriest taker.
    fn best_swap(&self, plan: &Plan, partition: usize, from: NodeIndex, cost: i64) -> Option<Swap> {
        let swap_to = |to| Swap { partition, from, to };
        let hunger = |to| plan.hunger(usize::from(to));
        let mut ties = Scatter::new(partition * plan.nodes() + usize::from(from));
        let old = plan.previous.row(partition);
        let best = if i64::from(old.contains(&from)) > cost {
            // Only a node that held it before is cheap enough.
            let back = old.iter().copied().filter(|&to| plan.takes(usize::from(to)));
            ties.pick_max(back, hunger, |to| plan.may_swap(swap_to(to)))
        } else {
            let zone_of_from = plan.zone_of(from);
            let open = |zone: &&(usize, _)| plan.may_cross(partition, zone_of_from, zone.0);
            let open = self.zones.iter().filter(open).flat_map(|(_, nodes)| nodes.iter().copied());
            let row = plan.row(partition);
            ties.pick_max(open, hunger, |to| !row.contains(&to) && plan.takes(usize::from(to)))
        };
        best.map(swap_to)
    }
}
