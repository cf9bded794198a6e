//! The first step of placement: complete rows that keep all that each partition alone can keep.

use super::ideal::{Ideal, NodeIndex, ZoneRule};
use super::plan::{Plan, Previous, Scatter};
use super::ranking::Ranking;

/// The cheapest rows that keep the zones' bounds, whatever the nodes' bounds say; ties are decided
/// by who lacks most, which leaves the next step little to do.
pub(super) fn fill(ideal: Ideal, previous: Previous, partitions: usize) -> Plan {
    let mut filler = Filler::new(&ideal, &previous);
    let mut cells = Vec::with_capacity(partitions * ideal.width);
    // What stays is settled for all partitions first: the second pass then knows what each lacks.
    let kept: Vec<Vec<NodeIndex>> =
        (0..partitions).map(|partition| filler.keep(previous.row(partition))).collect();
    let mut completer = Completer::new(filler);
    for kept in kept {
        cells.extend(completer.complete(kept));
    }
    Plan::new(ideal, previous, partitions, cells)
}

struct Filler<'a> {
    ideal: &'a Ideal,
    /// Replicas that each node lacks; negative: it has too many.
    node_lacks: Vec<f64>,
    zone_lacks: Vec<f64>,
    /// Replicas in each zone of the row at hand; zeroed between rows.
    counts: Vec<usize>,
}

impl<'a> Filler<'a> {
    fn new(ideal: &'a Ideal, previous: &Previous) -> Self {
        let node_lacks = ideal.shares.clone();
        let zone_lacks =
            ideal.zones.iter().map(|z| z.nodes.iter().map(|&i| node_lacks[usize::from(i)]).sum());
        let zone_lacks = zone_lacks.collect();
        let counts = vec![0; ideal.zones.len()];
        let mut filler = Self { ideal, node_lacks, zone_lacks, counts };
        previous.cells().iter().for_each(|&node| filler.add_load(node, 1.0));
        filler
    }

    fn zone_of(&self, node: NodeIndex) -> usize {
        usize::from(self.ideal.zone_of[usize::from(node)])
    }

    fn lack_of(&self, node: NodeIndex) -> f64 {
        self.node_lacks[usize::from(node)]
    }

    fn add_load(&mut self, node: NodeIndex, change: f64) {
        self.node_lacks[usize::from(node)] -= change;
        let zone = self.zone_of(node);
        self.zone_lacks[zone] -= change;
    }

    fn count(&mut self, row: &[NodeIndex]) {
        for &node in row {
            let zone = self.zone_of(node);
            self.counts[zone] += 1;
        }
    }

    fn uncount(&mut self, row: &[NodeIndex]) {
        for &node in row {
            let zone = self.zone_of(node);
            self.counts[zone] = 0;
        }
    }

    /// Drops the fewest old replicas that make the row fit: each drop is one that some zone, or
    /// the width and the zones still to be reached, make necessary.
    fn keep(&mut self, old: &[NodeIndex]) -> Vec<NodeIndex> {
        let mut row = old.to_vec();
        self.count(&row);
        while let Some(dropped) = self.surplus(&row) {
            let node = row.remove(dropped);
            let zone = self.zone_of(node);
            self.counts[zone] -= 1;
            self.add_load(node, -1.0);
        }
        self.uncount(&row);
        row
    }

    /// The place of the replica to drop next: of those that can go, the most overloaded node's.
    fn surplus(&self, row: &[NodeIndex]) -> Option<usize> {
        let zones = &self.ideal.zones;
        let zone_of = |place: &usize| self.zone_of(row[*place]);
        let crowded = |place: &usize| self.counts[zone_of(place)] > zones[zone_of(place)].most;
        let spare = |place: &usize| self.counts[zone_of(place)] > zones[zone_of(place)].least;
        let least_lacking = |a: &usize, b: &usize| {
            let lack = |place: usize| self.lack_of(row[place]);
            lack(*a).total_cmp(&lack(*b))
        };
        let places = 0..row.len();
        let too_wide = row.len() + self.unreached() > self.ideal.width;
        places
            .clone()
            .filter(crowded)
            .min_by(least_lacking)
            .or_else(|| places.filter(|_| too_wide).filter(spare).min_by(least_lacking))
    }

    /// Replicas that the row at hand still owes to zones.
    fn unreached(&self) -> usize {
        // Without lower bounds, which is the rule, this must not cost a pass over 1,000 zones.
        if self.ideal.zones.first().is_none_or(|zone| zone.least == 0) {
            return 0;
        }
        let zones = self.ideal.zones.iter().zip(&self.counts);
        zones.map(|(zone, &count)| zone.least.saturating_sub(count)).sum()
    }
}

/// Fills rows up. Zones and nodes stand ranked by what they lack, so that a place costs
/// logarithmic time even among thousands of them.
struct Completer<'a> {
    filler: Filler<'a>,
    zones: Ranking,
    /// For each zone its nodes, as places in the zone.
    nodes: Vec<Ranking>,
    ties: Scatter,
}

impl<'a> Completer<'a> {
    fn new(filler: Filler<'a>) -> Self {
        let mut ties = Scatter::new(0);
        let zones = Ranking::new(&filler.zone_lacks, &mut ties);
        let ranked = |rule: &ZoneRule| {
            let lacks: Vec<f64> = rule.nodes.iter().map(|&i| filler.lack_of(i)).collect();
            Ranking::new(&lacks, &mut ties)
        };
        let nodes = filler.ideal.zones.iter().map(ranked).collect();
        Self { filler, zones, nodes, ties }
    }

    fn complete(&mut self, mut row: Vec<NodeIndex>) -> Vec<NodeIndex> {
        let width = self.filler.ideal.width;
        self.filler.count(&row);
        while row.len() < width {
            let zone = self.hungriest_zone(width - row.len());
            let node = self.hungriest_node(zone, &row);
            self.filler.counts[zone] += 1;
            self.filler.add_load(node, 1.0);
            row.push(node);
        }
        self.filler.uncount(&row);
        row
    }

    /// The zone that lacks most, of those that may take one more while `free` places are left.
    fn hungriest_zone(&mut self, free: usize) -> usize {
        let Filler { ideal, counts, zone_lacks, .. } = &self.filler;
        let owed = self.filler.unreached();
        let open = |zone: usize| {
            let (rule, count) = (&ideal.zones[zone], counts[zone]);
            count < rule.least || (count < rule.most && free > owed)
        };
        // A zone may be taken twice in one row, and a closed one may open, so each choice starts
        // from all of them.
        self.zones.restore(|zone| zone_lacks[zone], &mut self.ties);
        self.zones.take(open).expect("the bounds leave room for the width")
    }

    /// The node of a zone that lacks most and is not in the row yet.
    fn hungriest_node(&mut self, zone: usize, row: &[NodeIndex]) -> NodeIndex {
        let (filler, nodes) = (&self.filler, &self.filler.ideal.zones[zone].nodes);
        let ranking = &mut self.nodes[zone];
        ranking.restore(|place| filler.lack_of(nodes[place]), &mut self.ties);
        let place = ranking.take(|place| !row.contains(&nodes[place]));
        nodes[place.expect("a zone's upper bound is at most its nodes")]
    }
}
