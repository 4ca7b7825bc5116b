//! Stage 4, apply: gives committed entries their meaning, in log order.
//!
//! Takes entries' bytes from Raft's state machine, on every member alike, gives outcomes. It never waits:
//! a state machine that blocks would hold up elections. It does not own the state (`crate::state`).

use std::sync::Arc;

use bytes::Bytes;

use super::{gauge::Gauge, unsealed::is_full, worker::Bell};
use crate::{
    error::{Code, Error, Result},
    raft::Replica,
    runtime::without_blocking_others,
    state::{
        State,
        archived::Archived,
        attestation::{ATTESTATION_LEVEL, Attestation},
        batch::BatchView,
        entry::{KIND_ARCHIVED, KIND_BATCH, KIND_SEAL, KIND_SEALED, KIND_SETTINGS, KIND_SIGNER},
        outcome::Outcome,
        settings::Settings,
        signers::Enrolment,
    },
    types::LogId,
};

/// The stage.
#[derive(Debug)]
pub struct Apply {
    state: Arc<State>,
    gauge: Arc<Gauge>,
    prove: Bell,
    feature_level: u32,
    unsealed_bytes_max: u64,
}

impl Apply {
    /// Applies to `state` and wakes `prove`; a ledger of a higher feature level than this member's is not understood.
    /// More than `unsealed_bytes_max` that are in no segment yet make the member full.
    #[must_use]
    pub fn new(
        state: Arc<State>,
        gauge: Arc<Gauge>,
        prove: Bell,
        feature_level: u32,
        unsealed_bytes_max: u64,
    ) -> Self {
        Self { state, gauge, prove, feature_level, unsealed_bytes_max }
    }
}

impl Replica for Apply {
    fn apply(&self, entry: Bytes) -> Result<Outcome> {
        let _stay = self.gauge.enter(1, entry.len() as u64);
        match entry.first() {
            Some(&KIND_BATCH) => {
                without_blocking_others(entry.len(), || self.state.apply(&BatchView::open(entry)?))
            }
            Some(&KIND_SETTINGS) => {
                let settings = Settings::decode(&entry)?;
                settings.check_known(self.feature_level)?;
                self.state.apply_settings(settings);
                Ok(Outcome::default())
            }
            Some(&KIND_SEALED) if self.feature_level >= ATTESTATION_LEVEL => {
                self.state.apply_attestation(&Attestation::decode(&entry)?)?;
                Ok(Outcome::default())
            }
            Some(&KIND_SIGNER) if self.feature_level >= ATTESTATION_LEVEL => {
                self.state.apply_enrolment(Enrolment::decode(&entry)?);
                Ok(Outcome::default())
            }
            Some(&KIND_ARCHIVED) if self.feature_level >= ATTESTATION_LEVEL => {
                self.state.apply_archived(Archived::decode(&entry)?);
                Ok(Outcome::default())
            }
            Some(&KIND_SEAL) => {
                self.state.apply_seal();
                Ok(Outcome::default())
            }
            kind => Err(Error::new(
                Code::Corrupt,
                format!(
                    "an entry of unknown kind {kind:?}: it was written by a newer scribe-node, or it is damaged"
                ),
            )),
        }
    }

    fn end_entry(&self, id: LogId, bytes: u64, membership: &dyn Fn() -> Result<Vec<u8>>) -> Result<()> {
        self.state.end_entry(id, bytes, membership)?;
        self.prove.ring();
        Ok(())
    }

    fn is_full(&self) -> bool {
        is_full(&self.state, self.unsealed_bytes_max)
    }
}
