//! What values have to be to one another.
//!
//! Each key's own bounds are in the table; these rules need two keys, so they are judged when all
//! layers are merged, and name both.

use super::{
    layers::{Settings, invalid},
    schema::find,
    value::format_size,
};
use crate::error::Result;

/// Checks the merged settings.
///
/// # Errors
/// `InvalidConfig` for the first rule that does not hold.
pub fn check(settings: &Settings) -> Result<()> {
    let config = &settings.config;
    let consensus = &config.consensus;
    if consensus.heartbeat_interval_ms.saturating_mul(3) > consensus.election_timeout_ms {
        return Err(invalid(format!(
            "{} does not fit {}: accepted is at most a third of it, {}, so that a lost heartbeat is no election",
            said(settings, "consensus.heartbeat_interval_ms"),
            said(settings, "consensus.election_timeout_ms"),
            consensus.election_timeout_ms / 3,
        )));
    }
    if config.limits.max_batch_request_bytes > config.pipeline.ingest_bytes_max {
        return Err(invalid(format!(
            "{} does not fit {}: accepted is at most that, {}, since a larger request could never be admitted",
            said(settings, "limits.max_batch_request_bytes"),
            said(settings, "pipeline.ingest_bytes_max"),
            format_size(config.pipeline.ingest_bytes_max as u64),
        )));
    }
    Ok(())
}

/// A key with its value and where that came from.
fn said(settings: &Settings, name: &str) -> String {
    let value = find(name).map(|(key, _)| key.kind.write(&key.value_in(&settings.config)));
    format!("{name} = {} ({})", value.unwrap_or_default(), settings.origin(name))
}
