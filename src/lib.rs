//! Scribe Ledger: a distributed, append-only, verifiable key-value ledger.

pub mod cli;
pub mod client;
pub mod config;
pub mod env;
pub mod error;
pub mod pipeline;
pub mod read;
pub mod state;
pub mod types;
