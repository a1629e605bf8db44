//! How often somebody may try to log in or register: passwords are not to be guessed, and each try costs as much as thousands of
//! messages.
//!
//! A login is counted twice, for the user it is meant for and for the address that it comes from: an address cannot try many users, and
//! many addresses cannot try one. The price is that somebody can keep a user from logging in; users who have a token are not
//! affected. All cores share the counts. The table is bounded, and when it is full those that tried least are forgotten first, so that
//! strange names cannot be used to wash away what is known of one.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::bucket::{Rate, SharedBucket};
use super::buckets::SharedBuckets;
use super::time::Tick;

/// Seconds of the periods that rates are given for. A bucket is refilled by the second: an attempt costs as much as the period has
/// seconds, so that slow rates are whole numbers too.
const MINUTE_S: u64 = 60;
const HOUR_S: u64 = 3600;

/// Whose attempts.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Who {
    User(Arc<str>),
    /// Where logins come from.
    Address(IpAddr),
    /// Where registrations come from.
    NewAt(IpAddr),
}

/// The attempts of the whole server.
#[derive(Debug)]
pub struct Attempts {
    buckets: SharedBuckets<Who>,
    logins_per_minute: AtomicU64,
    registrations_per_hour: AtomicU64,
}

/// So many a period, where one costs as much as the period has seconds.
fn rate(per_period: u64, period_s: u64) -> Rate {
    Rate { per_second: per_period, burst: per_period.saturating_mul(period_s) }
}

impl Attempts {
    /// Nobody has tried anything. A rate of 0 is no limit; of more than `buckets_max` names and addresses some are forgotten.
    pub fn new(logins_per_minute: u64, registrations_per_hour: u64, buckets_max: usize) -> Self {
        Attempts {
            buckets: SharedBuckets::bounded(buckets_max),
            logins_per_minute: AtomicU64::new(logins_per_minute),
            registrations_per_hour: AtomicU64::new(registrations_per_hour),
        }
    }

    /// Allows so many from now on. What has been tried still counts.
    pub fn set_rates(&self, logins_per_minute: u64, registrations_per_hour: u64) {
        self.logins_per_minute.store(logins_per_minute, Relaxed);
        self.registrations_per_hour.store(registrations_per_hour, Relaxed);
    }

    /// Counts an attempt to log in as a user (the folded name) from an address, or says after how many milliseconds it may be made. One
    /// that is refused is not counted.
    pub fn take(&self, name_folded: &str, address: IpAddr, now: Tick) -> Result<(), u64> {
        let logins = rate(self.logins_per_minute.load(Relaxed), MINUTE_S);
        if logins.is_unlimited() {
            return Ok(());
        }
        let user = self.buckets.get(Who::User(Arc::from(name_folded)), now);
        let address = self.buckets.get(Who::Address(network(address)), now);
        let wait_ms = |bucket: &SharedBucket| bucket.wait_ms(&logins, MINUTE_S, now);
        match wait_ms(&user).max(wait_ms(&address)) {
            0 => {}
            ms => return Err(ms),
        }
        // Another core may have taken the last of the second since it was looked at; then the first is counted for nothing.
        address.take(&logins, MINUTE_S, now)?;
        user.take(&logins, MINUTE_S, now)
    }

    /// Counts an attempt to register from an address, or says after how many milliseconds it may be made.
    pub fn take_registration(&self, address: IpAddr, now: Tick) -> Result<(), u64> {
        let registrations = rate(self.registrations_per_hour.load(Relaxed), HOUR_S);
        if registrations.is_unlimited() {
            return Ok(());
        }
        self.buckets.get(Who::NewAt(network(address)), now).take(&registrations, HOUR_S, now)
    }
}

/// What counts as one address: of IPv6 the first 64 bits, because whoever has one such address has all of them (RFC 6177).
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEGIN: Tick = Tick(1_000_000);

    fn host(number: u32) -> IpAddr {
        IpAddr::V4(number.into())
    }

    #[test]
    fn a_user_is_tried_so_often_a_minute_from_everywhere_together() {
        let attempts = Attempts::new(10, 0, 1000);
        for number in 0..10 {
            assert_eq!(attempts.take("bob", host(number), BEGIN), Ok(()), "{number}");
        }
        assert_eq!(attempts.take("bob", host(99), BEGIN), Err(6000));
        assert_eq!(attempts.take("bob", host(99), BEGIN + 5999), Err(1));
        assert_eq!(attempts.take("bob", host(99), BEGIN + 6000), Ok(()));
        assert_eq!(attempts.take("bob", host(99), BEGIN + 6000), Err(6000));
        assert_eq!(attempts.take("carol", host(99), BEGIN + 6000), Ok(()), "others are not concerned");
    }

    #[test]
    fn an_address_tries_so_often_a_minute_whomever() {
        let attempts = Attempts::new(10, 0, 1000);
        for user in 0..10 {
            assert_eq!(attempts.take(&format!("user{user}"), host(1), BEGIN), Ok(()), "{user}");
        }
        assert_eq!(attempts.take("user10", host(1), BEGIN), Err(6000));
        // What was refused has not been counted for the user.
        for number in 2..12 {
            assert_eq!(attempts.take("user10", host(number), BEGIN), Ok(()), "{number}");
        }
    }

    #[test]
    fn an_address_registers_so_many_users_an_hour() {
        let attempts = Attempts::new(10, 2, 1000);
        assert_eq!(attempts.take_registration(host(1), BEGIN), Ok(()));
        assert_eq!(attempts.take_registration(host(1), BEGIN), Ok(()));
        assert_eq!(attempts.take_registration(host(1), BEGIN), Err(1_800_000));
        assert_eq!(attempts.take_registration(host(2), BEGIN), Ok(()));
        assert_eq!(attempts.take("bob", host(1), BEGIN), Ok(()), "logins are counted apart");
    }

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        let attempts = Attempts::new(1, 0, 1000);
        let address = |text: &str| text.parse().unwrap();
        assert_eq!(attempts.take("a", address("2001:db8::1"), BEGIN), Ok(()));
        assert!(attempts.take("b", address("2001:db8::ffff:1"), BEGIN).is_err());
        assert_eq!(attempts.take("c", address("2001:db8:0:1::1"), BEGIN), Ok(()));
        assert_eq!(attempts.take("d", address("192.0.2.1"), BEGIN), Ok(()));
        assert!(attempts.take("e", address("::ffff:192.0.2.1"), BEGIN).is_err(), "the same in IPv6");
    }

    #[test]
    fn other_rates_hold_at_once_and_what_was_tried_counts() {
        let attempts = Attempts::new(10, 20, 1000);
        for _ in 0..5 {
            assert_eq!(attempts.take("bob", host(1), BEGIN), Ok(()));
            assert_eq!(attempts.take_registration(host(1), BEGIN), Ok(()));
        }
        attempts.set_rates(1, 1);
        assert_eq!(
            attempts.take("bob", host(2), BEGIN),
            Err(30_000),
            "five tries of a rate of ten are half a minute"
        );
        assert_eq!(
            attempts.take_registration(host(1), BEGIN),
            Err(900_000),
            "and of twenty a quarter of an hour"
        );
        attempts.set_rates(0, 0);
        assert_eq!(attempts.take("bob", host(2), BEGIN), Ok(()));
        assert_eq!(attempts.take_registration(host(1), BEGIN), Ok(()));
    }

    #[test]
    fn no_limit_is_none() {
        let attempts = Attempts::new(0, 0, 1000);
        for _ in 0..100_000 {
            assert_eq!(attempts.take("bob", host(1), BEGIN), Ok(()));
            assert_eq!(attempts.take_registration(host(1), BEGIN), Ok(()));
        }
        assert_eq!(attempts.buckets.len(), 0);
    }

    #[test]
    fn strange_names_do_not_wash_away_what_is_known() {
        let attempts = Attempts::new(10, 0, 1000);
        for number in 0..10 {
            attempts.take("bob", host(number), BEGIN).unwrap();
        }
        let mut passed = 0;
        for number in 0..100_000 {
            attempts.take(&format!("strange{number}"), host(1000 + number), BEGIN).unwrap();
            passed += u32::from(attempts.take("bob", host(1_000_000 + number), BEGIN).is_ok());
        }
        assert_eq!(passed, 0);
        assert!(attempts.buckets.len() <= 1000, "{}", attempts.buckets.len());
    }
}
