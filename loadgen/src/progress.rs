//! A line on standard error about a run that is under way.
//!
//! On a terminal one line is written over again each second; elsewhere, as in a log of a build, there is a
//! new one every few seconds. Nothing here fails a run: a line that cannot be written is not written.

use std::{
    io::{self, IsTerminal, Write},
    time::Duration,
};

use crate::{
    measured::Tick,
    observe::{Observer, Totals},
    report::units,
};

/// How often there is a line where lines stay.
const LINE_EVERY: Duration = Duration::from_secs(5);
const COLUMNS_DEFAULT: usize = 80;
const BAR_CELLS_MAX: usize = 30;
/// A bar with fewer cells says nothing.
const BAR_CELLS_MIN: usize = 8;
/// Writes over the line before.
const LINE_START: &str = "\r\x1b[2K";

/// Shows how far a run is, how fast, and with which p99.
pub struct Bar<W: Write + Send = io::Stderr> {
    out: W,
    look: Look,
    shown_at: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    /// One line, written over.
    Terminal,
    /// A line now and then.
    Lines,
    Nothing,
}

impl Bar {
    /// A bar on standard error; with `quiet`, nothing unless a person is watching.
    pub fn new(quiet: bool) -> Self {
        let look = match (io::stderr().is_terminal(), quiet) {
            (true, _) => Look::Terminal,
            (false, false) => Look::Lines,
            (false, true) => Look::Nothing,
        };
        Self { out: io::stderr(), look, shown_at: None }
    }
}

impl<W: Write + Send> Observer for Bar<W> {
    fn tick(&mut self, tick: &Tick, totals: &Totals) {
        let text = match self.look {
            Look::Nothing => return,
            Look::Terminal => format!("{LINE_START}{}", line(tick, totals, columns())),
            Look::Lines => {
                let due =
                    self.shown_at.is_none_or(|shown| totals.elapsed.saturating_sub(shown) >= LINE_EVERY);
                if !due {
                    return;
                }
                self.shown_at = Some(totals.elapsed);
                format!("{}\n", words(tick, totals))
            }
        };
        self.write(&text);
    }

    fn done(&mut self) {
        if self.look == Look::Terminal {
            self.write(LINE_START);
        }
        self.look = Look::Nothing;
    }
}

impl<W: Write + Send> Bar<W> {
    fn write(&mut self, text: &str) {
        let _ = self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush());
    }
}

/// Width of the terminal. The last column stays free: some terminals wrap when it is written.
fn columns() -> usize {
    let size = rustix::termios::tcgetwinsize(io::stderr());
    size.map_or(COLUMNS_DEFAULT, |size| usize::from(size.ws_col)).clamp(20, 200) - 1
}

/// What is going on, without a bar.
fn words(tick: &Tick, totals: &Totals) -> String {
    let rate = if tick.length.is_zero() { 0.0 } else { tick.records as f64 / tick.length.as_secs_f64() };
    let mut words = format!("{:.0} s", totals.elapsed.as_secs_f64());
    if totals.warming_up {
        words.push_str("  warming up");
    }
    if totals.records > 0 {
        words.push_str(&format!("  {} records", units::short(totals.records as f64)));
    }
    words.push_str(&format!("  {} records/s  p99 {}", units::rate(rate), units::micros(tick.p99_us)));
    if totals.failed > 0 {
        words.push_str(&format!("  {} FAILED", units::count(totals.failed)));
    }
    words
}

/// The same with a bar before it, as far as there is room.
fn line(tick: &Tick, totals: &Totals, columns: usize) -> String {
    let words = words(tick, totals);
    let Some(done) = totals.done.filter(|done| done.is_finite()) else {
        return words.chars().take(columns).collect();
    };
    let done = done.clamp(0.0, 1.0);
    let percent = format!("{:3.0}%  ", done * 100.0);
    // Two blanks go between the bar and what follows.
    let room = columns.saturating_sub(words.chars().count() + percent.len() + 1).min(BAR_CELLS_MAX);
    let bar = if room < BAR_CELLS_MIN {
        String::new()
    } else {
        let full = (done * room as f64) as usize;
        format!("{}{} ", "█".repeat(full), "░".repeat(room - full))
    };
    format!("{bar}{percent}{words}").chars().take(columns).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::report::tests::tick;

    fn totals(secs: u64, done: Option<f64>) -> Totals {
        Totals { elapsed: Duration::from_secs(secs), records: 0, failed: 0, done, warming_up: false }
    }

    #[test]
    fn a_line_says_how_far_how_fast_and_how_well() {
        let totals_at_half = Totals { records: 3_060_000, ..totals(5, Some(0.5)) };
        let line = line(&tick(0, 612_345), &totals_at_half, 79);
        let words = "50%  5 s  3.06M records  612,345 records/s  p99 4.00 ms";
        assert_eq!(line, format!("{}{}  {words}", "█".repeat(11), "░".repeat(11)));
        let bad = Totals { failed: 3, warming_up: true, ..totals(1, None) };
        assert_eq!(
            super::line(&tick(0, 10), &bad, 79),
            "1 s  warming up  10.0 records/s  p99 4.00 ms  3 FAILED"
        );
    }

    #[test]
    fn a_log_gets_few_lines_and_a_pipe_for_json_none() {
        let mut bar = Bar { out: Vec::new(), look: Look::Lines, shown_at: None };
        for secs in 1..=12 {
            bar.tick(&tick(secs, 10), &totals(secs, None));
        }
        bar.done();
        let text = String::from_utf8(bar.out).unwrap();
        let starts: Vec<&str> = text.lines().map(|line| line.split("  ").next().unwrap()).collect();
        assert_eq!(starts, ["1 s", "6 s", "11 s"]);

        let mut bar = Bar { out: Vec::new(), look: Look::Nothing, shown_at: None };
        bar.tick(&tick(1, 10), &totals(1, None));
        bar.done();
        assert!(bar.out.is_empty());
    }

    #[test]
    fn a_terminal_is_left_clean() {
        let mut bar = Bar { out: Vec::new(), look: Look::Terminal, shown_at: None };
        bar.tick(&tick(1, 10), &totals(1, Some(0.1)));
        bar.done();
        bar.tick(&tick(2, 10), &totals(2, Some(0.2)));
        let text = String::from_utf8(bar.out).unwrap();
        assert_eq!(text.matches(LINE_START).count(), 2);
        assert!(text.ends_with(LINE_START));
    }

    proptest! {
        #[test]
        fn a_line_fits(columns in 19usize..200, done in prop::option::of(prop::num::f64::ANY), records in any::<u64>(), failed in any::<u64>()) {
            let totals = Totals { failed, records, ..totals(records, done) };
            prop_assert!(line(&tick(0, records), &totals, columns).chars().count() <= columns);
        }
    }
}
