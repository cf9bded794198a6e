use proptest::prelude::{Just, Strategy, any, prop_assert_eq, proptest};

use super::{Call, Model, Register, RegisterCall, is_linearizable};

type History = Vec<Call<u32, RegisterCall<u32>>>;

fn write(begun: u32, ended: impl Into<Option<u32>>, value: u32) -> Call<u32, RegisterCall<u32>> {
    Call { begun, ended: ended.into(), what: RegisterCall::Write(value) }
}

fn read(begun: u32, ended: u32, value: impl Into<Option<u32>>) -> Call<u32, RegisterCall<u32>> {
    let values = value.into().into_iter().collect();
    Call { begun, ended: Some(ended), what: RegisterCall::Read(values) }
}

fn holds(history: &[Call<u32, RegisterCall<u32>>]) -> bool {
    is_linearizable(&Register::default(), history)
}

#[test]
fn a_history_without_overlap_is_what_it_seems() {
    assert!(holds(&[]));
    assert!(holds(&[read(0, 1, None), write(2, 3, 7), read(4, 5, 7)]));
    assert!(!holds(&[write(0, 1, 7), read(2, 3, None)]), "a stale read");
    assert!(!holds(&[write(0, 1, 7), write(2, 3, 8), read(4, 5, 7)]), "a read of the past");
    assert!(!holds(&[read(0, 1, 7), write(2, 3, 7)]), "a read of the future");
}

#[test]
fn overlapping_reads_may_see_either_but_not_go_back() {
    let write = write(0, 10, 7);
    assert!(holds(&[write.clone(), read(1, 2, None), read(3, 4, 7)]));
    assert!(!holds(&[write.clone(), read(1, 2, 7), read(3, 4, None)]), "new, then old");
    assert!(holds(&[write, read(1, 4, 7), read(2, 5, None)]), "they overlap one another");
}

#[test]
fn a_write_that_never_returned_may_take_effect_late_or_never() {
    let lost = write(0, None, 7);
    assert!(holds(&[lost.clone(), read(1, 2, None), read(3, 4, None)]));
    assert!(holds(&[lost.clone(), read(1, 2, None), read(50, 60, 7)]));
    assert!(!holds(&[lost, read(1, 2, 7), read(50, 60, None)]), "once seen, it stays");
}

#[test]
fn a_known_history_that_takes_backtracking() {
    // Herlihy and Wing's figure with two writers: the second write must come first.
    let history = [write(0, 9, 1), write(1, 8, 2), read(2, 3, 1), read(10, 11, 1)];
    assert!(holds(&history));
    let history = [write(0, 9, 1), write(1, 8, 2), read(2, 3, 1), read(4, 5, 2), read(10, 11, 1)];
    assert!(!holds(&history), "1 was overwritten by 2 and there is one write of 1");
}

/// Tries every order.
fn naive(history: &History) -> bool {
    fn place(left: &[usize], state: Option<u32>, history: &History) -> bool {
        if left.iter().all(|call| history[*call].ended.is_none()) {
            return true;
        }
        left.iter().any(|next| {
            let is_first = left.iter().all(|other| {
                other == next || history[*other].ended.is_none_or(|end| end >= history[*next].begun)
            });
            let stepped = Register::default().step(&state, &history[*next].what);
            let rest: Vec<usize> = left.iter().copied().filter(|call| call != next).collect();
            is_first && stepped.is_some_and(|state| place(&rest, state, history))
        })
    }
    place(&(0..history.len()).collect::<Vec<_>>(), None, history)
}

fn calls() -> impl Strategy<Value = History> {
    let call = (0..12_u32, 0..6_u32, any::<bool>(), 0..3_u32, proptest::bool::weighted(0.2));
    proptest::collection::vec(call, 0..7).prop_flat_map(|drawn| {
        let history = drawn.into_iter().map(|(begun, lasts, writes, value, is_lost)| {
            let ended = begun + lasts;
            match writes {
                true => write(begun, (!is_lost).then_some(ended), value),
                false => read(begun, ended, (value > 0).then_some(value)),
            }
        });
        Just(history.collect())
    })
}

proptest! {
    #[test]
    fn the_search_agrees_with_one_that_tries_every_order(history in calls()) {
        prop_assert_eq!(holds(&history), naive(&history));
    }
}
