//! Who lacks most: a queue of candidates by need, with scattered order among equals.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use super::plan::Scatter;

/// Candidates, the neediest first. What is looked at leaves the ranking until it is restored with
/// the need that it then has.
pub(super) struct Ranking {
    ranked: BinaryHeap<Candidate>,
    aside: Vec<usize>,
}

struct Candidate {
    lack: f64,
    tie: u64,
    item: usize,
}

impl Ranking {
    /// Ranks `0..lacks.len()`.
    pub(super) fn new(lacks: &[f64], ties: &mut Scatter) -> Self {
        let mut ranking = Self { ranked: BinaryHeap::new(), aside: (0..lacks.len()).collect() };
        ranking.restore(|item| lacks[item], ties);
        ranking
    }

    /// Takes out the neediest that is allowed, and those before it.
    pub(super) fn take(&mut self, allowed: impl Fn(usize) -> bool) -> Option<usize> {
        loop {
            let item = self.ranked.pop()?.item;
            self.aside.push(item);
            if allowed(item) {
                return Some(item);
            }
        }
    }

    /// Ranks again what was taken out.
    pub(super) fn restore(&mut self, lack: impl Fn(usize) -> f64, ties: &mut Scatter) {
        let back = self.aside.drain(..);
        self.ranked.extend(back.map(|item| Candidate { lack: lack(item), tie: ties.next(), item }));
    }
}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        self.lack
            .total_cmp(&other.lack)
            .then(self.tie.cmp(&other.tie))
            .then(self.item.cmp(&other.item))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Candidate {}
