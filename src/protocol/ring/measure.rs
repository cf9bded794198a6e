//! What a table costs and how good it is.

use std::collections::BTreeMap;

use super::Member;
use super::ideal::Ideal;
use super::table::{Table, holders};
use crate::types::{NodeId, PartitionId, ReplicationFactor, Zone};

impl Table {
    /// How many replicas must be made to get from one table to another: the pairs of partition and
    /// node that only the new one has.
    ///
    /// # Panics
    /// If the tables have different numbers of partitions.
    pub fn moves(old: &Self, new: &Self) -> usize {
        assert_eq!(old.partitions(), new.partitions(), "the number of partitions is fixed");
        let old_place = |id: &NodeId| old.nodes().binary_search(id).ok();
        let places: Vec<Option<usize>> = new.nodes().iter().map(old_place).collect();
        let is_new = |partition: usize, node: usize| {
            let held = |place| old.row(partition).iter().any(|&old| usize::from(old) == place);
            !places[node].is_some_and(held)
        };
        let partitions = 0..new.partitions().get() as usize;
        partitions
            .map(|p| new.row(p).iter().filter(|&&node| is_new(p, usize::from(node))).count())
            .sum()
    }

    /// How many replicas each node holds, in the order of [`Table::nodes`].
    pub fn loads(&self) -> Vec<u32> {
        let mut loads = vec![0; self.nodes().len()];
        self.cells().iter().for_each(|&node| loads[usize::from(node)] += 1);
        loads
    }

    /// The greatest ratio of a node's share to its ideal, which is proportional to its weight as
    /// far as zones and "each partition at most once" allow. 1 is perfect; a share is whole, so
    /// nodes with few partitions lie above. A node that should hold nothing and does: infinite.
    /// With no replicas at all: 1.
    pub fn balance(&self, members: &[Member]) -> f64 {
        let members = holders(members);
        let partitions = self.partitions().get() as usize;
        let ideal = Ideal::new(&members, usize::from(self.factor().get()), partitions);
        let share_of = |id: &NodeId| {
            let place = members.binary_search_by(|member| member.id.cmp(id));
            place.map_or(0.0, |place| ideal.shares[place])
        };
        let held = self.nodes().iter().zip(self.loads()).filter(|(_, load)| *load > 0);
        let ratios = held.map(|(id, load)| f64::from(load) / share_of(id));
        ratios.reduce(f64::max).unwrap_or(1.0)
    }

    /// By how many partitions the node that is off the most holds more or less than its ideal (see
    /// [`Table::balance`]).
    pub fn deviation(&self, members: &[Member]) -> f64 {
        let members = holders(members);
        let partitions = self.partitions().get() as usize;
        let ideal = Ideal::new(&members, usize::from(self.factor().get()), partitions);
        let loads: BTreeMap<&NodeId, u32> = self.nodes().iter().zip(self.loads()).collect();
        let load = |id: &NodeId| f64::from(loads.get(id).copied().unwrap_or(0));
        let off = members.iter().zip(ideal.shares).map(|(member, share)| load(&member.id) - share);
        off.map(f64::abs).fold(0.0, f64::max)
    }

    /// A lower bound of the replicas that any balanced table of these members must make anew: what
    /// each node has to gain, and what is left when each keeps as much of its own as it may. Zones
    /// can make more necessary.
    pub fn forced_moves(&self, members: &[Member], factor: ReplicationFactor) -> usize {
        let members = holders(members);
        let partitions = self.partitions().get() as usize;
        let ideal = Ideal::new(&members, usize::from(factor.get()), partitions);
        let loads: BTreeMap<&NodeId, u32> = self.nodes().iter().zip(self.loads()).collect();
        let held = |member: &Member| loads.get(&member.id).copied().unwrap_or(0) as usize;
        let gain = |(place, member): (usize, &Member)| {
            (ideal.bounds(place).0 as usize).saturating_sub(held(member))
        };
        let keep =
            |(place, member): (usize, &Member)| held(member).min(ideal.bounds(place).1 as usize);
        let gained: usize = members.iter().enumerate().map(gain).sum();
        let kept: usize = members.iter().enumerate().map(keep).sum();
        gained.max((ideal.width * partitions).saturating_sub(kept))
    }

    /// The partitions whose replica sets span fewer zones than the members would allow.
    pub fn zone_violations(&self, members: &[Member]) -> Vec<PartitionId> {
        let members = holders(members);
        let zones: BTreeMap<&NodeId, &Zone> = members.iter().map(|m| (&m.id, &m.zone)).collect();
        let distinct = |zones: &mut Vec<&Zone>| {
            zones.sort_unstable();
            zones.dedup();
            zones.len()
        };
        let wanted = distinct(&mut zones.values().copied().collect());
        let wanted = wanted.min(usize::from(self.factor().get()));
        let spanned = |partition: PartitionId| {
            let known = self.replicas(partition).filter_map(|id| zones.get(id).copied());
            distinct(&mut known.collect())
        };
        self.partitions().iter().filter(|&partition| spanned(partition) < wanted).collect()
    }
}
