//! From OpenMetrics, which the metrics crate writes, to Prometheus' text format 0.0.4.
//!
//! They differ in one point that matters: OpenMetrics names a counter in `HELP` and `TYPE` without
//! the `_total` that its samples carry. A parser of the older format would take those samples for
//! another metric without a type.

/// The same metrics in the older format.
pub(super) fn to_prometheus_text(openmetrics: &str) -> String {
    let mut text = String::with_capacity(openmetrics.len() + 1_024);
    let mut lines = openmetrics.lines().peekable();
    while let Some(line) = lines.next() {
        // A HELP line is followed by the TYPE line of the same metric.
        let is_counter = is_type_of_counter(line)
            || (line.starts_with("# HELP ") && lines.peek().is_some_and(|l| is_type_of_counter(l)));
        if is_counter {
            push_with_total(&mut text, line);
        } else {
            text.push_str(line);
        }
        text.push('\n');
    }
    text
}

fn is_type_of_counter(line: &str) -> bool {
    line.starts_with("# TYPE ") && line.ends_with(" counter")
}

/// Puts `_total` behind the name in `# HELP name ...` and `# TYPE name ...`.
fn push_with_total(text: &mut String, line: &str) {
    let name_end = line.match_indices(' ').nth(2).map_or(line.len(), |(at, _)| at);
    text.push_str(&line[..name_end]);
    text.push_str("_total");
    text.push_str(&line[name_end..]);
}
