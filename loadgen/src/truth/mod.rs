//! Reads back what was acknowledged, and says whether all of it is there.
//!
//! Takes what became of every write and how writes are made; gives [`Truth`]. An acknowledged write has a
//! position, and what its key's value was as of that position, or the record that is there, has to be it:
//! that is exact however often the key was written before and after. Writes of unknown outcome are looked for
//! in their key's history, only to be counted; but a batch may not be there in part, and what was refused may
//! not be there at all.

mod expected;
mod readback;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use serde_json::{Value as Json, json};

use self::expected::Writes;
use crate::{
    http::{Patience, Target},
    journal::{Entry, Spec},
    measured::Truth,
    workload::keys::Order,
};

/// Differences that are described; all are counted.
const SHOWN_MAX: usize = 10;
const CONNECTIONS: usize = 8;
/// Keys that were written more often than this on average are better not asked for as of a position.
const REWRITTEN: u64 = 8;

/// What is to be looked for.
pub struct Question {
    pub spec: Spec,
    pub entries: Vec<Entry>,
    /// No write from this one on was begun.
    pub writes_end: u64,
    /// At least one; reads are spread over them.
    pub targets: Vec<Target>,
    pub patience: Patience,
}

/// What was found so far.
struct Findings {
    truth: Truth,
    /// For requests of several records whose outcome is unknown: how many are there and how many not.
    batches: BTreeMap<u64, (u64, u64)>,
    unprobed: u64,
}

impl Findings {
    fn show(&mut self, line: impl FnOnce() -> String) {
        if self.truth.shown.len() < SHOWN_MAX {
            self.truth.shown.push(line());
        }
    }
}

/// One line, and a line for each of the first differences.
pub fn text(truth: &Truth) -> String {
    let Truth { acknowledged, lost, wrong, unknown, unknown_present, shown } = truth;
    let mut out = if truth.holds() && !truth.is_good() {
        "nothing was acknowledged, nothing could be looked for: ".to_owned()
    } else {
        String::new()
    };
    out.push_str(&format!(
        "{acknowledged} acknowledged, {lost} lost, {wrong} wrong, {unknown} unknown ({unknown_present} of them present)"
    ));
    for line in shown {
        out.push_str("\n  ");
        out.push_str(line);
    }
    out
}

/// The same for scripts.
pub fn json(truth: &Truth) -> Json {
    json!({
        "good": truth.is_good(), "acknowledged": truth.acknowledged, "lost": truth.lost, "wrong": truth.wrong,
        "unknown": truth.unknown, "unknown_present": truth.unknown_present, "differences": truth.shown,
    })
}

/// Looks for everything.
///
/// # Errors
/// When the servers or the user's own file cannot be read, or the journal contradicts itself. What is lost or
/// wrong is no error but the [`Truth`].
pub async fn check(question: Question) -> Result<Truth, String> {
    let Question { spec, entries, writes_end, targets, patience } = question;
    let writes = Writes::new(&entries, writes_end)?;
    let mut findings = Findings {
        truth: Truth { acknowledged: writes.acknowledged(), ..Truth::default() },
        batches: BTreeMap::new(),
        unprobed: 0,
    };
    for seq in writes.positions_given_twice() {
        findings.truth.wrong += 1;
        findings.show(|| format!("seq {seq} was given to two acknowledged writes"));
    }
    let (order, first_seq) = (spec.order, spec.first_seq);
    let by_position = spec.file.is_some()
        || matches!(order, Order::Zipfian(_))
        || writes.end() > spec.key_space.saturating_mul(REWRITTEN);
    let writes = Arc::new(writes);
    let findings = Arc::new(Mutex::new(findings));
    let queue = expected::groups(spec, Arc::clone(&writes));
    let queue = Arc::new(tokio::sync::Mutex::new(queue));
    let targets: Arc<[Target]> = targets.into();
    let mut readers = tokio::task::JoinSet::new();
    for connection in 0..CONNECTIONS {
        let reader = readback::Reader {
            targets: Arc::clone(&targets),
            turn: connection.into(),
            patience,
            queue: Arc::clone(&queue),
            writes: Arc::clone(&writes),
            findings: Arc::clone(&findings),
            by_position,
            first_seq,
        };
        readers.spawn(reader.run());
    }
    while let Some(outcome) = readers.join_next().await {
        outcome.map_err(|error| format!("a reader ended: {error}"))??;
    }
    let mut findings = findings.lock().unwrap_or_else(PoisonError::into_inner);
    let batches = std::mem::take(&mut findings.batches);
    for (request, (there, missing)) in batches {
        if there > 0 && missing > 0 {
            findings.truth.wrong += 1;
            findings.show(|| {
                format!("request {request}: {there} of its records are there and {missing} are not")
            });
        }
    }
    if findings.unprobed > 0 {
        let unprobed = findings.unprobed;
        findings.truth.shown.push(format!(
            "{unprobed} writes without an acknowledgement were not looked for: their keys have too many versions"
        ));
    }
    Ok(std::mem::take(&mut findings.truth))
}
