//! What members do for each other beside consensus.
//!
//! ```text
//! leader                                    member that is behind
//! segments ◄── list from n ──────────────── catch_up ◄─ raft: "its log begins behind mine"
//!     └─────── numbers, sizes, digests ───► fetch    one segment after the other:
//! segments ◄── part of n ────────────────── fetch    parts, PARTS_AT_ONCE under way ─► segment-n.seg.part
//!     └─────── bytes ─────────────────────► fetch    ─► synced, verified, chained to the one before
//!                                           switch   marker ─► segment-n.seg ─► the node starts again behind it
//! ```
//!
//! Takes lanes of the [`Network`](crate::env::Network) seam, gives answers to other members and files that were
//! verified. It does not own the log, which `switch` asks to go on behind what was fetched, nor what is sealed here
//! itself.

pub mod catch_up;
pub mod fetch;
pub mod message;
pub mod segments;
pub mod switch;
