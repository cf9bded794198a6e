//! Takes the shortest paths that a search has found: all it can find of one cost and length.
//!
//! Depth first along the edges that lead from each label to the next (Dinic's blocking flow). A
//! vertex that turned out to lead nowhere is not entered again, and an edge that was found useless
//! is not tried again, so that a batch costs about one pass over the rows.

use std::collections::BTreeMap;

use super::ideal::NodeIndex;
use super::plan::{Plan, Swap};
use super::search::{Label, Search};

/// An edge of a path: a swap, or a passage into or out of the pool, which changes nothing.
#[derive(Clone, Copy)]
enum Edge {
    Swap(Swap),
    Pool,
}

pub(super) struct Walk<'a> {
    plan: &'a mut Plan,
    search: &'a Search,
    end: Label,
    /// The nodes with each label and in each zone, less those that lead nowhere.
    nodes: BTreeMap<Label, BTreeMap<usize, Vec<NodeIndex>>>,
    /// The vertices that lead nowhere.
    dead: Vec<bool>,
    /// How many of each node's holdings are of no more use.
    spent: Vec<usize>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(plan: &'a mut Plan, search: &'a Search, end: Label) -> Self {
        let mut nodes: BTreeMap<Label, BTreeMap<usize, Vec<NodeIndex>>> = BTreeMap::new();
        for (zone, rule) in plan.ideal.zones.iter().enumerate() {
            for &node in &rule.nodes {
                let label = search.label(usize::from(node));
                nodes.entry(label).or_default().entry(zone).or_default().push(node);
            }
        }
        let (dead, spent) = (vec![false; plan.nodes() + 1], vec![0; plan.nodes()]);
        Self { plan, search, end, nodes, dead, spent }
    }

    /// Takes paths until none is left; how many.
    pub(super) fn take_all(mut self) -> usize {
        let starts: Vec<usize> = (0..self.plan.nodes()).filter(|&i| self.plan.gives(i)).collect();
        let mut taken = 0;
        for start in starts {
            while self.plan.gives(start) && !self.plan.is_balanced() && self.take_from(start) {
                taken += 1;
            }
        }
        taken
    }

    /// Finds a path from a node and makes its swaps.
    fn take_from(&mut self, start: usize) -> bool {
        let mut vertices = vec![start];
        let mut edges: Vec<Edge> = Vec::new();
        while let Some(&vertex) = vertices.last() {
            if self.is_end(vertex) {
                self.make(&edges);
                return true;
            }
            if let Some((edge, next)) = self.next_edge(vertex) {
                edges.push(edge);
                vertices.push(next);
            } else {
                self.bury(vertex);
                vertices.pop();
                edges.pop();
            }
        }
        false
    }

    fn is_pool(&self, vertex: usize) -> bool {
        vertex == self.plan.nodes()
    }

    fn is_end(&self, vertex: usize) -> bool {
        !self.is_pool(vertex) && self.search.label(vertex) == self.end && self.plan.takes(vertex)
    }

    fn bury(&mut self, vertex: usize) {
        self.dead[vertex] = true;
        if !self.is_pool(vertex) {
            let zone = self.plan.zone_of(vertex as NodeIndex);
            let zones = self.nodes.get_mut(&self.search.label(vertex));
            let nodes = zones.and_then(|zones| zones.get_mut(&zone)).expect("listed when created");
            nodes.retain(|&node| usize::from(node) != vertex);
        }
    }

    fn next_edge(&mut self, vertex: usize) -> Option<(Edge, usize)> {
        if self.is_pool(vertex) {
            let label = self.search.label(vertex).plus(0);
            let spare = |node: &&NodeIndex| self.plan.has_spare(usize::from(**node));
            let mut nodes = self.nodes.get(&label)?.values().flatten();
            return nodes.find(spare).map(|&node| (Edge::Pool, node.into()));
        }
        self.next_swap(vertex).map(|swap| (Edge::Swap(swap), usize::from(swap.to))).or_else(|| {
            let pool = self.plan.nodes();
            let near = self.search.label(pool) == self.search.label(vertex).plus(0);
            let enters = near && !self.dead[pool] && self.plan.has_room(vertex);
            enters.then_some((Edge::Pool, pool))
        })
    }

    fn next_swap(&mut self, node: usize) -> Option<Swap> {
        let held = self.search.holdings().of(node);
        while let Some(&partition) = held.get(self.spent[node]) {
            let swap = self.swap_in(partition as usize, node as NodeIndex);
            if swap.is_some() {
                return swap;
            }
            self.spent[node] += 1;
        }
        None
    }

    /// A swap in this partition that leads to the label it makes.
    fn swap_in(&self, partition: usize, from: NodeIndex) -> Option<Swap> {
        let (row, old) = (self.plan.row(partition), self.plan.previous.row(partition));
        if !row.contains(&from) {
            return None;
        }
        let label = self.search.label(usize::from(from));
        let cost = i64::from(old.contains(&from));
        let swap_to = |to| Swap { partition, from, to };
        let returns = |&to: &NodeIndex| {
            let node = usize::from(to);
            self.search.label(node) == label.plus(cost - 1) && !self.dead[node]
        };
        let mut back = old.iter().copied().filter(returns).map(swap_to);
        back.find(|&swap| self.plan.may_swap(swap)).or_else(|| {
            let zone_of_from = self.plan.zone_of(from);
            let open = |zone: &usize| self.plan.may_cross(partition, zone_of_from, *zone);
            let zones = self.nodes.get(&label.plus(cost))?.iter();
            let mut nodes = zones.filter(|(zone, _)| open(zone)).flat_map(|(_, nodes)| nodes);
            nodes.find(|to| !row.contains(to) && !old.contains(to)).map(|&to| swap_to(to))
        })
    }

    fn make(&mut self, edges: &[Edge]) {
        for edge in edges {
            if let Edge::Swap(swap) = *edge {
                // The shortest paths meet each (partition, zone) once, so none bars another.
                debug_assert!(self.plan.may_swap(swap), "{swap:?} is barred by its own path");
                self.plan.swap(swap);
            }
        }
    }
}
