//! The fewest replicas that any table within the bounds moves, found the slow and obvious way: a
//! minimum-cost flow over every pair of partition and node, one unit at a time.

use super::Member;
use super::ideal::Ideal;
use super::table::{Table, holders};
use crate::types::{PartitionCount, ReplicationFactor};

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

    /// Sends `units` from the first vertex to the second; the cost without the mandatory rebate.
    fn send(&mut self, vertices: usize, source: usize, sink: usize, units: usize) -> i64 {
        let mut cost = self.mandatory * MANDATORY;
        for _ in 0..units {
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
            cost += distance[sink];
            let mut vertex = sink;
            while vertex != source {
                let index = reached_by[vertex];
                self.edges[index].left -= 1;
                self.edges[index ^ 1].left += 1;
                vertex = self.edges[index].from;
            }
        }
        cost
    }
}

/// The fewest moves from `previous` to any table for these members within the bounds.
pub(super) fn fewest_moves(
    previous: &Table,
    members: &[Member],
    factor: ReplicationFactor,
    partitions: PartitionCount,
) -> usize {
    let members = holders(members);
    let partitions = partitions.get() as usize;
    let ideal = Ideal::new(&members, usize::from(factor.get()), partitions);
    let zones = ideal.zones.len();
    let (source, sink) = (0, 1);
    let node_vertex = |node: usize| 2 + node;
    let partition_vertex = |partition: usize| 2 + members.len() + partition;
    let pair_vertex =
        |partition: usize, zone: usize| 2 + members.len() + partitions + partition * zones + zone;
    let mut network = Network::default();
    for node in 0..members.len() {
        let (least, most) = ideal.bounds(node);
        network.bounded(node_vertex(node), sink, least, most);
    }
    for partition in 0..partitions {
        network.edge(source, partition_vertex(partition), ideal.width as u32, 0);
        for (zone, rule) in ideal.zones.iter().enumerate() {
            let pair = pair_vertex(partition, zone);
            network.bounded(partition_vertex(partition), pair, rule.least as u32, rule.most as u32);
            for &node in &rule.nodes {
                let node = usize::from(node);
                let held = previous
                    .row(partition)
                    .iter()
                    .any(|&old| previous.nodes()[usize::from(old)] == members[node].id);
                network.edge(pair, node_vertex(node), 1, i64::from(!held));
            }
        }
    }
    let vertices = pair_vertex(partitions, 0);
    let cost = network.send(vertices, source, sink, partitions * ideal.width);
    usize::try_from(cost).expect("every mandatory unit was sent")
}
