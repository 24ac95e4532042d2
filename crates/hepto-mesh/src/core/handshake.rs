//! Who starts a session, where, and when.
//!
//! WireGuard's handshake in boringtun breaks when both sides start at once, and cannot be tried at several addresses at a
//! time. So: the side whose HELLO was answered starts, at the address that answered first; the other only after a second
//! without a session. Where both were answered, the lower key starts.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::membership::{PeerState, Validated};
use super::{Core, Output};
use crate::seal::message::{FLAG_INITIATING, FLAG_REFUSED};

/// The other side's time to start one, and the least time between two of ours.
const TURN: Duration = Duration::from_secs(1);
/// The higher key waits longer still, so that both do not try again at once.
const EXTRA: Duration = Duration::from_millis(500);
/// How long an address that proved to receive is good for a handshake.
const VALIDATED: Duration = Duration::from_secs(5);
/// Least time between two handshakes with a peer whose clock went back.
const STALE_INTERVAL: Duration = Duration::from_secs(5);

impl Validated {
    fn is_fresh(self, now: Instant) -> bool {
        now.saturating_duration_since(self.at) < VALIDATED
    }
}

impl PeerState {
    /// We answer its HELLO, which has proved `from`: it is its turn. Returns the flags of the answer.
    pub fn answering(&mut self, from: SocketAddr, own_key: [u8; 32], now: Instant) -> u8 {
        self.answered = Some(now);
        if self.is_live(now) {
            return 0;
        }
        self.validate(from, false, now);
        let started = self
            .initiated
            .is_some_and(|at| now.saturating_duration_since(at) < TURN);
        let initiating = started || self.initiate_at.is_some_and(|at| at <= now);
        let fallback = now + self.patience(own_key);
        self.initiate_at.get_or_insert(fallback);
        if initiating { FLAG_INITIATING } else { 0 }
    }

    /// It answered our HELLO from `from`: our turn, unless it is at it already.
    pub fn answered_us(&mut self, from: SocketAddr, flags: u8, own_key: [u8; 32], now: Instant) {
        if flags & FLAG_REFUSED != 0 || self.is_live(now) {
            return;
        }
        self.validate(from, true, now);
        let both = self
            .answered
            .is_some_and(|at| now.saturating_duration_since(at) < TURN);
        if flags & FLAG_INITIATING != 0 || both && own_key > self.peer.public_key {
            let fallback = now + self.patience(own_key);
            self.initiate_at.get_or_insert(fallback);
        } else {
            self.initiate_at = Some(now);
        }
    }

    /// The first address to answer stays the one to use while it is fresh; the others are spares. One that only called
    /// under the peer's name, as any member can, gives way to one that answered.
    fn validate(&mut self, address: SocketAddr, asked: bool, now: Instant) {
        let stays = |held: Validated| held.is_fresh(now) && (held.asked || !asked);
        if !self.validated.is_some_and(stays) {
            let at = now;
            self.validated = Some(Validated { address, at, asked });
        }
    }

    fn patience(&self, own_key: [u8; 32]) -> Duration {
        if own_key > self.peer.public_key {
            TURN + EXTRA
        } else {
            TURN
        }
    }

    /// The tunnel refuses the peer's initiations for their time stamps: only we can start.
    pub fn take_over(&mut self, now: Instant) {
        if self
            .initiated
            .is_none_or(|at| now.saturating_duration_since(at) >= STALE_INTERVAL)
        {
            self.initiate_at = Some(now);
        }
    }

    /// When something is due here.
    pub fn handshake_due(&self, now: Instant) -> Option<Instant> {
        self.initiate_at
            .filter(|_| self.ready && !self.is_live(now))
    }

    /// The address to start a handshake at, if it is time; notes that it was started.
    fn initiate(&mut self, again: Duration, now: Instant) -> Option<SocketAddr> {
        let due = self.handshake_due(now)?;
        if now < due {
            return None;
        }
        if let Some(next) = self
            .initiated
            .map(|at| at + TURN)
            .filter(|next| now < *next)
        {
            self.initiate_at = Some(next);
            return None;
        }
        let Some(validated) = self.validated.filter(|held| held.is_fresh(now)) else {
            self.initiate_at = None;
            return None;
        };
        self.initiated = Some(now);
        self.initiate_at = Some(now + again);
        Some(validated.address)
    }
}

impl Core {
    /// Starts the handshakes whose time has come.
    pub(super) fn start_handshakes(&mut self, now: Instant) {
        let due = |state: &PeerState| state.handshake_due(now).is_some_and(|due| due <= now);
        let keys = self
            .membership
            .peers
            .values()
            .filter(|state| due(state))
            .map(|state| state.peer.public_key);
        for public_key in keys.collect::<Vec<_>>() {
            let again = TURN + self.jitter(EXTRA);
            let state = self
                .membership
                .peers
                .get_mut(&public_key)
                .expect("the key was just listed");
            if let Some(endpoint) = state.initiate(again, now) {
                self.counters.handshakes += 1;
                self.outputs.push_back(Output::Handshake {
                    public_key,
                    endpoint,
                });
            }
        }
    }
}
