//! When to ask again, and whom.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand_core::Rng;

use super::book::Entry;
use super::event::{Anchor, Session};
use super::limit::Bucket;
use super::membership::PeerState;
use super::{Core, Notice, Output};
use crate::record::ENDPOINTS_MAX;

/// Between two HELLOs to a peer without a session, at first and later.
const PEER_INTERVAL: Duration = Duration::from_secs(5);
const PEER_INTERVAL_LATER: Duration = Duration::from_secs(15);
const LATER_AFTER: Duration = Duration::from_secs(600);
/// The same while there is no session with anyone.
const ALONE_INTERVAL: Duration = Duration::from_secs(2);
/// A peer that traffic waits for, or whose clock went back, is asked this often.
const WANTED_INTERVAL: Duration = Duration::from_secs(1);
/// Between two comparisons of books with anchors and some members.
const SYNC_INTERVAL: Duration = Duration::from_secs(15);
const SYNC_MEMBERS: usize = 3;
/// News are spread to as many, this long after they came and no more often than that.
const NEWS_DELAY: Duration = Duration::from_millis(100);
const NEWS_INTERVAL: Duration = Duration::from_secs(1);
/// Peers that are asked in one tick.
const PEERS_A_TICK: usize = 10;
const TICK: Duration = Duration::from_millis(500);
/// Between two resolutions of the anchors' names, when they answer and when none does.
const RESOLVE_INTERVAL: Duration = Duration::from_secs(300);
const RESOLVE_INTERVAL_SILENT: Duration = Duration::from_secs(30);
/// Silence of all anchors that is worth a notice.
const SILENCE: Duration = Duration::from_secs(10);
/// The book is written this long after a change, and the time without contact this often.
const SAVE_DELAY: Duration = Duration::from_secs(2);
const SAVE_INTERVAL: Duration = Duration::from_secs(3600);
/// A node that has had a session for so long keeps its addresses.
const SETTLE_AFTER: Duration = Duration::from_secs(60);
/// Conversations that ended at their limit and are begun again at once.
const AGAIN_BURST: u32 = 16;
const AGAIN_INTERVAL: Duration = Duration::from_secs(1);

/// What is due when.
#[derive(Debug)]
pub(super) struct Schedule {
    /// Everyone is to be asked as soon as there is an uplink.
    everyone: bool,
    tick: Instant,
    tick_left: usize,
    anchors_at: Instant,
    sync_at: Instant,
    synced: Option<Instant>,
    /// Hash of the book when we last spread it.
    spread: [u8; 32],
    resolve_at: Instant,
    save_at: Instant,
    /// When the anchors were first asked in vain.
    silent_since: Option<Instant>,
    /// That notice is out.
    pub complained: bool,
    /// A message under another key came from an anchor.
    pub foreign: bool,
    /// Since when there has always been a session.
    company_since: Option<Instant>,
    again: Bucket,
}

impl Schedule {
    pub fn new(now: Instant) -> Self {
        Self {
            everyone: true,
            tick: now,
            tick_left: PEERS_A_TICK,
            anchors_at: now,
            sync_at: now + SYNC_INTERVAL,
            synced: None,
            spread: [0; 32],
            resolve_at: now,
            save_at: now + SAVE_INTERVAL,
            silent_since: None,
            complained: false,
            foreign: false,
            company_since: None,
            again: Bucket::new(AGAIN_BURST, AGAIN_INTERVAL, now),
        }
    }

    pub fn call_everyone(&mut self) {
        self.everyone = true;
    }

    pub fn call_anchors(&mut self, now: Instant) {
        self.anchors_at = now;
    }

    pub fn save_soon(&mut self, now: Instant) {
        self.save_at = self.save_at.min(now + SAVE_DELAY);
    }

    /// The book has this hash now: what is new in it is spread soon, so that those who joined at the same time meet without
    /// waiting for the next comparison.
    pub fn spread_soon(&mut self, hash: &[u8; 32], now: Instant) {
        if self.spread != *hash {
            self.spread = *hash;
            let soon = now + NEWS_DELAY;
            let soon = self.synced.map_or(soon, |at| soon.max(at + NEWS_INTERVAL));
            self.sync_at = self.sync_at.min(soon);
        }
    }

    /// Whether a conversation that ended at its limit may begin again at once.
    pub fn may_call_again(&mut self, now: Instant) -> bool {
        self.again.take(now)
    }

    /// Whether there has been a session with anyone for so long.
    pub fn has_company_since(&self, time: Duration, now: Instant) -> bool {
        let since = self.company_since;
        since.is_some_and(|since| now.saturating_duration_since(since) >= time)
    }
}

impl Core {
    /// When [`super::Input::Timeout`] is due.
    pub fn next_timeout(&self) -> Option<Instant> {
        let schedule = &self.schedule;
        let mut next = schedule.save_at;
        if self.anchors.need_resolver() {
            next = next.min(schedule.resolve_at);
        }
        if self.endpoints.is_up() {
            next = next.min(schedule.anchors_at).min(schedule.sync_at);
            next = schedule
                .silent_since
                .filter(|_| !schedule.complained)
                .map_or(next, |at| next.min(at + SILENCE));
            next = schedule
                .company_since
                .filter(|_| !self.settled)
                .map_or(next, |at| next.min(at + SETTLE_AFTER));
        }
        for state in self.membership.peers.values() {
            if let Some(due) = state.handshake_due(self.now) {
                next = next.min(due);
            }
            if state.up {
                next = state.expires().map_or(next, |at| next.min(at));
            } else if self.endpoints.is_up() {
                let tick = if schedule.tick_left == 0 {
                    schedule.tick + TICK
                } else {
                    state.next_try
                };
                next = next.min(state.next_try.max(tick));
            }
        }
        Some(next)
    }

    /// Does all that is due. Every input ends here.
    pub(super) fn run(&mut self, now: Instant) {
        self.now = now;
        self.note_sessions(now);
        self.follow_book(now);
        self.start_handshakes(now);
        if self.endpoints.is_up() {
            if std::mem::take(&mut self.schedule.everyone) {
                self.ask_everyone(now);
            }
            self.ask_lost_peers(now);
            self.ask_anchors(now);
            self.ask_members(now);
            self.complain(now);
        }
        self.resolve(now);
        if now >= self.schedule.save_at {
            self.schedule.save_at = now + SAVE_INTERVAL;
            // Who has become dormant leaves the tunnel at the next turn.
            self.book_changed |= self.membership.has_dormant(&self.book, now);
            self.outputs.push_back(Output::Save);
        }
    }

    /// Takes the tunnel's view of all peers.
    pub(super) fn set_sessions(&mut self, sessions: &[Session], now: Instant) {
        for session in sessions {
            let Some(state) = self.membership.peers.get_mut(&session.public_key) else {
                continue;
            };
            state.set_session(session, now);
            if state.is_live(now) {
                let name = state.peer.name.clone();
                self.book.heard(&name, now);
                continue;
            }
            if session.stale_clock {
                state.take_over(now);
            }
            if session.wants || session.stale_clock {
                let soon = state.tried.map_or(now, |at| at + WANTED_INTERVAL);
                state.next_try = state.next_try.min(soon);
            }
        }
    }

    /// Follows sessions that were made or have run out.
    fn note_sessions(&mut self, now: Instant) {
        let had_company = self.membership.peers.values().any(|state| state.up);
        let mut met = Vec::new();
        for state in self.membership.peers.values_mut() {
            let live = state.is_live(now);
            if live && !state.up {
                state.initiate_at = None;
                state.validated = None;
                met.push(state.peer.name.clone());
            } else if !live && state.up {
                state.lost = now;
                state.next_try = now;
            }
            state.up = live;
        }
        for name in met {
            self.book_changed |= self.book.met(&name);
        }
        let company = self.membership.peers.values().any(|state| state.up);
        if had_company && !company {
            self.schedule.everyone = true;
        }
        let since = self.schedule.company_since.filter(|_| company);
        self.schedule.company_since = company.then(|| since.unwrap_or(now));
        if since.is_some_and(|since| now.saturating_duration_since(since) >= SETTLE_AFTER) {
            self.settle(now);
        }
    }

    fn is_alone(&self) -> bool {
        !self.membership.peers.values().any(|state| state.up)
    }

    /// All anchors and the whole book at once: at the start, after a change of our addresses, after total silence.
    fn ask_everyone(&mut self, now: Instant) {
        self.schedule.anchors_at = now;
        let keys: Vec<[u8; 32]> = self.membership.peers.keys().copied().collect();
        for public_key in keys {
            self.call_peer(&public_key, now);
        }
    }

    fn ask_lost_peers(&mut self, now: Instant) {
        if now.saturating_duration_since(self.schedule.tick) >= TICK {
            self.schedule.tick = now;
            self.schedule.tick_left = PEERS_A_TICK;
        }
        let anchors: Vec<SocketAddr> = self.anchors.addresses().collect();
        let is_anchor = |state: &PeerState| {
            let endpoints = self
                .book
                .get(&state.peer.name)
                .map(|entry| &entry.record.content().endpoints);
            endpoints.is_some_and(|list| {
                list.iter()
                    .any(|endpoint| anchors.contains(&endpoint.address))
            })
        };
        let lost = self
            .membership
            .peers
            .values()
            .filter(|state| !state.up && state.next_try <= now);
        let mut due: Vec<_> = lost
            .map(|state| (!is_anchor(state), state.next_try, state.peer.public_key))
            .collect();
        due.sort_unstable();
        due.truncate(self.schedule.tick_left);
        self.schedule.tick_left -= due.len();
        for (_, _, public_key) in due {
            self.call_peer(&public_key, now);
        }
    }

    /// Says HELLO to all candidates of a peer at once: what the first one that answers costs, a dead one costs too.
    pub(super) fn call_peer(&mut self, public_key: &[u8; 32], now: Instant) {
        let alone = self.is_alone();
        let Some(state) = self.membership.peers.get(public_key) else {
            return;
        };
        let interval = match now.saturating_duration_since(state.lost) {
            _ if alone => ALONE_INTERVAL,
            lost if lost < LATER_AFTER => PEER_INTERVAL,
            _ => PEER_INTERVAL_LATER,
        };
        let endpoints = self
            .book
            .get(&state.peer.name)
            .map(|entry| entry.record.content().endpoints.as_slice());
        let told = endpoints
            .unwrap_or_default()
            .iter()
            .map(|endpoint| endpoint.address);
        let used = state
            .endpoint
            .into_iter()
            .chain(state.validated.map(|held| held.address));
        let mut candidates: Vec<SocketAddr> = Vec::new();
        for address in used.chain(told) {
            let fit = self.endpoints.is_reachable(address) && !self.is_mine(address);
            if fit && !candidates.contains(&address) && candidates.len() < ENDPOINTS_MAX {
                candidates.push(address);
            }
        }
        let next = now + self.jitter(interval);
        let state = self
            .membership
            .peers
            .get_mut(public_key)
            .expect("it was just found");
        state.next_try = next;
        state.tried = Some(now);
        for address in candidates {
            self.call(address, false, now);
        }
    }

    fn ask_anchors(&mut self, now: Instant) {
        if now < self.schedule.anchors_at {
            return;
        }
        let interval = if self.is_alone() {
            ALONE_INTERVAL
        } else {
            SYNC_INTERVAL
        };
        self.schedule.anchors_at = now + self.jitter(interval);
        let addresses: Vec<SocketAddr> = self.anchors.addresses().collect();
        for address in addresses {
            if self.endpoints.is_reachable(address) && !self.is_mine(address) {
                self.anchors.asked(address, now);
                self.call(address, false, now);
            }
        }
    }

    /// Compares books with a few live members, and looks whether what others see of us has grown old.
    fn ask_members(&mut self, now: Instant) {
        if now < self.schedule.sync_at {
            return;
        }
        self.schedule.sync_at = now + self.jitter(SYNC_INTERVAL);
        self.schedule.synced = Some(now);
        self.republish(now);
        if let Some(address) = self.endpoints.symmetric_nat(now) {
            self.notice(Notice::SymmetricNat { address });
        }
        let mut live: Vec<SocketAddr> = self
            .membership
            .live(now)
            .filter_map(|state| state.endpoint)
            .collect();
        for _ in 0..SYNC_MEMBERS.min(live.len()) {
            let at = self.rng.next_u32() as usize % live.len();
            let address = live.swap_remove(at);
            self.call(address, false, now);
        }
    }

    /// Says once that no anchor answers.
    fn complain(&mut self, now: Instant) {
        // After every input, so what takes the whole book comes last.
        if !self.is_alone() || self.anchors.any_answers(now) {
            self.schedule.silent_since = None;
            return;
        }
        let anchors = self.other_anchors();
        if anchors.is_empty() {
            self.schedule.silent_since = None;
            return;
        }
        let since = *self.schedule.silent_since.get_or_insert(now);
        if now.saturating_duration_since(since) >= SILENCE && !self.schedule.complained {
            self.schedule.complained = true;
            let foreign = self.schedule.foreign;
            self.outputs
                .push_back(Output::Notice(Notice::NoAnchorAnswers { anchors, foreign }));
        }
    }

    /// Anchors that are somebody else. The only one of the master is the master itself, as far as no other node says to be
    /// there: its router need not lead it back in, so that nothing else would ever tell.
    fn other_anchors(&self) -> Vec<Anchor> {
        let is_master = self.settings.master == self.settings.node;
        let alone = is_master && self.settings.anchors.len() == 1 && !self.schedule.foreign;
        let claims = |entry: &Entry, address: SocketAddr| {
            let endpoints = &entry.record.content().endpoints;
            endpoints.iter().any(|endpoint| endpoint.address == address)
        };
        let claimed = |address| self.book.entries().any(|entry| claims(entry, address));
        if alone && !self.anchors.addresses().any(claimed) {
            return Vec::new();
        }
        self.anchors.others(|address| self.leads_here(address))
    }

    fn resolve(&mut self, now: Instant) {
        if now < self.schedule.resolve_at || !self.anchors.need_resolver() {
            return;
        }
        let answers = self.anchors.any_answers(now);
        let interval = if answers {
            RESOLVE_INTERVAL
        } else {
            RESOLVE_INTERVAL_SILENT
        };
        self.schedule.resolve_at = now + self.jitter(interval);
        self.outputs.push_back(Output::ResolveAnchors);
    }
}
