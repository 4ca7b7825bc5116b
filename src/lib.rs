//! Scribe Ledger: a distributed, append-only, verifiable key-value ledger.

pub mod config;
pub mod env;
pub mod error;
pub mod pipeline;
pub mod read;
pub mod sim;
pub mod state;
pub mod types;
pub mod wal;
