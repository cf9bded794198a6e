//! One run of a seed: a runtime of one thread on which time is virtual, and on it the world.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::Once;

use super::evidence::{Evidence, Violation};
use super::history::Outcome as Told;
use super::log::TraceLog;
use super::phases;
use super::properties;
use super::scenario::Scenario;
use super::trace::{Detail, Trace, Traced};
use super::world::{Selection, World};
use crate::node::PlantedBug;

/// What to run besides the seed.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Parts of the scenario.
    pub only: Selection,
    /// A bug in every node.
    pub bug: Option<PlantedBug>,
    /// How much is kept as text.
    pub detail: Detail,
}

/// What came of a run.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Everything that was broken.
    pub violations: Vec<Violation>,
    /// What happened.
    pub traced: Traced,
    /// Requests that clients sent.
    pub operations: usize,
    /// Those that were acknowledged or answered.
    pub succeeded: usize,
    /// Virtual time, in ms.
    pub virtual_ms: u64,
}

impl Outcome {
    /// Whether nothing was broken.
    pub fn is_good(&self) -> bool {
        self.violations.is_empty()
    }
}

thread_local! {
    /// What panicked on this thread while a run was on; tokio catches panics of tasks.
    static PANICS: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

/// Plays a scenario.
pub fn run(scenario: Scenario, options: &Options) -> Outcome {
    note_panics();
    PANICS.set(Some(Vec::new()));
    let played = catch_unwind(AssertUnwindSafe(|| play(scenario, options)));
    let mut outcome = played.unwrap_or_default();
    for panic in PANICS.take().unwrap_or_default() {
        outcome.violations.push(Violation::new("no panic", panic));
    }
    outcome
}

fn play(scenario: Scenario, options: &Options) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without I/O needs nothing of the system");
    runtime.block_on(async {
        let trace = Trace::new(options.detail);
        let _logs = (options.detail > Detail::Hash).then(|| TraceLog::install(&trace));
        let world = World::new(scenario, options.only.clone(), options.bug, trace.clone());
        let (mut violations, keys) = phases::play(&world).await;
        let recorded = world.history.recorded();
        let operations = recorded.attempts.len();
        let has_succeeded = |told: &Told| matches!(told, Told::Read { .. } | Told::Written { .. });
        let succeeded =
            recorded.attempts.iter().filter(|attempt| has_succeeded(&attempt.outcome)).count();
        let evidence = Evidence::new(&world.scenario, recorded, keys);
        violations.extend(properties::check(&evidence, &world.observer));
        for violation in &violations {
            trace.note("BROKEN", &format!("{}: {}", violation.property, violation.text));
        }
        let virtual_ms = trace.now_ms();
        shut_down(&world);
        Outcome { violations, traced: trace.finish(), operations, succeeded, virtual_ms }
    })
}

/// So that nothing of the world keeps itself alive.
fn shut_down(world: &Arc<World>) {
    for machine in &world.machines {
        machine.end(super::disk::Ending::ProcessDied, &world.common);
    }
}

fn note_panics() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let noted = PANICS.try_with(|panics| {
                let mut panics = panics.try_borrow_mut().ok()?;
                panics.as_mut()?.push(panic.to_string());
                Some(())
            });
            let is_ours = noted.ok().flatten().is_some();
            if !is_ours {
                before(panic);
            }
        }));
    });
}
