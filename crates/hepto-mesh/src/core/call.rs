//! HELLOs of ours that may still be answered, and tokens that others gave us.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::seal::Nonce;
use crate::seal::token::{LIFETIME, NONE, Token};

/// How long an answer is awaited.
const OPEN: Duration = Duration::from_secs(10);
const CALLS_MAX: usize = 4096;
const TOKENS_MAX: usize = 1024;
const MINE_MAX: usize = 64;
const MINE_LIFETIME: Duration = Duration::from_secs(600);

/// A HELLO that is out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call {
    pub to: SocketAddr,
    /// It carried a token that was just given: a second TOKEN in answer is not followed.
    pub again: bool,
    pub at: Instant,
    /// What no one but us and who has seen the datagram knows of it.
    pub nonce: Nonce,
}

/// All that are out, by counter.
#[derive(Debug, Default)]
pub(super) struct Calls {
    open: BTreeMap<u64, Call>,
    tokens: BTreeMap<SocketAddr, (Token, Instant)>,
    mine: BTreeMap<SocketAddr, Instant>,
}

impl Calls {
    pub fn open(&mut self, counter: u64, call: Call) {
        let now = call.at;
        self.open
            .retain(|_, call| now.saturating_duration_since(call.at) < OPEN);
        if self.open.len() >= CALLS_MAX {
            self.open.pop_first();
        }
        self.open.insert(counter, call);
    }

    /// Takes the call that `echo` answers, if it is open and went to `from`: it is answered once.
    pub fn answer(&mut self, echo: u64, from: SocketAddr, now: Instant) -> Option<Call> {
        let call = *self.open.get(&echo)?;
        if call.to != from || now.saturating_duration_since(call.at) >= OPEN {
            return None;
        }
        self.open.remove(&echo)
    }

    /// The call `counter` came back to ourselves, if `nonce` is its own (any member can write our boot id and a counter):
    /// its address is one of ours.
    pub fn came_back(&mut self, counter: u64, nonce: &[u8], now: Instant) {
        if self
            .open
            .get(&counter)
            .is_none_or(|call| call.nonce != nonce)
        {
            return;
        }
        if let Some(call) = self.open.remove(&counter)
            && self.mine.len() < MINE_MAX
        {
            self.mine.insert(call.to, now);
        }
    }

    /// Whether a call to `address` came back to us of late; a router may send it elsewhere one day.
    pub fn is_mine(&self, address: SocketAddr, now: Instant) -> bool {
        let at = self.mine.get(&address);
        at.is_some_and(|at| now.saturating_duration_since(*at) < MINE_LIFETIME)
    }

    /// Our addresses have changed: what was ours may be another's.
    pub fn forget_mine(&mut self) {
        self.mine.clear();
    }

    /// Keeps a token that `from` gave us.
    pub fn keep(&mut self, from: SocketAddr, token: Token, now: Instant) {
        if self.tokens.len() >= TOKENS_MAX {
            self.tokens
                .retain(|_, (_, at)| now.saturating_duration_since(*at) < LIFETIME);
        }
        if self.tokens.len() < TOKENS_MAX || self.tokens.contains_key(&from) {
            self.tokens.insert(from, (token, now));
        }
    }

    /// The token for a message to `to`, if it surely holds still.
    pub fn token(&self, to: SocketAddr, now: Instant) -> Token {
        let held = self
            .tokens
            .get(&to)
            .filter(|(_, at)| now.saturating_duration_since(*at) < LIFETIME);
        held.map_or(NONE, |(token, _)| *token)
    }
}
