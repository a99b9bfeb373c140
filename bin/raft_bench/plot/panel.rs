//! One pair of axes with lines between them.

use std::fmt::Write as _;

use crate::plot::scale::{Scale, duration, plain};

/// The width of a panel, in pixels.
pub const WIDTH: f64 = 880.0;
const LEFT: f64 = 84.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 52.0;
/// Up to so many points are drawn as dots too.
const DOTS_MAX: usize = 40;
/// What a letter of the legend is taken to be wide.
const LETTER: f64 = 7.5;
/// The part of the legend beside the letters.
const LEGEND_GAP: f64 = 46.0;

/// Points that are joined by a line; it is broken where there is no value.
#[derive(Clone, Debug)]
pub struct Line {
    name: &'static str,
    colour: usize,
    is_dashed: bool,
    points: Vec<(f64, Option<f64>)>,
}

impl Line {
    /// `colour` is the number of a class of the style.
    pub fn new(name: &'static str, colour: usize, points: Vec<(f64, Option<f64>)>) -> Line {
        Line {
            name,
            colour,
            is_dashed: false,
            points,
        }
    }

    pub fn dashed(mut self) -> Line {
        self.is_dashed = true;
        self
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Panel {
    name: &'static str,
    x_name: &'static str,
    x: Scale,
    y: Scale,
    /// How the marks of the y axis are written.
    y_label: fn(f64) -> String,
    lines: Vec<Line>,
}

impl Panel {
    /// Values from 0 on.
    pub fn counts(name: &'static str, x_name: &'static str, x: Scale, lines: Vec<Line>) -> Panel {
        Panel {
            name,
            x_name,
            x,
            y: Scale::counts(values(&lines)),
            y_label: plain,
            lines,
        }
    }

    /// Values in microseconds, over orders of magnitude.
    pub fn latencies(
        name: &'static str,
        x_name: &'static str,
        x: Scale,
        lines: Vec<Line>,
    ) -> Panel {
        Panel {
            name,
            x_name,
            x,
            y: Scale::log(values(&lines)),
            y_label: duration,
            lines,
        }
    }

    /// Appends the panel, with its upper left corner at the origin.
    pub fn draw(&self, out: &mut String, height: f64) {
        let bottom = height - BOTTOM;
        let right = WIDTH - RIGHT;
        self.draw_grid(out, bottom, right);
        let middle = f64::midpoint(LEFT, right);
        let _ = writeln!(
            out,
            "<text class=\"name\" x=\"{LEFT}\" y=\"24\">{}</text>\n\
             <text class=\"tick\" text-anchor=\"middle\" x=\"{middle:.1}\" y=\"{:.1}\">{}</text>",
            self.name,
            bottom + 38.0,
            self.x_name
        );
        self.draw_legend(out, right);
        for line in &self.lines {
            self.draw_line(out, line, bottom, right);
        }
    }

    fn draw_grid(&self, out: &mut String, bottom: f64, right: f64) {
        for tick in self.y.minor_ticks() {
            let y = self.y_place(tick, bottom);
            let _ = writeln!(
                out,
                "<path class=\"grid\" opacity=\"0.5\" d=\"M{LEFT} {y:.1}H{right}\"/>"
            );
        }
        for tick in self.y.ticks() {
            let y = self.y_place(tick, bottom);
            let _ = writeln!(
                out,
                "<path class=\"grid\" d=\"M{LEFT} {y:.1}H{right}\"/>\
                 <text class=\"tick\" text-anchor=\"end\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                LEFT - 10.0,
                y + 4.0,
                (self.y_label)(tick)
            );
        }
        for tick in self.x.ticks() {
            let x = self.x_place(tick, right);
            let _ = writeln!(
                out,
                "<path class=\"axis\" d=\"M{x:.1} {bottom:.1}v5\"/>\
                 <text class=\"tick\" text-anchor=\"middle\" x=\"{x:.1}\" y=\"{:.1}\">{}</text>",
                bottom + 19.0,
                plain(tick)
            );
        }
        let _ = writeln!(
            out,
            "<path class=\"axis\" d=\"M{LEFT} {bottom:.1}H{right}\"/>"
        );
    }

    /// The names of the lines, to the right of the panel's own.
    fn draw_legend(&self, out: &mut String, right: f64) {
        let mut x = right;
        for line in self.lines.iter().rev() {
            x -= line.name.chars().count() as f64 * LETTER + LEGEND_GAP;
            let _ = writeln!(
                out,
                "<path class=\"{}\" d=\"M{:.1} 20h22\"/><text x=\"{:.1}\" y=\"24\">{}</text>",
                classes(line),
                x + 12.0,
                x + 40.0,
                line.name
            );
        }
    }

    fn draw_line(&self, out: &mut String, line: &Line, bottom: f64, right: f64) {
        let mut path = String::new();
        let mut dots = String::new();
        let mut is_joined = false;
        for (x, value) in &line.points {
            let Some(value) = value else {
                is_joined = false;
                continue;
            };
            let (x, y) = (self.x_place(*x, right), self.y_place(*value, bottom));
            let command = if is_joined { 'L' } else { 'M' };
            let _ = write!(path, "{command}{x:.1} {y:.1}");
            if !is_joined {
                // A point without neighbours is a dot: a line of no length has round ends.
                path.push_str("h0");
            }
            let _ = write!(dots, "M{x:.1} {y:.1}h0");
            is_joined = true;
        }
        let classes = classes(line);
        let _ = writeln!(out, "<path class=\"{classes}\" d=\"{path}\"/>");
        if line.points.len() <= DOTS_MAX && !line.is_dashed {
            let _ = writeln!(
                out,
                "<path class=\"{classes}\" style=\"stroke-width:7\" d=\"{dots}\"/>"
            );
        }
    }

    fn x_place(&self, value: f64, right: f64) -> f64 {
        LEFT + self.x.place(value) * (right - LEFT)
    }

    fn y_place(&self, value: f64, bottom: f64) -> f64 {
        bottom - self.y.place(value) * (bottom - TOP)
    }
}

fn values(lines: &[Line]) -> impl Iterator<Item = f64> {
    let points = lines.iter().flat_map(|line| &line.points);
    points.filter_map(|(_, value)| *value)
}

fn classes(line: &Line) -> String {
    let dashed = if line.is_dashed { " dashed" } else { "" };
    format!("line c{}{dashed}", line.colour)
}
