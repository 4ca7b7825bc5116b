//! Which ledger servers are of, and where it ends: what they say of themselves at `/api/v1/status`.
//!
//! Two ledgers number their records independently: what one acknowledged is looked for in vain in the other,
//! and would be called lost. A server that does not say which ledger it is of is taken at its word.

use std::time::Duration;

use scribe_ledger::client::Client;
use serde_json::Value as Json;
use tokio::task::JoinSet;

use crate::http::Target;

/// How long a server may take that need not answer.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(3);

/// A server's ledger, as far as it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ledger {
    /// The server.
    pub url: String,
    pub cluster_id: Option<String>,
    /// One past its newest record.
    pub end: Option<u64>,
}

impl Ledger {
    fn of(url: String, status: &Json) -> Self {
        let cluster_id = status.get("cluster_id").and_then(Json::as_str).map(str::to_owned);
        let end = status.get("records").and_then(|records| records.get("applied")?.as_u64());
        Self { url, cluster_id, end }
    }
}

/// Asks a server.
///
/// # Errors
/// When it does not answer in time, or is still starting and does not know its records.
pub async fn ask(target: &Target, timeout: Duration) -> Result<Ledger, String> {
    let url = target.url();
    let client = Client::new(&url).map_err(|error| error.to_string())?.with_timeout(timeout);
    let status = client.get_json("/api/v1/status").await;
    let status = status.map_err(|error| format!("/api/v1/status of {url}: {error}"))?;
    if status.get("role").and_then(Json::as_str) == Some("starting") {
        return Err(format!("{url} is starting: try again when it is ready"));
    }
    Ok(Ledger::of(url, &status))
}

/// Makes sure that all servers are of one ledger, and of the one with this id if it is given. Servers that do not
/// answer are passed over: they may come later.
///
/// # Errors
/// When they are of different ledgers; the message names two.
pub async fn agree(targets: &[Target], wanted: Option<&str>, timeout: Duration) -> Result<(), String> {
    if targets.len() < 2 && wanted.is_none() {
        return Ok(());
    }
    let mut asked = JoinSet::new();
    for target in targets {
        let target = target.clone();
        asked.spawn(async move { ask(&target, timeout.min(ANSWER_TIME_MAX)).await });
    }
    let answered: Vec<Ledger> = asked.join_all().await.into_iter().flatten().collect();
    match differing(&answered, wanted) {
        Some(why) => Err(why),
        None => Ok(()),
    }
}

/// What is different, in words.
fn differing(ledgers: &[Ledger], wanted: Option<&str>) -> Option<String> {
    let mut known = ledgers.iter().filter_map(|ledger| Some((&ledger.url, ledger.cluster_id.as_deref()?)));
    if let Some(wanted) = wanted {
        let (url, id) = known.find(|(_, id)| *id != wanted)?;
        return Some(format!(
            "different ledgers: {url} is of ledger {id}, the writes went to ledger {wanted}"
        ));
    }
    let (first_url, first) = known.next()?;
    let (url, id) = known.find(|(_, id)| *id != first)?;
    Some(format!("different ledgers: {first_url} is of ledger {first}, {url} of ledger {id}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ledger(url: &str, id: Option<&str>) -> Ledger {
        Ledger::of(url.to_owned(), &json!({"cluster_id": id, "records": {"applied": 7}}))
    }

    #[test]
    fn only_what_is_known_to_differ_differs() {
        let [a, b, silent] = [ledger("a", Some("1")), ledger("b", Some("2")), ledger("c", None)];
        assert_eq!((a.end, silent.cluster_id.as_deref()), (Some(7), None));
        assert_eq!(differing(&[a.clone(), silent.clone(), a.clone()], None), None);
        assert_eq!(differing(&[a.clone(), silent.clone()], Some("1")), None);
        assert_eq!(differing(std::slice::from_ref(&silent), Some("1")), None);
        let why = differing(&[silent, a.clone(), b.clone()], None).unwrap();
        assert_eq!(why, "different ledgers: a is of ledger 1, b of ledger 2");
        let why = differing(&[a, b], Some("1")).unwrap();
        assert_eq!(why, "different ledgers: b is of ledger 2, the writes went to ledger 1");
    }
}
