//! A line on a terminal about a check that is under way: how far, how fast, how long still.
//!
//! Takes numbers that others count, writes one line over and over. Nothing here fails a command: a line that
//! cannot be written is not written.

use std::{
    io::{self, IsTerminal, Write},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::Duration,
};

use tokio::time::Instant;

use crate::verify::Progress;

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Cells of the bar: the whole line fits into 80 columns.
const CELLS: usize = 20;

/// Writes over the line before.
const LINE_START: &str = "\r\x1b[2K";

/// Runs a check of `total` records on as many threads as there are processors, with a line about it on a terminal.
pub(super) fn beside<T>(total: u64, check: impl FnOnce(usize, &Progress) -> T) -> T {
    let progress = Progress::default();
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        let (done, is_done) = mpsc::channel::<()>();
        if io::stderr().is_terminal() {
            let progress = &progress;
            scope.spawn(move || show(total, progress, &is_done));
        }
        let checked = check(threads, &progress);
        // The line goes away before anything else is printed.
        drop(done);
        checked
    })
}

/// Shows how many of `total` records are verified, until `is_done` is hung up.
fn show(total: u64, progress: &Progress, is_done: &Receiver<()>) {
    let started = Instant::now();
    while is_done.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
        write(&format!("{LINE_START}{}", line(progress.records(), total, started.elapsed())));
    }
    write(LINE_START);
}

fn write(text: &str) {
    let mut out = io::stderr().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

fn line(done: u64, total: u64, elapsed: Duration) -> String {
    let part = if total == 0 { 1.0 } else { (done as f64 / total as f64).min(1.0) };
    let full = (part * CELLS as f64) as usize;
    let bar = format!("{}{}", "█".repeat(full), "░".repeat(CELLS - full));
    let rate = done as f64 / elapsed.as_secs_f64().max(1e-9);
    let left = match rate {
        rate if rate > 0.0 => clock((total.saturating_sub(done) as f64 / rate) as u64),
        _ => "-:--".to_owned(),
    };
    let percent = (part * 100.0) as u64;
    format!(
        "{bar} {percent:3}%  {} of {} records  {}/s  ETA {left}",
        short(done),
        short(total),
        short(rate as u64)
    )
}

fn short(number: u64) -> String {
    match number {
        0..10_000 => number.to_string(),
        10_000..1_000_000 => format!("{:.0}k", number as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.2}M", number as f64 / 1e6),
        _ => format!("{:.2}G", number as f64 / 1e9),
    }
}

fn clock(seconds: u64) -> String {
    let (hours, minutes, seconds) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_far_how_fast_and_how_long() {
        let text = line(25_000_000, 100_000_000, Duration::from_secs(10));
        assert_eq!(text, "█████░░░░░░░░░░░░░░░  25%  25.00M of 100.00M records  2.50M/s  ETA 0:30");
        assert!(line(0, 0, Duration::ZERO).contains("100%"));
        assert!(line(0, 5, Duration::from_secs(1)).ends_with("ETA -:--"));
        let longest = line(u64::MAX / 4, u64::MAX, Duration::from_secs(1));
        assert!(
            line(123_456_789_012, 999_999_999_999, Duration::from_secs(90)).chars().count() < 80,
            "{longest}"
        );
        assert_eq!(clock(3_725), "1:02:05");
    }
}
