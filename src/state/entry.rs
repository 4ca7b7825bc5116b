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
