//! The fewest replicas that any table within the bounds makes anew, found the slow and obvious way: a
//! minimum-cost flow from partitions over zones to nodes. Tests and a benchmark hold the real placement
//! against it.
//!
//! Partitions with the same old replicas are one vertex. What such a vertex gets can be dealt out to its
//! partitions, as the bounds of nodes within zones within sets are laminar (Schrijver, *Combinatorial
//! Optimization*, section 48.5).

use std::collections::BTreeMap;

use super::Member;
use super::ideal::Ideal;
use super::table::{Table, holders};
use crate::types::{NodeId, ReplicationFactor};

/// Makes an edge's mandatory part cheaper than anything else.
const MANDATORY: i64 = 1_000_000;

struct Edge {
    from: usize,
    to: usize,
    left: u32,
    cost: i64,
}

/// Edges in pairs: each even one is followed by its reverse.
#[derive(Default)]
struct Network {
    edges: Vec<Edge>,
    mandatory: i64,
}

impl Network {
    fn edge(&mut self, from: usize, to: usize, capacity: u32, cost: i64) {
        self.edges.push(Edge { from, to, left: capacity, cost });
        self.edges.push(Edge { from: to, to: from, left: 0, cost: -cost });
    }

    fn bounded(&mut self, from: usize, to: usize, least: u32, most: u32) {
        self.mandatory += i64::from(least);
        self.edge(from, to, least, -MANDATORY);
        self.edge(from, to, most - least, 0);
    }

    /// Sends `units` from the first vertex to the second, along one cheapest path after the other; the
    /// cost without the mandatory rebate.
    fn send(&mut self, vertices: usize, source: usize, sink: usize, mut units: u32) -> i64 {
        let mut cost = self.mandatory * MANDATORY;
        while units > 0 {
            let path = self.cheapest_path(vertices, source, sink);
            let room = path.iter().map(|index| self.edges[*index].left).min();
            let sent = room.expect("a path has edges").min(units);
            for index in path {
                self.edges[index].left -= sent;
                self.edges[index ^ 1].left += sent;
                cost += self.edges[index].cost * i64::from(sent);
            }
            units -= sent;
        }
        cost
    }

    /// The edges of it, by label correcting (Bellman, Ford, Moore).
    fn cheapest_path(&self, vertices: usize, source: usize, sink: usize) -> Vec<usize> {
        let mut distance = vec![i64::MAX / 2; vertices];
        let mut reached_by = vec![usize::MAX; vertices];
        distance[source] = 0;
        let mut changed = true;
        while std::mem::take(&mut changed) {
            for (index, edge) in self.edges.iter().enumerate() {
                let through = distance[edge.from] + edge.cost;
                if edge.left > 0
                    && distance[edge.from] < i64::MAX / 4
                    && through < distance[edge.to]
                {
                    distance[edge.to] = through;
                    reached_by[edge.to] = index;
                    changed = true;
                }
            }
        }
        assert!(distance[sink] < i64::MAX / 4, "the bounds allow no table");
        let mut path = Vec::new();
        let mut vertex = sink;
        while vertex != source {
            path.push(reached_by[vertex]);
            vertex = self.edges[reached_by[vertex]].from;
        }
        path
    }
}

impl Table {
    /// The fewest replicas that any balanced table of these members makes anew, going on from this
    /// one. Slow: for a few nodes; see [`Table::forced_moves`] for more.
    pub fn fewest_moves(&self, members: &[Member], factor: ReplicationFactor) -> usize {
        let members = holders(members);
        let ideal =
            Ideal::new(&members, usize::from(factor.get()), self.partitions().get() as usize);
        let kinds = self.kinds(&members);
        let zones = ideal.zones.len();
        let (source, sink) = (0, 1);
        let node_vertex = |node: usize| 2 + node;
        let kind_vertex = |kind: usize| 2 + members.len() + kind;
        let pair_vertex =
            |kind: usize, zone: usize| 2 + members.len() + kinds.len() + kind * zones + zone;
        let mut network = Network::default();
        for node in 0..members.len() {
            let (least, most) = ideal.bounds(node);
            network.bounded(node_vertex(node), sink, least, most);
        }
        for (kind, (held, count)) in kinds.iter().enumerate() {
            let times = |number: usize| number as u32 * count;
            network.edge(source, kind_vertex(kind), times(ideal.width), 0);
            for (zone, rule) in ideal.zones.iter().enumerate() {
                let pair = pair_vertex(kind, zone);
                network.bounded(kind_vertex(kind), pair, times(rule.least), times(rule.most));
                for &node in &rule.nodes {
                    let node = usize::from(node);
                    let cost = i64::from(!held.contains(&node));
                    network.edge(pair, node_vertex(node), *count, cost);
                }
            }
        }
        let vertices = pair_vertex(kinds.len(), 0);
        let units = ideal.width as u32 * self.partitions().get();
        let cost = network.send(vertices, source, sink, units);
        usize::try_from(cost).expect("every mandatory unit was sent")
    }

    /// The members that hold a partition, by their places; and how many partitions they so hold.
    fn kinds(&self, members: &[Member]) -> BTreeMap<Vec<usize>, u32> {
        let place = |id: &NodeId| members.binary_search_by(|member| member.id.cmp(id)).ok();
        let mut kinds = BTreeMap::new();
        for partition in self.partitions().iter() {
            let mut held: Vec<usize> = self.replicas(partition).filter_map(place).collect();
            held.sort_unstable();
            *kinds.entry(held).or_default() += 1;
        }
        kinds
    }
}
