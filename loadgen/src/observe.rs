//! Whoever watches a run while it goes on.

use std::time::Duration;

use crate::measured::Tick;

/// What a run has come to so far.
#[derive(Clone, Copy, Debug)]
pub struct Totals {
    pub elapsed: Duration,
    /// Records written and keys read since measuring began.
    pub records: u64,
    /// Requests that failed since then.
    pub failed: u64,
    /// Which share of the plan is done, 0 to 1, when that is known.
    pub done: Option<f64>,
    /// Measuring has not begun; what the tick counts will not be in the report.
    pub warming_up: bool,
}

/// Called once a second, from the thread that collects.
pub trait Observer: Send {
    fn tick(&mut self, tick: &Tick, totals: &Totals);
    /// The run is over; nothing comes after it.
    fn done(&mut self);
}

/// Watches nothing.
pub struct Silent;

impl Observer for Silent {
    fn tick(&mut self, _: &Tick, _: &Totals) {}
    fn done(&mut self) {}
}
