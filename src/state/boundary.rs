//! What a restart begins from: the replicated state at the end of a segment, beside the segment's records.
//!
//! It lies in the footer of that segment, so that the newest segment *is* the newest boundary, and the two can
//! never disagree. The log's position is there already, as the segment's last entry; the answers to requests
//! with idempotency keys lie in the block that is named after them, each in the segment that first gave it.

use rkyv::{Archive, Deserialize, Serialize, rancor};

use super::settings::Settings;
use crate::{
    error::{Code, Error, Result},
    types::TimestampMs,
};

/// See the head of this file.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct Boundary {
    /// Time of the last entry.
    pub last_time_ms: TimestampMs,
    /// The settings in force.
    pub settings: Option<Settings>,
    /// The membership in force, as consensus encodes it.
    pub membership: Vec<u8>,
}

impl Boundary {
    /// Its bytes.
    ///
    /// # Errors
    /// [`Code::Internal`] when memory is short.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let bytes = rkyv::to_bytes::<rancor::Error>(self)
            .map_err(|error| Error::new(Code::Internal, format!("building a boundary failed: {error}")))?;
        Ok(bytes.to_vec())
    }

    /// Reads what [`Boundary::encode`] writes.
    ///
    /// # Errors
    /// [`Code::Corrupt`] for anything else.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        rkyv::from_bytes::<Self, rancor::Error>(bytes)
            .map_err(|error| Error::new(Code::Corrupt, format!("not a segment's boundary: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn boundaries_read_back_and_damage_does_not_panic(
            last_time_ms: u64, has_settings: bool, membership in prop::collection::vec(any::<u8>(), 0..100),
            at in any::<prop::sample::Index>(), bit in 0u8..8,
        ) {
            let settings = has_settings.then_some(Settings::BUILT_IN);
            let boundary = Boundary { last_time_ms, settings, membership };
            let mut bytes = boundary.encode().unwrap();
            prop_assert_eq!(Boundary::decode(&bytes).unwrap(), boundary);
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            let _ = Boundary::decode(&bytes);
            let _ = Boundary::decode(&bytes[..at]);
        }
    }
}
