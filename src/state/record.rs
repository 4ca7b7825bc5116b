//! What reads return: records, and pages of them.

use bytes::Bytes;

use crate::types::Seq;
pub use crate::types::{Record, Versions};

/// A page of keys in byte order, all as of one position.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// Live records (tombstones are left out).
    pub records: Vec<Record>,
    /// The key to go on from (exclusive), when there is more.
    pub next: Option<Bytes>,
    /// The position the page, and all that follow it, are pinned to: records with seq < this count.
    pub position: Seq,
}

/// Which keys a scan visits.
#[derive(Clone, Debug, Default)]
pub struct Scan {
    /// Only keys that begin with this.
    pub prefix: Bytes,
    /// From this key on, inclusive.
    pub start: Option<Bytes>,
    /// Up to this key, exclusive.
    pub end: Option<Bytes>,
    /// Continue behind this key, exclusive.
    pub after: Option<Bytes>,
    /// As of this position (records with seq < this); now if absent.
    pub position: Option<Seq>,
    /// At most this many records.
    pub limit: usize,
    /// Stop once keys and values have this many bytes (at least one record is returned).
    pub bytes_max: usize,
}
