//! How many requests a second one client address may make.
//!
//! Takes addresses, gives yes or a delay. Off unless `limits.max_requests_per_client_per_sec` is set. It
//! bounds its own memory: a flood of addresses shares one allowance instead of one entry each.

use std::{
    net::{IpAddr, Ipv4Addr},
    num::NonZeroU32,
    time::Duration,
};

use governor::{
    Quota, RateLimiter,
    clock::{Clock, DefaultClock},
    state::keyed::HashMapStateStore,
};

use crate::error::{Code, Error, Result};

/// Addresses with an allowance of their own.
const ADDRESSES_MAX: usize = 65_536;

/// The allowance of everyone who comes while the table is full.
const EVERYONE_ELSE: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// Allowances by address.
#[derive(Debug)]
pub(super) struct Limiter(Option<RateLimiter<IpAddr, HashMapStateStore<IpAddr>, DefaultClock>>);

impl Limiter {
    /// `per_sec` requests a second, in bursts of as many; 0 = no limit.
    pub fn new(per_sec: u32) -> Self {
        Self(NonZeroU32::new(per_sec).map(|per_sec| RateLimiter::hashmap(Quota::per_second(per_sec))))
    }

    /// Counts a request from this address.
    ///
    /// # Errors
    /// `RateLimited` with the time until the next one is allowed.
    pub fn check(&self, address: IpAddr) -> Result<()> {
        let Some(limiter) = &self.0 else { return Ok(()) };
        let mut client = client_of(address);
        if limiter.len() >= ADDRESSES_MAX {
            limiter.retain_recent();
            if limiter.len() >= ADDRESSES_MAX {
                client = EVERYONE_ELSE;
            }
        }
        limiter.check_key(&client).map_err(|not_until| {
            let wait = not_until.wait_time_from(DefaultClock::default().now());
            Error::new(Code::RateLimited, "this address makes more requests a second than one client may")
                .retry_after(wait.max(Duration::from_millis(1)))
        })
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

    #[test]
    fn each_client_has_its_own_allowance() {
        let limiter = Limiter::new(2);
        let one: IpAddr = "10.0.0.1".parse().unwrap();
        let other: IpAddr = "10.0.0.2".parse().unwrap();
        assert!(limiter.check(one).is_ok() && limiter.check(one).is_ok());
        let error = limiter.check(one).unwrap_err();
        assert_eq!(error.code(), Code::RateLimited);
        assert!(error.retry_delay().is_some_and(|delay| delay <= Duration::from_secs(1)));
        assert!(limiter.check(other).is_ok());
        let unlimited = Limiter::new(0);
        assert!((0..1_000).all(|_| unlimited.check(one).is_ok()));
    }

    #[test]
    fn one_host_is_one_client_under_any_of_its_addresses() {
        assert_eq!(client_of("::ffff:10.0.0.1".parse().unwrap()), "10.0.0.1".parse::<IpAddr>().unwrap());
        assert_eq!(client_of("2001:db8::1".parse().unwrap()), client_of("2001:db8::2:3".parse().unwrap()));
        assert_ne!(client_of("2001:db8::1".parse().unwrap()), client_of("2001:db8:0:1::1".parse().unwrap()));
    }

    #[test]
    fn a_flood_of_addresses_is_bounded() {
        let limiter = Limiter::new(1);
        for n in 0..ADDRESSES_MAX as u32 + 1_000 {
            let _ = limiter.check(IpAddr::V4(n.wrapping_add(0x0a00_0000).into()));
        }
        assert!(limiter.0.unwrap().len() <= ADDRESSES_MAX + 1);
    }
}
