//! How a target's workload is run: told to the load generator in the words of its command line, in this
//! process, and read back.

use scribe_ledger::client::{Client, ClientError, ScanQuery};

use super::targets::Target;
use crate::measured::{Measured, Truth};

/// Runs the workload. A quick run also reads back everything that was acknowledged.
pub fn run(target: &Target, url: &str, quick: bool) -> Result<Measured, String> {
    let mut measured = crate::measured_by(&target.arguments(url, quick))?;
    if quick && target.writes() {
        measured.truth = Some(read_back(url, &measured)?);
    }
    Ok(measured)
}

/// Whether as many keys are there as acknowledged writes make, and each with a whole value. Values are not
/// compared: the run does not say which write of a key came last.
fn read_back(url: &str, measured: &Measured) -> Result<Truth, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("the runtime did not start: {error}"))?;
    let plan = |name: &str| measured.plan.get(name).and_then(serde_json::Value::as_u64);
    let written = measured.writes.as_ref().map_or(0, |writes| writes.records);
    let acknowledged = plan("key_space").map_or(written, |space| space.min(written));
    let whole_bytes = plan("value_bytes").unwrap_or(0);
    let (there, wrong) = runtime
        .block_on(keys_there(url, whole_bytes))
        .map_err(|error| format!("reading back what was acknowledged: {error}"))?;
    Ok(Truth { acknowledged, lost: acknowledged.saturating_sub(there), wrong, ..Truth::default() })
}

/// How many keys there are, and how many of them have values of another length.
async fn keys_there(url: &str, whole_bytes: u64) -> Result<(u64, u64), ClientError> {
    let client = Client::new(url)?;
    let mut query = ScanQuery { limit: Some(10_000), ..ScanQuery::default() };
    let (mut there, mut wrong) = (0, 0);
    loop {
        let page = client.scan(&query).await?;
        for item in &page.items {
            there += 1;
            wrong += u64::from(item.value.as_ref().map(|value| value.len() as u64) != Some(whole_bytes));
        }
        match page.next_cursor {
            Some(cursor) => query.cursor = Some(cursor),
            None => return Ok((there, wrong)),
        }
    }
}
