//! The operating system behind the seams: a file system, the wall clock, the kernel's randomness.
//!
//! Takes nothing but system calls; gives [`env`](super) its real implementations. It does not own
//! retries (a failed write or sync is the caller's to judge) nor what files mean.

use std::{io, sync::Arc};

use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::{Clock, Env, Lane, Network, PeerHandler, Rng};
use crate::types::{NodeId, TimestampMs};

mod disk;

pub use disk::{RealIo, is_in_memory};

/// The seams of a node without peers, on this machine's disk, clock and randomness.
#[must_use]
pub fn real_env() -> Env {
    Env {
        io: Arc::new(RealIo::new()),
        clock: Arc::new(SystemClock),
        rng: Arc::new(OsRng),
        network: Arc::new(NoPeers),
    }
}

/// The machine's wall clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now_ms(&self) -> TimestampMs {
        // A clock before 1970 is a broken clock; zero is what the skew check of the leader trips over.
        std::time::UNIX_EPOCH
            .elapsed()
            .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}

/// The kernel's random numbers, good enough for keys.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsRng;

impl Rng for OsRng {
    fn next_u64(&self) -> u64 {
        // Fails only where the platform has no source at all; nothing random is better than a guess there.
        getrandom::u64().expect("the operating system has a source of randomness")
    }
}

/// The network of a node that has no other members to talk to.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoPeers;

impl Network for NoPeers {
    fn serve(&self, _: Lane, _: PeerHandler) {}

    fn call(&self, _: NodeId, _: &str, _: Lane, _: Bytes) -> BoxFuture<'static, io::Result<Bytes>> {
        Box::pin(async { Err(io::Error::new(io::ErrorKind::NotConnected, "this node has no peers")) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_and_chance_move() {
        assert!(SystemClock.now_ms() > 1_600_000_000_000);
        assert_ne!(OsRng.next_u64(), OsRng.next_u64());
    }

    #[test]
    fn a_node_without_peers_says_so() {
        let call = NoPeers.call(2, "127.0.0.1:1", Lane::Urgent, Bytes::new());
        let error = futures_util::FutureExt::now_or_never(call).unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotConnected);
    }
}
