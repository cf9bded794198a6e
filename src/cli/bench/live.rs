//! The line that shows how a run goes, where there is a terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::load::plan::{Length, Plan};
use crate::load::report::Point;
use crate::load::run::{Part, Second};

/// See the module.
#[derive(Debug)]
pub(super) struct Live {
    bar: ProgressBar,
    /// Whether it moves by operations, not by time.
    counts: bool,
}

impl Live {
    /// A line for so many milliseconds or, if it is a loading one, operations.
    pub fn new(name: &'static str, steps: (u64, bool)) -> Self {
        let style = ProgressStyle::with_template("{prefix} {bar:24} {percent:>3} %  {msg}");
        let bar = ProgressBar::new(steps.0).with_prefix(name);
        bar.set_style(style.expect("a template that was tried").progress_chars("━━ "));
        Self { bar, counts: steps.1 }
    }

    /// How far a plan's line goes, and whether that is in operations.
    pub fn steps(plan: &Plan) -> (u64, bool) {
        match plan.length {
            Length::Count(count) => (count, true),
            Length::For(duration) => (milliseconds(plan.warm_up + duration), false),
        }
    }

    /// Shows a second that has ended.
    pub fn show(&mut self, second: &Second) {
        let is_warm_up = second.part == Part::WarmUp;
        match self.counts {
            true if is_warm_up => {}
            true => self.bar.inc(second.interval.done()),
            false => self.bar.inc(milliseconds(second.length)),
        }
        if let Some(point) = Point::of(second) {
            self.bar.set_message(describe(&point, is_warm_up));
        }
    }

    /// Takes the line away.
    pub fn end(&self) {
        self.bar.finish_and_clear();
    }
}

fn describe(point: &Point, is_warm_up: bool) -> String {
    let Point { per_second, failed_per_second, latency, .. } = point;
    let (p50, p99) = (latency.p50_us / 1_000.0, latency.p99_us / 1_000.0);
    let mut text = format!("{per_second:.0}/s  p50 {p50:.2} ms  p99 {p99:.2} ms");
    if *failed_per_second > 0.0 {
        text += &format!("  {failed_per_second:.0}/s failed");
    }
    if is_warm_up {
        text += "  (warm-up)";
    }
    text
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
