//! Comparing two books: who answers a HELLO sends its digest, who asked says what it lacks and gives what it has newer.
//!
//! Nothing is sent again: what is lost is found by the next HELLO.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::Core;
use super::book::{Object, name_hash};
use super::call::Call;
use super::letter::Letter;
use crate::name::NodeName;
use crate::record::{RecordError, Unverified};
use crate::seal::message::{
    FLAG_MORE, FLAG_REFUSED, Head, Hello, Item, KIND_RECORD, Kind, Part, Sync, SyncWriter,
};
use crate::seal::replay::Window;
use crate::statement::Statement;

/// Datagrams of one conversation, each way.
pub(super) const DATAGRAMS_MAX: usize = 16;
/// Conversations at once.
const CONVERSATIONS_MAX: usize = 32;
/// An idle conversation is over.
const IDLE: Duration = Duration::from_secs(5);
/// A peer asks all our addresses at once: only the first of these HELLOs is answered with a digest.
const DIGEST_INTERVAL: Duration = Duration::from_secs(1);

/// With one run of one peer, from one address.
#[derive(Debug)]
pub(super) struct Conversation {
    pub remote: SocketAddr,
    pub local: Option<IpAddr>,
    pub boot: [u8; 8],
    pub name: Option<NodeName>,
    /// Whether we asked.
    caller: bool,
    /// Counters of ours that may be answered.
    open: Vec<u64>,
    seen: Window,
    sent: usize,
    received: usize,
    /// What we said that we want.
    asked: BTreeSet<(u8, u64)>,
    opened: Instant,
    used: Instant,
}

impl Conversation {
    /// One that we began with the HELLO `counter`.
    pub fn called(
        remote: SocketAddr,
        local: Option<IpAddr>,
        boot: [u8; 8],
        counter: u64,
        now: Instant,
    ) -> Self {
        Self {
            caller: true,
            open: vec![counter],
            ..Self::answered(remote, local, boot, now)
        }
    }

    /// One that the other side began.
    pub fn answered(
        remote: SocketAddr,
        local: Option<IpAddr>,
        boot: [u8; 8],
        now: Instant,
    ) -> Self {
        Self {
            remote,
            local,
            boot,
            name: None,
            caller: false,
            open: Vec::new(),
            seen: Window::default(),
            sent: 0,
            received: 0,
            asked: BTreeSet::new(),
            opened: now,
            used: now,
        }
    }

    /// Whether a datagram of the other side is new and within the limit.
    pub fn accept(&mut self, counter: u64) -> Result<(), Rejected> {
        if self.received >= DATAGRAMS_MAX {
            return Err(Rejected::Limited);
        }
        if !self.seen.accept(counter) {
            return Err(Rejected::Replayed);
        }
        self.received += 1;
        Ok(())
    }
}

/// Why a datagram of a conversation is not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rejected {
    Replayed,
    Limited,
}

/// All that go on.
#[derive(Debug, Default)]
pub(super) struct Conversations(Vec<Conversation>);

impl Conversations {
    /// Takes out the conversation that `echo` belongs to.
    pub fn take(
        &mut self,
        echo: u64,
        from: SocketAddr,
        boot: [u8; 8],
        now: Instant,
    ) -> Option<Conversation> {
        self.purge(now);
        let belongs =
            |one: &Conversation| one.remote == from && one.boot == boot && one.open.contains(&echo);
        let at = self.0.iter().position(belongs)?;
        Some(self.0.swap_remove(at))
    }

    /// Keeps a conversation that may go on; beyond the limit it is dropped.
    pub fn put(&mut self, mut conversation: Conversation, now: Instant) {
        self.purge(now);
        conversation.used = now;
        if self.0.len() < CONVERSATIONS_MAX {
            self.0.push(conversation);
        }
    }

    /// Whether one more may begin.
    pub fn has_room(&mut self, now: Instant) -> bool {
        self.purge(now);
        self.0.len() < CONVERSATIONS_MAX
    }

    /// Whether this run of a peer was sent a digest a moment ago, to another of its addresses.
    pub fn has_digest(&self, boot: [u8; 8], remote: SocketAddr, now: Instant) -> bool {
        let recent =
            |one: &Conversation| now.saturating_duration_since(one.opened) < DIGEST_INTERVAL;
        self.0
            .iter()
            .any(|one| !one.caller && one.boot == boot && one.remote != remote && recent(one))
    }

    fn purge(&mut self, now: Instant) {
        self.0
            .retain(|one| now.saturating_duration_since(one.used) < IDLE);
    }
}

impl Core {
    /// Reads what the other side of `conversation` sent, and answers while either side wants something.
    pub(super) fn converse(
        &mut self,
        mut conversation: Conversation,
        head: &Head,
        sync: &Sync<'_>,
        now: Instant,
    ) {
        let voucher = self.voucher(&conversation, now);
        for part in &sync.parts {
            match part {
                Part::Record(raw) => self.told(raw, voucher.as_ref(), &mut conversation, now),
                Part::Statement(raw) => self.told_statement(raw, &mut conversation),
                Part::Own(_) | Part::Digest { .. } | Part::Wants(_) => {}
            }
        }
        let mut wants = Vec::new();
        let mut gives: Vec<(u8, u64)> = Vec::new();
        for part in &sync.parts {
            match part {
                Part::Digest { first, last, items } => {
                    self.compare(
                        *first,
                        *last,
                        items,
                        voucher.as_ref(),
                        &mut wants,
                        &mut gives,
                    );
                }
                Part::Wants(wanted) => gives.extend(wanted),
                Part::Own(_) | Part::Record(_) | Part::Statement(_) => {}
            }
        }
        wants.retain(|want| conversation.asked.insert(*want));
        if conversation.asked.is_empty() {
            self.joined = true;
        }
        let objects = gives
            .iter()
            .filter_map(|(kind, hash)| self.book.object(*kind, *hash));
        let letter = Letter {
            wants,
            objects: objects.collect(),
            ..Letter::default()
        };
        let (pages, more) = self.write(&letter, &mut conversation, head.counter, 0, now);
        self.send(pages, &conversation);
        let left = conversation.caller && (more || sync.flags & FLAG_MORE != 0);
        if left && self.schedule.may_call_again(now) {
            self.call(conversation.remote, false, now);
        }
        self.conversations.put(conversation, now);
    }

    /// Answers a HELLO: our own record, and the digest if the books differ.
    pub(super) fn begin(
        &mut self,
        mut conversation: Conversation,
        counter: u64,
        differs: bool,
        flags: u8,
        now: Instant,
    ) {
        let digest = differs
            && self.conversations.has_room(now)
            && !self
                .conversations
                .has_digest(conversation.boot, conversation.remote, now);
        let letter = Letter {
            own: Some(self.book.own().raw()),
            digest: digest.then(|| self.book.digest()),
            ..Letter::default()
        };
        let (pages, _) = self.write(&letter, &mut conversation, counter, flags, now);
        self.send(pages, &conversation);
        if digest {
            self.conversations.put(conversation, now);
        }
    }

    /// Answers one that is refused as a member: why it is, as far as it can be told by our own record and its pinned one.
    pub(super) fn refuse(
        &mut self,
        conversation: &mut Conversation,
        counter: u64,
        name: &NodeName,
        now: Instant,
    ) {
        let pinned = self
            .book
            .get(name)
            .map(|entry| Object::Record(&entry.record));
        let letter = Letter {
            own: Some(self.book.own().raw()),
            objects: pinned.into_iter().collect(),
            ..Letter::default()
        };
        let (pages, _) = self.write(&letter, conversation, counter, FLAG_REFUSED, now);
        self.send(pages, conversation);
    }

    fn write(
        &self,
        letter: &Letter<'_>,
        conversation: &mut Conversation,
        echo: u64,
        flags: u8,
        now: Instant,
    ) -> (Vec<Vec<u8>>, bool) {
        let token = self.calls.token(conversation.remote, now);
        let mut counter = self.counter;
        let limit = DATAGRAMS_MAX - conversation.sent;
        let (pages, more) = letter.write(limit, || {
            counter += 1;
            let head = Head {
                kind: Kind::Sync,
                boot: self.boot,
                counter,
                token,
            };
            SyncWriter::new(&head, echo, conversation.remote, flags)
        });
        conversation.sent += pages.len();
        conversation.open.extend(self.counter + 1..=counter);
        (pages, more)
    }

    fn send(&mut self, pages: Vec<Vec<u8>>, conversation: &Conversation) {
        self.counter += pages.len() as u64;
        for page in pages {
            self.transmit(conversation.remote, conversation.local, &page);
        }
    }

    /// The member whose word counts: it speaks from where its live session is, which is more than a name in a message.
    fn voucher(&self, conversation: &Conversation, now: Instant) -> Option<NodeName> {
        let state = self.membership.by_name(conversation.name.as_ref()?)?;
        let proved = state.is_live(now)
            && state.endpoint == Some(conversation.remote)
            && state.boot == Some(conversation.boot);
        proved.then(|| state.peer.name.clone())
    }

    fn told(
        &mut self,
        raw: &[u8],
        voucher: Option<&NodeName>,
        conversation: &mut Conversation,
        now: Instant,
    ) {
        let unverified = match Unverified::parse(raw) {
            Ok(unverified) if unverified.raw().len() == raw.len() => unverified,
            Ok(_) => return self.bad_record(RecordError::Malformed("bytes follow it")),
            Err(error) => return self.bad_record(error),
        };
        let name = unverified.content().name.clone();
        conversation
            .asked
            .remove(&(KIND_RECORD, name_hash(Some(&name))));
        if self.learn(unverified, now).is_ok()
            && let Some(voucher) = voucher
        {
            self.book_changed |= self.book.vouch(&name, voucher);
        }
    }

    fn told_statement(&mut self, raw: &[u8], conversation: &mut Conversation) {
        let Ok(statement) = Statement::open(raw, &self.settings.cluster) else {
            self.counters.statements_refused += 1;
            return;
        };
        let key = (statement.kind as u8, name_hash(statement.name.as_ref()));
        conversation.asked.remove(&key);
        let operator = self.operator();
        if self.book.offer_statement(statement, operator) {
            self.book_changed = true;
        } else {
            self.counters.statements_refused += 1;
        }
    }

    /// Who may make statements: the configured operator, else the master's pinned identity.
    fn operator(&self) -> Option<[u8; 32]> {
        if self.settings.operator.is_some() {
            return self.settings.operator;
        }
        if self.settings.master == self.settings.node {
            return Some(self.identity.public());
        }
        let master = self
            .book
            .get(&self.settings.master)
            .filter(|entry| entry.is_confirmed());
        master.map(|entry| entry.record.content().identity)
    }

    /// Finds what each side lacks within one range of hashes.
    fn compare(
        &mut self,
        first: u64,
        last: u64,
        items: &[Item],
        voucher: Option<&NodeName>,
        wants: &mut Vec<(u8, u64)>,
        gives: &mut Vec<(u8, u64)>,
    ) {
        for item in items {
            match self.book.sequence(item.kind, item.hash) {
                Some(held) if held > item.sequence => gives.push((item.kind, item.hash)),
                Some(held) if held == item.sequence => {}
                _ => wants.push((item.kind, item.hash)),
            }
            if item.kind == KIND_RECORD
                && let Some(voucher) = voucher
                && let Some(name) = self.book.provisional(item.hash).cloned()
            {
                self.book_changed |= self.book.vouch(&name, voucher);
            }
        }
        let theirs: BTreeSet<(u64, u8)> = items.iter().map(|item| (item.hash, item.kind)).collect();
        let ours = self
            .book
            .digest()
            .iter()
            .filter(|item| (first..=last).contains(&item.hash));
        gives.extend(
            ours.filter(|item| !theirs.contains(&(item.hash, item.kind)))
                .map(|item| (item.kind, item.hash)),
        );
    }

    /// Says HELLO to `to`, with its token if there is one; `again`: in answer to a TOKEN.
    pub(super) fn call(&mut self, to: SocketAddr, again: bool, now: Instant) {
        let head = self.head(Kind::Hello, to, now);
        let hello = Hello {
            hash: *self.book.hash(),
            flags: 0,
            record: self.book.own().raw(),
        };
        let body = hello.write(&head);
        let nonce = self.transmit(to, None, &body);
        let call = Call {
            to,
            again,
            at: now,
            nonce,
        };
        self.calls.open(head.counter, call);
    }
}
