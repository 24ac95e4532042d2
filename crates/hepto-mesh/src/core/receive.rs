//! Datagrams and gossip that come in.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::conversation::{Conversation, Rejected};
use super::door::Verdict;
use super::event::GossipState;
use super::membership::Waiting;
use super::refusal::Refusal;
use super::{Core, Notice};
use crate::name::NodeName;
use crate::record::{RecordError, Unverified};
use crate::seal::DATAGRAM_MAX;
use crate::seal::message::{HELLO_MIN, Head, Hello, Kind, Part, Sync, TokenReply};
use crate::wire::{plain, plain_socket};

/// After a HELLO of a peer we leave it this time before we say HELLO ourselves.
const ITS_TURN: Duration = Duration::from_secs(2);

impl Core {
    pub(super) fn datagram(
        &mut self,
        bytes: &[u8],
        from: SocketAddr,
        to: Option<IpAddr>,
        now: Instant,
    ) {
        let (from, to) = (plain_socket(from), to.map(plain));
        self.counters.received += 1;
        let Some(body) = self.seal.open(bytes) else {
            // The key id is one byte: one foreign key in 256 has ours.
            self.counters.undecryptable += 1;
            self.schedule.foreign |= self.anchors.addresses().any(|anchor| anchor == from);
            return self.notice(Notice::ForeignKey { from });
        };
        let Some((head, rest)) = Head::parse(&body) else {
            self.counters.malformed += 1;
            return;
        };
        if head.boot == self.boot {
            self.counters.own += 1;
            return self
                .calls
                .came_back(head.counter, crate::seal::nonce(bytes), now);
        }
        let parsed = match head.kind {
            Kind::Probe => self.probe(&head, rest, bytes.len(), from, to, now),
            _ if bytes.len() > DATAGRAM_MAX => None,
            Kind::Hello if bytes.len() < HELLO_MIN => None,
            Kind::Hello => self.hello(&head, rest, from, to, now),
            Kind::Token => TokenReply::parse(rest).map(|reply| self.token(&reply, from, now)),
            Kind::Sync => Sync::parse(rest).map(|sync| self.sync(&head, &sync, from, to, now)),
        };
        if parsed.is_none() {
            self.counters.malformed += 1;
        }
    }

    /// `None`: malformed. Nothing behind the head is read before the token holds.
    fn hello(
        &mut self,
        head: &Head,
        rest: &[u8],
        from: SocketAddr,
        to: Option<IpAddr>,
        now: Instant,
    ) -> Option<()> {
        match self
            .door
            .judge(from, head.boot, head.counter, &head.token, now)
        {
            Verdict::Pass => {}
            Verdict::Token(token) => {
                self.counters.bad_token += u64::from(head.token != crate::seal::token::NONE);
                let reply = TokenReply {
                    echo: head.counter,
                    token,
                    observed: from,
                };
                let head = self.head(Kind::Token, from, now);
                self.transmit(from, to, &reply.write(&head));
                return Some(());
            }
            other => {
                self.turned_away(other);
                return Some(());
            }
        }
        let hello = Hello::parse(rest)?;
        let record = match Unverified::parse(hello.record) {
            Ok(record) => record,
            Err(error) => {
                self.bad_record(error);
                return Some(());
            }
        };
        let name = record.content().name.clone();
        let waiting = Waiting {
            from,
            to,
            boot: head.boot,
            counter: head.counter,
            hash: hello.hash,
        };
        match self.learn(record, now) {
            // Our own record under another boot id: an earlier run of ours, or a copy of our storage.
            Ok(_) if name == self.settings.node => {}
            Ok(_) => self.greeted(&name, waiting, now),
            Err(Refusal::Record(_) | Refusal::Limited { .. } | Refusal::Hash { .. }) => {}
            Err(_) => {
                let mut conversation = Conversation::answered(from, to, head.boot, now);
                self.refuse(&mut conversation, head.counter, &name, now);
            }
        }
        Some(())
    }

    /// Counts a message of which no more than the head is read.
    pub(super) fn turned_away(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Pass => {}
            Verdict::Token(_) => self.counters.bad_token += 1,
            Verdict::Replayed => self.counters.replayed += 1,
            Verdict::Limited => self.counters.limited += 1,
        }
    }

    /// A HELLO of a known node: it is answered once the tunnel has it as a peer, so that the handshake which follows the
    /// answer is not lost.
    fn greeted(&mut self, name: &NodeName, waiting: Waiting, now: Instant) {
        self.book.heard(name, now);
        if self.membership.by_name(name).is_none() {
            self.book_changed = true;
        }
        self.follow_book(now);
        let Some(state) = self.membership.by_name_mut(name) else {
            return;
        };
        state.set_boot(waiting.boot, now);
        // It is at it: asking it as well would only cross its handshake.
        state.next_try = state.next_try.max(now + ITS_TURN);
        if state.ready {
            let public_key = state.peer.public_key;
            self.answer(&public_key, waiting, now);
        } else {
            state.wait(waiting);
        }
    }

    /// The tunnel has the peer: its HELLOs can be answered, and its handshakes started.
    pub(super) fn peer_ready(&mut self, public_key: &[u8; 32], now: Instant) {
        let Some(state) = self.membership.peers.get_mut(public_key) else {
            return;
        };
        state.ready = true;
        for waiting in std::mem::take(&mut state.waiting) {
            self.answer(public_key, waiting, now);
        }
    }

    fn answer(&mut self, public_key: &[u8; 32], waiting: Waiting, now: Instant) {
        let Some(state) = self.membership.peers.get_mut(public_key) else {
            return;
        };
        let flags = state.answering(waiting.from, self.identity.wireguard_public(), now);
        let mut conversation = Conversation::answered(waiting.from, waiting.to, waiting.boot, now);
        conversation.name = Some(state.peer.name.clone());
        let differs = waiting.hash != *self.book.hash();
        self.begin(conversation, waiting.counter, differs, flags, now);
    }

    fn token(&mut self, reply: &TokenReply, from: SocketAddr, now: Instant) {
        let Some(call) = self.calls.answer(reply.echo, from, now) else {
            self.counters.unasked += 1;
            return;
        };
        self.calls.keep(from, reply.token, now);
        self.anchor_answered(from, now);
        if !call.again {
            self.call(from, true, now);
        }
    }

    fn sync(
        &mut self,
        head: &Head,
        sync: &Sync<'_>,
        from: SocketAddr,
        to: Option<IpAddr>,
        now: Instant,
    ) {
        let called = self.calls.answer(sync.echo, from, now);
        let conversation = match called {
            Some(_) => Some(Conversation::called(from, to, head.boot, sync.echo, now)),
            None => self.conversations.take(sync.echo, from, head.boot, now),
        };
        let Some(mut conversation) = conversation else {
            self.counters.unasked += 1;
            return;
        };
        match conversation.accept(head.counter) {
            Ok(()) => {}
            Err(rejected) => {
                match rejected {
                    Rejected::Replayed => self.counters.replayed += 1,
                    Rejected::Limited => self.counters.limited += 1,
                }
                return self.conversations.put(conversation, now);
            }
        }
        if called.is_some() {
            self.anchor_answered(from, now);
        }
        for part in &sync.parts {
            if let Part::Own(raw) = part {
                conversation.name = self.introduced(raw, sync, head, from, now);
            }
        }
        self.converse(conversation, head, sync, now);
    }

    /// The other side of a conversation says who it is.
    fn introduced(
        &mut self,
        raw: &[u8],
        sync: &Sync<'_>,
        head: &Head,
        from: SocketAddr,
        now: Instant,
    ) -> Option<NodeName> {
        let record = match Unverified::parse(raw) {
            Ok(record) if record.raw().len() == raw.len() => record,
            Ok(_) => {
                self.bad_record(RecordError::Malformed("bytes follow it"));
                return None;
            }
            Err(error) => {
                self.bad_record(error);
                return None;
            }
        };
        let name = record.content().name.clone();
        if self.learn(record, now).is_err() || name == self.settings.node {
            return None;
        }
        self.book.heard(&name, now);
        if self.membership.by_name(&name).is_none() {
            self.book_changed = true;
        }
        self.follow_book(now);
        let own_key = self.identity.wireguard_public();
        let state = self.membership.by_name_mut(&name)?;
        state.set_boot(head.boot, now);
        state.answered_us(from, sync.flags, own_key, now);
        if self
            .book
            .get(&name)
            .is_some_and(|entry| entry.is_confirmed())
        {
            self.endpoints.observe(&name, sync.observed, now);
            self.republish(now);
        }
        Some(name)
    }

    fn anchor_answered(&mut self, from: SocketAddr, now: Instant) {
        if self.anchors.answered(from, now) && std::mem::take(&mut self.schedule.complained) {
            self.outputs
                .push_back(super::Output::Notice(Notice::AnchorAnswers {
                    address: from,
                }));
        }
    }

    pub(super) fn gossip_record(&mut self, bytes: &[u8], now: Instant) {
        match Unverified::parse(bytes) {
            Ok(record) if record.raw().len() == bytes.len() => drop(self.learn(record, now)),
            Ok(_) => self.bad_record(RecordError::Malformed("bytes follow it")),
            Err(error) => self.bad_record(error),
        }
    }

    /// A node that gossip doubts is asked at once; gossip itself never removes a peer.
    pub(super) fn gossip_state(&mut self, name: &NodeName, gossip: GossipState, now: Instant) {
        let Some(state) = self.membership.by_name_mut(name) else {
            return;
        };
        let doubted = gossip == GossipState::Suspect && state.gossip != GossipState::Suspect;
        state.gossip = gossip;
        if doubted {
            let public_key = state.peer.public_key;
            self.call_peer(&public_key, now);
        }
    }
}
