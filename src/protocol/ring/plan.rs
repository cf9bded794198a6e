//! A table in the making: the rows so far, what they cost, and the swaps that are allowed.

use super::Member;
use super::ideal::{Ideal, NodeIndex};
use super::table::Table;

/// The rows of the previous table, in the new one's indexes and without the nodes that left.
pub(super) struct Previous {
    starts: Vec<u32>,
    cells: Vec<NodeIndex>,
}

impl Previous {
    /// `members`: distinct, sorted by id, all with a weight above zero.
    pub(super) fn new(table: Option<&Table>, members: &[Member], partitions: usize) -> Self {
        let Some(table) = table else {
            return Self { starts: vec![0; partitions + 1], cells: Vec::new() };
        };
        let renamed: Vec<Option<NodeIndex>> = table
            .nodes()
            .iter()
            .map(|id| members.binary_search_by(|m| m.id.cmp(id)).ok().map(|i| i as NodeIndex))
            .collect();
        let mut starts = Vec::with_capacity(partitions + 1);
        let mut cells = Vec::with_capacity(partitions * table.width());
        starts.push(0);
        for partition in 0..partitions {
            let row = table.row(partition).iter();
            cells.extend(row.filter_map(|&node| renamed[usize::from(node)]));
            starts.push(cells.len() as u32);
        }
        Self { starts, cells }
    }

    /// The nodes that held a partition and still may, in the old order.
    pub(super) fn row(&self, partition: usize) -> &[NodeIndex] {
        &self.cells[self.starts[partition] as usize..self.starts[partition + 1] as usize]
    }

    /// All that is held.
    pub(super) fn cells(&self) -> &[NodeIndex] {
        &self.cells
    }
}

/// The rows so far and the loads that they make.
pub(super) struct Plan {
    pub(super) ideal: Ideal,
    pub(super) previous: Previous,
    partitions: usize,
    cells: Vec<NodeIndex>,
    loads: Vec<u32>,
    bounds: Vec<(u32, u32)>,
    /// Replicas above the nodes' upper bounds.
    excess: u64,
    /// Replicas missing to the nodes' lower bounds.
    lack: u64,
}

impl Plan {
    /// Takes complete rows that keep the zones' bounds.
    pub(super) fn new(
        ideal: Ideal,
        previous: Previous,
        partitions: usize,
        cells: Vec<NodeIndex>,
    ) -> Self {
        let nodes = ideal.shares.len();
        let mut loads = vec![0; nodes];
        for &node in &cells {
            loads[usize::from(node)] += 1;
        }
        let bounds: Vec<_> = (0..nodes).map(|node| ideal.bounds(node)).collect();
        let off = loads.iter().zip(&bounds).map(|(&load, &bounds)| off_bounds(load, bounds));
        let (excess, lack) = off.fold((0, 0), |sum, off| (sum.0 + off.0, sum.1 + off.1));
        Self { ideal, previous, partitions, cells, loads, bounds, excess, lack }
    }

    pub(super) fn partitions(&self) -> usize {
        self.partitions
    }

    pub(super) fn nodes(&self) -> usize {
        self.loads.len()
    }

    pub(super) fn row(&self, partition: usize) -> &[NodeIndex] {
        row_of(&self.cells, self.ideal.width, partition)
    }

    pub(super) fn loads(&self) -> &[u32] {
        &self.loads
    }

    /// Rows, loads, and the previous rows.
    pub(super) fn into_parts(self) -> (Vec<NodeIndex>, Vec<u32>, Previous) {
        (self.cells, self.loads, self.previous)
    }

    pub(super) fn is_balanced(&self) -> bool {
        self.excess == 0 && self.lack == 0
    }

    /// Whether a path may begin here: load above the bounds, or, when more lack than exceed, any
    /// that is not needed.
    pub(super) fn gives(&self, node: usize) -> bool {
        let (least, most) = self.bounds[node];
        let floor = if self.lack > self.excess { least } else { most };
        self.loads[node] > floor
    }

    /// Whether a path may end here; the reverse of [`Plan::gives`].
    pub(super) fn takes(&self, node: usize) -> bool {
        let (least, most) = self.bounds[node];
        let ceiling = if self.excess > self.lack { most } else { least };
        self.loads[node] < ceiling
    }

    /// Whether a node within its bounds can hold one more and stay there.
    pub(super) fn has_room(&self, node: usize) -> bool {
        let (least, most) = self.bounds[node];
        (least..most).contains(&self.loads[node])
    }

    /// Whether a node within its bounds can hold one less and stay there.
    pub(super) fn has_spare(&self, node: usize) -> bool {
        let (least, most) = self.bounds[node];
        (least + 1..=most).contains(&self.loads[node])
    }

    /// How much a node wants another replica; comparable between nodes.
    pub(super) fn hunger(&self, node: usize) -> f64 {
        self.ideal.shares[node] - f64::from(self.loads[node])
    }

    pub(super) fn zone_of(&self, node: NodeIndex) -> usize {
        usize::from(self.ideal.zone_of[usize::from(node)])
    }

    /// How many of a partition's replicas stand in a zone.
    pub(super) fn zone_count(&self, partition: usize, zone: usize) -> usize {
        self.row(partition).iter().filter(|&&node| self.zone_of(node) == zone).count()
    }

    /// Whether a partition's set may lose one in the first zone and gain one in the second.
    pub(super) fn may_cross(&self, partition: usize, from: usize, to: usize) -> bool {
        let zones = &self.ideal.zones;
        from == to
            || (self.zone_count(partition, from) > zones[from].least
                && self.zone_count(partition, to) < zones[to].most)
    }

    /// Whether the set stays a set, and within the zones' bounds, when `to` replaces `from`.
    pub(super) fn may_swap(&self, swap: Swap) -> bool {
        let Swap { partition, from, to } = swap;
        let row = self.row(partition);
        row.contains(&from)
            && !row.contains(&to)
            && self.may_cross(partition, self.zone_of(from), self.zone_of(to))
    }

    /// Replaces one node of a set; the swap may be made.
    pub(super) fn swap(&mut self, swap: Swap) {
        let width = self.ideal.width;
        let cells = &mut self.cells[swap.partition * width..][..width];
        let cell = cells.iter_mut().find(|cell| **cell == swap.from).expect("may_swap");
        *cell = swap.to;
        self.set_load(swap.from, |load| load - 1);
        self.set_load(swap.to, |load| load + 1);
    }

    fn set_load(&mut self, node: NodeIndex, change: impl Fn(u32) -> u32) {
        let node = usize::from(node);
        let before = off_bounds(self.loads[node], self.bounds[node]);
        self.loads[node] = change(self.loads[node]);
        let after = off_bounds(self.loads[node], self.bounds[node]);
        self.excess = self.excess + after.0 - before.0;
        self.lack = self.lack + after.1 - before.1;
    }
}

/// One replica of a partition changes hands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Swap {
    pub(super) partition: usize,
    pub(super) from: NodeIndex,
    pub(super) to: NodeIndex,
}

/// The cells of one partition.
pub(super) fn row_of(cells: &[NodeIndex], width: usize, partition: usize) -> &[NodeIndex] {
    &cells[partition * width..][..width]
}

/// What breaks ties: scattered numbers from a position, the same on every node (splitmix64, Steele
/// et al., *Fast Splittable Pseudorandom Number Generators*, 2014).
pub(super) struct Scatter(u64);

impl Scatter {
    pub(super) fn new(position: usize) -> Self {
        // Spread apart, so that neighbours don't share most of their sequences.
        Self((position as u64).wrapping_mul(0xd134_2543_de82_ef95))
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// One of the items with the greatest value that are allowed, each about as likely. `allowed`
    /// may be slow: few items are asked about.
    pub(super) fn pick_max<T: Copy>(
        &mut self,
        items: impl Iterator<Item = T>,
        value: impl Fn(T) -> f64,
        allowed: impl Fn(T) -> bool,
    ) -> Option<T> {
        let (mut best, mut greatest, mut ties) = (None, f64::NEG_INFINITY, 0);
        for item in items {
            let value = value(item);
            if value > greatest && allowed(item) {
                (best, greatest, ties) = (Some(item), value, 1);
            } else if value == greatest {
                ties += 1;
                if self.next().is_multiple_of(ties) && allowed(item) {
                    best = Some(item);
                }
            }
        }
        best
    }
}

/// By how much a load lies above and below its bounds.
fn off_bounds(load: u32, (least, most): (u32, u32)) -> (u64, u64) {
    (u64::from(load.saturating_sub(most)), u64::from(least.saturating_sub(load)))
}
