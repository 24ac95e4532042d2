//! Who may speak: tokens, replay windows and limits for those who are not known yet. All tables are bounded.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use super::limit::Bucket;
use crate::seal::replay::Window;
use crate::seal::token::{LIFETIME, Token, Tokens};

/// TOKENs to one source at once, and then one each interval.
const SOURCE_BURST: u32 = 64;
const SOURCE_INTERVAL: Duration = Duration::from_millis(100);
/// TOKENs in all.
const TOTAL_BURST: u32 = 200;
const TOTAL_INTERVAL: Duration = Duration::from_millis(5);
const SOURCES_MAX: usize = 1024;
const WINDOWS_MAX: usize = 1024;
/// Windows of one source: else one member could fill the table by changing its boot id.
const WINDOWS_PER_SOURCE: usize = 64;
/// A window is kept for as long as a token of its address may hold.
const WINDOW_LIFETIME: Duration = Duration::from_secs(2 * LIFETIME.as_secs());

/// What a HELLO's head is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Its token holds and it is new.
    Pass,
    /// Its token does not hold; this one will.
    Token(Token),
    /// Seen before.
    Replayed,
    /// Over a limit: no answer.
    Limited,
}

pub(super) struct Door {
    tokens: Tokens,
    sources: BTreeMap<IpAddr, Bucket>,
    total: Bucket,
    windows: BTreeMap<(SocketAddr, [u8; 8]), (Window, Instant)>,
}

impl Door {
    pub fn new(secret: [u8; 32], now: Instant) -> Self {
        Self {
            tokens: Tokens::new(secret, now),
            sources: BTreeMap::new(),
            total: Bucket::new(TOTAL_BURST, TOTAL_INTERVAL, now),
            windows: BTreeMap::new(),
        }
    }

    /// Judges a HELLO by its head alone: nothing behind it is read before this says [`Verdict::Pass`].
    pub fn judge(
        &mut self,
        from: SocketAddr,
        boot: [u8; 8],
        counter: u64,
        token: &Token,
        now: Instant,
    ) -> Verdict {
        if !self.tokens.holds(token, from, boot, now) {
            return if self.may_token(from.ip(), now) {
                Verdict::Token(self.tokens.issue(from, boot, now))
            } else {
                Verdict::Limited
            };
        }
        let key = (from, boot);
        if !self.windows.contains_key(&key) && !self.make_room(source(from.ip()), now) {
            return Verdict::Limited;
        }
        let (window, used) = self.windows.entry(key).or_insert((Window::default(), now));
        *used = now;
        if window.accept(counter) {
            Verdict::Pass
        } else {
            Verdict::Replayed
        }
    }

    fn may_token(&mut self, from: IpAddr, now: Instant) -> bool {
        let source = source(from);
        if !self.sources.contains_key(&source) && self.sources.len() >= SOURCES_MAX {
            self.sources.retain(|_, bucket| !bucket.is_full(now));
            if self.sources.len() >= SOURCES_MAX {
                return false;
            }
        }
        let bucket = self
            .sources
            .entry(source)
            .or_insert_with(|| Bucket::new(SOURCE_BURST, SOURCE_INTERVAL, now));
        bucket.take(now) && self.total.take(now)
    }

    fn make_room(&mut self, from: IpAddr, now: Instant) -> bool {
        let same = |windows: &BTreeMap<(SocketAddr, _), _>| {
            windows
                .keys()
                .filter(|(address, _)| source(address.ip()) == from)
                .count()
        };
        if self.windows.len() < WINDOWS_MAX && same(&self.windows) < WINDOWS_PER_SOURCE {
            return true;
        }
        self.windows
            .retain(|_, (_, used)| now.saturating_duration_since(*used) < WINDOW_LIFETIME);
        self.windows.len() < WINDOWS_MAX && same(&self.windows) < WINDOWS_PER_SOURCE
    }
}

/// What counts as one source: an IPv4 address, or an IPv6 /64, of which a host has all addresses.
fn source(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(v6) => Ipv6Addr::from(u128::from(v6) & !u128::from(u64::MAX)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::testing;
    use crate::seal::token::NONE;

    const BOOT: [u8; 8] = [1; 8];

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn a_token_opens_the_door_once_a_counter() {
        let now = testing::now();
        let mut door = Door::new([0; 32], now);
        let from = address("192.0.2.1:7");
        let Verdict::Token(token) = door.judge(from, BOOT, 1, &NONE, now) else {
            panic!("no token")
        };
        assert_eq!(door.judge(from, BOOT, 2, &token, now), Verdict::Pass);
        assert_eq!(door.judge(from, BOOT, 2, &token, now), Verdict::Replayed);
        assert_eq!(door.judge(from, BOOT, 1, &token, now), Verdict::Pass);
        assert!(
            matches!(door.judge(from, [2; 8], 3, &token, now), Verdict::Token(_)),
            "another run"
        );
        assert!(matches!(
            door.judge(address("192.0.2.1:8"), BOOT, 3, &token, now),
            Verdict::Token(_)
        ));
        let late = now + Duration::from_secs(121);
        assert!(
            matches!(door.judge(from, BOOT, 2, &token, late), Verdict::Token(_)),
            "a replay after the window's end"
        );
    }

    #[test]
    fn tokens_are_limited_a_source_and_in_all() {
        let now = testing::now();
        let mut door = Door::new([0; 32], now);
        let asked = |door: &mut Door, from: &str, times: u64, now| {
            let asked = (0..times).filter(|n| {
                matches!(
                    door.judge(address(from), BOOT, *n, &NONE, now),
                    Verdict::Token(_)
                )
            });
            asked.count()
        };
        assert_eq!(asked(&mut door, "192.0.2.1:7", 100, now), 64);
        assert_eq!(
            asked(&mut door, "192.0.2.1:8", 100, now),
            0,
            "ports do not matter"
        );
        assert_eq!(asked(&mut door, "[2001:db8::1]:7", 100, now), 64);
        assert_eq!(
            asked(&mut door, "[2001:db8::2]:7", 100, now),
            0,
            "nor does the lower half"
        );
        assert_eq!(asked(&mut door, "192.0.2.2:7", 100, now), 64);
        assert_eq!(asked(&mut door, "192.0.2.3:7", 100, now), 200 - 3 * 64);
        assert_eq!(
            asked(&mut door, "192.0.2.1:7", 100, now + Duration::from_secs(1)),
            10
        );
    }

    #[test]
    fn a_flood_of_sources_or_runs_stays_within_the_tables() {
        let mut now = testing::now();
        let mut door = Door::new([0; 32], now);
        for host in 0..5000u32 {
            now += TOTAL_INTERVAL;
            let from = SocketAddr::new(std::net::Ipv4Addr::from(0x0a00_0000 + host).into(), 1);
            for run in 0..4u8 {
                if let Verdict::Token(token) = door.judge(from, [run; 8], 1, &NONE, now) {
                    door.judge(from, [run; 8], 2, &token, now);
                }
            }
        }
        assert!(door.sources.len() <= SOURCES_MAX && door.windows.len() <= WINDOWS_MAX);
        let mut passed = 0;
        let mut door = Door::new([0; 32], now);
        for run in 0..200u64 {
            now += SOURCE_INTERVAL;
            let from = address("192.0.2.1:7");
            if let Verdict::Token(token) = door.judge(from, run.to_be_bytes(), 1, &NONE, now) {
                passed += usize::from(
                    door.judge(from, run.to_be_bytes(), 2, &token, now) == Verdict::Pass,
                );
            }
        }
        assert_eq!(passed, WINDOWS_PER_SOURCE);
    }
}
