//! Makes a failing run smaller: fewer faults, fewer operations, and the same property broken.

use super::run::{Options, Outcome, run};
use super::scenario::Scenario;
use super::world::Selection;

/// What is left of a failing run.
#[derive(Clone, Debug)]
pub struct Shrunk {
    /// The faults and steps that are enough.
    pub only: Selection,
    /// What they lead to.
    pub outcome: Outcome,
    /// How many runs it took.
    pub runs: usize,
}

/// Tells of progress: faults and steps that are left.
pub type OnProgress<'a> = &'a mut dyn FnMut(usize, usize);

/// Shrinks a run that fails; `None` if it does not. Tries at most `most_runs` smaller ones.
pub fn shrink(
    seed: u64,
    options: &Options,
    most_runs: usize,
    on: OnProgress<'_>,
) -> Option<Shrunk> {
    let scenario = Scenario::from_seed(seed);
    let first = run(scenario.clone(), options);
    let property = first.violations.first()?.property;
    let steps = scenario
        .clients
        .iter()
        .enumerate()
        .flat_map(|(client, plan)| (0..plan.steps.len()).map(move |step| (client, step)));
    let faults: Vec<usize> = (0..scenario.faults.len()).collect();
    let faults = options.only.faults.clone().unwrap_or(faults);
    let actions: Vec<usize> = (0..scenario.operators.len()).collect();
    let actions = options.only.actions.clone().unwrap_or(actions);
    let steps = options.only.steps.clone().unwrap_or_else(|| steps.collect());
    let mut shrinking = Shrinking {
        scenario,
        options: options.clone(),
        property,
        faults,
        steps,
        actions,
        outcome: first,
        runs: 1,
        most_runs,
    };
    shrinking.shrink(on);
    let only = shrinking.selection();
    Some(Shrunk { only, outcome: shrinking.outcome, runs: shrinking.runs })
}

struct Shrinking {
    scenario: Scenario,
    options: Options,
    property: &'static str,
    faults: Vec<usize>,
    steps: Vec<(usize, usize)>,
    actions: Vec<usize>,
    outcome: Outcome,
    runs: usize,
    most_runs: usize,
}

impl Shrinking {
    /// Leaves out ever smaller parts, as long as what is left still fails (Zeller, Hildebrandt,
    /// *Simplifying and Isolating Failure-Inducing Input*, 2002).
    fn shrink(&mut self, on: OnProgress<'_>) {
        let mut size = self.steps.len().max(self.faults.len()).div_ceil(2);
        while size > 0 && self.runs < self.most_runs {
            self.faults = self.without_parts(self.faults.clone(), size, |this, faults| {
                this.still_fails(Selection { faults: Some(faults), ..this.selection() })
            });
            self.actions = self.without_parts(self.actions.clone(), size, |this, actions| {
                this.still_fails(Selection { actions: Some(actions), ..this.selection() })
            });
            self.steps = self.without_parts(self.steps.clone(), size, |this, steps| {
                this.still_fails(Selection { steps: Some(steps), ..this.selection() })
            });
            on(self.faults.len(), self.steps.len());
            size /= 2;
        }
    }

    fn without_parts<T: Clone>(
        &mut self,
        mut all: Vec<T>,
        size: usize,
        mut still_fails: impl FnMut(&mut Self, Vec<T>) -> bool,
    ) -> Vec<T> {
        let mut at = 0;
        while at < all.len() && self.runs < self.most_runs {
            let end = (at + size).min(all.len());
            let less: Vec<T> = all[..at].iter().chain(&all[end..]).cloned().collect();
            if still_fails(self, less.clone()) {
                all = less;
            } else {
                at = end;
            }
        }
        all
    }

    /// What is left.
    fn selection(&self) -> Selection {
        Selection {
            faults: Some(self.faults.clone()),
            steps: Some(self.steps.clone()),
            actions: Some(self.actions.clone()),
        }
    }

    fn still_fails(&mut self, only: Selection) -> bool {
        self.runs += 1;
        let options = Options { only, ..self.options.clone() };
        let outcome = run(self.scenario.clone(), &options);
        let fails = outcome.violations.iter().any(|broken| broken.property == self.property);
        if fails {
            self.outcome = outcome;
        }
        fails
    }
}
