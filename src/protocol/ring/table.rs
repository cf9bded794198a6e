//! The assignment of partitions to replica sets, as it is kept in memory, persisted and gossiped.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::ideal::{Ideal, NodeIndex};
use super::plan::{Previous, row_of};
use super::{Member, fill, primaries, rebalance};
use crate::types::{NodeId, PartitionCount, PartitionId, ReplicationFactor};

/// The most nodes of a table: what two bytes count.
const MAX_NODES: usize = NodeIndex::MAX as usize;

/// The replica sets of all partitions, for one replication factor.
///
/// Two bytes for each replica, and the names of the nodes once. Every table is whole: each set has
/// the same size, min(n, nodes), and distinct members.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Raw", into = "Raw")]
pub struct Table {
    factor: ReplicationFactor,
    partitions: PartitionCount,
    /// All that may hold something, sorted.
    nodes: Vec<NodeId>,
    /// For each partition its set, primary first, as places in `nodes`.
    cells: Vec<NodeIndex>,
}

/// Why what was read is no [`Table`]. It was damaged or made by something else; trying again is no
/// use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// More nodes than indexes.
    #[error("a table of {0} nodes; at most {MAX_NODES} are possible")]
    TooManyNodes(usize),
    /// Node ids out of order, or one twice.
    #[error("the table's nodes are not sorted and distinct")]
    UnsortedNodes,
    /// Not the size of replica set that factor and nodes make, for each partition.
    #[error("the table has {found} replicas instead of {expected}")]
    WrongLength {
        /// Partitions times the size of a set.
        expected: usize,
        /// What was read.
        found: usize,
    },
    /// A replica set with an unknown node, or with one twice.
    #[error("the replica set of partition {0} is not made of distinct nodes of the table")]
    BadSet(PartitionId),
}

/// A table as it is encoded, before it is checked.
#[derive(Serialize, Deserialize)]
struct Raw {
    factor: ReplicationFactor,
    partitions: PartitionCount,
    nodes: Vec<NodeId>,
    cells: Vec<NodeIndex>,
}

impl From<Table> for Raw {
    fn from(table: Table) -> Self {
        let Table { factor, partitions, nodes, cells } = table;
        Self { factor, partitions, nodes, cells }
    }
}

impl TryFrom<Raw> for Table {
    type Error = TableError;

    fn try_from(raw: Raw) -> Result<Self, TableError> {
        let Raw { factor, partitions, nodes, cells } = raw;
        let table = Self { factor, partitions, nodes, cells };
        table.check().map(|()| table)
    }
}

impl Table {
    /// Assigns every partition its replica set; see the module's head for what then holds. The same
    /// arguments give the same table on every node, in whatever order the members come. Of two
    /// members with one id, the smaller counts.
    ///
    /// `previous` may have another replication factor.
    ///
    /// # Panics
    /// If `previous` has another number of partitions, which is fixed when a cluster forms, or if
    /// more than 65,535 members have a weight.
    pub fn compute(
        previous: Option<&Self>,
        members: &[Member],
        factor: ReplicationFactor,
        partitions: PartitionCount,
    ) -> Self {
        assert!(previous.is_none_or(|table| table.partitions == partitions), "a fixed number");
        let members = holders(members);
        assert!(members.len() <= MAX_NODES, "{} nodes in a table", members.len());
        let count = partitions.get() as usize;
        let ideal = Ideal::new(&members, usize::from(factor.get()), count);
        let width = ideal.width;
        let mut plan = fill::fill(ideal, Previous::new(previous, &members, count), count);
        rebalance::rebalance(&mut plan);
        let (mut cells, loads, previous) = plan.into_parts();
        primaries::choose(&mut cells, width, &loads, &previous);
        let nodes = members.into_iter().map(|member| member.id).collect();
        Self { factor, partitions, nodes, cells }
    }

    /// The same table with other names in the places of some nodes. A name that is there already
    /// keeps its place, and the other stays as it is.
    pub fn renamed(&self, names: &BTreeMap<NodeId, NodeId>) -> Self {
        let is_free = |new: &NodeId| self.nodes.binary_search(new).is_err();
        let rename = |old: &NodeId| match names.get(old) {
            Some(new) if is_free(new) => new.clone(),
            _ => old.clone(),
        };
        let renamed: Vec<NodeId> = self.nodes.iter().map(rename).collect();
        let mut order: Vec<usize> = (0..renamed.len()).collect();
        order.sort_by(|a, b| renamed[*a].cmp(&renamed[*b]));
        let mut places = vec![0; renamed.len()];
        for (place, old) in order.iter().enumerate() {
            places[*old] = place as NodeIndex;
        }
        Self {
            factor: self.factor,
            partitions: self.partitions,
            nodes: order.iter().map(|old| renamed[*old].clone()).collect(),
            cells: self.cells.iter().map(|cell| places[usize::from(*cell)]).collect(),
        }
    }

    /// N: how many replicas a partition has where there are as many nodes.
    pub const fn factor(&self) -> ReplicationFactor {
        self.factor
    }

    /// How many partitions there are.
    pub const fn partitions(&self) -> PartitionCount {
        self.partitions
    }

    /// All nodes that may hold something, sorted.
    pub fn nodes(&self) -> &[NodeId] {
        &self.nodes
    }

    /// How many replicas a partition has: the same for each.
    ///
    /// # Panics
    /// If the ring has no such partition.
    pub fn replica_count(&self, partition: PartitionId) -> usize {
        self.row(partition.index()).len()
    }

    /// A partition's replica set, the primary first.
    ///
    /// # Panics
    /// If the ring has no such partition.
    pub fn replicas(
        &self,
        partition: PartitionId,
    ) -> impl ExactSizeIterator<Item = &NodeId> + DoubleEndedIterator + Clone {
        self.row(partition.index()).iter().map(|&node| &self.nodes[usize::from(node)])
    }

    /// Whether a node is in a partition's replica set.
    ///
    /// # Panics
    /// If the ring has no such partition.
    pub fn contains(&self, partition: PartitionId, node: &NodeId) -> bool {
        // A set is small: comparing names is cheaper than looking the name up among all nodes.
        self.replicas(partition).any(|replica| replica == node)
    }

    /// The partitions whose sets a node is in, in ring order.
    pub fn vnodes_of(&self, node: &NodeId) -> impl Iterator<Item = PartitionId> {
        let index = self.nodes.binary_search(node).ok().map(|index| index as NodeIndex);
        let holds = move |p: &PartitionId| index.is_some_and(|i| self.row(p.index()).contains(&i));
        self.partitions.iter().filter(holds)
    }

    /// The nodes that stand in for a partition's replicas, best first: every other node once, in
    /// the order in which they appear clockwise on the ring (Dynamo, section 4.6). The caller skips
    /// those that are down.
    ///
    /// # Panics
    /// If the ring has no such partition.
    pub fn fallbacks(&self, partition: PartitionId) -> impl Iterator<Item = &NodeId> {
        let mut seen = vec![false; self.nodes.len()];
        self.row(partition.index()).iter().for_each(|&node| seen[usize::from(node)] = true);
        let clockwise = self.cells[partition.index() * self.width()..]
            .iter()
            .chain(&self.cells[..partition.index() * self.width()])
            .map(|&node| usize::from(node));
        // Nodes that hold nothing at all, where there are fewer partitions than nodes, come last.
        let all = clockwise.chain(0..self.nodes.len());
        let mut left = self.nodes.len() - self.width();
        let mut unseen = all.filter(move |&node| !std::mem::replace(&mut seen[node], true));
        // Stops at the last one, instead of walking the rest of the ring for more.
        std::iter::from_fn(move || {
            left = left.checked_sub(1)?;
            unseen.next().map(|node| &self.nodes[node])
        })
    }

    /// The size of every replica set.
    pub(super) fn width(&self) -> usize {
        self.nodes.len().min(usize::from(self.factor.get()))
    }

    /// A replica set as places in [`Table::nodes`].
    pub(super) fn row(&self, partition: usize) -> &[NodeIndex] {
        row_of(&self.cells, self.width(), partition)
    }

    /// All replica sets, one after another.
    pub(super) fn cells(&self) -> &[NodeIndex] {
        &self.cells
    }

    fn check(&self) -> Result<(), TableError> {
        if self.nodes.len() > MAX_NODES {
            return Err(TableError::TooManyNodes(self.nodes.len()));
        }
        if !self.nodes.is_sorted_by(|a, b| a < b) {
            return Err(TableError::UnsortedNodes);
        }
        let expected = self.partitions.get() as usize * self.width();
        if self.cells.len() != expected {
            return Err(TableError::WrongLength { expected, found: self.cells.len() });
        }
        let is_bad = |p: &PartitionId| !is_set(self.row(p.index()), self.nodes.len());
        self.partitions.iter().find(is_bad).map_or(Ok(()), |p| Err(TableError::BadSet(p)))
    }
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Table")
            .field("factor", &self.factor)
            .field("partitions", &self.partitions.get())
            .field("nodes", &self.nodes)
            .finish_non_exhaustive()
    }
}

/// The members that may hold something: sorted by id, each once.
pub(super) fn holders(members: &[Member]) -> Vec<Member> {
    let mut holders = members.to_vec();
    holders.sort();
    holders.dedup_by(|a, b| a.id == b.id);
    holders.retain(|member| !member.weight.is_zero());
    holders
}

/// Whether a row has distinct nodes out of so many.
fn is_set(row: &[NodeIndex], nodes: usize) -> bool {
    let known = row.iter().all(|&node| usize::from(node) < nodes);
    known && row.iter().enumerate().all(|(place, node)| !row[..place].contains(node))
}

#[cfg(test)]
mod tests;
