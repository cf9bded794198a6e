//! Ideal shares: as proportional to the weights as distinct nodes and zones allow.
//!
//! Water-filling on two levels. With `level` replicas for a unit of weight, a node wants
//! `level * weight` replicas, at most one of each partition; a zone wants the sum over its nodes,
//! held within what its bounds for one set make of all partitions. The level at which the zones'
//! totals are all the replicas there are is unique where it matters, and gives each zone its total.
//! Only +, -, * and / on f64 are used, in a fixed order: every node computes the same bits.

use std::collections::BTreeMap;

use super::Member;
use crate::types::Zone;

/// A node by its place among the nodes that may hold something, sorted by id.
pub(super) type NodeIndex = u16;

/// Differences below this are the arithmetic's. Even summed over 65,535 nodes they stay below one
/// replica, which keeps the rounded bounds feasible.
const NOISE: f64 = 1e-6;

/// The nodes of a zone and how many of them one replica set takes.
#[derive(Clone, Debug)]
pub(super) struct ZoneRule {
    pub(super) nodes: Vec<NodeIndex>,
    /// At least this many in each set.
    pub(super) least: usize,
    /// At most this many in each set.
    pub(super) most: usize,
}

/// What the members alone decide: the zones' bounds and the nodes' ideals.
#[derive(Clone, Debug)]
pub(super) struct Ideal {
    /// The size of each replica set.
    pub(super) width: usize,
    pub(super) zones: Vec<ZoneRule>,
    pub(super) zone_of: Vec<u16>,
    /// Replicas each node should hold, over all partitions.
    pub(super) shares: Vec<f64>,
}

impl Ideal {
    /// `members`: distinct, sorted by id, all with a weight above zero.
    pub(super) fn new(members: &[Member], factor: usize, partitions: usize) -> Self {
        let width = factor.min(members.len());
        let (zones, zone_of) = zones(members, width);
        // Thousandths are whole numbers, so sums and differences of weights are exact.
        let weights: Vec<f64> = members.iter().map(|m| f64::from(m.weight.thousandths())).collect();
        let totals = zone_totals(&zones, &weights, width, partitions as f64);
        let mut shares = vec![0.0; members.len()];
        for (zone, total) in zones.iter().zip(totals) {
            share_out(zone, &weights, total, partitions as f64, &mut shares);
        }
        Self { width, zones, zone_of, shares }
    }

    /// The fewest and the most replicas that count as a node's ideal.
    pub(super) fn bounds(&self, node: usize) -> (u32, u32) {
        let share = self.shares[node];
        ((share + NOISE).floor() as u32, (share - NOISE).ceil().max(0.0) as u32)
    }
}

/// Groups members by zone and finds the evenest bounds for one set of `width` nodes.
fn zones(members: &[Member], width: usize) -> (Vec<ZoneRule>, Vec<u16>) {
    let mut by_zone: BTreeMap<&Zone, Vec<NodeIndex>> = BTreeMap::new();
    for (index, member) in members.iter().enumerate() {
        by_zone.entry(&member.zone).or_default().push(index as NodeIndex);
    }
    let reached = |cap: usize| by_zone.values().map(|nodes| nodes.len().min(cap)).sum::<usize>();
    let cap = (0..=width).find(|&cap| reached(cap) >= width).expect("width <= members");
    let least = usize::from(width >= by_zone.len());
    let mut zone_of = vec![0; members.len()];
    let mut rules = Vec::with_capacity(by_zone.len());
    for (zone, nodes) in by_zone.into_values().enumerate() {
        for &node in &nodes {
            zone_of[usize::from(node)] = zone as u16;
        }
        let most = nodes.len().min(cap);
        rules.push(ZoneRule { nodes, least: least.min(most), most });
    }
    (rules, zone_of)
}

/// What a zone would hold at a level, within its bounds.
fn zone_total(zone: &ZoneRule, weights: &[f64], level: f64, partitions: f64) -> f64 {
    let wanted: f64 =
        zone.nodes.iter().map(|&i| (level * weights[usize::from(i)]).min(partitions)).sum();
    wanted.clamp(zone.least as f64 * partitions, zone.most as f64 * partitions)
}

/// Replicas for each zone: bisects for the level at which they are all that there are.
fn zone_totals(zones: &[ZoneRule], weights: &[f64], width: usize, partitions: f64) -> Vec<f64> {
    let totals = |level: f64| zones.iter().map(move |z| zone_total(z, weights, level, partitions));
    let wanted = width as f64 * partitions;
    let lightest = weights.iter().copied().fold(f64::INFINITY, f64::min);
    let (mut low, mut high) = (0.0, partitions / lightest);
    loop {
        let middle = low + (high - low) / 2.0;
        if middle <= low || middle >= high {
            return totals(high).collect();
        }
        if totals(middle).sum::<f64>() < wanted {
            low = middle;
        } else {
            high = middle;
        }
    }
}

/// Shares a zone's total out by weight; what a node can't take goes to the lighter ones.
fn share_out(zone: &ZoneRule, weights: &[f64], total: f64, cap: f64, shares: &mut [f64]) {
    let mut heaviest_first: Vec<usize> = zone.nodes.iter().map(|&i| usize::from(i)).collect();
    heaviest_first.sort_by(|&a, &b| weights[b].total_cmp(&weights[a]));
    let mut weight_left: f64 = heaviest_first.iter().map(|&i| weights[i]).sum();
    let mut left = total;
    for (place, &node) in heaviest_first.iter().enumerate() {
        let level = left / weight_left;
        if level * weights[node] < cap {
            for &node in &heaviest_first[place..] {
                shares[node] = level * weights[node];
            }
            return;
        }
        shares[node] = cap;
        left = (left - cap).max(0.0);
        weight_left -= weights[node];
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::prop;
    use proptest::{prop_assert, proptest};

    use super::super::tests::member;
    use super::Ideal;

    const PARTITIONS: usize = 1_024;

    /// Whether one level explains every share: what lies above it a bound holds up, what lies
    /// below it a bound holds down.
    fn is_water_level(ideal: &Ideal, weights: &[f64], level: f64) -> bool {
        let near = |a: f64, b: f64| (a - b).abs() < 1e-3;
        ideal.zones.iter().all(|zone| {
            let total: f64 = zone.nodes.iter().map(|&i| ideal.shares[usize::from(i)]).sum();
            let wanted = |i: usize| (level * weights[i]).min(PARTITIONS as f64);
            let wanted: f64 = zone.nodes.iter().map(|&i| wanted(usize::from(i))).sum();
            let (least, most) = (zone.least * PARTITIONS, zone.most * PARTITIONS);
            near(total, wanted.clamp(least as f64, most as f64))
        })
    }

    proptest! {
        #[test]
        fn shares_fill_up_to_one_level_within_the_bounds(
            nodes in prop::collection::vec((0..4_usize, 1..2_000_u32), 1..12),
            n in 1..7_usize,
        ) {
            let weights: Vec<f64> = nodes.iter().map(|n| f64::from(n.1) / 1_000.0).collect();
            let members: Vec<_> = (0..nodes.len())
                .map(|id| member(10 + id, nodes[id].0, weights[id]))
                .collect();
            let ideal = Ideal::new(&members, n, PARTITIONS);
            let cap = PARTITIONS as f64;
            let total: f64 = ideal.shares.iter().sum();
            prop_assert!((total - (n.min(nodes.len()) * PARTITIONS) as f64).abs() < 1e-6);
            prop_assert!(ideal.shares.iter().all(|&share| share <= cap + 1e-6));
            // In a zone: shares below the cap are proportional, those at it would be above it.
            let mut levels = vec![cap / weights.iter().copied().fold(f64::INFINITY, f64::min)];
            for zone in &ideal.zones {
                let zone = || zone.nodes.iter().map(|&i| usize::from(i));
                let level = |i: usize| ideal.shares[i] / weights[i];
                let highest = zone().map(level).fold(0.0, f64::max);
                levels.push(highest);
                for node in zone().filter(|&i| ideal.shares[i] < cap - 1e-6) {
                    prop_assert!((level(node) - highest).abs() < 1e-6 * highest);
                }
            }
            prop_assert!(levels.iter().any(|&level| is_water_level(&ideal, &weights, level)));
        }
    }
}
