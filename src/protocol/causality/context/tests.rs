//! Contexts against the plain set of dots that they stand for.

use std::collections::BTreeSet;

use proptest::collection::vec;
use proptest::prelude::{Strategy, any, prop_oneof, proptest};

use super::super::dot::{Dot, MAX_COUNTER};
use super::super::wire::Malformed;
use super::Context;
use crate::types::ActorId;

type Set = BTreeSet<Dot>;

fn dot(actor: u64, counter: u64) -> Dot {
    Dot::new(ActorId::new(actor), counter).expect("in range")
}

/// Few actors and counters, so that dots meet, adjoin and leave gaps.
fn any_dot() -> impl Strategy<Value = Dot> {
    (0u64..3, 1u64..12).prop_map(|(actor, counter)| dot(actor, counter))
}

fn any_dots() -> impl Strategy<Value = Vec<Dot>> {
    vec(any_dot(), 0..24)
}

fn all_dots() -> impl Iterator<Item = Dot> {
    (0..4).flat_map(|actor| (1..16).map(move |counter| dot(actor, counter)))
}

fn assert_same(context: &Context, set: &Set) {
    let contained: Set = all_dots().filter(|dot| context.contains(*dot)).collect();
    assert_eq!(&contained, set);
    // Equal sets are equal values, however they came about.
    assert_eq!(context, &set.iter().rev().copied().collect::<Context>());
    let actors: BTreeSet<ActorId> = set.iter().map(|dot| dot.actor()).collect();
    assert_eq!(context.actors().collect::<Vec<_>>(), actors.into_iter().collect::<Vec<_>>());
    for actor in (0..4).map(ActorId::new) {
        let of_actor = set.iter().filter(|dot| dot.actor() == actor).map(|dot| dot.counter());
        assert_eq!(context.max_counter(actor), of_actor.max().unwrap_or(0));
    }
    assert_eq!(context.is_empty(), set.is_empty());
}

#[derive(Clone, Debug)]
enum Step {
    Insert(Dot),
    Remove(Dot),
    Seed(u64, u64),
    Join(Vec<Dot>),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        any_dot().prop_map(Step::Insert),
        any_dot().prop_map(Step::Remove),
        (0u64..3, 0u64..8).prop_map(|(actor, floor)| Step::Seed(actor, floor)),
        any_dots().prop_map(Step::Join),
    ]
}

proptest! {
    #[test]
    fn a_context_is_a_set_of_dots(steps in vec(any_step(), 0..30)) {
        let (mut context, mut set) = (Context::new(), Set::new());
        for step in steps {
            match step {
                Step::Insert(dot) => assert_eq!(context.insert(dot), set.insert(dot)),
                Step::Remove(dot) => assert_eq!(context.remove(dot), set.remove(&dot)),
                Step::Seed(actor, floor) => {
                    context.seed(ActorId::new(actor), floor);
                    set.extend((1..=floor).map(|counter| dot(actor, counter)));
                }
                Step::Join(dots) => {
                    let before = set.len();
                    set.extend(dots.iter().copied());
                    let joined = context.join(&dots.into_iter().collect());
                    assert_eq!(joined, set.len() > before);
                }
            }
            assert_same(&context, &set);
        }
    }

    #[test]
    fn covering_is_the_superset(ours in any_dots(), theirs in any_dots()) {
        let (a, b): (Context, Context) = (ours.iter().copied().collect(), theirs.iter().copied().collect());
        let (ours, theirs): (Set, Set) = (ours.into_iter().collect(), theirs.into_iter().collect());
        assert_eq!(a.covers(&b), ours.is_superset(&theirs));
        assert!(a.covers(&a) && a.covers(&Context::empty()));
    }

    #[test]
    fn equal_contexts_and_only_those_have_equal_bytes(ours in any_dots(), theirs in any_dots()) {
        let (a, b): (Context, Context) = (ours.into_iter().collect(), theirs.into_iter().collect());
        assert_eq!(a.to_bytes() == b.to_bytes(), a == b);
        assert_eq!(a.to_bytes().len(), a.encoded_len());
        assert_eq!(Context::from_bytes(&a.to_bytes()), Ok(a));
    }

    #[test]
    fn what_decodes_is_canonical(bytes in vec(any::<u8>(), 0..40)) {
        if let Ok(context) = Context::from_bytes(&bytes) {
            assert_eq!(context.to_bytes(), bytes);
        }
    }

    #[test]
    fn a_damaged_context_is_another_one_or_none(
        dots in vec(any_dot(), 1..24), at in any::<proptest::sample::Index>(), new in any::<u8>(),
    ) {
        let context: Context = dots.into_iter().collect();
        let mut bytes = context.to_bytes().to_vec();
        let at = at.index(bytes.len());
        bytes[at] = new;
        if let Ok(other) = Context::from_bytes(&bytes) {
            assert_eq!(other.to_bytes(), bytes);
        }
    }

    #[test]
    fn what_fits_is_a_part_that_keeps_what_must_stay(
        dots in vec((0u64..40, 1u64..30), 1..200), room in 13usize..400,
    ) {
        let context: Context = dots.iter().map(|(actor, counter)| dot(*actor, *counter)).collect();
        let first = dot(dots[0].0, dots[0].1);
        let fitted = context.clone().fitted(room, std::iter::once(first));
        assert!(fitted.encoded_len() <= room && context.covers(&fitted) && fitted.contains(first));
        assert_eq!(fitted == context, context.encoded_len() <= room);
    }
}

#[test]
fn single_dots_fold_into_the_vector_when_the_gap_closes() {
    let mut context: Context = [dot(7, 1), dot(7, 3), dot(7, 5)].into_iter().collect();
    assert_eq!(context.entries(), 3);
    context.insert(dot(7, 2));
    assert_eq!(context.entries(), 2);
    context.insert(dot(7, 4));
    assert_eq!((context.entries(), context.max_counter(ActorId::new(7))), (1, 5));
}

#[test]
fn a_common_context_is_small() {
    let context: Context = (1..=100).map(|counter| dot(u64::MAX, counter)).collect();
    assert_eq!(context.to_bytes().len(), 1 + 8 + 2);
}

#[test]
fn bytes_that_are_not_canonical_are_refused() {
    let actor = [0, 0, 0, 0, 0, 0, 0, 9];
    let group = |entry: &[u8]| [&actor, entry].concat();
    let bytes = |groups: &[Vec<u8>]| [vec![groups.len() as u8], groups.concat()].concat();
    let decode = |bytes: &[u8]| Context::from_bytes(bytes);
    assert!(decode(&bytes(&[group(&[2])])).is_ok());
    assert_eq!(decode(&bytes(&[group(&[2]), group(&[2])])), Err(Malformed::NotCanonical));
    assert_eq!(decode(&bytes(&[group(&[0])])), Err(Malformed::NotCanonical), "an entry of zero");
    assert_eq!(decode(&bytes(&[group(&[0x82, 0])])), Err(Malformed::Number), "a longer form");
    assert_eq!(decode(&[bytes(&[group(&[2])]), vec![0]].concat()), Err(Malformed::TrailingBytes));
    assert_eq!(decode(&[]), Err(Malformed::Truncated));
    assert_eq!(decode(&[0xff, 0xff, 0x7f]), Err(Malformed::Truncated), "more than can follow");
}

#[test]
fn counters_from_two_to_the_62_up_are_refused() {
    let with_last = |last: u64| {
        let mut context = Context::new();
        context.insert(dot(1, MAX_COUNTER));
        let mut bytes = context.to_bytes().to_vec();
        assert_eq!(Context::from_bytes(&bytes), Ok(context));
        bytes.truncate(1 + 8);
        super::super::wire::put_varint(&mut bytes, last << 1);
        Context::from_bytes(&bytes)
    };
    assert!(with_last(MAX_COUNTER).is_ok());
    assert_eq!(with_last(MAX_COUNTER + 1), Err(Malformed::Counter));
    // A single dot whose distance overflows.
    let mut bytes = vec![1, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0];
    super::super::wire::put_varint(&mut bytes, u64::MAX);
    bytes.push(0);
    assert_eq!(Context::from_bytes(&bytes), Err(Malformed::Counter));
}
