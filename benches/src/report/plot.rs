//! Plots as SVG: bars of medians, with a whisker from the least to the most.

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use super::table::{figure, implementations};
use crate::implementation::Implementation;
use crate::measure::Measure;
use crate::sample::{Results, Sample};
use crate::statistics::Summary;
use crate::summary::{cpu_per_gib, forward, over_rounds, value};

const WIDTH: u32 = 760;
const ROW: u32 = 30;
const MARGIN: u32 = 90;

/// Room for the names, in pixels.
const NAMES: u32 = 170;

/// One bar.
struct Bar {
    implementation: Implementation,
    rounds: Summary,
}

pub(super) fn all(results: &Results) -> Result<Vec<(&'static str, String)>> {
    let plots = [
        (
            "tcp1",
            "One TCP stream, Gbit/s",
            bars(results, forward(1), value),
        ),
        (
            "tcp4",
            "Four TCP streams, Gbit/s",
            bars(results, forward(4), value),
        ),
        (
            "cpu",
            "CPU seconds per GiB, both nodes, one TCP stream",
            bars(results, forward(1), cpu_per_gib),
        ),
        (
            "udp64",
            "UDP packets of 64 B a second, 0.1 % lost at most",
            bars(results, Measure::udp(64, false), value),
        ),
        (
            "rtt",
            "Round trip beside a TCP stream, p99, µs",
            bars(results, Measure::RttLoaded, value),
        ),
    ];
    plots
        .into_iter()
        .filter(|(.., bars)| !bars.is_empty())
        .map(|(name, title, bars)| {
            let missing = missing(results, &bars);
            Ok((name, draw(&format!("{title}{missing}"), &bars)?))
        })
        .collect()
}

/// Who is not among the bars and was to be.
fn missing(results: &Results, bars: &[Bar]) -> String {
    let is_bar = |one: Implementation| bars.iter().any(|bar| bar.implementation == one);
    let absences = results.absences.iter();
    let mut absent: Vec<Implementation> = absences.map(|absence| absence.implementation).collect();
    absent.retain(|one| !is_bar(*one));
    absent.dedup();
    if absent.is_empty() {
        return String::new();
    }
    let names: Vec<String> = absent.iter().map(ToString::to_string).collect();
    format!(" (not here: {})", names.join(", "))
}

fn bars(results: &Results, measure: Measure, figure: impl Fn(&Sample) -> Option<f64>) -> Vec<Bar> {
    let bar = |implementation| {
        Some(Bar {
            implementation,
            rounds: over_rounds(results, implementation, measure, &figure)?,
        })
    };
    implementations(results)
        .into_iter()
        .filter_map(bar)
        .collect()
}

fn draw(title: &str, bars: &[Bar]) -> Result<String> {
    let failed = |error: DrawingAreaErrorKind<_>| anyhow!("drawing: {error}");
    let count = u32::try_from(bars.len())?;
    let most = bars.iter().map(|bar| bar.rounds.most).fold(0.0, f64::max);
    let mut text = String::new();
    {
        let area =
            SVGBackend::with_string(&mut text, (WIDTH, MARGIN + ROW * count)).into_drawing_area();
        area.fill(&WHITE).map_err(failed)?;
        let mut chart = ChartBuilder::on(&area)
            .caption(title, ("sans-serif", 16))
            .margin(12)
            .x_label_area_size(24)
            .y_label_area_size(NAMES)
            .build_cartesian_2d(0.0..most * 1.15, (0..bars.len()).into_segmented())
            .map_err(failed)?;
        chart
            .configure_mesh()
            .disable_y_mesh()
            .y_labels(bars.len())
            .y_label_formatter(&|segment| match segment {
                SegmentValue::CenterOf(row) => name(bars, *row),
                SegmentValue::Exact(_) | SegmentValue::Last => String::new(),
            })
            .label_style(("sans-serif", 13))
            .draw()
            .map_err(failed)?;
        for (row, bar) in bars.iter().rev().enumerate() {
            chart
                .draw_series([bar_of(row, bar), whisker_of(row, bar)])
                .map_err(failed)?;
            chart
                .draw_series([Text::new(
                    format!(" {}", figure(bar.rounds.median)),
                    (bar.rounds.most, SegmentValue::CenterOf(row)),
                    ("sans-serif", 13),
                )])
                .map_err(failed)?;
        }
        area.present().map_err(failed)?;
    }
    Ok(text)
}

/// The first implementation is the topmost.
fn name(bars: &[Bar], row: usize) -> String {
    bars.iter()
        .rev()
        .nth(row)
        .map_or_else(String::new, |bar| bar.implementation.to_string())
}

type Place = (f64, SegmentValue<usize>);

fn bar_of(row: usize, bar: &Bar) -> Rectangle<Place> {
    let color = if bar.implementation.is_podwire() {
        RGBColor(37, 99, 160)
    } else {
        RGBColor(150, 150, 150)
    };
    let ends = [
        (0.0, SegmentValue::Exact(row)),
        (bar.rounds.median, SegmentValue::Exact(row + 1)),
    ];
    let mut rectangle = Rectangle::new(ends, color.filled());
    rectangle.set_margin(5, 5, 0, 0);
    rectangle
}

/// A thin bar from the least to the most.
fn whisker_of(row: usize, bar: &Bar) -> Rectangle<Place> {
    let ends = [
        (bar.rounds.least, SegmentValue::Exact(row)),
        (bar.rounds.most, SegmentValue::Exact(row + 1)),
    ];
    let mut rectangle = Rectangle::new(ends, BLACK.mix(0.6).filled());
    rectangle.set_margin(14, 14, 0, 0);
    rectangle
}
