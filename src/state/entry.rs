//! The kinds of entries a log holds, by the first byte of each.
//!
//! The bytes behind it are an rkyv archive whose features (little-endian, unaligned, 32-bit offsets) are
//! part of the format. A Raft leader's blank entry is no bytes at all.

use bytes::Bytes;
use rkyv::{Serialize, api::high::HighSerializer, rancor, ser::allocator::ArenaHandle, util::AlignedVec};

use crate::error::{Code, Error, Result};

/// Records: [`Batch`](super::batch::Batch).
pub const KIND_BATCH: u8 = 1;
/// Cluster settings: [`Settings`](super::settings::Settings).
pub const KIND_SETTINGS: u8 = 2;
/// Cluster membership, written by `crate::raft`.
pub const KIND_MEMBERSHIP: u8 = 3;
/// The open segment ends here, unless it is empty. Nothing follows.
pub const KIND_SEAL: u8 = 4;
/// What a quorum has sealed: [`Attestation`](super::attestation::Attestation). From feature level 2 on.
pub const KIND_SEALED: u8 = 5;
/// A key that a member signs with: [`Enrolment`](super::signers::Enrolment). From feature level 2 on.
pub const KIND_SIGNER: u8 = 6;

/// How far the ledger is in the archive: [`Archived`](super::archived::Archived). From feature level 2 on.
pub const KIND_ARCHIVED: u8 = 7;

/// The bytes of the entry that ends the open segment.
#[must_use]
pub fn seal_entry() -> Bytes {
    Bytes::from_static(&[KIND_SEAL])
}

/// Writes `kind` and the archive of `value` behind it; `room` is a guess of the size in bytes.
///
/// # Errors
/// [`Code::Internal`] when the archive cannot be built, which only a lack of memory can cause.
pub fn encode<T>(kind: u8, value: &T, room: usize) -> Result<Bytes>
where
    T: for<'a> Serialize<HighSerializer<AlignedVec, ArenaHandle<'a>, rancor::Error>>,
{
    let mut out = AlignedVec::with_capacity(room);
    out.push(kind);
    let out = rkyv::api::high::to_bytes_in::<_, rancor::Error>(value, out)
        .map_err(|error| Error::new(Code::Internal, format!("building an entry failed: {error}")))?;
    Ok(Bytes::from_owner(out))
}

#[cfg(test)]
mod tests {
    use crate::{
        proof::key::Signer,
        state::{
            archived::Archived,
            attestation::{Attestation, Fingerprint},
            batch::{Batch, BatchView, Condition, Draft},
            settings::Settings,
            signers::Enrolment,
        },
        types::SegmentId,
    };

    /// Entries lie in logs for ever: these bytes may be added to, never changed.
    #[test]
    fn entries_are_those_of_the_golden_files() {
        let mut batch = Batch::default();
        let mut bulk = Draft::new();
        bulk.put(b"key-1", b"value-1").unwrap();
        bulk.delete(b"key-2").unwrap();
        bulk.put(&[0xff, 0x00, 0x2f], &[0; 40]).unwrap();
        bulk.set_idempotency_key("bulk-1".into());
        batch.append(bulk);
        for (n, condition) in
            [Condition::Absent, Condition::Present, Condition::At(7)].into_iter().enumerate()
        {
            let mut single = Draft::new();
            single.put(format!("guarded-{n}").as_bytes(), b"").unwrap();
            single.set_condition(condition);
            batch.append(single);
        }
        let batch = batch.encode(1_700_000_000_123).unwrap();
        assert_eq!(BatchView::open(batch.clone()).unwrap().len(), 6);
        let settings = Settings { feature_level: 1, segment_bytes: 1 << 26, ..Settings::BUILT_IN };
        let settings = settings.encode().unwrap();
        let fingerprint = |n| Fingerprint { root: [n; 32], digest: [n + 1; 32] };
        let sealed = Attestation::new(SegmentId(7), vec![fingerprint(1), fingerprint(3)]).encode().unwrap();
        let signer = Signer::from_seed("scribe/0123456789abcdef/1", &[9; 32]).unwrap();
        let signer = Enrolment { member: 3, incarnation: 0xfeed, key: signer.verifier_key().clone() };
        let golden = [
            ("entry-batch-v1.bin", batch),
            ("entry-settings-v1.bin", settings),
            ("entry-sealed-v1.bin", sealed),
            ("entry-signer-v1.bin", signer.encode().unwrap()),
            ("entry-archived-v1.bin", Archived { epoch: 1, end: 7, end_seq: 4_711 }.encode().unwrap()),
        ];
        for (name, bytes) in golden {
            let golden = format!("{}/tests/golden/{name}", env!("CARGO_MANIFEST_DIR"));
            if std::env::var_os("GOLDEN_WRITE").is_some() {
                std::fs::write(&golden, &bytes).unwrap();
            }
            assert!(
                std::fs::read(&golden).unwrap() == bytes,
                "{name}: the format of entries in logs has changed"
            );
        }
    }
}
