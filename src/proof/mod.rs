//! What lets a stranger check the ledger: pure functions over bytes, no I/O.
//!
//! A record is a [`leaf`]; leaves are the bottom of one RFC 6962 [`tree`] that only grows; a [`checkpoint`] is a
//! signed [`note`] of its size and root. That a leaf is in it is shown by [`inclusion`], that it only grew by
//! [`consistency`], and a [`receipt`] is all of it in one text.
//!
//! ```text
//! record ─► leaf ─► leaf hash ─► frontier ─► root ─► checkpoint ─► signed note
//!                       │                     ▲            │
//!                       ▼                     │ verify     ▼
//!                 tiles, bundles ──► inclusion, consistency ──► receipt
//! ```
//!
//! Whoever verifies needs this directory and nothing else of the server. It owns no bytes at rest: hashes come
//! in through [`tree::HashSource`] and [`tiled::TileSource`]. Every reader here refuses what its writer would
//! not have written, so that each statement has one spelling.

pub mod bundle;
pub mod checkpoint;
pub mod consistency;
mod encoding;
pub mod error;
pub mod frontier;
pub mod growth;
pub mod hash;
pub mod inclusion;
pub mod key;
pub mod leaf;
pub mod link;
pub mod memory;
pub mod merkle_map;
pub mod note;
pub mod receipt;
mod sha256;
#[cfg(test)]
mod tests;
pub mod tile;
pub mod tiled;
pub mod tree;

pub use error::ProofError;
pub use hash::Hash;
