//! A world that can be played again: simulated disk, time and chance behind the seams of [`crate::env`].
//!
//! Everything random comes from a seed, nothing from threads, hash maps or the clock of the machine, so
//! a seed that failed once fails again, at the same byte. Tests and simulations use it; a node never does.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use crate::{
    env::{Clock, Env, Rng, real::NoPeers},
    types::TimestampMs,
};

pub mod disk;
pub mod network;

pub use disk::{Failure, Fault, Op, Refusal, SimIo};
pub use network::SimNetwork;

/// A seeded source of randomness: the SplitMix64 sequence (Steele, Lea and Flood, 2014).
///
/// Shared between threads it stays free of data races, but only one thread makes a run replayable.
pub struct SimRng(AtomicU64);

impl SimRng {
    /// The sequence of this seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    /// A number below `bound`; 0 when `bound` is 0.
    pub fn below(&self, bound: u64) -> u64 {
        // The bias of the remainder is below 2^-32 for every bound in use.
        self.next_u64().checked_rem(bound).unwrap_or(0)
    }

    /// True once in `count` times, on average.
    pub fn one_in(&self, count: u64) -> bool {
        self.below(count) == 0
    }

    /// A sequence of its own, whose draws do not shift this one's.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self::new(self.next_u64())
    }
}

impl Rng for SimRng {
    fn next_u64(&self) -> u64 {
        const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut z = self.0.fetch_add(GAMMA, Relaxed).wrapping_add(GAMMA);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

impl fmt::Debug for SimRng {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimRng")
    }
}

/// A wall clock that moves when it is told to.
#[derive(Debug)]
pub struct SimClock(AtomicU64);

impl SimClock {
    /// A clock that stands at this time.
    #[must_use]
    pub const fn new(now_ms: TimestampMs) -> Self {
        Self(AtomicU64::new(now_ms))
    }

    /// Moves it on.
    pub fn advance(&self, ms: u64) {
        self.0.fetch_add(ms, Relaxed);
    }

    /// Sets it, backwards too, as clocks of real machines are.
    pub fn set(&self, now_ms: TimestampMs) {
        self.0.store(now_ms, Relaxed);
    }
}

impl Clock for SimClock {
    fn now_ms(&self) -> TimestampMs {
        self.0.load(Relaxed)
    }
}

/// A runtime for one life of a simulated process: one thread, paused time that jumps to the next timer when
/// nothing else is left to do, and tokio's own randomness from this seed.
///
/// tokio takes the seed only under `--cfg tokio_unstable`, which this repository's `.cargo/config.toml`
/// sets; without it runs are as good, but not the same twice.
///
/// # Panics
/// When the operating system has no descriptors left.
#[must_use]
pub fn runtime(seed: u64) -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    #[cfg(tokio_unstable)]
    builder.rng_seed(tokio::runtime::RngSeed::from_bytes(&seed.to_le_bytes()));
    #[cfg(not(tokio_unstable))]
    let _ = seed;
    builder.enable_time().start_paused(true).build().expect("a runtime without I/O can always be built")
}

/// The seams of one simulated node without peers, on this disk.
#[must_use]
pub fn sim_env(io: &SimIo, seed: u64) -> Env {
    Env {
        io: Arc::new(io.clone()),
        clock: Arc::new(SimClock::new(1_700_000_000_000)),
        rng: Arc::new(SimRng::new(seed)),
        network: Arc::new(NoPeers),
    }
}
