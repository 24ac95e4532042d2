//! Who is known: one record a name, its identity pinned at first use.
//!
//! Acceptance is per record: a bad one never harms the others. Records never expire and none is ever evicted.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use blake2::{Blake2s256, Digest};

use super::limit::Bucket;
use super::refusal::Refusal;
use super::saved::SavedMember;
use crate::address::Prefixes;
use crate::name::NodeName;
use crate::record::{Content, EndpointKind, Record, Sequence, Unverified};
use crate::seal::message::{Item, KIND_RECORD};
use crate::statement::{Statement, StatementKind};

#[cfg(test)]
mod tests;

/// Most names, our own included.
pub const NAMES_MAX: usize = 256;
/// Most statements: an acceptance and a revocation a name, lock and rotation.
pub const STATEMENTS_MAX: usize = 2 * NAMES_MAX + 2;
/// New names that are let in at once.
const NEW_BURST: u32 = 128;
/// Then one in this time.
const NEW_INTERVAL: Duration = Duration::from_secs(10);
/// Members that make a stranger a member by knowing it too.
const VOUCHERS: usize = 2;

/// What became of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Offered {
    /// A name that was not known: provisional for now.
    New,
    /// Newer than what was held; the node is at these addresses of its own no more.
    Newer { left: Vec<SocketAddr> },
    /// Held already, or older.
    Known,
    /// Our own, from a future that our storage has forgotten; and when the machine that signed it was restored.
    OwnAhead { sequence: Sequence, restored: u64 },
    /// Our own, by a machine that was brought up from a snapshot of this one.
    Moved,
}

/// Where a node was by its record `before`, and is no more by `now`. What others saw of it does not count: that comes and
/// goes with them.
fn left(before: &Content, now: &Content) -> Vec<SocketAddr> {
    let own = before
        .endpoints
        .iter()
        .filter(|endpoint| endpoint.kind != EndpointKind::Observed)
        .map(|endpoint| endpoint.address);
    let stays = |address: &SocketAddr| now.endpoints.iter().any(|other| other.address == *address);
    own.filter(|address| !stays(address)).collect()
}

/// Overlay addresses, computed from a record's name and attempt alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Overlay {
    pub v4: Ipv4Addr,
    pub v6: Ipv6Addr,
}

impl Overlay {
    fn of(record: &Record, prefixes: &Prefixes) -> Self {
        let (name, attempt) = (record.name(), record.content().attempt);
        Self {
            v4: prefixes.overlay_v4(name, attempt),
            v6: prefixes.overlay_v6(name, attempt),
        }
    }
}

/// One known node.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub record: Record,
    pub overlay: Overlay,
    /// Of its name, in digests.
    hash: u64,
    /// Members that know it too, while it is provisional.
    vouchers: Vec<NodeName>,
    confirmed: bool,
    /// Last sign of life in this run.
    pub heard: Option<Instant>,
    idle: Duration,
    idle_from: Instant,
}

impl Entry {
    /// A provisional one.
    fn new(record: Record, prefixes: &Prefixes, now: Instant) -> Self {
        Self {
            overlay: Overlay::of(&record, prefixes),
            hash: name_hash(Some(record.name())),
            record,
            vouchers: Vec::new(),
            confirmed: false,
            heard: None,
            idle: Duration::ZERO,
            idle_from: now,
        }
    }

    /// Met, or vouched for: it is on disk, in the hosts file and in what we relay.
    pub fn is_confirmed(&self) -> bool {
        self.confirmed
    }

    /// Our time without contact.
    pub fn idle(&self, now: Instant) -> Duration {
        self.idle + now.saturating_duration_since(self.idle_from)
    }
}

/// Hash of a name in digests.
pub(crate) fn name_hash(name: Option<&NodeName>) -> u64 {
    let hash = Blake2s256::digest(name.map_or("", |name| name.as_str()));
    u64::from_be_bytes(*hash.first_chunk().expect("a hash of 32 bytes"))
}

/// All that is known.
#[derive(Debug)]
pub(super) struct Book {
    prefixes: Prefixes,
    own: Record,
    own_overlay: Overlay,
    entries: BTreeMap<NodeName, Entry>,
    statements: BTreeMap<(StatementKind, Option<NodeName>), Statement>,
    newcomers: Bucket,
    digest: Vec<Item>,
    hash: [u8; 32],
}

impl Book {
    pub fn new(
        prefixes: Prefixes,
        own: Record,
        members: Vec<SavedMember>,
        statements: Vec<Statement>,
        now: Instant,
    ) -> Self {
        let entry = |member: SavedMember| Entry {
            confirmed: true,
            idle: member.idle,
            ..Entry::new(member.record, &prefixes, now)
        };
        let members = members
            .into_iter()
            .filter(|member| member.record.name() != own.name())
            .take(NAMES_MAX - 1);
        let entries = members
            .map(|member| (member.record.name().clone(), entry(member)))
            .collect();
        let statements = statements
            .into_iter()
            .map(|statement| (key(&statement), statement))
            .collect();
        let newcomers = Bucket::new(NEW_BURST, NEW_INTERVAL, now);
        let mut book = Self {
            own_overlay: Overlay::of(&own, &prefixes),
            prefixes,
            own,
            entries,
            statements,
            newcomers,
            digest: Vec::new(),
            hash: [0; 32],
        };
        book.refresh();
        book
    }

    pub fn own(&self) -> &Record {
        &self.own
    }

    /// Our own overlay addresses.
    pub fn own_overlay(&self) -> Overlay {
        self.own_overlay
    }

    pub fn set_own(&mut self, record: Record) {
        debug_assert!(record.content().sequence >= self.own.content().sequence);
        self.own_overlay = Overlay::of(&record, &self.prefixes);
        self.own = record;
        self.refresh();
    }

    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    pub fn get(&self, name: &NodeName) -> Option<&Entry> {
        self.entries.get(name)
    }

    pub fn by_key(&self, wireguard: &[u8; 32]) -> Option<&Entry> {
        self.entries
            .values()
            .find(|entry| entry.record.content().wireguard == *wireguard)
    }

    pub fn statements(&self) -> impl Iterator<Item = &Statement> {
        self.statements.values()
    }

    /// BLAKE2s-256 over the digest: two books with the same hash have nothing to tell each other.
    pub fn hash(&self) -> &[u8; 32] {
        &self.hash
    }

    /// All that we vouch for, our own record included, in ascending order.
    pub fn digest(&self) -> &[Item] {
        &self.digest
    }

    /// The object behind a digest's item.
    pub fn object(&self, kind: u8, hash: u64) -> Option<Object<'_>> {
        if kind != KIND_RECORD {
            let mut statements = self.statements.values();
            return statements
                .find(|held| held.kind as u8 == kind && name_hash(held.name.as_ref()) == hash)
                .map(Object::Statement);
        }
        if name_hash(Some(self.own.name())) == hash {
            return Some(Object::Record(&self.own));
        }
        let mut entries = self.entries.values().filter(|entry| entry.confirmed);
        entries
            .find(|entry| entry.hash == hash)
            .map(|entry| Object::Record(&entry.record))
    }

    /// The sequence held of an item's object, provisional or not.
    pub fn sequence(&self, kind: u8, hash: u64) -> Option<u64> {
        if kind == KIND_RECORD
            && let Some(entry) = self.entries.values().find(|entry| entry.hash == hash)
        {
            return Some(entry.record.content().sequence.into());
        }
        match self.object(kind, hash)? {
            Object::Record(record) => Some(record.content().sequence.into()),
            Object::Statement(statement) => Some(statement.sequence),
        }
    }

    /// Judges a record and takes it in. It is verified before anything is changed or reported.
    pub fn offer(&mut self, offered: Unverified<'_>, now: Instant) -> Result<Offered, Refusal> {
        let content = offered.content();
        let (name, sequence, presented) =
            (content.name.clone(), content.sequence, content.identity);
        let wireguard = content.wireguard;
        if name == *self.own.name() {
            return self.offer_own(offered);
        }
        let pinned = self
            .entries
            .get(&name)
            .map(|entry| entry.record.content().identity);
        if pinned == Some(presented) && self.entries[&name].record.content().sequence >= sequence {
            return Ok(Offered::Known);
        }
        let record = offered.verify(self.prefixes.cluster())?;
        if let Some(pinned) = pinned.filter(|pinned| *pinned != presented) {
            return Err(Refusal::Identity {
                name,
                pinned,
                presented,
            });
        }
        if let Some(holder) = self
            .holder(&wireguard)
            .filter(|holder| **holder != name)
            .cloned()
        {
            return Err(Refusal::TunnelKey { name, holder });
        }
        if let Some(entry) = self.entries.get_mut(&name) {
            entry.overlay = Overlay::of(&record, &self.prefixes);
            let before = std::mem::replace(&mut entry.record, record);
            let left = left(before.content(), entry.record.content());
            self.refresh();
            return Ok(Offered::Newer { left });
        }
        // Any member can find two such names in an hour, and an ambiguous digest would be refused as a whole.
        let hash = name_hash(Some(&name));
        if self.sequence(KIND_RECORD, hash).is_some() {
            return Err(Refusal::Hash { name });
        }
        if self.entries.len() + 1 >= NAMES_MAX {
            return Err(Refusal::Full { name });
        }
        if !self.newcomers.take(now) {
            return Err(Refusal::Limited { name });
        }
        let entry = Entry::new(record, &self.prefixes, now);
        self.entries.insert(name, entry);
        Ok(Offered::New)
    }

    fn offer_own(&self, offered: Unverified<'_>) -> Result<Offered, Refusal> {
        let own = self.own.content();
        let (sequence, presented) = (offered.content().sequence, offered.content().identity);
        let restored = offered.content().restored();
        if presented == own.identity && sequence <= own.sequence && restored <= own.restored() {
            return Ok(Offered::Known);
        }
        offered.verify(self.prefixes.cluster())?;
        if presented != own.identity {
            return Err(Refusal::NameTaken { presented });
        }
        if restored > self.own.content().restored() {
            return Ok(Offered::Moved);
        }
        Ok(Offered::OwnAhead { sequence, restored })
    }

    fn holder(&self, wireguard: &[u8; 32]) -> Option<&NodeName> {
        if self.own.content().wireguard == *wireguard {
            return Some(self.own.name());
        }
        self.by_key(wireguard).map(|entry| entry.record.name())
    }

    /// Takes in a statement if `operator` signed it and it is newer than what is held.
    pub fn offer_statement(&mut self, statement: Statement, operator: Option<[u8; 32]>) -> bool {
        let key = key(&statement);
        let held = self.statements.get(&key);
        if operator != Some(statement.operator)
            || held.is_none() && self.statements.len() >= STATEMENTS_MAX
        {
            return false;
        }
        if held.is_none_or(|held| held.sequence < statement.sequence) {
            self.statements.insert(key, statement);
            self.refresh();
        }
        true
    }

    /// A handshake with this node has completed. Says whether that made it a member.
    pub fn met(&mut self, name: &NodeName) -> bool {
        self.confirm(name, |_| true)
    }

    /// The member `voucher` knows the node too. Says whether that made it a member.
    pub fn vouch(&mut self, name: &NodeName, voucher: &NodeName) -> bool {
        if name == voucher
            || !self
                .entries
                .get(voucher)
                .is_some_and(|entry| entry.confirmed)
        {
            return false;
        }
        self.confirm(name, |entry| {
            if !entry.vouchers.contains(voucher) {
                entry.vouchers.push(voucher.clone());
            }
            entry.vouchers.len() >= VOUCHERS
        })
    }

    fn confirm(&mut self, name: &NodeName, enough: impl FnOnce(&mut Entry) -> bool) -> bool {
        let Some(entry) = self.entries.get_mut(name).filter(|entry| !entry.confirmed) else {
            return false;
        };
        if !enough(entry) {
            return false;
        }
        entry.confirmed = true;
        entry.vouchers.clear();
        self.refresh();
        true
    }

    /// The provisional node behind a digest's item.
    pub fn provisional(&self, hash: u64) -> Option<&NodeName> {
        let mut entries = self.entries.values().filter(|entry| !entry.confirmed);
        entries
            .find(|entry| entry.hash == hash)
            .map(|entry| entry.record.name())
    }

    /// Notes a sign of life.
    pub fn heard(&mut self, name: &NodeName, now: Instant) {
        if let Some(entry) = self.entries.get_mut(name) {
            entry.heard = Some(now);
            entry.idle = Duration::ZERO;
            entry.idle_from = now;
        }
    }

    /// What is to be on disk.
    pub fn saved(&self, now: Instant) -> Vec<SavedMember> {
        let confirmed = self.entries.values().filter(|entry| entry.confirmed);
        confirmed
            .map(|entry| SavedMember {
                record: entry.record.clone(),
                idle: entry.idle(now),
            })
            .collect()
    }

    /// A snapshot for who must not wait for the core.
    pub fn roster(&self) -> Arc<Roster> {
        let known = |record: &Record| {
            let content = record.content();
            (
                content.name.clone(),
                Known {
                    identity: content.identity,
                    sequence: content.sequence,
                },
            )
        };
        let members = self
            .entries
            .values()
            .map(|entry| known(&entry.record))
            .collect();
        Arc::new(Roster { members })
    }

    fn refresh(&mut self) {
        let item = |hash, record: &Record| Item {
            hash,
            kind: KIND_RECORD,
            sequence: record.content().sequence.into(),
        };
        let confirmed = self.entries.values().filter(|entry| entry.confirmed);
        let records = confirmed.map(|entry| item(entry.hash, &entry.record));
        let own = item(name_hash(Some(self.own.name())), &self.own);
        let statements = self.statements.values().map(|statement| Item {
            hash: name_hash(statement.name.as_ref()),
            kind: statement.kind as u8,
            sequence: statement.sequence,
        });
        self.digest = records.chain(statements).chain([own]).collect();
        self.digest.sort_unstable();
        let mut hasher = Blake2s256::new_with_prefix(b"hepto v1 book\0");
        for item in &self.digest {
            hasher.update(item.hash.to_be_bytes());
            hasher.update([item.kind]);
            hasher.update(item.sequence.to_be_bytes());
        }
        self.hash = hasher.finalize().into();
    }
}

/// A signed object of either kind.
#[derive(Debug, Clone, Copy)]
pub(super) enum Object<'a> {
    /// What a node says of itself.
    Record(&'a Record),
    /// What the operator says.
    Statement(&'a Statement),
}

fn key(statement: &Statement) -> (StatementKind, Option<NodeName>) {
    (statement.kind, statement.name.clone())
}

/// Who is known, as gossip's checks need it: read-only, and never older than the last [`super::Output::Roster`].
#[derive(Debug)]
pub struct Roster {
    members: BTreeMap<NodeName, Known>,
}

#[derive(Debug)]
struct Known {
    identity: [u8; 32],
    sequence: Sequence,
}

impl Roster {
    /// Every other node: its name, pinned identity and the sequence of its newest record.
    pub fn known(&self) -> impl Iterator<Item = (&NodeName, [u8; 32], Sequence)> {
        let members = self.members.iter();
        members.map(|(name, known)| (name, known.identity, known.sequence))
    }
}
