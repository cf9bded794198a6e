//! Is there an order of calls that explains what they returned, and that respects which of them
//! ended before which began? (Herlihy and Wing, *Linearizability*, 1990.)
//!
//! The search is that of Wing and Gong, *Testing and Verifying Concurrent Objects* (1993), with the
//! memoisation of Lowe, *Testing for linearizability* (2017): a set of calls that was placed before
//! with the same resulting state is not searched again. To be used for one key at a time.

use std::collections::HashSet;
use std::hash::Hash;

#[cfg(test)]
mod tests;

/// One call of a history. `M` is any moment that can be ordered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call<M, C> {
    /// When it was sent.
    pub begun: M,
    /// When it returned; `None`: never. Then it may take effect at any time, or not at all.
    pub ended: Option<M>,
    /// What was asked and returned.
    pub what: C,
}

/// What a history is checked against: a deterministic object.
pub trait Model {
    /// What was asked and returned.
    type Call;
    /// The object.
    type State: Clone + Eq + Hash;

    /// The object before any call.
    fn initial(&self) -> Self::State;

    /// The object after a call, if the call returns from this state what it did return.
    fn step(&self, state: &Self::State, call: &Self::Call) -> Option<Self::State>;
}

/// Whether some order explains a history. Exponential in how many calls overlap.
pub fn is_linearizable<M: Ord + Copy, D: Model>(model: &D, calls: &[Call<M, D::Call>]) -> bool {
    let mut order: Vec<&Call<M, D::Call>> = calls.iter().collect();
    order.sort_by_key(|call| call.begun);
    let search = Search { model, calls: &order };
    search.run()
}

struct Search<'a, M, D: Model> {
    model: &'a D,
    /// By begin.
    calls: &'a [&'a Call<M, D::Call>],
}

/// Which calls were placed.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Placed(Vec<u64>);

impl Placed {
    fn none(calls: usize) -> Self {
        Self(vec![0; calls.div_ceil(64)])
    }

    fn has(&self, call: usize) -> bool {
        self.0[call / 64] >> (call % 64) & 1 == 1
    }

    fn with(&self, call: usize) -> Self {
        let mut placed = self.clone();
        placed.0[call / 64] |= 1 << (call % 64);
        placed
    }
}

impl<M: Ord + Copy, D: Model> Search<'_, M, D> {
    fn run(&self) -> bool {
        let mut seen = HashSet::new();
        let mut open = vec![(Placed::none(self.calls.len()), self.model.initial())];
        while let Some((placed, state)) = open.pop() {
            if self.is_done(&placed) {
                return true;
            }
            for call in self.candidates(&placed) {
                let Some(next) = self.model.step(&state, &self.calls[call].what) else { continue };
                let step = (placed.with(call), next);
                if seen.insert(step.clone()) {
                    open.push(step);
                }
            }
        }
        false
    }

    /// Calls that never returned need no place.
    fn is_done(&self, placed: &Placed) -> bool {
        (0..self.calls.len()).all(|call| placed.has(call) || self.calls[call].ended.is_none())
    }

    /// Those that can come next: begun before any other that is open has ended.
    fn candidates(&self, placed: &Placed) -> Vec<usize> {
        let open = || (0..self.calls.len()).filter(|call| !placed.has(*call));
        let first_end = open().filter_map(|call| self.calls[call].ended).min();
        open()
            .take_while(|call| first_end.is_none_or(|end| self.calls[*call].begun <= end))
            .collect()
    }
}

/// A call of a [`Register`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RegisterCall<V> {
    /// It now holds this.
    Write(V),
    /// It held one of these; of none: it held nothing.
    Read(Vec<V>),
}

/// Holds the value that was written last.
#[derive(Clone, Copy, Debug)]
pub struct Register<V>(std::marker::PhantomData<V>);

impl<V> Default for Register<V> {
    fn default() -> Self {
        Self(std::marker::PhantomData)
    }
}

impl<V: Clone + Eq + Hash> Model for Register<V> {
    type Call = RegisterCall<V>;
    type State = Option<V>;

    fn initial(&self) -> Option<V> {
        None
    }

    fn step(&self, state: &Option<V>, call: &RegisterCall<V>) -> Option<Option<V>> {
        match call {
            RegisterCall::Write(value) => Some(Some(value.clone())),
            RegisterCall::Read(values) => match state {
                None => values.is_empty().then_some(None),
                Some(value) => values.contains(value).then(|| state.clone()),
            },
        }
    }
}
