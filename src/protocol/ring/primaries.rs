//! The third step of placement: which node of each set comes first.
//!
//! Each node is the primary of its load's n-th part, rounded down or up. Taking every member of
//! every set at 1/n is such a choice in fractions, so one in whole numbers exists, and shortest
//! paths of hand-overs lead to it from any start. The start is the previous table's primaries.

use std::collections::VecDeque;

use super::ideal::NodeIndex;
use super::plan::{Previous, Scatter, row_of};

/// Brings each set's primary to its front; the others keep their order.
pub(super) fn choose(cells: &mut [NodeIndex], width: usize, loads: &[u32], previous: &Previous) {
    if width == 0 {
        return;
    }
    let mut choice = Choice::new(cells, width, loads);
    choice.start(previous);
    choice.balance();
    let primaries = choice.primaries;
    for (row, primary) in cells.chunks_exact_mut(width).zip(primaries) {
        let place = row.iter().position(|&node| node == primary).expect("chosen from the row");
        row[..=place].rotate_right(1);
    }
}

struct Choice<'a> {
    cells: &'a [NodeIndex],
    width: usize,
    primaries: Vec<NodeIndex>,
    counts: Vec<u32>,
    bounds: Vec<(u32, u32)>,
}

impl<'a> Choice<'a> {
    fn new(cells: &'a [NodeIndex], width: usize, loads: &[u32]) -> Self {
        let whole = width as u32;
        let bounds = loads.iter().map(|load| (load / whole, load.div_ceil(whole))).collect();
        let primaries = Vec::with_capacity(cells.len() / width);
        Self { cells, width, primaries, counts: vec![0; loads.len()], bounds }
    }

    fn row(&self, partition: usize) -> &'a [NodeIndex] {
        row_of(self.cells, self.width, partition)
    }

    /// Keeps the previous primaries that the bounds let stay; else takes who lacks most.
    fn start(&mut self, previous: &Previous) {
        for partition in 0..self.cells.len() / self.width {
            let row = self.row(partition);
            let kept = previous.row(partition).first().filter(|node| row.contains(node));
            let kept = kept.filter(|&&node| self.lacks(node) > 0);
            let mut ties = Scatter::new(partition);
            let lacks = |node| self.lacks(node) as f64;
            let any = ties.pick_max(row.iter().copied(), lacks, |_| true);
            let primary = kept.copied().or(any).expect("width > 0");
            self.primaries.push(primary);
            self.counts[usize::from(primary)] += 1;
        }
    }

    /// Primaries that a node may have beyond those it has.
    fn lacks(&self, node: NodeIndex) -> i64 {
        let node = usize::from(node);
        i64::from(self.bounds[node].1) - i64::from(self.counts[node])
    }

    /// First nobody has too many, then nobody too few.
    fn balance(&mut self) {
        let is_over = |count: u32, (_, most): (u32, u32)| count > most;
        let has_room = |count: u32, (_, most): (u32, u32)| count < most;
        let has_spare = |count: u32, (least, _): (u32, u32)| count > least;
        let is_under = |count: u32, (least, _): (u32, u32)| count < least;
        while self.hand_over(is_over, has_room) {}
        while self.hand_over(has_spare, is_under) {}
    }

    /// Moves one primary along the shortest chain from a node that gives to one that takes.
    fn hand_over(
        &mut self,
        gives: impl Fn(u32, (u32, u32)) -> bool,
        takes: impl Fn(u32, (u32, u32)) -> bool,
    ) -> bool {
        let nodes = 0..self.counts.len();
        let starts = nodes.clone().filter(|&i| gives(self.counts[i], self.bounds[i])).collect();
        let ends: Vec<bool> = nodes.map(|i| takes(self.counts[i], self.bounds[i])).collect();
        if !ends.contains(&true) {
            return false;
        }
        let Some((end, steps)) = self.search(starts, &ends) else { return false };
        let mut node = end;
        while let Some(partition) = steps[usize::from(node)] {
            std::mem::swap(&mut self.primaries[partition], &mut node);
        }
        self.counts[usize::from(node)] -= 1;
        self.counts[usize::from(end)] += 1;
        true
    }

    /// Breadth first from the starts over "is primary of a set that also holds": the first end that
    /// is reached, and the partition by which each node was.
    fn search(&self, starts: Vec<usize>, ends: &[bool]) -> Option<(NodeIndex, Vec<Option<usize>>)> {
        let mut led = vec![Vec::new(); self.counts.len()];
        for (partition, &primary) in self.primaries.iter().enumerate() {
            led[usize::from(primary)].push(partition);
        }
        let mut steps = vec![None; self.counts.len()];
        let mut seen = vec![false; self.counts.len()];
        starts.iter().for_each(|&node| seen[node] = true);
        let mut queue = VecDeque::from(starts);
        while let Some(node) = queue.pop_front() {
            for &partition in &led[node] {
                for &next in self.row(partition) {
                    let index = usize::from(next);
                    if !seen[index] {
                        seen[index] = true;
                        steps[index] = Some(partition);
                        if ends[index] {
                            return Some((next, steps));
                        }
                        queue.push_back(index);
                    }
                }
            }
        }
        None
    }
}
