//! Draws plots as SVG, by hand: a frame with two axes, and lines, steps, bars and hover texts in it.
//!
//! Values go in, markup comes out. Colours are classes of the page's style sheet, so that one drawing fits
//! light and dark. It does not know what is drawn.

use std::fmt::Write;

use super::{escape::escape, scale::Axis};

const WIDTH: f64 = 560.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 28.0;

/// A drawing in progress.
pub struct Plot {
    x: Axis,
    y: Axis,
    left: f64,
    height: f64,
    body: String,
    /// Drawn last, so that nothing lies over it.
    hover: String,
    about: String,
}

impl Plot {
    /// A frame with grid and texts. `left` is the room for the texts of the y axis, `about` what a reader
    /// is told who cannot see it.
    pub fn new(about: &str, left: f64, height: f64, x: Axis, y: Axis) -> Self {
        let mut plot =
            Self { x, y, left, height, body: String::new(), hover: String::new(), about: about.to_owned() };
        plot.frame();
        plot
    }

    fn frame(&mut self) {
        let (right, bottom) = (WIDTH - RIGHT, self.height - BOTTOM);
        let mut out = String::new();
        for mark in &self.y.marks {
            let y = self.at_y(mark.value);
            let class = if mark.text.is_empty() { "fine" } else { "grid" };
            let _ = write!(out, r#"<path class="{class}" d="M{:.1} {y:.1}H{right:.1}"/>"#, self.left);
            if !mark.text.is_empty() {
                let (x, y) = (self.left - 7.0, y + 4.0);
                let text = escape(&mark.text);
                let _ = write!(out, r#"<text class="end" x="{x:.1}" y="{y:.1}">{text}</text>"#);
            }
        }
        for mark in &self.x.marks {
            let x = self.at_x(mark.value);
            let class = if mark.text.is_empty() { "fine" } else { "grid" };
            let _ = write!(out, r#"<path class="{class}" d="M{x:.1} {TOP:.1}V{bottom:.1}"/>"#);
            if !mark.text.is_empty() {
                let y = bottom + 18.0;
                // A text at the very end would leave the drawing.
                let class = if x > right - 12.0 { "end" } else { "middle" };
                let x = if x > right - 12.0 { WIDTH - 2.0 } else { x };
                let text = escape(&mark.text);
                let _ = write!(out, r#"<text class="{class}" x="{x:.1}" y="{y:.1}">{text}</text>"#);
            }
        }
        let _ = write!(out, r#"<path class="base" d="M{:.1} {bottom:.1}H{right:.1}"/>"#, self.left);
        self.body = out;
    }

    fn at_x(&self, value: f64) -> f64 {
        self.left + self.x.scale.place(value) * (WIDTH - RIGHT - self.left)
    }

    fn at_y(&self, value: f64) -> f64 {
        let bottom = self.height - BOTTOM;
        bottom - self.y.scale.place(value) * (bottom - TOP)
    }

    /// A line through points; `None` breaks it. A point that has no neighbour becomes a dot.
    pub fn line(&mut self, class: &str, points: impl Iterator<Item = Option<(f64, f64)>>) {
        let mut path = String::new();
        let mut dots = String::new();
        let mut run: Vec<(f64, f64)> = Vec::new();
        for point in points.chain([None]) {
            if let Some((x, y)) = point {
                run.push((self.at_x(x), self.at_y(y)));
                continue;
            }
            if let [(x, y)] = run[..] {
                let _ = write!(dots, r#"<circle class="dot {class}" cx="{x:.1}" cy="{y:.1}" r="2.5"/>"#);
            } else {
                for (n, (x, y)) in run.iter().enumerate() {
                    let _ = write!(path, "{}{x:.1} {y:.1}", if n == 0 { 'M' } else { 'L' });
                }
            }
            run.clear();
        }
        if !path.is_empty() {
            let _ = write!(self.body, r#"<path class="line {class}" d="{path}"/>"#);
        }
        self.body.push_str(&dots);
    }

    /// Steps with the area under them: a value for each stretch of the x axis, without holes between.
    pub fn steps(&mut self, class: &str, stretches: impl Iterator<Item = (f64, f64, f64)>) {
        let mut outline = String::new();
        let (mut first, mut last) = (None, 0.0);
        for (from, to, value) in stretches {
            let (from, to, y) = (self.at_x(from), self.at_x(to), self.at_y(value));
            let _ = write!(outline, "{}{from:.1} {y:.1}H{to:.1}", if first.is_none() { 'M' } else { 'L' });
            (first, last) = (first.or(Some(from)), to);
        }
        if let Some(first) = first {
            let bottom = self.height - BOTTOM;
            let _ = write!(
                self.body,
                r#"<path class="area {class}" d="{outline}L{last:.1} {bottom:.1}H{first:.1}Z"/><path class="line {class}" d="{outline}"/>"#
            );
        }
    }

    /// A bar between two x values and two y values, with a text on hover.
    pub fn bar(&mut self, class: &str, x: (f64, f64), y: (f64, f64), text: &str) {
        let (left, right) = (self.at_x(x.0), self.at_x(x.1));
        let (low, high) = (self.at_y(y.0), self.at_y(y.1));
        let (width, height) = ((right - left - 1.0).max(0.5), (low - high).max(0.5));
        let text = escape(text);
        let _ = write!(
            self.body,
            r#"<rect class="bar {class}" x="{left:.1}" y="{high:.1}" width="{width:.1}" height="{height:.1}"><title>{text}</title></rect>"#
        );
    }

    /// A dot with a text on hover.
    pub fn dot(&mut self, class: &str, x: f64, y: f64, text: &str) {
        let (x, y, text) = (self.at_x(x), self.at_y(y), escape(text));
        let _ = write!(
            self.hover,
            r#"<circle class="dot {class}" cx="{x:.1}" cy="{y:.1}" r="3.5"><title>{text}</title></circle>"#
        );
    }

    /// A short upright line between two y values, with a text beside its head.
    pub fn tick(&mut self, class: &str, x: f64, y: (f64, f64), text: &str) {
        let (x, low, high, text) = (self.at_x(x), self.at_y(y.0), self.at_y(y.1), escape(text));
        let _ = write!(self.body, r#"<path class="tick {class}" d="M{x:.1} {low:.1}V{high:.1}"/>"#);
        if !text.is_empty() {
            let (x, y) = (x + 3.0, high + 9.0);
            let _ = write!(self.body, r#"<text class="small" x="{x:.1}" y="{y:.1}">{text}</text>"#);
        }
    }

    /// A dashed line across the plot, with a text at its right end.
    pub fn level(&mut self, y: f64, text: &str) {
        let (y, right) = (self.at_y(y), WIDTH - RIGHT);
        let _ = write!(self.body, r#"<path class="level" d="M{:.1} {y:.1}H{right:.1}"/>"#, self.left);
        // Above the line, unless that is outside.
        let at = if y > TOP + 14.0 { y - 5.0 } else { y + 14.0 };
        let text = escape(text);
        let _ =
            write!(self.body, r#"<text class="end note" x="{:.1}" y="{at:.1}">{text}</text>"#, right - 4.0);
    }

    /// A text left of the plot.
    pub fn label(&mut self, y: f64, text: &str) {
        let (x, y, text) = (self.left - 8.0, self.at_y(y) - 4.0, escape(text));
        let _ = write!(self.body, r#"<text class="end name" x="{x:.1}" y="{y:.1}">{text}</text>"#);
    }

    /// A line from side to side at this y value.
    pub fn rule(&mut self, y: f64) {
        let (y, right) = (self.at_y(y), WIDTH - RIGHT);
        let _ = write!(self.body, r#"<path class="base" d="M{:.1} {y:.1}H{right:.1}"/>"#, self.left);
    }

    /// A stretch of the x axis that lights up and shows a text on hover.
    pub fn stretch(&mut self, from: f64, to: f64, text: &str) {
        let (from, to, text) = (self.at_x(from), self.at_x(to), escape(text));
        let (width, height) = ((to - from).max(0.5), self.height - BOTTOM - TOP);
        let _ = write!(
            self.hover,
            r#"<rect class="hit" x="{from:.1}" y="{TOP:.1}" width="{width:.1}" height="{height:.1}"><title>{text}</title></rect>"#
        );
    }

    /// The drawing.
    pub fn finish(self) -> String {
        let (about, height) = (escape(&self.about), self.height);
        let Self { body, hover, .. } = self;
        format!(r#"<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{about}">{body}{hover}</svg>"#)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::scale::{Mark, Scale};

    fn plot() -> Plot {
        let axis = |max: f64| Axis {
            scale: Scale::Linear { min: 0.0, max },
            marks: vec![Mark { value: max, text: "<&>".to_owned() }],
        };
        Plot::new("about \"<this>\"", 46.0, 140.0, axis(500.0), axis(100.0))
    }

    #[test]
    fn values_go_to_their_places() {
        let mut plot = plot();
        plot.line("a", [Some((0.0, 0.0)), Some((500.0, 100.0)), None, Some((250.0, 50.0))].into_iter());
        plot.steps("b", [(0.0, 250.0, 50.0), (250.0, 500.0, 100.0)].into_iter());
        let svg = plot.finish();
        assert!(svg.contains(r#"<path class="line a" d="M46.0 112.0L546.0 12.0"/>"#), "{svg}");
        assert!(svg.contains(r#"<circle class="dot a" cx="296.0" cy="62.0" r="2.5"/>"#), "{svg}");
        assert!(svg.contains(r#"d="M46.0 62.0H296.0L296.0 12.0H546.0"/>"#), "{svg}");
        assert!(svg.contains(r#"L546.0 112.0H46.0Z"/>"#), "{svg}");
    }

    #[test]
    fn values_that_are_no_numbers_stay_inside() {
        let mut plot = plot();
        let odd = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e300];
        plot.line("a", odd.into_iter().map(|value| Some((value, value))));
        plot.bar("a", (f64::NAN, f64::INFINITY), (0.0, f64::NAN), "x");
        let svg = plot.finish();
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }

    #[test]
    fn every_text_is_escaped() {
        let mut plot = plot();
        plot.bar("a", (0.0, 1.0), (0.0, 1.0), "<script>");
        plot.dot("a", 0.0, 1.0, "<script>");
        plot.tick("a", 0.0, (0.0, 1.0), "<script>");
        plot.level(1.0, "<script>");
        plot.label(1.0, "<script>");
        plot.stretch(0.0, 1.0, "<script>");
        let svg = plot.finish();
        assert!(!svg.contains("<script"), "{svg}");
        assert_eq!(svg.matches("&lt;script&gt;").count(), 6);
        assert_eq!(svg.matches("&lt;&amp;&gt;").count(), 2);
    }
}
