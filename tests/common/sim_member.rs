//! What simulated members have in common: their clock, their small logs, where they are reached, what they start as,
//! and what may be spoiled on its way to them.

#![allow(dead_code)] // Each test program has its own needs.

use bytes::Bytes;
use scribe_ledger::{
    cluster::message::Question,
    config::{Config, WalConfig},
    env::{Clock, Lane},
    node::Founding,
    raft::Member,
    types::NodeId,
};
use tokio::time::Instant;

/// When simulations begin, in milliseconds since 1970.
pub const BASE_MS: u64 = 1_700_000_000_000;

/// A clock that goes with the simulation's.
#[derive(Debug)]
pub struct MemberClock {
    /// When the simulation began.
    pub started: Instant,
    /// How far it is ahead, in milliseconds.
    pub ahead_ms: u64,
}

impl Clock for MemberClock {
    fn now_ms(&self) -> u64 {
        BASE_MS + self.started.elapsed().as_millis() as u64 + self.ahead_ms
    }
}

/// Where a member is reached.
pub fn address(id: NodeId) -> Member {
    Member { raft_addr: format!("sim:{id}"), ..Member::default() }
}

/// The first founds the group, the others come to it.
pub fn founding(id: NodeId, founders: impl IntoIterator<Item = NodeId>) -> Founding {
    match id {
        1 => Founding::Group(founders.into_iter().map(|id| (id, address(id))).collect()),
        _ => Founding::Join { cluster_id: "sim".into(), incarnation: None },
    }
}

/// Small log files and segments, quick elections, no archive.
pub fn config(id: NodeId) -> Config {
    let mut config = Config::default();
    config.node.id = id;
    config.node.data_dir = "/ledger".into();
    config.storage.tiering.enable_auto_archival = false;
    config.wal = WalConfig {
        file_bytes: 64 << 10,
        group_bytes_max: 16 << 10,
        tail_bytes_max: 16 << 10,
        disk_free_bytes_min: 0,
        ..WalConfig::default()
    };
    config.storage.segment_size = 4 << 10;
    config.consensus.election_timeout_ms = 300;
    config.consensus.heartbeat_interval_ms = 50;
    config
}

/// Whether a request is for segments: whoever fetches one verifies it, so its answer may be spoiled. What members say
/// of themselves is believed.
pub fn is_for_segments(lane: Lane, request: &[u8]) -> bool {
    lane == Lane::Fetch && matches!(Question::decode(request), Ok(Question::List(_) | Question::Part { .. }))
}

/// An answer with one bit of it flipped, behind its first byte; which one, `at` says.
pub fn spoiled(answer: &[u8], at: u64) -> Bytes {
    let mut bytes = answer.to_vec();
    if bytes.len() > 1 {
        let at = 1 + (at % (bytes.len() as u64 - 1)) as usize;
        bytes[at] ^= 1 << (at % 8);
    }
    bytes.into()
}
