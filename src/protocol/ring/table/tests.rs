use std::collections::BTreeSet;

use super::super::tests::{compute, equal_members, factor, member};
use super::{Raw, Table, TableError};
use crate::types::{NodeId, PartitionId};

fn raw(change: impl FnOnce(&mut Raw)) -> Raw {
    let mut raw = Raw::from(compute(None, &equal_members(0..5, 2), 3, 8));
    change(&mut raw);
    raw
}

/// Encodes what may be no table, and decodes it as one.
fn decode(raw: &Raw) -> Result<Table, String> {
    let bytes = postcard::to_stdvec(raw).expect("encodes");
    let json = serde_json::to_string(raw).expect("encodes");
    let from_json = serde_json::from_str(&json).map_err(|error| error.to_string());
    assert_eq!(postcard::from_bytes::<Table>(&bytes).ok(), from_json.as_ref().ok().cloned());
    from_json
}

#[test]
fn tables_come_back_from_both_encodings() {
    for nodes in [0, 1, 2, 5, 40] {
        let table = compute(None, &equal_members(0..nodes, 3), 3, 64);
        assert_eq!(decode(&Raw::from(table.clone())), Ok(table));
    }
}

#[test]
fn a_large_table_takes_two_bytes_for_a_replica() {
    let table = compute(None, &equal_members(0..1_000, 3), 3, 4_096);
    let bytes = postcard::to_stdvec(&table).expect("encodes");
    assert!(bytes.len() <= 2 * 3 * 4_096 + 6 * 1_000, "{} bytes", bytes.len());
}

#[test]
fn what_is_no_table_is_refused() {
    let error = |change: fn(&mut Raw)| Table::try_from(raw(change)).expect_err("damaged");
    assert_eq!(error(|raw| raw.nodes.swap(0, 1)), TableError::UnsortedNodes);
    assert_eq!(error(|raw| raw.nodes[1] = raw.nodes[0].clone()), TableError::UnsortedNodes);
    let short = TableError::WrongLength { expected: 24, found: 23 };
    assert_eq!(error(|raw| raw.cells.truncate(23)), short);
    let wide = TableError::WrongLength { expected: 16, found: 24 };
    assert_eq!(error(|raw| raw.factor = factor(2)), wide);
    assert_eq!(error(|raw| raw.cells[4] = raw.cells[3]), TableError::BadSet(PartitionId::new(1)));
    assert_eq!(error(|raw| raw.cells[23] = 5), TableError::BadSet(PartitionId::new(7)));
    assert!(decode(&raw(|raw| raw.cells[23] = 5)).is_err());
    assert!(decode(&raw(|_| {})).is_ok());
}

#[test]
fn gateways_hold_nothing() {
    let members = [member(1, 0, 1.0), member(2, 1, 0.0), member(3, 1, 1.0)];
    let table = compute(None, &members, 3, 8);
    assert_eq!(table.nodes(), [members[0].id.clone(), members[2].id.clone()]);
    assert_eq!(table.replica_count(PartitionId::new(7)), 2);
    assert_eq!(table.vnodes_of(&members[1].id).count(), 0);
    assert!(!table.contains(PartitionId::new(0), &members[1].id));

    let nobody = compute(Some(&table), &members[1..2], 3, 8);
    assert_eq!(nobody.replicas(PartitionId::new(0)).len(), 0);
    assert_eq!(nobody.fallbacks(PartitionId::new(0)).count(), 0);
    assert_eq!(Table::moves(&table, &nobody), 0);
    assert_eq!(nobody.balance(&members), 1.0);
}

#[test]
fn vnodes_replicas_and_loads_tell_the_same() {
    let table = compute(None, &equal_members(0..9, 4), 3, 64);
    for (node, load) in table.nodes().iter().zip(table.loads()) {
        let vnodes: Vec<PartitionId> = table.vnodes_of(node).collect();
        let held = |p: &PartitionId| table.replicas(*p).any(|id| id == node);
        assert_eq!(vnodes, table.partitions().iter().filter(held).collect::<Vec<_>>());
        assert!(vnodes.iter().all(|&partition| table.contains(partition, node)));
        assert_eq!(vnodes.len(), load as usize);
    }
}

#[test]
fn fallbacks_are_all_other_nodes_in_clockwise_order() {
    // More nodes than replicas, so that some hold nothing and come last.
    for (nodes, partitions) in [(7, 32), (40, 8)] {
        let table = compute(None, &equal_members(0..nodes, 3), 3, partitions);
        for partition in table.partitions().iter() {
            let mut seen: BTreeSet<&NodeId> = table.replicas(partition).collect();
            let mut expected = Vec::new();
            for step in 1..partitions {
                let next = PartitionId::new((partition.get() + step) % partitions);
                expected.extend(table.replicas(next).filter(|id| seen.insert(id)));
            }
            expected.extend(table.nodes().iter().filter(|id| seen.insert(id)));
            assert_eq!(table.fallbacks(partition).collect::<Vec<_>>(), expected);
            assert_eq!(expected.len(), nodes - 3);
        }
    }
}

#[test]
fn moves_counts_pairs_that_only_the_new_table_has() {
    let (before, after) = (equal_members(0..6, 3), equal_members(2..9, 3));
    let old = compute(None, &before, 3, 64);
    let new = compute(None, &after, 3, 64);
    let pairs = |table: &Table| -> BTreeSet<(PartitionId, NodeId)> {
        let pairs = |p| table.replicas(p).map(move |id| (p, id.clone()));
        table.partitions().iter().flat_map(pairs).collect()
    };
    assert_eq!(Table::moves(&old, &new), pairs(&new).difference(&pairs(&old)).count());
    assert_eq!(Table::moves(&old, &old), 0);
}

#[test]
fn balance_compares_with_what_weights_and_zones_allow() {
    let equal = equal_members(0..4, 1);
    let table = compute(None, &equal, 3, 64);
    assert_eq!(table.balance(&equal), 1.0);
    // With weights 9, 1, 1, 1 one node holds all 64 partitions, the others share 128.
    let skewed: Vec<_> = (0..4).map(|id| member(id, 0, if id == 0 { 9.0 } else { 1.0 })).collect();
    assert!((table.balance(&skewed) - 48.0 / (128.0 / 3.0)).abs() < 1e-9);
    assert!(compute(Some(&table), &skewed, 3, 64).balance(&skewed) < 43.1 / (128.0 / 3.0));
    assert_eq!(table.balance(&equal[1..]), f64::INFINITY);
}

#[test]
fn zone_violations_are_sets_that_span_too_few_zones() {
    let apart: Vec<_> = (0..4).map(|id| member(id, id, 1.0)).collect();
    let table = compute(None, &apart, 2, 16);
    assert_eq!(table.zone_violations(&apart), []);
    let paired: Vec<_> = (0..4).map(|id| member(id, id / 2, 1.0)).collect();
    let inside = |partition: &PartitionId| {
        let zones: BTreeSet<usize> = table
            .replicas(*partition)
            .map(|id| usize::from(*id == apart[2].id || *id == apart[3].id))
            .collect();
        zones.len() == 1
    };
    let expected: Vec<_> = table.partitions().iter().filter(inside).collect();
    assert!(!expected.is_empty());
    assert_eq!(table.zone_violations(&paired), expected);
    let together: Vec<_> = (0..4).map(|id| member(id, 0, 1.0)).collect();
    assert_eq!(table.zone_violations(&together), []);
}
