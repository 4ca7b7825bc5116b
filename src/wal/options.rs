//! How a log is opened.

use super::{Driver, sink::PIECE_BYTES};
use crate::config::WalConfig;

/// How a log is opened.
#[derive(Clone, Debug)]
pub struct WalOptions {
    /// What an operator can set.
    pub config: WalConfig,
    /// Who runs the writer.
    pub driver: Driver,
    /// Size of the pieces in which a large group is written, whole blocks: small ones let a simulation tear
    /// between them. The uring writer has a size of its own.
    #[doc(hidden)]
    pub piece_bytes: usize,
    /// Bugs to plant, to see whether the tests find them. None by default.
    #[doc(hidden)]
    pub sabotage: Sabotage,
}

impl WalOptions {
    /// These settings, run by this driver.
    #[must_use]
    pub fn new(config: WalConfig, driver: Driver) -> Self {
        Self { config, driver, piece_bytes: PIECE_BYTES, sabotage: Sabotage::default() }
    }
}

/// Bugs that the crash harness must find; each is a branch on a constant `false` in normal use.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sabotage {
    /// Completes before the group is written.
    pub ack_before_sync: bool,
    /// Takes files into use without syncing the directory.
    pub skip_dir_sync: bool,
    /// Tries a failed write or sync again and goes on.
    pub retry_after_error: bool,
    /// Believes groups and records without checking sums.
    pub skip_sums: bool,
    /// Moves votes behind appends.
    pub reorder_votes: bool,
    /// Gives every file the same generation.
    pub reuse_generation: bool,
    /// Begins files without restating vote and purge point.
    pub skip_opening: bool,
    /// Frees files when the purge is queued, not when it is durable.
    pub free_early: bool,
    /// Does not carry the last group over into the next run's file.
    pub skip_carry: bool,
    /// Takes every bad group for a torn tail.
    pub skip_damage_check: bool,
}
