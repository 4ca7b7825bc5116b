//! What every replica must agree on to cut the same ledger: the first entry of the log, before any
//! client's, and later entries that change it. A node's own configuration only seeds it.

use bytes::Bytes;
use rkyv::{Archive, Deserialize, Serialize, rancor};

use crate::{
    error::{Code, Error, Result},
    state::entry::{self, KIND_SETTINGS},
};

/// The newest set of entry kinds and file formats that this build understands.
///
/// | level | since then |
/// |--:|---|
/// | 1 | |
/// | 2 | [`KIND_SEALED`](entry::KIND_SEALED), [`KIND_SIGNER`](entry::KIND_SIGNER) and [`KIND_ARCHIVED`](entry::KIND_ARCHIVED), and in segments' boundaries how far they are attested and archived and who signs |
pub const FEATURE_LEVEL: u32 = 2;

/// Replicated settings. Two nodes that differ in any of them would build different ledgers.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Entry kinds and file formats in use; no entry needs more than this.
    pub feature_level: u32,
    /// Record bytes after which the open segment closes.
    pub segment_bytes: u64,
    /// How long an idempotency outcome is kept, in milliseconds of entry time.
    pub idempotency_window_ms: u64,
    /// How many idempotency outcomes are kept; a full table refuses new keys.
    pub idempotency_keys_max: u64,
}

impl Settings {
    /// What a new ledger starts from where its founder's configuration says nothing else.
    pub const BUILT_IN: Self = Self {
        feature_level: FEATURE_LEVEL,
        segment_bytes: 64 << 20,
        idempotency_window_ms: 300_000,
        idempotency_keys_max: 1_000_000,
    };

    /// The bytes of the entry that sets these.
    ///
    /// # Errors
    /// [`Code::Internal`] when memory is short.
    pub fn encode(&self) -> Result<Bytes> {
        entry::encode(KIND_SETTINGS, self, 64)
    }

    /// Reads an entry written by [`Settings::encode`].
    ///
    /// # Errors
    /// [`Code::Corrupt`] for other bytes.
    pub fn decode(entry: &[u8]) -> Result<Self> {
        let corrupt = |what: String| Error::new(Code::Corrupt, format!("not a settings entry: {what}"));
        let Some((&KIND_SETTINGS, archive)) = entry.split_first() else {
            return Err(corrupt("the kind byte is another".into()));
        };
        let settings =
            rkyv::access::<ArchivedSettings, rancor::Error>(archive).map_err(|e| corrupt(e.to_string()))?;
        Ok(Self {
            feature_level: settings.feature_level.into(),
            segment_bytes: settings.segment_bytes.into(),
            idempotency_window_ms: settings.idempotency_window_ms.into(),
            idempotency_keys_max: settings.idempotency_keys_max.into(),
        })
    }

    /// Checks that a member of feature level `known` understands the ledger.
    ///
    /// # Errors
    /// [`Code::Internal`] when the ledger's level is that of a newer build.
    pub fn check_known(&self, known: u32) -> Result<()> {
        if self.feature_level <= known {
            return Ok(());
        }
        Err(Error::new(
            Code::Internal,
            format!(
                "the ledger uses feature level {}, this build knows {known}: run a newer scribe-node",
                self.feature_level
            ),
        ))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn settings_read_back(segment_bytes: u64, idempotency_window_ms: u64, idempotency_keys_max: u64) {
            let settings = Settings { feature_level: FEATURE_LEVEL, segment_bytes, idempotency_window_ms, idempotency_keys_max };
            prop_assert_eq!(Settings::decode(&settings.encode().unwrap()).unwrap(), settings);
        }

        #[test]
        fn other_bytes_are_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = Settings::decode(&bytes);
        }
    }

    #[test]
    fn a_newer_feature_level_names_the_remedy() {
        let newer = Settings {
            feature_level: FEATURE_LEVEL + 1,
            segment_bytes: 1,
            idempotency_window_ms: 1,
            idempotency_keys_max: 1,
        };
        let newer = Settings::decode(&newer.encode().unwrap()).unwrap();
        newer.check_known(FEATURE_LEVEL + 1).unwrap();
        let error = newer.check_known(FEATURE_LEVEL).unwrap_err();
        assert!(error.message().contains("run a newer scribe-node"), "{error}");
    }
}
