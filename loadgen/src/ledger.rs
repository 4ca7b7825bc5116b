//! Which ledger servers are of, and where it ends: what they say of themselves at `/api/v1/status`.
//!
//! Two ledgers number their records independently: what one acknowledged is looked for in vain in the other,
//! and would be called lost. A server that does not say which ledger it is of is taken at its word. A ledger that was
//! restored has a new id, and links in it that say which ones it goes on from.

use std::time::Duration;

use scribe_ledger::{
    client::{Client, ReadOptions},
    proof::link::Link,
};
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
    /// What it goes on from; empty where it was never restored.
    links: Vec<Link>,
}

impl Ledger {
    fn of(url: String, status: &Json) -> Self {
        let cluster_id = status.get("cluster_id").and_then(Json::as_str).map(str::to_owned);
        let end = status.get("records").and_then(|records| records.get("applied")?.as_u64());
        Self { url, cluster_id, end, links: Vec::new() }
    }

    /// Where the ledger with this id ends in it, if it goes on from that.
    fn goes_on_from(&self, id: &str) -> Option<u64> {
        let by_default = origin_of(id);
        let link = self.links.iter().find(|link| link.origin == by_default);
        // Whose log has a name of its own is known by who founded it alone.
        let link = link.or_else(|| self.links.iter().find(|link| link.ledger == id));
        link.map(|link| link.size)
    }

    fn is(&self, id: &str) -> bool {
        self.cluster_id.as_deref().is_none_or(|own| own == id) || self.goes_on_from(id).is_some()
    }
}

/// Which life of a ledger has this id: `id-2` is the first after a restore.
fn epoch_of(id: &str) -> u32 {
    id.split_once('-').and_then(|(_, epoch)| epoch.parse().ok()).unwrap_or(1)
}

/// The name of the log with this id, unless somebody has named it.
fn origin_of(id: &str) -> String {
    format!("scribe/{}/{}", id.split_once('-').map_or(id, |(cluster, _)| cluster), epoch_of(id))
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

/// As [`ask`], and reads the links that it begins each of its lives with, where it is not the `wanted` one itself.
async fn ask_with_links(target: &Target, wanted: Option<&str>, timeout: Duration) -> Result<Ledger, String> {
    let mut ledger = ask(target, timeout).await?;
    let Some(id) = ledger.cluster_id.as_deref().filter(|id| wanted.is_some_and(|wanted| wanted != *id))
    else {
        return Ok(ledger);
    };
    let client = Client::new(&ledger.url).map_err(|error| error.to_string())?.with_timeout(timeout);
    for epoch in 2..=epoch_of(id) {
        let record = match client.get(&Link::key(epoch), &ReadOptions::default()).await {
            Ok(record) => record,
            // It was restored from an epoch before that one; and older builds give no links.
            Err(error) if matches!(error.status(), Some(400 | 404)) => continue,
            Err(error) => return Err(format!("the link of epoch {epoch} at {}: {error}", ledger.url)),
        };
        ledger.links.push(Link::decode(&record.bytes).map_err(|error| error.to_string())?);
    }
    Ok(ledger)
}

/// Makes sure that all servers are of one ledger, and of the one with this id, or of one that was restored from it, if it
/// is given. Servers that do not answer are passed over: they may come later. Where the wanted ledger ends in one that
/// was restored from it: whatever it acknowledged from there on is not in it.
///
/// # Errors
/// When they are of different ledgers; the message names two.
pub async fn agree(
    targets: &[Target],
    wanted: Option<&str>,
    timeout: Duration,
) -> Result<Option<u64>, String> {
    if targets.len() < 2 && wanted.is_none() {
        return Ok(None);
    }
    let mut asked = JoinSet::new();
    for target in targets {
        let (target, wanted) = (target.clone(), wanted.map(str::to_owned));
        asked.spawn(
            async move { ask_with_links(&target, wanted.as_deref(), timeout.min(ANSWER_TIME_MAX)).await },
        );
    }
    let answered: Vec<Ledger> = asked.join_all().await.into_iter().flatten().collect();
    match differing(&answered, wanted) {
        Some(why) => Err(why),
        None => Ok(wanted.and_then(|id| answered.iter().find_map(|ledger| ledger.goes_on_from(id)))),
    }
}

/// What is different, in words.
fn differing(ledgers: &[Ledger], wanted: Option<&str>) -> Option<String> {
    if let Some(wanted) = wanted {
        let Ledger { url, cluster_id, .. } = ledgers.iter().find(|ledger| !ledger.is(wanted))?;
        let id = cluster_id.as_deref().unwrap_or_default();
        return Some(format!(
            "different ledgers: {url} is of ledger {id}, the writes went to ledger {wanted}"
        ));
    }
    let mut known = ledgers.iter().filter_map(|ledger| Some((&ledger.url, ledger.cluster_id.as_deref()?)));
    let (first_url, first) = known.next()?;
    let (url, id) = known.find(|(_, id)| *id != first)?;
    Some(format!("different ledgers: {first_url} is of ledger {first}, {url} of ledger {id}"))
}

#[cfg(test)]
mod tests {
    use scribe_ledger::proof::Hash;
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

    #[test]
    fn a_restored_ledger_is_that_which_it_goes_on_from() {
        let link = |epoch: u32, origin: &str, size| Link {
            ledger: "aa".to_owned(),
            epoch,
            origin: origin.to_owned(),
            size,
            root: Hash([0; 32]),
        };
        let links = vec![link(2, "a name of its own", 100), link(3, "scribe/bb/2", 200)];
        let restored = Ledger { links, ..ledger("c", Some("cc-3")) };
        for (id, size) in
            [("aa", Some(100)), ("bb-2", Some(200)), ("bb", None), ("cc-2", None), ("cc-3", None)]
        {
            assert_eq!(restored.goes_on_from(id), size, "{id}");
        }
        let differs = |id| differing(std::slice::from_ref(&restored), Some(id)).is_some();
        assert_eq!(["aa", "bb-2", "bb", "cc-2", "cc-3"].map(differs), [false, false, true, true, false]);
    }
}
