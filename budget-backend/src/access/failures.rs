//! Wrong tokens by address: so many at once, then one a second. Bounded.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Wrong tokens that an address may show at once.
const BURST: u32 = 60;

/// How long it takes until it may show one more.
const REFILL: Duration = Duration::from_secs(1);

/// Addresses remembered; beyond, the one that has failed least is forgotten.
const MAX_ADDRESSES: usize = 4_096;

/// Bits of an IPv6 address that name a network: within one, an attacker has as many as he likes.
const NETWORK_BITS: u32 = 64;

/// Failures of late. Each counts from when on it is forgotten again.
#[derive(Debug, Default)]
pub struct Failures(Mutex<HashMap<IpAddr, Instant>>);

impl Failures {
    /// How long an address has to wait until it may try again; `None`: not at all.
    #[must_use]
    pub fn wait(&self, address: IpAddr, now: Instant) -> Option<Duration> {
        let paid_at = *self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&network(address))?;
        let owed = paid_at.saturating_duration_since(now);
        let allowed = REFILL * (BURST - 1);
        (owed > allowed).then(|| owed.saturating_sub(allowed))
    }

    /// Notes a wrong token.
    pub fn note(&self, address: IpAddr, now: Instant) {
        let mut failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let address = network(address);
        if !failures.contains_key(&address) && failures.len() >= MAX_ADDRESSES {
            failures.retain(|_, paid_at| *paid_at > now);
            if failures.len() >= MAX_ADDRESSES
                && let Some(least) = failures.iter().min_by_key(|(_, paid_at)| **paid_at).map(|(at, _)| *at)
            {
                failures.remove(&least);
            }
        }
        let paid_at = failures.entry(address).or_insert(now);
        // Never owed more than the burst: whoever stops is let in a second later.
        *paid_at = ((*paid_at).max(now) + REFILL).min(now + REFILL * BURST);
    }
}

fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << NETWORK_BITS))),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn after_a_burst_one_a_second() {
        let (failures, now) = (Failures::default(), Instant::now());
        let (one, other) = (at("192.0.2.1"), at("192.0.2.2"));
        for tried in 0..BURST {
            assert_eq!(failures.wait(one, now), None, "{tried}");
            failures.note(one, now);
        }
        assert_eq!(failures.wait(one, now), Some(REFILL));
        assert_eq!(failures.wait(other, now), None);
        // Trying on makes it no longer than that.
        failures.note(one, now);
        assert_eq!(failures.wait(one, now), Some(REFILL));
        assert_eq!(failures.wait(one, now + REFILL), None);
        failures.note(one, now + REFILL);
        assert_eq!(failures.wait(one, now + REFILL), Some(REFILL));
    }

    #[test]
    fn one_network_is_one_address_and_memory_is_bounded() {
        let (failures, now) = (Failures::default(), Instant::now());
        for _ in 0..BURST {
            failures.note(at("2001:db8::1"), now);
        }
        assert!(failures.wait(at("2001:db8::ffff"), now).is_some());
        assert!(failures.wait(at("2001:db8:0:1::1"), now).is_none());
        for number in 0..u32::try_from(2 * MAX_ADDRESSES).unwrap() {
            failures.note(IpAddr::V4((0x0a00_0000 + number).into()), now);
        }
        assert_eq!(failures.0.lock().unwrap().len(), MAX_ADDRESSES);
        // Whoever has failed most is the last to be forgotten.
        assert!(failures.wait(at("2001:db8::1"), now).is_some());
    }
}
