use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

use super::*;
use crate::protocol::cluster::formation::{Formation, Founder, FoundingTerms, Next, Offer};
use crate::types::{PartitionCount, VnodeId};

fn id(name: &str) -> NodeId {
    NodeId::new(name).expect("valid")
}

fn joiner(name: &str, disk: u128) -> Joiner {
    Joiner {
        id: id(name),
        incarnation: DataIncarnation::new(disk),
        peer: format!("{name}:1"),
        zone: Zone::default(),
        weight: Weight::default(),
    }
}

fn state(names: &[&str]) -> ClusterState {
    let founder = |name: &&str| Founder {
        id: id(name),
        peer: format!("{name}:1"),
        zone: Zone::default(),
        weight: Weight::default(),
    };
    let partitions = PartitionCount::new(16).expect("a power of two");
    let terms =
        FoundingTerms::new(names.iter().map(founder).collect(), partitions, Default::default());
    let me = |i: usize| {
        Formation::new(id(names[i]), DataIncarnation::new(i as u128), terms.clone(), None)
    };
    let mut first = me(0);
    for i in 1..names.len() {
        first.take(&me(i).offer()).expect("alike");
    }
    let Next::Promise(cluster) = first.next() else { panic!("all are known") };
    first.promised(cluster);
    for i in 1..names.len() {
        let offer = Offer { promised: Some(cluster), ..me(i).offer() };
        first.take(&offer).expect("alike");
    }
    let Next::Formed(state) = first.next() else { panic!("all promised") };
    *state
}

fn through(state: &ClusterState, change: &Change) -> ClusterState {
    let begun = state.begun(change).expect("a fitting change");
    begun.switched().expect("prepared").finished().expect("switched")
}

fn release_all(state: &ClusterState) -> ClusterState {
    let all: BTreeSet<NodeId> = state.nodes.iter().map(|node| node.id.clone()).collect();
    state.released(&all, &all).unwrap_or_else(|_| state.clone())
}

#[test]
fn a_node_joins_and_leaves_again() {
    let three = state(&["a", "b", "c"]);
    let change = Change { join: vec![joiner("d", 9)], ..Change::default() };
    let begun = three.begun(&change).expect("fits");
    assert_eq!(begun.voters().count(), 3, "joining nodes don't vote");
    assert!(begun.joining().map(|node| &node.id).eq([&id("d")]));
    let four = begun.switched().expect("in prepare").finished().expect("in switch");
    assert_eq!(four.voters().count(), 4);
    assert_eq!(four.layout_version, LayoutVersion::new(2));
    assert!(!four.former.is_empty() && four.former.iter().all(|f| f.node != id("d")));
    let four = release_all(&four);
    assert_eq!(four.former, []);
    let change = Change { leave: [id("a")].into(), ..Change::default() };
    let begun = four.begun(&change).expect("fits");
    assert_eq!(begun.voters().count(), 4, "who leaves votes until then");
    let left = begun.switched().expect("in prepare").finished().expect("in switch");
    assert_eq!(left.voters().count(), 3);
    assert_eq!(left.node(&id("a")).map(|node| node.role), Some(Role::Leaving));
    assert_eq!(release_all(&left).node(&id("a")), None);
}

#[test]
fn only_those_that_take_something_in_are_waited_for() {
    let five = state(&["a", "b", "c", "d", "e"]);
    let replace = Change { replace: [(id("b"), joiner("x", 9))].into(), ..Change::default() };
    let begun = five.begun(&replace).expect("fits");
    let after = &begun.transition.as_ref().expect("it runs").nodes;
    let takers = after.iter().filter(|node| begun.takes_in(node)).map(|node| &node.id);
    assert!(takers.eq([&id("x")]), "nothing moves but to it");
}

#[test]
fn an_aborted_change_leaves_the_old_sets() {
    let three = state(&["a", "b", "c"]);
    let change =
        Change { join: vec![joiner("d", 9)], leave: [id("a")].into(), ..Change::default() };
    for is_switched in [false, true] {
        let mut begun = three.begun(&change).expect("fits");
        if is_switched {
            begun = begun.switched().expect("in prepare");
        }
        let aborted = begun.aborted().expect("running");
        assert_eq!(begun.aborted_if(begun.transition_id()).as_ref(), Ok(&aborted));
        assert_eq!((&aborted.nodes, &aborted.tables), (&three.nodes, &three.tables));
        assert_eq!((&aborted.transition, &aborted.former), (&None, &Vec::new()));
        // One that began after it is another one.
        let next = aborted.begun(&change).expect("fits");
        assert_eq!(next.aborted_if(begun.transition_id()), Err(ChangeError::NoTransition));
    }
}

#[test]
fn a_lost_disk_is_replaced_by_itself() {
    let three = state(&["a", "b", "c"]);
    let change = Change { replace: [(id("c"), joiner("c", 77))].into(), ..Change::default() };
    let begun = three.begun(&change).expect("fits");
    assert_eq!(begun.voters().count(), 3, "the lost one counts, so that majorities meet");
    assert!(begun.lists(&id("c"), DataIncarnation::new(77)));
    assert!(!begun.lists(&id("c"), DataIncarnation::new(2)), "the old disk serves no more");
    let after = begun.switched().expect("in prepare").finished().expect("in switch");
    assert_eq!(after.tables, three.tables, "nothing moves but to it");
    assert_eq!(after.node(&id("c")).map(|c| c.incarnation), Some(DataIncarnation::new(77)));
    assert_eq!(after.former, [], "what was lost is not waited for");
}

#[test]
fn another_node_takes_the_very_place() {
    let three = state(&["a", "b", "c"]);
    let change = Change { replace: [(id("b"), joiner("x", 9))].into(), ..Change::default() };
    let after = through(&three, &change);
    let renamed = three.main_table().renamed(&[(id("b"), id("x"))].into());
    assert_eq!(*after.main_table(), renamed);
}

#[test]
fn one_at_a_time() {
    let begun = state(&["a", "b", "c"])
        .begun(&Change { join: vec![joiner("d", 9)], ..Change::default() })
        .expect("fits");
    let second = begun.begun(&Change { leave: [id("b")].into(), ..Change::default() });
    assert_eq!(second, Err(ChangeError::TransitionRunning));
}

#[test]
fn too_few_survivors_have_to_be_accepted() {
    let three = state(&["a", "b", "c"]);
    let dead: BTreeSet<NodeId> = [id("a"), id("b")].into();
    let change = Change { dead: dead.clone(), leave: dead, ..Change::default() };
    assert!(matches!(three.begun(&change), Err(ChangeError::MayLose { partitions: 16, .. })));
    assert!(three.begun(&Change { accept_loss: true, ..change }).is_ok());
    let dead: BTreeSet<NodeId> = [id("a")].into();
    let change = Change { dead: dead.clone(), leave: dead, ..Change::default() };
    assert!(three.begun(&change).is_ok(), "two of three survive");
}

#[test]
fn names_are_checked() {
    let three = state(&["a", "b", "c"]);
    let cases = [
        (
            Change { leave: [id("x")].into(), ..Change::default() },
            ChangeError::UnknownNode(id("x")),
        ),
        (
            Change { join: vec![joiner("a", 9)], ..Change::default() },
            ChangeError::AlreadyThere(id("a")),
        ),
        (
            Change { join: vec![joiner("x", 8), joiner("x", 9)], ..Change::default() },
            ChangeError::NamedTwice(id("x")),
        ),
        (
            Change { leave: ["a", "b", "c"].map(id).into(), ..Change::default() },
            ChangeError::NobodyLeft,
        ),
        (Change::default(), ChangeError::Nothing),
        (
            Change { weight: [(id("a"), Weight::ONE)].into(), ..Change::default() },
            ChangeError::Nothing,
        ),
    ];
    for (change, expected) in cases {
        assert_eq!(three.begun(&change), Err(expected), "{change:?}");
    }
}

#[test]
fn a_bucket_goes_to_a_table_of_its_own() {
    let five = state(&["a", "b", "c", "d", "e"]);
    let bucket = Bucket::new("wide").expect("valid");
    let n = ReplicationFactor::new(5).expect("valid");
    let own = BucketProperties { n: Some(n), ..BucketProperties::default() };
    let change = Change { buckets: [(bucket.clone(), Some(own))].into(), ..Change::default() };
    let begun = five.begun(&change).expect("fits");
    assert_eq!(begun.factor_of(&bucket).get(), 3);
    assert_eq!(begun.next_factor_of(&bucket), n);
    let after = begun.switched().expect("in prepare").finished().expect("in switch");
    assert_eq!(after.factor_of(&bucket), n);
    assert_eq!(after.tables.len(), 2);
    let is_of_bucket = |former: &Former| former.bucket.as_ref() == Some(&bucket);
    assert!(!after.former.is_empty() && after.former.iter().all(is_of_bucket));
    let back = Change { buckets: [(bucket.clone(), None)].into(), ..Change::default() };
    assert_eq!(after.begun(&back), Err(ChangeError::StillDropping(bucket)));
    let back = through(&release_all(&after), &back);
    assert_eq!(back.tables, five.tables);
    assert!(back.former.iter().any(|former| former.bucket.is_none()));
    assert!(back.former.iter().all(|former| former.table == n));
}

fn resized(bucket: &Bucket, n: Option<u8>) -> Change {
    let n = n.map(|n| ReplicationFactor::new(n).expect("valid"));
    let own = BucketProperties { n, ..BucketProperties::default() };
    Change { buckets: [(bucket.clone(), Some(own))].into(), ..Change::default() }
}

fn weighing(node: &str, weight: Weight) -> Change {
    Change { weight: [(id(node), weight)].into(), ..Change::default() }
}

/// Whether a node is listed for what a bucket has left in its vnodes of the main table.
fn is_listed(state: &ClusterState, node: &str, bucket: &Bucket) -> bool {
    let mut former = state.former.iter();
    former.any(|former| {
        (former.node == id(node) && former.table == state.replication_factor)
            && former.bucket.as_ref() == Some(bucket)
    })
}

#[test]
fn a_table_comes_back_once_all_that_was_held_of_it_is_dropped() {
    let five = state(&["a", "b", "c", "d", "e"]);
    let [first, second] = ["first", "second"].map(|name| Bucket::new(name).expect("valid"));
    let wide = release_all(&through(&five, &resized(&first, Some(5))));
    let left = through(&wide, &resized(&first, None));
    let all_but_one: BTreeSet<NodeId> = ["a", "b", "c", "d"].map(id).into();
    let left = left.released(&all_but_one, &all_but_one).expect("they have dropped it");
    let n = ReplicationFactor::new(5).expect("valid");
    assert_eq!(
        left.begun(&resized(&second, Some(5))),
        Err(ChangeError::StillDroppingTable(n)),
        "one still has it, under a purge number that the others have forgotten"
    );
    let taken = through(&release_all(&left), &resized(&second, Some(5)));
    assert_eq!(taken.factor_of(&second), n);
}

/// A vnode that waits to be dropped keeps its data where its node comes back first.
#[test]
fn what_a_bucket_has_left_is_not_forgotten_when_its_vnode_is_held_again() {
    let five = state(&["a", "b", "c", "d", "e"]);
    let bucket = Bucket::new("first").expect("valid");
    let light = through(&five, &weighing("d", Weight::ZERO));
    let wide = through(&light, &resized(&bucket, Some(5)));
    assert!(is_listed(&wide, "d", &bucket));
    let back = through(&wide, &weighing("d", Weight::ONE));
    let listed = |state: &ClusterState, bucket: Option<&Bucket>| -> BTreeSet<PartitionId> {
        let its = state.former.iter().filter(|former| {
            (former.node == id("d") && former.table == state.replication_factor)
                && former.bucket.as_ref() == bucket
        });
        its.flat_map(|former| former.partitions.iter().copied()).collect()
    };
    let held_again = &listed(&wide, None) - &listed(&back, None);
    assert!(!held_again.is_empty());
    assert!(held_again.is_subset(&listed(&back, Some(&bucket))));
}

#[test]
fn what_a_bucket_has_brought_in_vain_is_not_forgotten_when_its_vnode_is_held_again() {
    let five = state(&["a", "b", "c", "d", "e"]);
    let bucket = Bucket::new("first").expect("valid");
    let wide = release_all(&through(&five, &resized(&bucket, Some(5))));
    let light = through(&wide, &weighing("d", Weight::ZERO));
    assert!(!is_listed(&light, "d", &bucket));
    let change = Change { weight: weighing("d", Weight::ONE).weight, ..resized(&bucket, None) };
    let aborted = light.begun(&change).expect("it fits").aborted().expect("it runs");
    assert!(is_listed(&aborted, "d", &bucket));
    let back = through(&aborted, &weighing("d", Weight::ONE));
    assert!(is_listed(&back, "d", &bucket));
}

#[test]
fn other_properties_of_a_bucket_change_at_once() {
    let three = state(&["a", "b", "c"]);
    let bucket = Bucket::new("b").expect("valid");
    let own = BucketProperties { sloppy: Some(true), ..BucketProperties::default() };
    let set = Change { buckets: [(bucket.clone(), Some(own.clone()))].into(), ..Change::default() };
    let after = three.begun(&set).expect("fits");
    assert_eq!((after.transition.as_ref(), after.buckets.get(&bucket)), (None, Some(&own)));
    let running =
        three.begun(&Change { join: vec![joiner("d", 9)], ..Change::default() }).expect("fits");
    let during = running.begun(&set).expect("also beside a transition");
    let end = during.switched().expect("in prepare").finished().expect("in switch");
    assert_eq!(end.buckets.get(&bucket), Some(&own));
}

#[test]
fn a_forced_recovery_leaves_the_decisions_to_the_survivors() {
    let three = state(&["a", "b", "c"]);
    let lost: BTreeSet<NodeId> = [id("b"), id("c")].into();
    let recovered = three.recovered(&lost);
    assert_eq!(recovered.voters().count(), 1);
    assert!(recovered.stamp().recovery > three.stamp().recovery);
    let change = Change { accept_loss: true, ..Change::default() };
    let begun = recovered.begun(&change).expect("the lost are sent away");
    let after = begun.switched().expect("in prepare").finished().expect("in switch");
    assert!(after.nodes.iter().map(|node| &node.id).eq([&id("a")]));
}

proptest! {
    /// Whatever is changed, aborted and dropped in whatever order: sets are whole, nobody holds
    /// what the state does not know of, and what was held is dropped or held again.
    #[test]
    fn every_copy_is_accounted_for(
        steps in proptest::collection::vec((0_u8..8, any::<u8>()), 1..40),
    ) {
        let mut state = state(&["a", "b", "c"]);
        // What nodes hold, as they would do it.
        let mut held: BTreeSet<(NodeId, DataIncarnation, VnodeId)> = holdings(&state);
        for (kind, choice) in steps {
            let next = step(&state, kind, choice);
            let Some(next) = next else { continue };
            prop_assert_eq!(next.epoch, state.epoch.next());
            let former: BTreeSet<_> = next.former.iter().chain(
                next.transition.iter().flat_map(|transition| &transition.resumed),
            ).flat_map(|former| {
                former.partitions.iter().map(|partition| {
                    let vnode = VnodeId { table: former.table, partition: *partition };
                    (former.node.clone(), former.incarnation, vnode)
                })
            }).collect();
            let wanted = holdings(&next);
            // What is neither held nor waiting to be dropped was never complete, or was reported.
            held.retain(|copy| wanted.contains(copy) || former.contains(copy));
            for copy in &former {
                prop_assert!(held.contains(copy), "{copy:?} is waited for and not there");
            }
            held.extend(wanted);
            for table in &next.tables {
                let alive = next.nodes.iter().filter(|n| n.role == Role::Member).count();
                prop_assert!(next.transition.is_some() || table.nodes().len() <= alive);
            }
            state = next;
        }
    }
}

fn holdings(state: &ClusterState) -> BTreeSet<(NodeId, DataIncarnation, VnodeId)> {
    let mut held = BTreeSet::new();
    let mut add = |table: &Table, node: &ClusterNode| {
        for partition in table.vnodes_of(&node.id) {
            let vnode = VnodeId { table: table.factor(), partition };
            held.insert((node.id.clone(), node.incarnation, vnode));
        }
    };
    for table in &state.tables {
        state.nodes.iter().filter(|node| state.may_live(node)).for_each(|node| add(table, node));
    }
    let running = state.transition.iter();
    for (table, node) in
        running.flat_map(|t| t.tables.iter().flat_map(|ta| t.nodes.iter().map(move |n| (ta, n))))
    {
        add(table, node);
    }
    held
}

fn step(state: &ClusterState, kind: u8, choice: u8) -> Option<ClusterState> {
    let members: Vec<NodeId> = state
        .nodes
        .iter()
        .filter(|node| node.role == Role::Member)
        .map(|node| node.id.clone())
        .collect();
    let some = members.get(usize::from(choice) % members.len().max(1)).cloned();
    let disk = state.epoch.get() as u128 + 1_000;
    let change = match kind {
        0 => Change { join: vec![joiner(&format!("n{}", state.epoch), disk)], ..Change::default() },
        1 => Change { leave: some.into_iter().collect(), ..Change::default() },
        2 => {
            let replace = some.map(|id| (id.clone(), joiner(id.as_str(), disk)));
            Change { replace: replace.into_iter().collect(), ..Change::default() }
        }
        3 => {
            let n = ReplicationFactor::new(1 + choice % 5).expect("1 to 5");
            let own = BucketProperties { n: Some(n), ..BucketProperties::default() };
            let bucket = Bucket::new("b").expect("valid");
            Change { buckets: [(bucket, Some(own))].into(), ..Change::default() }
        }
        4 => return state.aborted().ok(),
        5 => return state.switched().ok(),
        6 => return state.finished().ok(),
        _ => {
            let some: BTreeSet<NodeId> = some.into_iter().collect();
            return state.released(&some, &some).ok();
        }
    };
    state.begun(&change).ok()
}
