//! Pictures of runs, as SVG: what happened over time, and latency against load.
//!
//! Drawn by hand: two panels with lines need no library. Colours follow the reader's
//! choice of light or dark.

mod panel;
mod scale;

use std::fmt::Write as _;

use crate::args::Plan;
use crate::plot::panel::{Line, Panel, WIDTH};
use crate::plot::scale::Scale;
use crate::report::{pace, setting};
use crate::run::{Latency, Measured, Row};

/// From the upper end of one panel to that of the next.
const PANEL_HEIGHT: f64 = 300.0;
/// The room for the title.
const TITLE_HEIGHT: f64 = 58.0;

const STYLE: &str = "\
    text{font:13px system-ui,-apple-system,'Segoe UI','DejaVu Sans',sans-serif;fill:#1f2328}\
    .title{font-size:15px;font-weight:600}.name{font-weight:600}.tick{font-size:12px;fill:#59636e}\
    .page{fill:#fff}.grid{stroke:#d1d9e0;stroke-width:1}.axis{stroke:#818b98;stroke-width:1}\
    .line{fill:none;stroke-width:2;stroke-linecap:round;stroke-linejoin:round}.dashed{stroke-dasharray:2 6}\
    .c0{stroke:#0969da}.c1{stroke:#bc4c00}.c2{stroke:#8250df}.c3{stroke:#cf222e}.c4{stroke:#818b98}\
    @media (prefers-color-scheme:dark){\
    text{fill:#f0f6fc}.tick{fill:#9198a1}.page{fill:#0d1117}.grid{stroke:#2a313c}.axis{stroke:#656c76}\
    .c0{stroke:#4493f8}.c1{stroke:#f0883e}.c2{stroke:#ab7df8}.c3{stroke:#f85149}.c4{stroke:#9198a1}}";

const BLUE: usize = 0;
const ORANGE: usize = 1;
const PURPLE: usize = 2;
const RED: usize = 3;
const GREY: usize = 4;

/// Throughput and latency over the time of one run.
pub fn over_time(plan: &Plan, measured: &Measured) -> String {
    let rows = &measured.rows;
    let seconds = measured.seconds;
    let along = |value: &dyn Fn(&Row) -> Option<f64>| -> Vec<(f64, Option<f64>)> {
        rows.iter()
            .map(|row| (f64::midpoint(row.begin, row.end), value(row)))
            .collect()
    };
    let mut throughput = vec![Line::new(
        "answered",
        BLUE,
        along(&|row| Some(row.per_second(row.answered))),
    )];
    if rows.iter().any(|row| row.errors > 0) {
        let errors = along(&|row| Some(row.per_second(row.errors)));
        throughput.push(Line::new("errors", RED, errors));
    }
    if let Some(rate) = measured.rate {
        let offered = vec![(0.0, Some(rate)), (seconds, Some(rate))];
        throughput.push(Line::new("offered", GREY, offered).dashed());
    }
    let latency = |of: fn(&Latency) -> f64| along(&|row| row.latency.as_ref().map(of));
    let latency = vec![
        Line::new("median", BLUE, latency(|l| l.p50)),
        Line::new("99 %", ORANGE, latency(|l| l.p99)),
        Line::new("longest", PURPLE, latency(|l| l.max)),
    ];
    let time = Scale::linear(0.0, seconds);
    page(
        plan,
        &pace(measured.rate),
        &[
            Panel::counts("operations per second", "seconds", time.clone(), throughput),
            Panel::latencies("latency", "seconds", time, latency),
        ],
    )
}

/// Latency against load: one point for each run of a sweep.
pub fn against_load(plan: &Plan, sweep: &[Measured]) -> String {
    let along = |value: &dyn Fn(&Measured) -> Option<f64>| -> Vec<(f64, Option<f64>)> {
        let mut points: Vec<_> = sweep
            .iter()
            .map(|step| (step.rate.unwrap_or(0.0), value(step)))
            .collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        points
    };
    let latency = |of: fn(&Latency) -> f64| {
        along(&|step: &Measured| Latency::of(&step.total).as_ref().map(of))
    };
    let latency = vec![
        Line::new("median", BLUE, latency(|l| l.p50)),
        Line::new("99 %", ORANGE, latency(|l| l.p99)),
        Line::new("99.9 %", PURPLE, latency(|l| l.p999)),
    ];
    let most = sweep
        .iter()
        .filter_map(|step| step.rate)
        .fold(0.0, f64::max);
    let throughput = vec![
        Line::new("answered", BLUE, along(&|step| Some(step.per_second()))),
        Line::new("offered", GREY, vec![(0.0, Some(0.0)), (most, Some(most))]).dashed(),
    ];
    let load = Scale::linear(0.0, most);
    let x_name = "offered operations per second";
    page(
        plan,
        "latency against load",
        &[
            Panel::latencies("latency", x_name, load.clone(), latency),
            Panel::counts("answered per second", x_name, load, throughput),
        ],
    )
}

fn page(plan: &Plan, what: &str, panels: &[Panel]) -> String {
    let height = TITLE_HEIGHT + PANEL_HEIGHT * panels.len() as f64;
    let title = escaped(&format!("{}, {what}", plan.op));
    let setting = escaped(&setting(plan));
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         width=\"{WIDTH}\" height=\"{height}\" role=\"img\">\n\
         <title>{title}</title>\n<style>{STYLE}</style>\n\
         <rect class=\"page\" width=\"{WIDTH}\" height=\"{height}\"/>\n\
         <text class=\"title\" x=\"20\" y=\"28\">{title}</text>\n\
         <text class=\"tick\" x=\"20\" y=\"48\">{setting}</text>\n"
    );
    for (n, panel) in panels.iter().enumerate() {
        let top = TITLE_HEIGHT + PANEL_HEIGHT * n as f64;
        let _ = writeln!(out, "<g transform=\"translate(0 {top})\">");
        panel.draw(&mut out, PANEL_HEIGHT);
        out.push_str("</g>\n");
    }
    out.push_str("</svg>\n");
    out
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests;
