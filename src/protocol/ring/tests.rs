//! What the module's head promises, of small rings in all their corners and of large ones.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::{Just, ProptestConfig, Strategy, prop, prop_oneof};
use proptest::{prop_assert, prop_assert_eq, proptest};
use xxhash_rust::xxh3::xxh3_64;

use super::ideal::Ideal;
use super::table::holders;
use super::{Member, Table, token_of};
use crate::types::{Bucket, Key, KeyPath, NodeId, PartitionCount, ReplicationFactor, Weight, Zone};

pub(super) fn member(id: usize, zone: usize, weight: f64) -> Member {
    Member {
        id: NodeId::new(&format!("n{id}")).expect("a valid name"),
        zone: Zone::new(&format!("z{zone}")).expect("a valid name"),
        weight: Weight::new(weight).expect("in range"),
    }
}

pub(super) fn equal_members(ids: impl IntoIterator<Item = usize>, zones: usize) -> Vec<Member> {
    ids.into_iter().map(|id| member(id, id % zones, 1.0)).collect()
}

pub(super) fn factor(n: u8) -> ReplicationFactor {
    ReplicationFactor::new(n).expect("1 to 16")
}

pub(super) fn count(partitions: u32) -> PartitionCount {
    PartitionCount::new(partitions).expect("a power of two")
}

pub(super) fn compute(
    previous: Option<&Table>,
    members: &[Member],
    n: u8,
    partitions: u32,
) -> Table {
    Table::compute(previous, members, factor(n), count(partitions))
}

/// Checks what the head of the module promises of every table, but for the movement.
fn check(table: &Table, members: &[Member]) {
    let members = holders(members);
    check_sets(table, &members);
    check_loads(table, &members);
}

/// The smallest cap on the replicas in each zone under which a set still finds its nodes.
fn evenest_cap(zone_sizes: &BTreeMap<&Zone, usize>, width: usize) -> usize {
    let reached = |cap: usize| zone_sizes.values().map(|&size| size.min(cap)).sum::<usize>();
    (0..=width).find(|&cap| reached(cap) >= width).expect("all nodes suffice")
}

fn check_sets(table: &Table, members: &[Member]) {
    let zones: BTreeMap<&NodeId, &Zone> = members.iter().map(|m| (&m.id, &m.zone)).collect();
    let mut zone_sizes: BTreeMap<&Zone, usize> = BTreeMap::new();
    members.iter().for_each(|m| *zone_sizes.entry(&m.zone).or_default() += 1);
    let width = usize::from(table.factor().get()).min(members.len());
    let cap = evenest_cap(&zone_sizes, width);
    for partition in table.partitions().iter() {
        let set: BTreeSet<&NodeId> = table.replicas(partition).collect();
        assert_eq!(set.len(), width, "distinct nodes in {partition}");
        assert_eq!(table.replica_count(partition), width);
        let mut spanned: BTreeMap<&Zone, usize> = BTreeMap::new();
        set.iter().for_each(|id| *spanned.entry(zones[*id]).or_default() += 1);
        assert_eq!(spanned.len(), width.min(zone_sizes.len()), "zones of {partition}");
        assert!(spanned.values().all(|&replicas| replicas <= cap), "{partition} crowds a zone");
    }
    assert_eq!(table.zone_violations(members), []);
}

fn check_loads(table: &Table, members: &[Member]) {
    let partitions = table.partitions().get() as usize;
    let ideal = Ideal::new(members, usize::from(table.factor().get()), partitions);
    let mut primaries: BTreeMap<&NodeId, u32> = BTreeMap::new();
    for partition in table.partitions().iter() {
        table.replicas(partition).take(1).for_each(|id| *primaries.entry(id).or_default() += 1);
    }
    for (place, load) in table.loads().into_iter().enumerate() {
        let off = f64::from(load) - ideal.shares[place];
        assert!(off.abs() <= table.deviation(members));
        assert!(off.abs() < 1.0 + 1e-6, "{load} replicas for a share of {}", ideal.shares[place]);
        let id = &table.nodes()[place];
        let primaries = primaries.get(id).copied().unwrap_or(0);
        let width = ideal.width as u32;
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
        let fewest = old.fewest_moves(&after, factor(n));
        prop_assert_eq!(Table::moves(&old, &new), fewest);
    }
}

#[test]
fn a_token_is_the_hash_of_bucket_zero_key() {
    let bucket = Bucket::new("users").expect("a valid name");
    for key in [&b"a"[..], b"\0", b"/\xff\0", &[7; 2_048]] {
        let key = Key::new(key.to_vec()).expect("short enough");
        let path = KeyPath { bucket: bucket.clone(), key };
        assert_eq!(token_of(&path).get(), xxh3_64(&path.to_bytes()));
    }
    // Stored data depends on it: this number may never change.
    let path = KeyPath { bucket, key: Key::new(b"alice".to_vec()).expect("short enough") };
    assert_eq!(token_of(&path).to_string(), "77ed47d6eeed28ef");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn the_order_of_members_and_their_gateways_change_nothing(
        (before, after) in two_memberships(),
        n in 1..5_u8,
        seed in 0..100_usize,
    ) {
        let old = compute(None, &before, n, 32);
        let new = compute(Some(&old), &after, n, 32);
        let mut shuffled = after.clone();
        shuffled.push(member(999, 0, 0.0));
        shuffled.reverse();
        let middle = seed % shuffled.len();
        shuffled.rotate_left(middle);
        shuffled.extend_from_slice(&after);
        prop_assert_eq!(&compute(Some(&old), &shuffled, n, 32), &new);
        prop_assert_eq!(&compute(Some(&new), &after, n, 32), &new, "nothing to do");
    }

    #[test]
    fn larger_rings_keep_the_promises_too(
        before in some_members(60, 8),
        after in some_members(60, 8),
        n in 1..6_u8,
    ) {
        let old = compute(None, &before, n, 256);
        check(&old, &before);
        let new = compute(Some(&old), &after, n, 256);
        check(&new, &after);
        prop_assert!(Table::moves(&old, &new) >= old.forced_moves(&after, factor(n)));
    }

    #[test]
    fn without_zones_the_loads_alone_decide_what_moves(
        weights in prop::collection::vec((1..20_u32, 1..20_u32), 20..60),
    ) {
        let members = |pick: fn(&(u32, u32)) -> u32| -> Vec<Member> {
            let weights = weights.iter().map(pick).enumerate();
            weights.map(|(id, weight)| member(id, 0, f64::from(weight))).collect()
        };
        let (before, after) = (members(|w| w.0), members(|w| w.1));
        let old = compute(None, &before, 3, 1_024);
        let new = compute(Some(&old), &after, 3, 1_024);
        check(&new, &after);
        let moves = Table::moves(&old, &new);
        let bound = old.forced_moves(&after, factor(3));
        // What nodes must gain is a bound from below; roundings up can add one for each node.
        prop_assert!(moves >= bound);
        prop_assert!(moves * 100 <= bound * 102 + 100 * after.len(), "{moves} moves, {bound} forced");
    }
}

#[test]
fn a_cluster_grows_to_a_hundred_nodes_and_back_with_the_fewest_moves() {
    for zones in [1, 3] {
        let mut table = compute(None, &equal_members(0..1, zones), 3, 1_024);
        for nodes in (2..=100).chain((1..100).rev()) {
            let members = equal_members(0..nodes, zones);
            let next = compute(Some(&table), &members, 3, 1_024);
            check(&next, &members);
            let moves = Table::moves(&table, &next);
            let forced = table.forced_moves(&members, factor(3));
            if zones == 1 {
                assert!(moves * 100 <= forced * 102, "{nodes}: {moves} moves, {forced} forced");
            }
            table = next;
        }
    }
}

#[test]
fn a_node_in_place_of_another_takes_its_partitions_alone() {
    let before = equal_members(0..30, 3);
    let old = compute(None, &before, 3, 1_024);
    let mut after = before.clone();
    after[7] = member(77, 7 % 3, 1.0);
    let new = compute(Some(&old), &after, 3, 1_024);
    for partition in old.partitions().iter() {
        let kept = old.replicas(partition).filter(|id| **id != before[7].id);
        assert!(kept.into_iter().all(|id| new.contains(partition, id)), "{partition}");
    }
    assert_eq!(Table::moves(&old, &new), old.vnodes_of(&before[7].id).count());
}

#[test]
fn a_table_of_another_factor_keeps_what_fits() {
    let members = equal_members(0..12, 4);
    let three = compute(None, &members, 3, 256);
    let five = compute(Some(&three), &members, 5, 256);
    check(&five, &members);
    assert_eq!(Table::moves(&three, &five), 2 * 256);
    let back = compute(Some(&five), &members, 3, 256);
    check(&back, &members);
    assert_eq!(Table::moves(&five, &back), 0);
}

#[test]
fn the_load_of_a_dead_node_spreads_over_many() {
    let members = equal_members(0..40, 1);
    let first = compute(None, &members[..20], 3, 4_096);
    for table in [compute(Some(&first), &members, 3, 4_096), compute(None, &members, 3, 4_096)] {
        for dead in table.nodes() {
            let mut partners: BTreeMap<&NodeId, usize> = BTreeMap::new();
            for partition in table.vnodes_of(dead) {
                let others = table.replicas(partition).filter(|id| *id != dead);
                others.for_each(|id| *partners.entry(id).or_default() += 1);
            }
            // 307 partitions with 2 partners each: about 16 with each of 39.
            assert!(partners.len() >= 35, "{} partners", partners.len());
            assert!(partners.values().all(|&shared| shared <= 80), "{partners:?}");
        }
    }
}
