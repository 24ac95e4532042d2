//! The anchors: what they resolve to and whether they answer.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::event::Anchor;
use super::report::{AnchorReport, AnchorState};
use crate::wire::plain_socket;

/// Addresses of one anchor that are asked.
const ADDRESSES_MAX: usize = 8;
/// For how long an answer counts.
const ANSWER_LIFETIME: Duration = Duration::from_secs(60);
/// How long the first answer may be on its way.
const FIRST_ANSWER: Duration = Duration::from_secs(3);

#[derive(Debug)]
struct State {
    anchor: Anchor,
    addresses: Vec<SocketAddr>,
    /// For the first time.
    asked: Option<Instant>,
    /// For the last time.
    answered: Option<Instant>,
}

/// All anchors of the configuration.
#[derive(Debug)]
pub(super) struct Anchors(Vec<State>);

impl Anchors {
    /// Addresses need no resolver and count from the start.
    pub fn new(anchors: &[Anchor]) -> Self {
        let state = |anchor: &Anchor| State {
            addresses: literal(anchor).into_iter().collect(),
            anchor: anchor.clone(),
            asked: None,
            answered: None,
        };
        Self(anchors.iter().map(state).collect())
    }

    /// Whether any is a name.
    pub fn need_resolver(&self) -> bool {
        self.0.iter().any(|state| literal(&state.anchor).is_none())
    }

    /// Takes a resolver's answer. A name that did not resolve keeps its last addresses. Says whether anything is new.
    pub fn resolved(&mut self, answers: Vec<(Anchor, Vec<SocketAddr>)>) -> bool {
        let mut new = false;
        for (anchor, addresses) in answers {
            let mut addresses: Vec<SocketAddr> = addresses.into_iter().map(plain_socket).collect();
            addresses.truncate(ADDRESSES_MAX);
            for state in self.0.iter_mut().filter(|state| state.anchor == anchor) {
                if !addresses.is_empty()
                    && literal(&anchor).is_none()
                    && state.addresses != addresses
                {
                    state.addresses = addresses.clone();
                    new = true;
                }
            }
        }
        new
    }

    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.0
            .iter()
            .flat_map(|state| state.addresses.iter().copied())
    }

    /// Notes that `address` is asked.
    pub fn asked(&mut self, address: SocketAddr, now: Instant) {
        for state in self.0.iter_mut() {
            if state.addresses.contains(&address) {
                state.asked.get_or_insert(now);
            }
        }
    }

    /// Notes an answer from `from`; says whether that is an anchor.
    pub fn answered(&mut self, from: SocketAddr, now: Instant) -> bool {
        let mut found = false;
        for state in self
            .0
            .iter_mut()
            .filter(|state| state.addresses.contains(&from))
        {
            state.answered = Some(now);
            found = true;
        }
        found
    }

    /// Whether any anchor has answered lately.
    pub fn any_answers(&self, now: Instant) -> bool {
        self.0.iter().any(|state| state.answers(now))
    }

    /// Those that are somebody else, as far as we know.
    pub fn others(&self, is_mine: impl Fn(SocketAddr) -> bool) -> Vec<Anchor> {
        let others = self.0.iter().filter(|state| !state.is_myself(&is_mine));
        others.map(|state| state.anchor.clone()).collect()
    }

    pub fn report(&self, is_mine: impl Fn(SocketAddr) -> bool, now: Instant) -> Vec<AnchorReport> {
        let report = |state: &State| AnchorReport {
            anchor: state.anchor.clone(),
            addresses: state.addresses.clone(),
            state: match state {
                state if state.is_myself(&is_mine) => AnchorState::Myself,
                state if state.answers(now) => AnchorState::Answers,
                state if state.addresses.is_empty() => AnchorState::Unresolved,
                state if state.waits(now) => AnchorState::Unasked,
                _ => AnchorState::Silent,
            },
        };
        self.0.iter().map(report).collect()
    }
}

impl State {
    fn answers(&self, now: Instant) -> bool {
        self.answered
            .is_some_and(|at| now.saturating_duration_since(at) < ANSWER_LIFETIME)
    }

    /// Nothing can be said of it yet.
    fn waits(&self, now: Instant) -> bool {
        let asked = self.asked.map(|at| now.saturating_duration_since(at));
        self.answered.is_none() && asked.is_none_or(|since| since < FIRST_ANSWER)
    }

    fn is_myself(&self, is_mine: impl Fn(SocketAddr) -> bool) -> bool {
        self.addresses.iter().any(|address| is_mine(*address))
    }
}

fn literal(anchor: &Anchor) -> Option<SocketAddr> {
    let ip: IpAddr = anchor.host.parse().ok()?;
    Some(plain_socket(SocketAddr::new(ip, anchor.port)))
}
