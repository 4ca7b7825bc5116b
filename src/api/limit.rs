//! How many requests a second one client address may make.
//!
//! Takes addresses, gives yes or a delay. Off unless `limits.max_requests_per_client_per_sec` is set. Its size
//! is fixed: an address has the allowance of the slot that it hashes to, with a seed that nobody outside knows.
//! Two addresses that meet in one slot share its allowance; so does a flood of more addresses than there are
//! slots with everyone. That is the price of never searching or clearing a table while the flood is on.

use std::{
    hash::BuildHasher,
    net::IpAddr,
    num::NonZeroU32,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use foldhash::quality::RandomState;
use tokio::time::Instant;

use crate::error::{Code, Error, Result};

/// Allowances, 8 bytes each. Of a thousand clients at once, about eight share one with another.
const SLOTS: usize = 1 << 16;

/// Allowances by address.
#[derive(Debug)]
pub(super) struct Limiter(Option<Slots>);

/// The generic cell rate algorithm: a slot holds the time, in nanoseconds since `start`, at which its allowance
/// would be whole again. It may lie at most a second, a burst's worth, ahead of now.
#[derive(Debug)]
struct Slots {
    times: Box<[AtomicU64]>,
    seed: RandomState,
    start: Instant,
    nanos_per_request: u64,
}

const BURST_NANOS: u64 = 1_000_000_000;

impl Limiter {
    /// `per_sec` requests a second, in bursts of as many; 0 = no limit.
    pub fn new(per_sec: u32) -> Self {
        Self(NonZeroU32::new(per_sec).map(|per_sec| Slots {
            times: (0..SLOTS).map(|_| AtomicU64::new(0)).collect(),
            seed: RandomState::default(),
            start: Instant::now(),
            nanos_per_request: BURST_NANOS / u64::from(per_sec.get()),
        }))
    }

    /// Counts a request from this address.
    ///
    /// # Errors
    /// `RateLimited` with the time until the next one is allowed.
    pub fn check(&self, address: IpAddr) -> Result<()> {
        let Some(slots) = &self.0 else { return Ok(()) };
        slots.take(client_of(address)).map_err(|wait| {
            Error::new(Code::RateLimited, "this address makes more requests a second than one client may")
                .retry_after(wait.max(Duration::from_millis(1)))
        })
    }
}

impl Slots {
    fn take(&self, client: IpAddr) -> Result<(), Duration> {
        // The mask keeps it in bounds.
        let slot = &self.times[self.seed.hash_one(client) as usize & (SLOTS - 1)];
        let now = u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX / 2);
        let next = |whole: u64| whole.max(now) + self.nanos_per_request;
        slot.fetch_update(Relaxed, Relaxed, |whole| {
            Some(next(whole)).filter(|next| *next <= now + BURST_NANOS)
        })
        .map(drop)
        .map_err(|whole| Duration::from_nanos(next(whole).saturating_sub(now + BURST_NANOS)))
    }
}

/// Who an address stands for. A host has a whole /64 of IPv6 and can use any address in it.
fn client_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & !u128::from(u64::MAX)).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two addresses that do not share a slot.
    fn two_clients(limiter: &Limiter) -> (IpAddr, IpAddr) {
        let slots = limiter.0.as_ref().unwrap();
        let slot = |address: &IpAddr| slots.seed.hash_one(*address) as usize & (SLOTS - 1);
        let one: IpAddr = "10.0.0.1".parse().unwrap();
        let others = (2..9).map(|n| IpAddr::from([10, 0, 0, n]));
        (one, others.into_iter().find(|other| slot(other) != slot(&one)).unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn each_client_has_its_own_allowance_and_earns_it_again() {
        let limiter = Limiter::new(4);
        let (one, other) = two_clients(&limiter);
        for _ in 0..3 {
            assert!((0..4).all(|_| limiter.check(one).is_ok()), "a burst");
            let error = limiter.check(one).unwrap_err();
            assert_eq!(
                (error.code(), error.retry_delay()),
                (Code::RateLimited, Some(Duration::from_millis(250)))
            );
            assert!(limiter.check(other).is_ok());
            tokio::time::advance(Duration::from_millis(249)).await;
            assert!(limiter.check(one).is_err(), "being refused costs nothing and gains nothing");
            tokio::time::advance(Duration::from_millis(1)).await;
            assert!(limiter.check(one).is_ok());
            tokio::time::advance(Duration::from_secs(60)).await;
        }
        let unlimited = Limiter::new(0);
        assert!((0..1_000).all(|_| unlimited.check(one).is_ok()));
        let high = Limiter::new(u32::MAX);
        assert!((0..1_000).all(|_| high.check(one).is_ok()));
    }

    #[test]
    fn one_host_is_one_client_under_any_of_its_addresses() {
        assert_eq!(client_of("::ffff:10.0.0.1".parse().unwrap()), "10.0.0.1".parse::<IpAddr>().unwrap());
        assert_eq!(client_of("2001:db8::1".parse().unwrap()), client_of("2001:db8::2:3".parse().unwrap()));
        assert_ne!(client_of("2001:db8::1".parse().unwrap()), client_of("2001:db8:0:1::1".parse().unwrap()));
    }

    /// A full table used to be searched for old entries by every request, and everyone then shared one allowance.
    #[tokio::test(start_paused = true)]
    async fn a_flood_of_addresses_leaves_room_for_others() {
        let limiter = Limiter::new(1);
        let used_up = (0..2_000).map(|n: u32| IpAddr::V4((0x0a00_0000 + n).into()));
        used_up.for_each(|address| drop(limiter.check(address)));
        let strangers = (0..1_000).map(|n: u32| IpAddr::V4((0xc0a8_0000 + n).into()));
        let served = strangers.filter(|address| limiter.check(*address).is_ok()).count();
        // Three in a hundred share a slot with the flood; ten would be a hash that is none.
        assert!(served > 900, "{served}");
    }
}
