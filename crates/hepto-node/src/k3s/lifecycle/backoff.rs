//! How long k3s stays ended: twice as long as the last time.

use std::time::Duration;

/// The pauses after ends of k3s that follow one another.
#[derive(Debug)]
pub(super) struct Backoff {
    least: Duration,
    most: Duration,
    /// Ends since the last forgiveness: the exponent.
    ends: u32,
    random: SplitMix,
}

impl Backoff {
    /// From `least` to `most`. Equal seeds give equal pauses.
    pub fn new(least: Duration, most: Duration, seed: u64) -> Self {
        Backoff {
            least,
            most,
            ends: 0,
            random: SplitMix(seed),
        }
    }

    /// The pause after one more end, less a random part so that the nodes of a cluster do not all come back at once.
    pub fn next(&mut self) -> Duration {
        let doubled = self
            .least
            .saturating_mul(1u32.checked_shl(self.ends).unwrap_or(u32::MAX));
        self.ends = self.ends.saturating_add(1);
        doubled
            .min(self.most)
            .mul_f64(0.5 + 0.5 * self.random.unit())
            .max(self.least)
    }

    /// Forgets earlier ends, after a long health.
    pub fn forgive(&mut self) {
        self.ends = 0;
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): spread, not secrecy, and the same on every machine for one seed.
#[derive(Debug)]
struct SplitMix(u64);

impl SplitMix {
    /// At least 0, below 1.
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        (mixed >> 11) as f64 / (1u64 << 53) as f64
    }
}
