//! The pure core: membership, endpoints and rendezvous, in the manner of quinn-proto.
//!
//! [`Core::handle`] takes an [`Input`] and the time; [`Core::poll_output`] yields what is to be done, in order;
//! [`Core::next_timeout`] says when [`Input::Timeout`] is due. There is no socket, file, clock or randomness in here: time is
//! an argument, nonces come from the seed given at construction. One seed and one history give one outcome.
//!
//! A message goes through `receive` (and `door`, which asks for tokens; `probe` answers questions about the way), books are
//! compared in `conversation`, what is
//! learnt lands in `book`, `membership` turns that into peers of the tunnel, `handshake` decides who starts a session, and
//! `schedule` decides when to ask again.

mod address;
mod anchor;
mod book;
mod call;
mod conversation;
mod door;
mod endpoint;
mod event;
mod handshake;
mod letter;
mod limit;
mod membership;
mod notice;
mod probe;
mod receive;
mod refusal;
mod report;
mod saved;
mod schedule;
#[cfg(test)]
pub(crate) mod testing;

use std::collections::{BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};

pub use book::{NAMES_MAX, Roster};
pub use event::{Anchor, GossipState, Input, Output, Peer, PeerChange, Session, Settings};
pub use notice::Notice;
pub use refusal::Refusal;
pub use report::{AnchorReport, AnchorState, Counters, Member, Report};
pub use saved::{Damaged, Saved, SavedMember};

use anchor::Anchors;
use book::{Book, Offered};
use call::Calls;
use conversation::Conversations;
use door::Door;
use endpoint::{Change, Endpoints};
use membership::Membership;
use schedule::Schedule;

use crate::identity::{Identity, fingerprint};
use crate::record::{Content, Record, RecordError, Sequence, Unverified, tail};
use crate::seal::message::{Head, Kind};
use crate::seal::{Nonce, Seal};

/// The other nodes have told all that they hold by then.
const OLD_NEWS: Duration = Duration::from_secs(10);

/// Random at each start: tells a node's runs apart, and its own messages from others'.
pub type BootId = [u8; 8];

/// By how much the start counter rises. A node that was brought up from a snapshot leaps, and by chance: the machine that
/// it was moved from counts on from the same number, and of two records with one sequence nobody would ask for the other.
fn step(settings: &Settings, rng: &mut ChaCha20Rng) -> u32 {
    const LEAP: u32 = 1 << 12;
    match settings.restored {
        0 => 1,
        _ => LEAP + rng.next_u32() % LEAP,
    }
}

/// The state machine of one node.
pub struct Core {
    settings: Settings,
    identity: Identity,
    seal: Seal,
    rng: ChaCha20Rng,
    boot: BootId,
    counter: u64,
    starts: u32,
    settled: bool,
    book: Book,
    /// The book has changed since the peers were brought in line with it.
    book_changed: bool,
    membership: Membership,
    endpoints: Endpoints,
    anchors: Anchors,
    calls: Calls,
    door: Door,
    conversations: Conversations,
    schedule: Schedule,
    joined: bool,
    outputs: VecDeque<Output>,
    counters: Counters,
    /// Notices that were said, by code and the known name that they are about.
    noticed: BTreeSet<(&'static str, String)>,
    /// Time of the last input.
    now: Instant,
}

impl Core {
    /// A core that starts now. `boot` and `seed` are fresh OS randomness; `saved` is what the last run left.
    ///
    /// Its first outputs save the raised start counter, tell the `attempt` of our own addresses, and list the known peers.
    pub fn new(
        settings: Settings,
        identity: Identity,
        saved: Saved,
        boot: BootId,
        seed: [u8; 32],
        now: Instant,
    ) -> Self {
        let mut rng = ChaCha20Rng::from_seed(seed);
        let mut secret = [0; 32];
        rng.fill_bytes(&mut secret);
        let starts = saved.starts.saturating_add(step(&settings, &mut rng));
        let content = Content {
            attempt: saved.attempt,
            flags: address::flags(&settings, saved.settled),
            name: settings.node.clone(),
            sequence: Sequence {
                start: starts,
                change: 0,
            },
            endpoints: Vec::new(),
            key_ids: [settings.keys.key_id; 2],
            mtu: settings.mtu,
            identity: identity.public(),
            wireguard: identity.wireguard_public(),
            tail: tail(settings.restored),
        };
        let own = Record::sign(content, &settings.cluster, &identity);
        let mut core = Self {
            seal: Seal::new(&settings.keys),
            rng,
            boot,
            counter: 0,
            starts,
            settled: saved.settled,
            book: Book::new(
                settings.prefixes.clone(),
                own,
                saved.members,
                saved.statements,
                now,
            ),
            book_changed: true,
            membership: Membership::default(),
            endpoints: Endpoints::new(
                settings.port,
                settings.prefixes.clone(),
                &settings.endpoints,
            ),
            anchors: Anchors::new(&settings.anchors),
            calls: Calls::default(),
            door: Door::new(secret, now),
            conversations: Conversations::default(),
            schedule: Schedule::new(now),
            joined: false,
            outputs: VecDeque::from([Output::Save, Output::Attempt(saved.attempt)]),
            counters: Counters::default(),
            noticed: BTreeSet::new(),
            now,
            settings,
            identity,
        };
        core.run(now);
        core
    }

    /// Takes something that happened at `now`.
    pub fn handle(&mut self, input: Input<'_>, now: Instant) {
        match input {
            Input::Datagram { bytes, from, to } => self.datagram(bytes, from, to, now),
            Input::ForeignKey { from } => self.foreign_key(from),
            Input::GossipRecord(bytes) => self.gossip_record(bytes, now),
            Input::GossipState(name, state) => self.gossip_state(&name, state, now),
            Input::PeerReady(public_key) => self.peer_ready(&public_key, now),
            Input::Addresses(addresses) => self.set_addresses(addresses, now),
            Input::Anchors(answers) => self.set_anchors(answers, now),
            Input::Sessions(sessions) => self.set_sessions(&sessions, now),
            Input::K3sStarted => self.settle(now),
            Input::Timeout => {}
        }
        self.run(now);
    }

    /// The next thing to do; `None`: nothing before the next input.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// What is to be on disk now.
    pub fn saved(&self, now: Instant) -> Saved {
        Saved {
            starts: self.starts,
            attempt: self.book.own().content().attempt,
            settled: self.settled,
            members: self.book.saved(now),
            statements: self.book.statements().cloned().collect(),
        }
    }

    /// Our own record, as gossip spreads it.
    pub fn own_record(&self) -> &Record {
        self.book.own()
    }

    /// Who is known, for the checks that gossip makes beside us.
    pub fn roster(&self) -> Arc<Roster> {
        self.book.roster()
    }

    /// Peers whose session can carry packets: those that gossip joins.
    pub fn live_peers(&self) -> Vec<Peer> {
        self.membership
            .live(self.now)
            .map(|state| state.peer.clone())
            .collect()
    }

    /// All there is to show.
    pub fn report(&self, now: Instant) -> Report {
        let own = self.book.own().content();
        let overlay = self.book.own_overlay();
        Report {
            own: own.clone(),
            fingerprint: fingerprint(&own.identity),
            addresses: vec![overlay.v4.into(), overlay.v6.into()],
            joined: self.joined,
            members: self
                .book
                .entries()
                .map(|entry| self.member(entry, now))
                .collect(),
            anchors: self.anchors.report(|address| self.leads_here(address), now),
            observed: self.endpoints.observed(now),
            symmetric_nat: self.endpoints.symmetric_nat(now).is_some(),
            statements: self.book.statements().count(),
            counters: self.counters,
        }
    }

    fn member(&self, entry: &book::Entry, now: Instant) -> Member {
        let content = entry.record.content();
        let state = self.membership.peers.get(&content.wireguard);
        Member {
            name: content.name.clone(),
            addresses: state.map_or_else(
                || vec![entry.overlay.v6.into()],
                |state| state.peer.addresses(),
            ),
            public_key: content.wireguard,
            mtu: content.mtu,
            fingerprint: fingerprint(&content.identity),
            endpoints: content.endpoints.clone(),
            endpoint: state.and_then(|state| state.endpoint),
            session_age: state
                .and_then(|state| state.established)
                .map(|made| now.saturating_duration_since(made)),
            live: state.is_some_and(|state| state.is_live(now)),
            gossip: state.map(|state| state.gossip).unwrap_or_default(),
            heard: entry.heard.map(|at| now.saturating_duration_since(at)),
            provisional: !entry.is_confirmed(),
            dormant: state.is_none(),
        }
    }

    fn set_addresses(&mut self, addresses: Vec<IpAddr>, now: Instant) {
        let change = self.endpoints.set_interface(addresses);
        if change == Change::Nothing {
            return;
        }
        if change == Change::Moved {
            self.membership
                .peers
                .values_mut()
                .for_each(|state| state.doubt(now));
        }
        self.calls.forget_mine();
        self.republish(now);
        self.schedule.call_everyone();
    }

    fn set_anchors(&mut self, answers: Vec<(Anchor, Vec<SocketAddr>)>, now: Instant) {
        if self.anchors.resolved(answers) {
            self.schedule.call_anchors(now);
        }
    }

    /// From here on our addresses stay.
    fn settle(&mut self, now: Instant) {
        if !self.settled {
            self.settled = true;
            self.outputs.push_back(Output::Save);
            self.republish(now);
        }
    }

    /// Takes in a record from whatever source; the result tells a caller who knows its sender what to do further.
    fn learn(&mut self, offered: Unverified<'_>, now: Instant) -> Result<Offered, Refusal> {
        let public_key = offered.content().wireguard;
        let outcome = self.book.offer(offered, now);
        match &outcome {
            Ok(Offered::Known) => {}
            Ok(Offered::New) => self.took_record(),
            Ok(Offered::Newer { left }) => {
                self.took_record();
                let state = self.membership.peers.get_mut(&public_key);
                // It may wait for us to speak first, behind a router that lets no stranger in; or we may be.
                if let Some(state) = state.filter(|state| state.is_at(left)) {
                    state.doubt(now);
                }
            }
            Ok(Offered::OwnAhead { sequence, restored }) => {
                self.doubt_own(*restored, now);
                self.jump(*sequence, now);
            }
            Ok(Offered::Moved) => self.notice(Notice::Moved),
            Err(refusal) => self.refused(refusal),
        }
        outcome
    }

    fn took_record(&mut self) {
        self.counters.records += 1;
        self.book_changed = true;
    }

    fn refused(&mut self, refusal: &Refusal) {
        if let Refusal::Record(error) = refusal {
            return self.bad_record(*error);
        }
        self.counters.records_refused += 1;
        self.notice(match refusal.clone() {
            Refusal::Identity {
                name,
                pinned,
                presented,
            } => Notice::IdentityRefused {
                name,
                pinned: fingerprint(&pinned),
                presented: fingerprint(&presented),
            },
            Refusal::NameTaken { presented } => Notice::NameTaken {
                presented: fingerprint(&presented),
            },
            Refusal::TunnelKey { name, holder } => Notice::TunnelKeyRefused { name, holder },
            Refusal::Full { name } => Notice::BookFull { name },
            Refusal::Record(_) | Refusal::Limited { .. } | Refusal::Hash { .. } => return,
        });
    }

    fn bad_record(&mut self, error: RecordError) {
        self.counters.records_bad += 1;
        self.notice(Notice::BadRecord { error });
    }

    /// A record of ours from before this node was brought up from a snapshot is newer than its own. The others bring what
    /// they hold when they are met; one that comes later was made since.
    fn doubt_own(&mut self, restored: u64, now: Instant) {
        if restored < self.settings.restored && self.schedule.has_company_since(OLD_NEWS, now) {
            self.notice(Notice::OldMachine);
        }
    }

    /// Others hold a newer record of ours than our storage knew: go past it, on disk first.
    fn jump(&mut self, seen: Sequence, now: Instant) {
        let step = step(&self.settings, &mut self.rng);
        self.starts = seen.start.saturating_add(step);
        self.outputs.push_back(Output::Save);
        self.notice(Notice::SequenceBehind);
        let mut content = self.book.own().content().clone();
        content.sequence = Sequence {
            start: self.starts,
            change: 0,
        };
        self.publish(content, now);
    }

    /// Signs a new record of ours if it would say anything new.
    fn republish(&mut self, now: Instant) {
        let mut content = self.book.own().content().clone();
        content.endpoints = self.endpoints.own(now);
        content.flags = address::flags(&self.settings, self.settled);
        if content != *self.book.own().content() {
            content.sequence.change = content.sequence.change.saturating_add(1);
            self.publish(content, now);
        }
    }

    fn publish(&mut self, content: Content, _now: Instant) {
        let record = Record::sign(content, &self.settings.cluster, &self.identity);
        self.book.set_own(record);
        self.book_changed = true;
        self.outputs.push_back(Output::OwnRecord);
    }

    /// Brings peers, hosts and our own address in line with the book.
    fn follow_book(&mut self, now: Instant) {
        if !std::mem::take(&mut self.book_changed) {
            return;
        }
        self.compare_addressing();
        self.avoid_collision(now);
        let changes = self
            .membership
            .reconcile(&self.book, &self.settings.keys, now);
        self.outputs.extend(changes);
        self.outputs.push_back(Output::Roster);
        self.schedule.save_soon(now);
        self.schedule.spread_soon(self.book.hash(), now);
        self.book_changed = false;
    }

    fn foreign_key(&mut self, from: SocketAddr) {
        let from = crate::wire::plain_socket(from);
        self.counters.foreign_key += 1;
        self.schedule.foreign |= self.anchors.addresses().any(|anchor| anchor == from);
        self.notice(Notice::ForeignKey { from });
    }

    /// Says a thing once. What tells one notice from another is never for a stranger or a liar to choose: else it could fill
    /// the log, or this memory.
    fn notice(&mut self, notice: Notice) {
        let about = match &notice {
            Notice::IdentityRefused { name, .. }
            | Notice::AddressConflict { name, .. }
            | Notice::AddressingDiffers { name, .. } => name.as_str(),
            Notice::TunnelKeyRefused { holder, .. } => holder.as_str(),
            Notice::AddressMoved { .. } | Notice::SequenceBehind => {
                return self.outputs.push_back(Output::Notice(notice));
            }
            _ => "",
        };
        if self.noticed.insert((notice.code(), about.to_owned())) {
            self.outputs.push_back(Output::Notice(notice));
        }
    }

    fn is_mine(&self, address: SocketAddr) -> bool {
        self.calls.is_mine(address, self.now) || self.endpoints.is_interface(address)
    }

    /// Whether a call to `address` from outside would come here; one of ours need not, since few routers lead back in.
    fn leads_here(&self, address: SocketAddr) -> bool {
        self.calls.is_mine(address, self.now) || self.endpoints.leads_here(address)
    }

    fn head(&mut self, kind: Kind, to: SocketAddr, now: Instant) -> Head {
        self.counter += 1;
        Head {
            kind,
            boot: self.boot,
            counter: self.counter,
            token: self.calls.token(to, now),
        }
    }

    fn transmit(&mut self, to: SocketAddr, from: Option<IpAddr>, body: &[u8]) -> Nonce {
        let (nonce, bytes) = self.sealed(body);
        self.outputs.push_back(Output::Transmit { to, from, bytes });
        nonce
    }

    fn sealed(&mut self, body: &[u8]) -> (Nonce, Vec<u8>) {
        let mut nonce = [0; 24];
        self.rng.fill_bytes(&mut nonce);
        self.counters.sent += 1;
        (nonce, self.seal.seal(body, nonce))
    }

    /// 85 to 115 % of `time`, so that nodes do not march in step.
    fn jitter(&mut self, time: Duration) -> Duration {
        time * (85 + self.rng.next_u32() % 31) / 100
    }
}
