//! What lets a stranger check the ledger: pure functions over bytes, no I/O.

pub mod leaf;
pub mod merkle_map;
