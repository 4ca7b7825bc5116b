//! Scribe Ledger: a distributed, append-only, verifiable key-value ledger.
//!
//! `ARCHITECTURE.md` is the map. Data meets the modules in this order: [`client`] or any HTTP client, [`api`],
//! [`pipeline`], [`raft`], [`wal`], [`state`], and on the way back out [`read`]. [`node`] wires them, and
//! [`host`] makes it a member of a cluster.
//!
//! A program that wants a ledger of its own, without a server, starts at [`Ledger`].

pub mod api;
pub mod archive;
pub mod cli;
pub mod client;
pub mod cluster;
pub mod config;
pub mod env;
pub mod error;
pub mod host;
pub mod index;
pub mod ledger;
pub mod metrics;
pub mod node;
pub mod pipeline;
pub mod proof;
pub mod raft;
pub mod read;
pub mod runtime;
pub mod sealed;
pub mod segment;
pub mod sim;
pub mod state;
pub mod tree;
pub mod types;
pub mod verify;
pub mod wal;
pub mod wire;

pub use crate::{
    error::{Error, Result},
    ledger::Ledger,
    proof::merkle_map::MerkleTree,
};
