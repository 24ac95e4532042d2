//! Who may speak: tokens, replay windows and limits for those who are not known yet. All tables are bounded.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::limit::{Bucket, SourceLimit, source};
use crate::seal::replay::Window;
use crate::seal::token::{LIFETIME, NONE, Token, Tokens};

/// TOKENs to one source at once, and then one each interval.
const SOURCE_BURST: u32 = 64;
const SOURCE_INTERVAL: Duration = Duration::from_millis(100);
/// TOKENs in all.
const TOTAL_BURST: u32 = 200;
const TOTAL_INTERVAL: Duration = Duration::from_millis(5);
/// Answers to questions about the way, likewise: a search for a path's MTU asks some thirty times.
const QUESTION_BURST: u32 = 64;
const QUESTION_INTERVAL: Duration = Duration::from_millis(200);
const QUESTIONS_BURST: u32 = 128;
const QUESTIONS_INTERVAL: Duration = Duration::from_millis(20);
/// Dial-backs, likewise: they may go to who did not ask, behind the same address.
const DIAL_BURST: u32 = 4;
const DIAL_INTERVAL: Duration = Duration::from_secs(10);
const DIALS_BURST: u32 = 16;
const DIALS_INTERVAL: Duration = Duration::from_secs(1);
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
    issued: SourceLimit,
    questions: SourceLimit,
    dials: SourceLimit,
    windows: BTreeMap<(SocketAddr, [u8; 8]), (Window, Instant)>,
}

impl Door {
    pub fn new(secret: [u8; 32], now: Instant) -> Self {
        let limit = |each: (u32, Duration), all: (u32, Duration)| {
            SourceLimit::new(
                Bucket::new(each.0, each.1, now),
                Bucket::new(all.0, all.1, now),
            )
        };
        Self {
            tokens: Tokens::new(secret, now),
            issued: limit(
                (SOURCE_BURST, SOURCE_INTERVAL),
                (TOTAL_BURST, TOTAL_INTERVAL),
            ),
            questions: limit(
                (QUESTION_BURST, QUESTION_INTERVAL),
                (QUESTIONS_BURST, QUESTIONS_INTERVAL),
            ),
            dials: limit((DIAL_BURST, DIAL_INTERVAL), (DIALS_BURST, DIALS_INTERVAL)),
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
            return self.token(from, boot, now);
        }
        self.passes(from, boot, counter, now)
    }

    /// Judges a question about the way by its head alone. [`Verdict::Token`] is not to be followed here.
    pub fn question(
        &mut self,
        from: SocketAddr,
        boot: [u8; 8],
        counter: u64,
        token: &Token,
        now: Instant,
    ) -> Verdict {
        if !self.tokens.holds(token, from, boot, now) {
            return Verdict::Token(NONE);
        }
        match self.passes(from, boot, counter, now) {
            Verdict::Pass if !self.questions.take(from.ip(), now) => Verdict::Limited,
            verdict => verdict,
        }
    }

    /// Whether one more dial-back may go to `to`.
    pub fn may_dial(&mut self, to: IpAddr, now: Instant) -> bool {
        self.dials.take(to, now)
    }

    fn token(&mut self, from: SocketAddr, boot: [u8; 8], now: Instant) -> Verdict {
        if self.issued.take(from.ip(), now) {
            Verdict::Token(self.tokens.issue(from, boot, now))
        } else {
            Verdict::Limited
        }
    }

    /// Whether who has proved his address says something new.
    fn passes(&mut self, from: SocketAddr, boot: [u8; 8], counter: u64, now: Instant) -> Verdict {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::testing;

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
        assert!(door.issued.sources() <= 1024 && door.windows.len() <= WINDOWS_MAX);
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
