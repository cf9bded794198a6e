//! Shortest paths through the swaps of a plan: which chains of swaps bring load from nodes that
//! give to nodes that take, and at what cost in moved replicas.
//!
//! The vertices are the nodes and the *pool*, the slack between the nodes' bounds: a node with room
//! can take a replica for good and one with spare load can give it in its stead. An edge from i to
//! j is a partition in which j may replace i. Edges cost -1, 0 or 1, and the plan has no cycle of
//! negative cost, so label correcting (Bellman, Ford, Moore) ends. Among the cheapest paths the one
//! with the fewest edges is taken: it never meets a (partition, zone) twice, as there would be a
//! shortcut, so its swaps don't disturb one another.
//!
//! Nearly every node may replace nearly every other at cost 0 or 1. Those edges are not tried one
//! by one: the nodes whose labels can still fall are listed by zone, and a node leaves the list
//! when its label falls.

use std::collections::VecDeque;

use super::ideal::NodeIndex;
use super::plan::{Plan, Swap};

/// A label is the path's cost times this, plus its edges.
const COST: i64 = 1 << 32;
const UNREACHED: i64 = i64::MAX;

/// How a vertex was reached.
#[derive(Clone, Copy)]
enum Step {
    Start,
    Swap { partition: u32, from: NodeIndex },
    IntoPool { from: NodeIndex },
    OutOfPool,
}

/// A chain of swaps, and where it leans on the pool.
pub(super) struct Path {
    pub(super) start: usize,
    pub(super) end: usize,
    /// From the last to the first.
    pub(super) swaps: Vec<Swap>,
    /// The node that keeps a replica more, and the one that goes on in its stead.
    pub(super) pass: Option<(usize, usize)>,
}

/// The labels of one search over a plan as it was then.
pub(super) struct Search {
    labels: Vec<i64>,
    steps: Vec<Step>,
    queue: VecDeque<usize>,
    queued: Vec<bool>,
}

impl Search {
    /// Labels everything that can be reached from the nodes that give.
    pub(super) fn run(plan: &Plan) -> Self {
        let vertices = plan.nodes() + 1;
        let mut search = Self {
            labels: vec![UNREACHED; vertices],
            steps: vec![Step::Start; vertices],
            queue: VecDeque::new(),
            queued: vec![false; vertices],
        };
        let holdings = Holdings::new(plan);
        for node in (0..plan.nodes()).filter(|&node| plan.gives(node)) {
            search.relax(node, 0, Step::Start);
        }
        while let Some(vertex) = search.queue.pop_front() {
            search.queued[vertex] = false;
            if vertex == plan.nodes() {
                search.leave_pool(plan);
            } else {
                search.leave_node(plan, &holdings, vertex);
            }
        }
        search
    }

    /// The nodes that a path may end at, cheapest and shortest first, with the paths' costs.
    pub(super) fn ends(&self, plan: &Plan) -> Vec<(i64, usize)> {
        let mut ends: Vec<(i64, usize)> = (0..plan.nodes())
            .filter(|&node| self.labels[node] != UNREACHED && plan.takes(node))
            .map(|node| (self.labels[node], node))
            .collect();
        ends.sort_unstable();
        // Arithmetic, so that it rounds down: edges only ever add.
        ends.iter_mut().for_each(|(label, _)| *label >>= 32);
        ends
    }

    /// The path by which a node was reached.
    pub(super) fn path_to(&self, end: usize) -> Path {
        let mut path = Path { start: end, end, swaps: Vec::new(), pass: None };
        loop {
            match self.steps[path.start] {
                Step::Start => return path,
                Step::Swap { partition, from } => {
                    let to = path.start as NodeIndex;
                    path.swaps.push(Swap { partition: partition as usize, from, to });
                    path.start = usize::from(from);
                }
                Step::OutOfPool => {
                    let pool = self.steps.len() - 1;
                    let Step::IntoPool { from } = self.steps[pool] else {
                        unreachable!("the pool is entered from nodes only")
                    };
                    path.pass = Some((usize::from(from), path.start));
                    path.start = usize::from(from);
                }
                Step::IntoPool { .. } => unreachable!("a path passes the pool as a whole"),
            }
        }
    }

    fn relax(&mut self, vertex: usize, label: i64, step: Step) {
        if label >= self.labels[vertex] {
            return;
        }
        self.labels[vertex] = label;
        self.steps[vertex] = step;
        if !self.queued[vertex] {
            self.queued[vertex] = true;
            self.queue.push_back(vertex);
        }
    }

    fn leave_pool(&mut self, plan: &Plan) {
        let label = self.labels[plan.nodes()] + 1;
        for node in (0..plan.nodes()).filter(|&node| plan.has_spare(node)) {
            self.relax(node, label, Step::OutOfPool);
        }
    }

    fn leave_node(&mut self, plan: &Plan, holdings: &Holdings, node: usize) {
        let label = self.labels[node] + 1;
        let from = node as NodeIndex;
        if plan.has_room(node) {
            self.relax(plan.nodes(), label, Step::IntoPool { from });
        }
        let mut open: [Option<Open>; 2] = [None, None];
        for &partition in holdings.of(node) {
            let step = Step::Swap { partition, from };
            let partition = partition as usize;
            let old = plan.previous.row(partition);
            let cost = usize::from(old.contains(&from));
            let label = label + cost as i64 * COST;
            for &to in old {
                if plan.may_swap(Swap { partition, from, to }) {
                    self.relax(usize::from(to), label - COST, step);
                }
            }
            let open = open[cost].get_or_insert_with(|| Open::new(plan, &self.labels, label));
            open.reach(plan, partition, from, |to| self.relax(to, label, step));
        }
    }
}

/// Which partitions each node holds.
struct Holdings {
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

    fn of(&self, node: usize) -> &[u32] {
        &self.partitions[self.starts[node] as usize..self.starts[node + 1] as usize]
    }
}

/// The nodes whose labels an edge of one cost out of one node could still lower, by zone.
struct Open {
    zones: Vec<(usize, Vec<NodeIndex>)>,
}

impl Open {
    fn new(plan: &Plan, labels: &[i64], label: i64) -> Self {
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
