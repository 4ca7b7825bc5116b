//! Receipts on writes: `Scribe-Receipt: true` makes an answer wait for the checkpoint that covers what was written.
//!
//! Takes what became of a write, gives a part of its answer. The write stands whatever happens here: it was durable
//! before, and an answer that has no receipt says so and why.

use std::time::Duration;

use super::{App, backend::Backend, blocking::blocking};
use crate::pipeline::message::Written;

/// How long a write waits for its checkpoint.
const PATIENCE: Duration = Duration::from_secs(5);

/// What an answer that was asked for receipts says of them.
#[derive(Debug)]
pub(super) enum Receipts {
    /// Those of the first and of the last record.
    Given([String; 2]),
    /// There are none, and why.
    None(String),
}

impl Receipts {
    /// Waits for the receipts of what was written.
    pub async fn of<B: Backend>(app: &App<B>, written: Written) -> Self {
        let (first, last) = (written.first_seq, written.first_seq.plus(written.count.saturating_sub(1)));
        let none = |why: &str| {
            Self::None(format!(
                "it is written, and has no receipt: {why}; GET /api/v1/proofs/inclusion/{last} and /checkpoint give its \
                 parts later"
            ))
        };
        let proofs = match app.backend.proofs() {
            Ok(proofs) => proofs.clone(),
            Err(error) => return none(error.message()),
        };
        let Some(checkpoint) = proofs.covering(last.plus(1), PATIENCE).await else {
            return none(&format!("no checkpoint covered it within {PATIENCE:?}"));
        };
        let read = blocking(&app.backend, move || {
            let receipt = |seq| proofs.receipt(seq, &checkpoint).map(|receipt| receipt.to_string());
            Ok([receipt(first)?, receipt(last)?])
        });
        read.await.map_or_else(|error| none(error.message()), Self::Given)
    }

    /// Appends `,"receipt":…`: the record's own.
    pub fn write_one(&self, out: &mut Vec<u8>) {
        self.write(out, |[first, _]| first.as_str().into());
    }

    /// Appends `,"receipt":…`: an array of the first and the last record's.
    pub fn write_both(&self, out: &mut Vec<u8>) {
        self.write(out, |both| both.as_slice().into());
    }

    fn write(&self, out: &mut Vec<u8>, json: impl FnOnce(&[String; 2]) -> serde_json::Value) {
        let (receipt, error) = match self {
            Self::Given(receipts) => (json(receipts), None),
            Self::None(why) => (serde_json::Value::Null, Some(why.as_str())),
        };
        out.extend_from_slice(format!(",\"receipt\":{receipt}").as_bytes());
        if let Some(why) = error {
            out.extend_from_slice(format!(",\"receipt_error\":{}", serde_json::Value::from(why)).as_bytes());
        }
    }
}
