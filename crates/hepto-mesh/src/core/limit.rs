//! A token bucket in made-up time.

use std::time::{Duration, Instant};

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
