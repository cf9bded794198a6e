//! Shortest paths through the swaps of a plan: which chains of swaps bring load from nodes that
//! give to nodes that take, and at what cost in moved replicas.
//!
//! The vertices are the nodes and the *pool*, the slack between the nodes' bounds: a node with room
//! can take a replica for good and one with spare load can give it in its stead. An edge from i to
//! j is a partition in which j may replace i. It costs 1 if i held the partition before, less 1 if
//! j did. The plan has no cycle of negative cost, so label correcting (Bellman, Ford, Moore) ends.
//! Among the cheapest paths those with the fewest edges are looked for: they never meet a
//! (partition, zone) twice, as there would be a shortcut, so their swaps don't disturb one another.
//!
//! Nearly every node may replace nearly every other at cost 0 or 1. Those edges are not tried one
//! by one: the nodes whose labels can still fall are listed by zone, and a node leaves the list
//! when its label falls.

use std::collections::VecDeque;

use super::ideal::NodeIndex;
use super::plan::{Plan, Swap};

/// How far a vertex is: the cost of the path to it and, in the lower half, its edges. Ordered by
/// cost first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Label(i64);

impl Label {
    const START: Self = Self(0);
    const UNREACHED: Self = Self(i64::MAX);

    /// One edge further.
    pub(super) fn plus(self, cost: i64) -> Self {
        Self(self.0 + (cost << 32) + 1)
    }

    pub(super) fn cost(self) -> i64 {
        // Arithmetic, so that it rounds down: edges only ever add.
        self.0 >> 32
    }

    pub(super) fn is_single_edge(self) -> bool {
        self == Self::START.plus(self.cost())
    }
}

/// The labels of one search over a plan as it was then.
pub(super) struct Search {
    labels: Vec<Label>,
    holdings: Holdings,
    queue: VecDeque<usize>,
    queued: Vec<bool>,
}

impl Search {
    /// Labels everything that can be reached from the nodes that give.
    pub(super) fn run(plan: &Plan) -> Self {
        let vertices = plan.nodes() + 1;
        let mut search = Self {
            labels: vec![Label::UNREACHED; vertices],
            holdings: Holdings::new(plan),
            queue: VecDeque::new(),
            queued: vec![false; vertices],
        };
        for node in (0..plan.nodes()).filter(|&node| plan.gives(node)) {
            search.relax(node, Label::START);
        }
        while let Some(vertex) = search.queue.pop_front() {
            search.queued[vertex] = false;
            if vertex == plan.nodes() {
                search.leave_pool(plan);
            } else {
                search.leave_node(plan, vertex);
            }
        }
        search
    }

    /// The label of the nearest node that takes: the cheapest, and of those the shortest, path.
    pub(super) fn nearest_end(&self, plan: &Plan) -> Option<Label> {
        let ends = (0..plan.nodes()).filter(|&node| plan.takes(node));
        ends.map(|node| self.labels[node]).min().filter(|&label| label != Label::UNREACHED)
    }

    /// The label of a node, or of the pool, which comes after the nodes.
    pub(super) fn label(&self, vertex: usize) -> Label {
        self.labels[vertex]
    }

    /// Which partitions each node held when the search ran.
    pub(super) fn holdings(&self) -> &Holdings {
        &self.holdings
    }

    fn relax(&mut self, vertex: usize, label: Label) {
        if label >= self.labels[vertex] {
            return;
        }
        self.labels[vertex] = label;
        if !self.queued[vertex] {
            self.queued[vertex] = true;
            self.queue.push_back(vertex);
        }
    }

    fn leave_pool(&mut self, plan: &Plan) {
        let label = self.labels[plan.nodes()].plus(0);
        for node in (0..plan.nodes()).filter(|&node| plan.has_spare(node)) {
            self.relax(node, label);
        }
    }

    fn leave_node(&mut self, plan: &Plan, node: usize) {
        let label = self.labels[node];
        let from = node as NodeIndex;
        if plan.has_room(node) {
            self.relax(plan.nodes(), label.plus(0));
        }
        let mut open: [Option<Open>; 2] = [None, None];
        for held in 0..self.holdings.of(node).len() {
            let partition = self.holdings.of(node)[held] as usize;
            let old = plan.previous.row(partition);
            let cost = old.contains(&from);
            for &to in old {
                if plan.may_swap(Swap { partition, from, to }) {
                    self.relax(usize::from(to), label.plus(i64::from(cost) - 1));
                }
            }
            let label = label.plus(i64::from(cost));
            let open =
                open[usize::from(cost)].get_or_insert_with(|| Open::new(plan, &self.labels, label));
            open.reach(plan, partition, from, |to| self.relax(to, label));
        }
    }
}

/// Which partitions each node held at the start of a search.
pub(super) struct Holdings {
    starts: Vec<u32>,
    partitions: Vec<u32>,
}

impl Holdings {
    fn new(plan: &Plan) -> Self {
        let mut starts = vec![0];
        let sums = plan.loads().iter().scan(0, |sum, load| {
            *sum += load;
            Some(*sum)
        });
        starts.extend(sums);
        let mut next = starts.clone();
        let mut partitions = vec![0; next[plan.nodes()] as usize];
        for partition in 0..plan.partitions() {
            for &node in plan.row(partition) {
                let place = &mut next[usize::from(node)];
                partitions[*place as usize] = partition as u32;
                *place += 1;
            }
        }
        Self { starts, partitions }
    }

    pub(super) fn of(&self, node: usize) -> &[u32] {
        &self.partitions[self.starts[node] as usize..self.starts[node + 1] as usize]
    }
}

/// The nodes whose labels an edge of one cost out of one node could still lower, by zone.
struct Open {
    zones: Vec<(usize, Vec<NodeIndex>)>,
}

impl Open {
    fn new(plan: &Plan, labels: &[Label], label: Label) -> Self {
        let improvable = |node: &&NodeIndex| labels[usize::from(**node)] > label;
        let zones = plan.ideal.zones.iter().enumerate();
        let zones = zones
            .map(|(zone, rule)| (zone, rule.nodes.iter().filter(improvable).copied().collect()))
            .filter(|(_, nodes): &(usize, Vec<NodeIndex>)| !nodes.is_empty())
            .collect();
        Self { zones }
    }

    /// Takes out and visits the nodes that may replace `from` in the partition.
    fn reach(
        &mut self,
        plan: &Plan,
        partition: usize,
        from: NodeIndex,
        mut visit: impl FnMut(usize),
    ) {
        let row = plan.row(partition);
        let from = plan.zone_of(from);
        self.zones.retain_mut(|(zone, nodes)| {
            if plan.may_cross(partition, from, *zone) {
                nodes.retain(|to| {
                    let stays = row.contains(to);
                    if !stays {
                        visit(usize::from(*to));
                    }
                    stays
                });
            }
            !nodes.is_empty()
        });
    }
}
