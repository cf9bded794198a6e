//! The picture of a run: throughput and latencies over time, as an HTML file that needs nothing else.

use plotters::chart::{ChartBuilder, SeriesLabelPosition};
use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::{IntoDrawingArea, IntoLogRange, LineSeries, PathElement, SVGBackend};
use plotters::style::{BLACK, Color, RGBColor, WHITE};

use super::summary;
use crate::load::Report;
use crate::load::report::Point;

const SIZE: (u32, u32) = (1_000, 320);
const BLUE: RGBColor = RGBColor(0x1f, 0x77, 0xb4);
const GREEN: RGBColor = RGBColor(0x2c, 0xa0, 0x2c);
const ORANGE: RGBColor = RGBColor(0xff, 0x7f, 0x0e);
const RED: RGBColor = RGBColor(0xd6, 0x27, 0x28);
const FONT: (&str, i32) = ("sans-serif", 14);

/// One line of a chart.
struct Line {
    name: &'static str,
    colour: RGBColor,
    value: fn(&Point) -> f64,
}

const THROUGHPUT: [Line; 2] = [
    Line { name: "done", colour: BLUE, value: |point| point.per_second },
    Line { name: "failed", colour: RED, value: |point| point.failed_per_second },
];
const LATENCY: [Line; 4] = [
    Line { name: "p50", colour: BLUE, value: |point| point.latency.p50_us / 1_000.0 },
    Line { name: "p99", colour: GREEN, value: |point| point.latency.p99_us / 1_000.0 },
    Line { name: "p99.9", colour: ORANGE, value: |point| point.latency.p99_9_us / 1_000.0 },
    Line { name: "max", colour: RED, value: |point| point.latency.max_us / 1_000.0 },
];

/// The page.
///
/// # Errors
/// What the library says of a chart that it can't draw.
pub(super) fn render(report: &Report) -> anyhow::Result<String> {
    let (throughput, latency) = (throughput(report)?, latency(report)?);
    let escape = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    Ok(format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
         <title>starling bench</title>\n\
         <style>body{{font:14px sans-serif;max-width:1000px;margin:2em auto}}\
         pre{{background:#f6f6f6;padding:1em;overflow:auto}}svg{{width:100%;height:auto}}</style>\n\
         </head><body>\n<h1>starling bench</h1>\n<p>{} · {}</p>\n\
         <h2>Operations a second</h2>\n{throughput}\n<h2>Latency, ms</h2>\n{latency}\n\
         <pre>{}</pre>\n</body></html>\n",
        escape(&report.software),
        escape(&report.begun),
        escape(&summary::render(report)),
    ))
}

/// How far the axis of time goes.
fn end(points: &[Point]) -> f64 {
    points.last().map_or(1.0, |point| point.start_seconds + 1.0)
}

fn greatest(points: &[Point], lines: &[Line]) -> f64 {
    let values = lines.iter().flat_map(|line| points.iter().map(line.value));
    values.fold(0.0, f64::max)
}

fn throughput(report: &Report) -> anyhow::Result<String> {
    let top = greatest(&report.seconds, &THROUGHPUT).max(1.0) * 1.05;
    draw(&report.seconds, &THROUGHPUT, 0.0..top)
}

fn latency(report: &Report) -> anyhow::Result<String> {
    let points = &report.seconds;
    let p50 = points.iter().map(|point| point.latency.p50_us / 1_000.0).filter(|ms| *ms > 0.0);
    let least = p50.fold(f64::INFINITY, f64::min).clamp(0.001, 1_000.0);
    let top = (greatest(points, &LATENCY) * 1.3).max(least * 10.0);
    draw(points, &LATENCY, (least / 1.5..top).log_scale())
}

fn draw<Y>(points: &[Point], lines: &[Line], y: Y) -> anyhow::Result<String>
where
    Y: AsRangedCoord<Value = f64>,
    Y::CoordDescType: ValueFormatter<f64>,
{
    let mut svg = String::new();
    let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .margin(8)
        .x_label_area_size(36)
        .y_label_area_size(72)
        .build_cartesian_2d(0.0..end(points), y)?;
    chart
        .configure_mesh()
        .x_desc("seconds")
        .label_style(FONT)
        .y_label_formatter(&|value| short(*value))
        .light_line_style(BLACK.mix(0.04))
        .draw()?;
    for line in lines {
        let style = line.colour.stroke_width(2);
        let place = |point: &Point| (point.start_seconds, (line.value)(point));
        chart
            .draw_series(LineSeries::new(points.iter().map(place), style))?
            .label(line.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], style));
    }
    chart
        .configure_series_labels()
        .background_style(WHITE.mix(0.8))
        .label_font(FONT)
        .position(SeriesLabelPosition::UpperRight)
        .draw()?;
    area.present()?;
    drop(chart);
    drop(area);
    Ok(svg)
}

/// A number of an axis.
fn short(value: f64) -> String {
    match value {
        0.0 | 10.0.. => format!("{value:.0}"),
        1.0..10.0 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::render;
    use crate::load::report::{Latency, Point, Report};

    fn report(points: usize) -> Report {
        let latency = Latency { p50_us: 400.0, p99_us: 2_000.0, max_us: 9e6, ..Latency::default() };
        let point = |number: usize| Point {
            start_seconds: number as f64,
            per_second: 20_000.0,
            failed_per_second: 3.0,
            latency,
        };
        Report { seconds: (0..points).map(point).collect(), ..Report::default() }
    }

    #[test]
    fn a_page_stands_alone_whatever_there_is_to_draw() {
        for points in [0, 1, 60] {
            let page = render(&report(points)).expect("a page");
            assert_eq!(page.matches("<svg").count(), 2, "{points}");
            for foreign in ["http://www.w3.org/2000/svg", "http", "src=", "<script"] {
                let count = page.matches(foreign).count();
                assert_eq!(count, if foreign.starts_with("http") { 2 } else { 0 }, "{foreign}");
            }
        }
    }

    #[test]
    fn what_the_settings_say_is_no_markup() {
        let mut report = report(1);
        report.settings.insert("workload".into(), "<b>".into());
        assert!(!render(&report).expect("a page").contains("<b>"));
    }
}
