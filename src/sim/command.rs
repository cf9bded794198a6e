//! `starling-sim`: runs seeds, shows one, shrinks one.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};

use clap::Parser;
use indicatif::{HumanDuration, ProgressBar, ProgressStyle};

use super::run::{Options, Outcome, run};
use super::scenario::Scenario;
use super::shrink::shrink;
use super::trace::Detail;
use super::world::Selection;
use crate::node::PlantedBug;

/// Runs whole clusters from seeds, with faults, and checks what they promise.
#[derive(Clone, Debug, Parser)]
#[command(name = "starling-sim", version)]
pub struct Arguments {
    /// How many seeds to run.
    #[arg(long, default_value_t = 100, conflicts_with = "seed")]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0, conflicts_with = "seed")]
    from: u64,
    /// Runs the seeds of a file too: one a line, # begins a comment.
    #[arg(long, value_name = "FILE", conflicts_with = "seed")]
    file: Option<PathBuf>,
    /// Runs this seed alone.
    #[arg(long)]
    seed: Option<u64>,
    /// Prints the timeline of the run.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Prints every message and batch too.
    #[arg(long, requires = "trace")]
    messages: bool,
    /// Looks for fewer faults and operations that still fail.
    #[arg(long, requires = "seed")]
    shrink: bool,
    /// Makes only these faults: numbers, with commas; an empty text for none.
    #[arg(long, value_name = "LIST", requires = "seed")]
    only_faults: Option<String>,
    /// Has operators do only this: numbers, with commas; an empty text for nothing.
    #[arg(long, value_name = "NUMBERS")]
    only_actions: Option<String>,
    /// Takes only these steps: client.step, with commas.
    #[arg(long, value_name = "LIST", requires = "seed")]
    only_steps: Option<String>,
    /// Plants a bug in every node, to see it found.
    #[arg(long, value_name = "NAME", value_parser = parse_bug)]
    bug: Option<PlantedBug>,
    /// How many threads run seeds; by default one a core.
    #[arg(long)]
    threads: Option<usize>,
}

/// At most so many smaller runs are tried.
const SHRINK_RUNS: usize = 400;

/// Does what was asked for; the exit code says whether nothing was broken.
pub fn execute(arguments: &Arguments) -> ExitCode {
    let outcome = match arguments.seed {
        Some(seed) if arguments.shrink => show_shrunk(seed, arguments),
        Some(seed) => show_one(seed, arguments),
        None => run_many(arguments),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(message) => {
            eprintln!("starling-sim: {message}");
            ExitCode::from(2)
        }
    }
}

fn parse_bug(name: &str) -> Result<PlantedBug, String> {
    let known = PlantedBug::ALL.into_iter().find(|bug| format!("{bug:?}") == name);
    known.ok_or_else(|| {
        let names: Vec<String> = PlantedBug::ALL.iter().map(|bug| format!("{bug:?}")).collect();
        format!("there are: {}", names.join(", "))
    })
}

impl Arguments {
    fn options(&self) -> Result<Options, String> {
        let detail = match (self.trace, self.messages) {
            (_, true) => Detail::Everything,
            (true, false) => Detail::Timeline,
            (false, false) => Detail::Hash,
        };
        let faults =
            self.only_faults.as_deref().map(|list| each(list, parse_number)).transpose()?;
        let steps = self.only_steps.as_deref().map(|list| each(list, parse_step)).transpose()?;
        let actions =
            self.only_actions.as_deref().map(|list| each(list, parse_number)).transpose()?;
        Ok(Options { only: Selection { faults, steps, actions }, bug: self.bug, detail })
    }
}

fn each<T>(list: &str, parse: impl Fn(&str) -> Option<T>) -> Result<Vec<T>, String> {
    let parts = list.split(',').filter(|part| !part.is_empty());
    let parsed = parts.map(|part| parse(part).ok_or_else(|| format!("{part:?} is no such number")));
    parsed.collect()
}

fn parse_number(text: &str) -> Option<usize> {
    text.parse().ok()
}

fn parse_step(text: &str) -> Option<(usize, usize)> {
    let (client, step) = text.split_once('.')?;
    Some((client.parse().ok()?, step.parse().ok()?))
}

fn show_one(seed: u64, arguments: &Arguments) -> Result<bool, String> {
    let options = arguments.options()?;
    let scenario = Scenario::from_seed(seed);
    let described = describe(&scenario);
    let outcome = run(scenario, &options);
    if arguments.trace {
        println!("{described}");
        print!("{}", outcome.traced.text);
    }
    report(seed, &outcome, &options.only);
    println!(
        "seed {seed}: {} operations, {} of them answered; {} events; trace {:016x}",
        outcome.operations, outcome.succeeded, outcome.traced.events, outcome.traced.hash
    );
    Ok(outcome.is_good())
}

fn describe(scenario: &Scenario) -> String {
    let faults = scenario.faults.iter().enumerate();
    let faults: Vec<String> = faults.map(|(i, fault)| format!("  {i:>2}  {fault}")).collect();
    let actions = scenario.operators.iter().enumerate();
    let actions: Vec<String> = actions.map(|(i, planned)| format!("  {i:>2}  {planned}")).collect();
    format!(
        "seed {}: {} nodes, N={}, {} partitions, durability {:?}, {} clients, {} steps\n{:?}\nfaults:\n{}\noperators:\n{}",
        scenario.seed,
        scenario.nodes,
        scenario.replication_factor,
        scenario.partitions,
        scenario.durability,
        scenario.clients.len(),
        scenario.operations(),
        scenario.weather,
        faults.join("\n"),
        actions.join("\n")
    )
}

fn show_shrunk(seed: u64, arguments: &Arguments) -> Result<bool, String> {
    let options = arguments.options()?;
    let bar = ProgressBar::new_spinner();
    let mut on = |faults: usize, steps: usize| {
        bar.set_message(format!("{faults} faults and {steps} steps are left"));
        bar.tick();
    };
    let shrunk = shrink(seed, &options, SHRINK_RUNS, &mut on);
    bar.finish_and_clear();
    let Some(shrunk) = shrunk else {
        println!("seed {seed} breaks nothing");
        return Ok(true);
    };
    report(seed, &shrunk.outcome, &shrunk.only);
    println!("shrunk in {} runs", shrunk.runs);
    Ok(false)
}

/// Tells what was broken, and how to see it again.
fn report(seed: u64, outcome: &Outcome, only: &Selection) {
    for violation in &outcome.violations {
        println!("\nseed {seed} breaks {}:\n{}", violation.property, violation.text);
    }
    if !outcome.is_good() {
        println!("\nto see it again:\n  {}", command(seed, only));
    }
}

fn command(seed: u64, only: &Selection) -> String {
    let mut command =
        format!("cargo run --release --features sim --bin starling-sim -- --seed {seed} --trace");
    if let Some(actions) = &only.actions {
        let actions: Vec<String> = actions.iter().map(usize::to_string).collect();
        command.push_str(&format!(" --only-actions '{}'", actions.join(",")));
    }
    if let Some(faults) = &only.faults {
        let faults: Vec<String> = faults.iter().map(usize::to_string).collect();
        command.push_str(&format!(" --only-faults '{}'", faults.join(",")));
    }
    if let Some(steps) = &only.steps {
        let steps: Vec<String> = steps.iter().map(|(c, s)| format!("{c}.{s}")).collect();
        command.push_str(&format!(" --only-steps {}", steps.join(",")));
    }
    command
}

/// What came of many runs.
#[derive(Default)]
struct Total {
    failed: Vec<u64>,
    operations: usize,
    virtual_ms: u64,
}

fn run_many(arguments: &Arguments) -> Result<bool, String> {
    let options = arguments.options()?;
    let mut seeds: Vec<u64> = match &arguments.file {
        Some(file) => read_seeds(file)?,
        None => Vec::new(),
    };
    seeds.extend((0..arguments.seeds).map(|i| arguments.from.wrapping_add(i)));
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = arguments.threads.unwrap_or(cores).max(1);
    let bar = ProgressBar::new(seeds.len() as u64);
    let style = "{bar:40} {pos}/{len} seeds, {per_sec}, {eta} left {msg}";
    bar.set_style(ProgressStyle::with_template(style).expect("a valid template"));
    let total = play_all(&seeds, threads, &options, &bar);
    bar.finish_and_clear();
    let seconds = bar.elapsed().as_secs_f64().max(0.001);
    println!(
        "{} seeds in {} ({:.1} seeds/s on {threads} threads): {} operations, {} of virtual time",
        seeds.len(),
        HumanDuration(bar.elapsed()),
        seeds.len() as f64 / seconds,
        total.operations,
        HumanDuration(std::time::Duration::from_millis(total.virtual_ms)),
    );
    match total.failed.as_slice() {
        [] => println!("no property was broken"),
        failed => println!("{} seeds failed: {failed:?}", failed.len()),
    }
    Ok(total.failed.is_empty())
}

/// Runs every seed; failures are printed as they come.
fn play_all(seeds: &[u64], threads: usize, options: &Options, bar: &ProgressBar) -> Total {
    let next = AtomicUsize::new(0);

    let total = Mutex::new(Total::default());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = run(Scenario::from_seed(*seed), options);
                    let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
                    total.operations += outcome.operations;
                    total.virtual_ms += outcome.virtual_ms;
                    if !outcome.is_good() {
                        total.failed.push(*seed);
                        total.failed.sort_unstable();
                        bar.set_message(format!("({} failed)", total.failed.len()));
                        bar.suspend(|| report(*seed, &outcome, &options.only));
                    }
                    drop(total);
                    bar.inc(1);
                }
            });
        }
    });

    total.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn read_seeds(file: &Path) -> Result<Vec<u64>, String> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| format!("{} can't be read: {error}", file.display()))?;
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or("").trim());
    let numbers = lines.filter(|line| !line.is_empty());
    let parsed = numbers
        .map(|line| line.parse().map_err(|_| format!("{}: {line:?} is no seed", file.display())));
    parsed.collect()
}
