//! Scribe Ledger: a distributed, append-only, verifiable key-value ledger.

pub mod api;
pub mod config;
pub mod env;
pub mod error;
pub mod metrics;
pub mod pipeline;
pub mod proof;
pub mod read;
pub mod state;
pub mod types;
