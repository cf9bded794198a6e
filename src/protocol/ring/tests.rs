use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::{Just, ProptestConfig, Strategy, prop, prop_oneof};
use proptest::{prop_assert, prop_assert_eq, proptest};

use super::ideal::Ideal;
use super::oracle::fewest_moves;
use super::table::holders;
use super::{Member, Table, token_of};
use crate::types::{
    Bucket, Key, KeyPath, NodeId, PartitionCount, PartitionId, ReplicationFactor, Weight, Zone,
};

fn member(id: usize, zone: usize, weight: f64) -> Member {
    Member {
        id: NodeId::new(&format!("n{id}")).expect("a valid name"),
        zone: Zone::new(&format!("z{zone}")).expect("a valid name"),
        weight: Weight::new(weight).expect("in range"),
    }
}

fn equal_members(ids: impl IntoIterator<Item = usize>, zones: usize) -> Vec<Member> {
    ids.into_iter().map(|id| member(id, id % zones, 1.0)).collect()
}

fn factor(n: u8) -> ReplicationFactor {
    ReplicationFactor::new(n).expect("1 to 16")
}

fn count(partitions: u32) -> PartitionCount {
    PartitionCount::new(partitions).expect("a power of two")
}

fn compute(previous: Option<&Table>, members: &[Member], n: u8, partitions: u32) -> Table {
    Table::compute(previous, members, factor(n), count(partitions))
}

/// What the head of the module promises of every table but the movement.
fn check(table: &Table, members: &[Member]) {
    let members = holders(members);
    let n = usize::from(table.factor().get());
    let partitions = table.partitions().get() as usize;
    let zones: BTreeMap<&NodeId, &Zone> = members.iter().map(|m| (&m.id, &m.zone)).collect();
    let mut zone_sizes: BTreeMap<&Zone, usize> = BTreeMap::new();
    members.iter().for_each(|m| *zone_sizes.entry(&m.zone).or_default() += 1);
    let width = n.min(members.len());
    // The smallest cap for each zone under which a set still finds its nodes.
    let cap = (0..=n)
        .find(|&cap| zone_sizes.values().map(|&size| size.min(cap)).sum::<usize>() >= width)
        .expect("all nodes suffice");
    for partition in table.partitions().iter() {
        let set: BTreeSet<&NodeId> = table.replicas(partition).collect();
        assert_eq!(set.len(), width, "distinct nodes in {partition}");
        assert_eq!(table.replica_count(partition), width);
        let mut spanned: BTreeMap<&Zone, usize> = BTreeMap::new();
        set.iter().for_each(|id| *spanned.entry(zones[*id]).or_default() += 1);
        assert_eq!(spanned.len(), width.min(zone_sizes.len()), "zones of {partition}");
        assert!(spanned.values().all(|&replicas| replicas <= cap), "{partition} crowds a zone");
    }
    let ideal = Ideal::new(&members, n, partitions);
    for (place, load) in table.loads().into_iter().enumerate() {
        let off = f64::from(load) - ideal.shares[place];
        assert!(off.abs() < 1.0 + 1e-6, "{load} replicas for a share of {}", ideal.shares[place]);
    }
    let mut primaries: BTreeMap<&NodeId, u32> = BTreeMap::new();
    for partition in table.partitions().iter() {
        table.replicas(partition).take(1).for_each(|id| *primaries.entry(id).or_default() += 1);
    }
    for (id, load) in table.nodes().iter().zip(table.loads()) {
        let primaries = primaries.get(id).copied().unwrap_or(0) as usize;
        let load = load as usize;
        assert!((load / width..=load.div_ceil(width)).contains(&primaries), "primaries of {id}");
    }
}

fn weights() -> impl Strategy<Value = f64> {
    prop_oneof![
        5 => Just(1.0),
        2 => (0..5_u32).prop_map(f64::from),
        1 => 0.001..1_000.0,
    ]
}

/// Some of a pool of node ids, with zones and weights.
fn some_members(pool: usize, zones: usize) -> impl Strategy<Value = Vec<Member>> {
    let one = (prop::bool::weighted(0.7), 0..zones, weights());
    prop::collection::vec(one, 1..=pool).prop_map(|nodes| {
        let kept = nodes.into_iter().enumerate().filter(|(_, (kept, ..))| *kept);
        kept.map(|(id, (_, zone, weight))| member(id, zone, weight)).collect()
    })
}

/// The members after a change of about one node in three, or of everything.
fn changed(
    members: Vec<Member>,
    zones: usize,
) -> impl Strategy<Value = (Vec<Member>, Vec<Member>)> {
    let all = some_members(9, zones).prop_map(Some);
    let change = prop_oneof![1 => all, 4 => Just(None)];
    let edits = prop::collection::vec((0..12_usize, 0..zones, weights()), members.len() + 1);
    (change, edits).prop_map(move |(all, edits)| {
        let mut after = Vec::new();
        for (place, (kind, zone, weight)) in edits.into_iter().enumerate() {
            match (kind, members.get(place)) {
                (0, Some(_)) => {}
                (1, Some(old)) => after.push(member(100 + place, zone, old.weight.as_f64())),
                (2, Some(old)) => {
                    after.push(Member { zone: member(0, zone, 1.0).zone, ..old.clone() })
                }
                (3, Some(old)) => {
                    after.push(Member {
                        weight: Weight::new(weight).expect("in range"),
                        ..old.clone()
                    });
                }
                (_, Some(old)) => after.push(old.clone()),
                (..6, None) => after.push(member(200, zone, weight)),
                (_, None) => {}
            }
        }
        (members.clone(), all.unwrap_or(after))
    })
}

fn two_memberships() -> impl Strategy<Value = (Vec<Member>, Vec<Member>)> {
    (1..6_usize).prop_flat_map(|zones| {
        some_members(9, zones).prop_flat_map(move |members| changed(members, zones))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_changed_table_keeps_all_promises_and_moves_the_fewest_replicas(
        (before, after) in two_memberships(),
        (n_before, n) in (1..7_u8, 1..7_u8).prop_map(|(a, b)| if a < 5 { (b, b) } else { (a, b) }),
        bits in 0..6_u32,
    ) {
        let partitions = 1 << bits;
        let old = compute(None, &before, n_before, partitions);
        check(&old, &before);
        let new = compute(Some(&old), &after, n, partitions);
        check(&new, &after);
        let fewest = fewest_moves(&old, &after, factor(n), count(partitions));
        prop_assert_eq!(Table::moves(&old, &new), fewest);
    }
}
