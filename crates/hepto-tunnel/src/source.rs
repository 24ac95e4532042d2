//! How often one source may make us compute while many ask.
//!
//! Under load a source returns a cookie first, so its address is its own; then it gets what the kernel's WireGuard gives
//! it. Otherwise one peer, or whoever replays one that it has overheard, would take all our time. The table has a fixed
//! size: who finds no place takes that of the source that has been quiet the longest, so a crowd can at most forget one
//! another's past, and nobody is refused for want of memory.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Between two handshake messages of one source, in the long run.
const INTERVAL: Duration = Duration::from_millis(50);

/// Messages that a source may send at once.
const BURST: u32 = 5;

/// Places that a source may take, and how often there are so many.
const WAYS: usize = 4;
const SETS: usize = 256;

/// Who asked lately.
pub(crate) struct Sources {
    places: Box<[[Place; WAYS]]>,
    /// Keyed anew at each start: nobody can choose addresses that share a set.
    hash: RandomState,
    start: Instant,
}

/// A source by its hash, and when it would be at rest again if it asked no more.
#[derive(Clone, Copy, Default)]
struct Place {
    source: u64,
    rests: Duration,
}

impl Sources {
    pub(crate) fn new(start: Instant) -> Sources {
        Sources {
            places: vec![[Place::default(); WAYS]; SETS].into_boxed_slice(),
            hash: RandomState::new(),
            start,
        }
    }

    /// Whether `source` may ask at this moment; counts it if so. An IPv6 source is its /64: whoever has one address of a
    /// home has them all.
    pub(crate) fn admit(&mut self, source: IpAddr, now: Instant) -> bool {
        let source = match source {
            IpAddr::V4(ip) => self.hash.hash_one(ip),
            IpAddr::V6(ip) => self.hash.hash_one(ip.to_bits() >> 64),
        };
        let now = now.saturating_duration_since(self.start);
        let set = &mut self.places[source as usize % SETS];
        let place = match set.iter().position(|place| place.source == source) {
            Some(known) => &mut set[known],
            None => {
                let Some(quietest) = set.iter_mut().min_by_key(|place| place.rests) else {
                    unreachable!("a set has places")
                };
                *quietest = Place {
                    source,
                    rests: Duration::ZERO,
                };
                quietest
            }
        };
        if place.rests > now + INTERVAL * (BURST - 1) {
            return false;
        }
        place.rests = place.rests.max(now) + INTERVAL;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn admitted(sources: &mut Sources, source: &str, at: Instant, times: usize) -> usize {
        (0..times).filter(|_| sources.admit(ip(source), at)).count()
    }

    #[test]
    fn a_source_has_a_burst_and_then_a_rate_of_its_own() {
        let start = Instant::now();
        let mut sources = Sources::new(start);
        assert_eq!(admitted(&mut sources, "192.0.2.1", start, 1000), 5);
        assert_eq!(admitted(&mut sources, "192.0.2.2", start, 1000), 5);
        let mut passed = 0;
        for tick in 1..=10_000 {
            let at = start + Duration::from_millis(tick);
            passed += admitted(&mut sources, "192.0.2.1", at, 1);
        }
        assert_eq!(passed, 200, "twenty a second for ten seconds");
        let rested = start + Duration::from_secs(60);
        assert_eq!(admitted(&mut sources, "192.0.2.1", rested, 1000), 5);
    }

    #[test]
    fn a_home_is_one_source() {
        let start = Instant::now();
        let mut sources = Sources::new(start);
        let passed: usize = (0..100)
            .map(|host| admitted(&mut sources, &format!("2001:db8:1:2::{host:x}"), start, 1))
            .sum();
        assert_eq!(passed, 5);
        assert!(sources.admit(ip("2001:db8:1:3::1"), start));
    }

    #[test]
    fn a_crowd_locks_nobody_out_and_does_not_free_a_flooder() {
        let start = Instant::now();
        let mut sources = Sources::new(start);
        // Ten thousand others, each once a second, beside one that floods: ten times what the table holds.
        let (mut flooder, mut refused) = (0, 0);
        for number in 0..10_000u32 {
            let at = start + Duration::from_micros(100) * number;
            flooder += admitted(&mut sources, "192.0.2.1", at, 1);
            let other = IpAddr::from((0x0a00_0000 + number).to_be_bytes());
            refused += usize::from(!sources.admit(other, at));
        }
        assert_eq!(refused, 0);
        // The quietest goes first, and a flooder never is: 5 and 20 for the second.
        assert!(flooder <= 26, "{flooder} of 10,000");
    }
}
