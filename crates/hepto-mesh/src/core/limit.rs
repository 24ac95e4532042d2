//! Token buckets in made-up time.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// Sources that one limit remembers.
const SOURCES_MAX: usize = 1024;

/// A bucket a source and one for all, in a bounded table.
#[derive(Debug)]
pub(super) struct SourceLimit {
    each: Bucket,
    all: Bucket,
    sources: BTreeMap<IpAddr, Bucket>,
}

impl SourceLimit {
    /// `each` is what one source has, `all` what all have together.
    pub fn new(each: Bucket, all: Bucket) -> Self {
        Self {
            each,
            all,
            sources: BTreeMap::new(),
        }
    }

    /// Takes one for the source of `from`, if there is one.
    pub fn take(&mut self, from: IpAddr, now: Instant) -> bool {
        let source = source(from);
        if !self.sources.contains_key(&source) && self.sources.len() >= SOURCES_MAX {
            self.sources.retain(|_, bucket| !bucket.is_full(now));
            if self.sources.len() >= SOURCES_MAX {
                return false;
            }
        }
        let each = &self.each;
        let bucket = self.sources.entry(source).or_insert_with(|| each.clone());
        bucket.take(now) && self.all.take(now)
    }

    #[cfg(test)]
    pub fn sources(&self) -> usize {
        self.sources.len()
    }
}

/// What counts as one source: an IPv4 address, or an IPv6 /64, of which a host has all addresses.
pub(super) fn source(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(v6) => Ipv6Addr::from(u128::from(v6) & !u128::from(u64::MAX)).into(),
    }
}

/// Lets `burst` pass at once, then one per `interval`.
#[derive(Debug, Clone)]
pub(super) struct Bucket {
    burst: u32,
    interval: Duration,
    left: u32,
    refilled: Instant,
}

impl Bucket {
    pub fn new(burst: u32, interval: Duration, now: Instant) -> Self {
        Self {
            burst,
            interval,
            left: burst,
            refilled: now,
        }
    }

    /// Takes one, if there is one.
    pub fn take(&mut self, now: Instant) -> bool {
        self.refill(now);
        if self.left == 0 {
            return false;
        }
        self.left -= 1;
        true
    }

    /// Whether nothing has been taken that is not back: forgetting such a bucket changes nothing.
    pub fn is_full(&mut self, now: Instant) -> bool {
        self.refill(now);
        self.left == self.burst
    }

    fn refill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.refilled);
        let back = u32::try_from(passed.as_nanos() / self.interval.as_nanos()).unwrap_or(u32::MAX);
        if back >= self.burst - self.left {
            self.left = self.burst;
            self.refilled = now;
        } else {
            self.left += back;
            self.refilled += self.interval * back;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn burst_then_rate() {
        let start = crate::core::testing::now();
        let mut bucket = Bucket::new(3, Duration::from_secs(10), start);
        assert!((0..3).all(|_| bucket.take(start)));
        assert!(!bucket.take(start + Duration::from_secs(9)));
        assert!(bucket.take(start + Duration::from_secs(10)));
        assert!(!bucket.take(start + Duration::from_secs(19)));
        assert!(bucket.take(start + Duration::from_secs(20)));
        assert!(bucket.is_full(start + Duration::from_secs(50)));
        assert!((0..3).all(|_| bucket.take(start + Duration::from_secs(500))));
        assert!(!bucket.take(start + Duration::from_secs(500)));
    }
}
