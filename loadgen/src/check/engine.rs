//! How a target's workload is run: told to the load generator in the words of its command line, in this
//! process.

use super::targets::Target;
use crate::{measured::Measured, progress::Bar};

/// Runs the workload. A quick run also reads back everything that was acknowledged.
pub fn run(target: &Target, url: &str, quick: bool) -> Result<Measured, String> {
    // Lines of a second's run, or in a build's log, would only stand between the verdicts.
    crate::measured_by(&target.arguments(url, quick), &mut Bar::new(true))
}
