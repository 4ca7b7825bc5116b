//! Scribe Ledger: a distributed, append-only, verifiable key-value ledger.
//!
//! The modules, in the order data meets them:
#![doc = ""]

pub mod cli;
pub mod client;
pub mod config;
pub mod env;
pub mod error;
pub mod node;
pub mod pipeline;
pub mod raft;
pub mod read;
pub mod state;
pub mod types;
pub mod wal;
