//! What a sealed body says. Integers are big-endian; parsing is strict and checks every length.
//!
//! Head: type 1, boot id 8 (random at each start), counter 8, token 16 (issued by the receiver to the sender; 0: none). Then:
//!
//! - 1 HELLO: hash of the book 32, flags 1, own record; zeros up to a datagram of at least [`HELLO_MIN`] bytes, so that the
//!   answer to a forged source address is always smaller.
//! - 2 TOKEN: counter of the HELLO 8, token 16, the address that it came from 18.
//! - 3 SYNC: counter of what it answers 8, the address that that came from 18, flags 1, then parts: tag 1, length 2, value.
//! - 4 PROBE: see [`probe`](super::probe).
//! - 5 to 15: reserved (call, relay).

use std::net::SocketAddr;

use super::token::Token;
use super::{BODY_MAX, OVERHEAD};
use crate::record::RECORD_MAX;
use crate::statement::STATEMENT_MAX;
use crate::wire::{Reader, SOCKET_LENGTH, put_socket};

/// Bytes of a head.
pub const HEAD_LENGTH: usize = 1 + 8 + 8 + 16;
/// Shortest datagram of a HELLO.
pub const HELLO_MIN: usize = 400;
/// SYNC flag: the sender's handshake initiation is on its way, do not send another.
pub const FLAG_INITIATING: u8 = 1;
/// SYNC flag: the receiver is refused as a member; a handshake would be in vain.
pub const FLAG_REFUSED: u8 = 2;
/// SYNC flag: more was wanted than one conversation may carry; say HELLO again.
pub const FLAG_MORE: u8 = 4;

const TAG_OWN: u8 = 1;
const TAG_DIGEST: u8 = 2;
const TAG_WANTS: u8 = 3;
const TAG_RECORD: u8 = 4;
const TAG_STATEMENT: u8 = 5;
const ITEM_LENGTH: usize = 17;
const WANT_LENGTH: usize = 9;

/// The types that this version knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Asks.
    Hello = 1,
    /// Answers a HELLO whose token does not hold.
    Token = 2,
    /// Compares books.
    Sync = 3,
    /// Tries the way.
    Probe = 4,
}

/// The front of every body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Its type.
    pub kind: Kind,
    /// The sender's run.
    pub boot: [u8; 8],
    /// Never used twice in that run.
    pub counter: u64,
    /// Issued by the receiver.
    pub token: Token,
}

impl Head {
    /// Reads the head; the rest follows it. `None`: cut short, or of a reserved type.
    pub fn parse(body: &[u8]) -> Option<(Self, &[u8])> {
        let mut reader = Reader::new(body);
        let kind = match reader.u8()? {
            1 => Kind::Hello,
            2 => Kind::Token,
            3 => Kind::Sync,
            4 => Kind::Probe,
            _ => return None,
        };
        let head = Self {
            kind,
            boot: reader.array()?,
            counter: reader.u64()?,
            token: reader.array()?,
        };
        Some((head, reader.rest()))
    }

    pub(super) fn write(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(BODY_MAX);
        body.push(self.kind as u8);
        body.extend_from_slice(&self.boot);
        body.extend_from_slice(&self.counter.to_be_bytes());
        body.extend_from_slice(&self.token);
        body
    }
}

/// A HELLO after its head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello<'a> {
    /// Hash of the sender's book.
    pub hash: [u8; 32],
    /// None are known.
    pub flags: u8,
    /// The sender's record, and padding behind it.
    pub record: &'a [u8],
}

impl<'a> Hello<'a> {
    /// Reads what follows the head.
    pub fn parse(rest: &'a [u8]) -> Option<Self> {
        let mut reader = Reader::new(rest);
        Some(Self {
            hash: reader.array()?,
            flags: reader.u8()?,
            record: reader.rest(),
        })
    }

    /// The whole body, padded.
    pub fn write(&self, head: &Head) -> Vec<u8> {
        debug_assert!(self.record.len() <= RECORD_MAX);
        let mut body = head.write();
        body.extend_from_slice(&self.hash);
        body.push(self.flags);
        body.extend_from_slice(self.record);
        body.resize(body.len().max(HELLO_MIN - OVERHEAD), 0);
        body
    }
}

/// A TOKEN after its head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenReply {
    /// Counter of the HELLO that it answers.
    pub echo: u64,
    /// What to put into the next HELLO.
    pub token: Token,
    /// Where that HELLO came from.
    pub observed: SocketAddr,
}

impl TokenReply {
    /// Reads what follows the head.
    pub fn parse(rest: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(rest);
        let reply = Self {
            echo: reader.u64()?,
            token: reader.array()?,
            observed: reader.socket()?,
        };
        reader.is_empty().then_some(reply)
    }

    /// The whole body.
    pub fn write(&self, head: &Head) -> Vec<u8> {
        let mut body = head.write();
        body.extend_from_slice(&self.echo.to_be_bytes());
        body.extend_from_slice(&self.token);
        put_socket(&mut body, self.observed);
        body
    }
}

/// What a digest says of one object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Item {
    /// First 8 bytes of the BLAKE2s-256 of the object's key: the order of digests.
    pub hash: u64,
    /// 0 for a record, else the kind of the statement.
    pub kind: u8,
    /// Newer wins.
    pub sequence: u64,
}

/// Kind of a record in digests.
pub const KIND_RECORD: u8 = 0;

/// A part of a SYNC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part<'a> {
    /// The sender's own record.
    Own(&'a [u8]),
    /// All that the sender vouches for with hashes from `first` to `last`, both included, ascending.
    Digest {
        /// Lowest hash of the range.
        first: u64,
        /// Highest hash of the range.
        last: u64,
        /// What there is in it.
        items: Vec<Item>,
    },
    /// Objects that the sender would like: kind and hash.
    Wants(Vec<(u8, u64)>),
    /// A record.
    Record(&'a [u8]),
    /// A statement.
    Statement(&'a [u8]),
}

/// A SYNC after its head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sync<'a> {
    /// Counter of what it answers.
    pub echo: u64,
    /// Where that came from.
    pub observed: SocketAddr,
    /// `FLAG_…`; unknown ones are ignored.
    pub flags: u8,
    /// In order.
    pub parts: Vec<Part<'a>>,
}

impl<'a> Sync<'a> {
    /// Reads what follows the head. Parts of an unknown tag are left out.
    pub fn parse(rest: &'a [u8]) -> Option<Self> {
        let mut reader = Reader::new(rest);
        let mut sync = Self {
            echo: reader.u64()?,
            observed: reader.socket()?,
            flags: reader.u8()?,
            parts: Vec::new(),
        };
        while !reader.is_empty() {
            let tag = reader.u8()?;
            let length = reader.u16()?.into();
            let value = reader.take(length)?;
            let part = match tag {
                TAG_OWN if length <= RECORD_MAX => Part::Own(value),
                TAG_DIGEST => parse_digest(value)?,
                TAG_WANTS => parse_wants(value)?,
                TAG_RECORD if length <= RECORD_MAX => Part::Record(value),
                TAG_STATEMENT if length <= STATEMENT_MAX => Part::Statement(value),
                TAG_OWN | TAG_RECORD | TAG_STATEMENT => return None,
                _ => continue,
            };
            sync.parts.push(part);
        }
        Some(sync)
    }
}

fn parse_digest(value: &[u8]) -> Option<Part<'static>> {
    let mut reader = Reader::new(value);
    let (first, last) = (reader.u64()?, reader.u64()?);
    let mut items: Vec<Item> = Vec::with_capacity(reader.rest().len() / ITEM_LENGTH);
    while !reader.is_empty() {
        let item = Item {
            hash: reader.u64()?,
            kind: reader.u8()?,
            sequence: reader.u64()?,
        };
        let ascending = items
            .last()
            .is_none_or(|before| (before.hash, before.kind) < (item.hash, item.kind));
        if !ascending || !(first..=last).contains(&item.hash) {
            return None;
        }
        items.push(item);
    }
    Some(Part::Digest { first, last, items })
}

fn parse_wants(value: &[u8]) -> Option<Part<'static>> {
    let mut reader = Reader::new(value);
    let mut wants = Vec::with_capacity(value.len() / WANT_LENGTH);
    while !reader.is_empty() {
        wants.push((reader.u8()?, reader.u64()?));
    }
    Some(Part::Wants(wants))
}

/// Fills one SYNC datagram with parts for as long as they fit.
pub struct SyncWriter {
    body: Vec<u8>,
}

impl SyncWriter {
    /// An empty one.
    pub fn new(head: &Head, echo: u64, observed: SocketAddr, flags: u8) -> Self {
        let mut body = head.write();
        body.extend_from_slice(&echo.to_be_bytes());
        put_socket(&mut body, observed);
        body.push(flags);
        Self { body }
    }

    /// Sets a flag afterwards.
    pub fn set_flag(&mut self, flag: u8) {
        self.body[HEAD_LENGTH + 8 + SOCKET_LENGTH] |= flag;
    }

    /// Adds a part; `false`: it does not fit.
    pub fn push(&mut self, part: &Part<'_>) -> bool {
        let (tag, value) = match part {
            Part::Own(record) => (TAG_OWN, record.to_vec()),
            Part::Record(record) => (TAG_RECORD, record.to_vec()),
            Part::Statement(statement) => (TAG_STATEMENT, statement.to_vec()),
            Part::Wants(wants) => {
                let want = |(kind, hash): &(u8, u64)| [&[*kind][..], &hash.to_be_bytes()].concat();
                (TAG_WANTS, wants.iter().flat_map(want).collect())
            }
            Part::Digest { first, last, items } => {
                let mut value = [first.to_be_bytes(), last.to_be_bytes()].concat();
                for item in items {
                    value.extend_from_slice(&item.hash.to_be_bytes());
                    value.push(item.kind);
                    value.extend_from_slice(&item.sequence.to_be_bytes());
                }
                (TAG_DIGEST, value)
            }
        };
        if value.len() + 3 > BODY_MAX - self.body.len() {
            return false;
        }
        self.body.push(tag);
        self.body.extend_from_slice(
            &u16::try_from(value.len())
                .expect("below 1,200")
                .to_be_bytes(),
        );
        self.body.extend_from_slice(&value);
        true
    }

    /// How many items a digest part may still have.
    pub fn digest_room(&self) -> usize {
        (BODY_MAX - self.body.len()).saturating_sub(3 + 16) / ITEM_LENGTH
    }

    /// How many wants still fit.
    pub fn wants_room(&self) -> usize {
        (BODY_MAX - self.body.len()).saturating_sub(3) / WANT_LENGTH
    }

    /// The whole body.
    pub fn finish(self) -> Vec<u8> {
        self.body
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::testing;
    use proptest::prelude::*;

    fn head(kind: Kind) -> Head {
        Head {
            kind,
            boot: [1; 8],
            counter: 7,
            token: [2; 16],
        }
    }

    fn observed() -> SocketAddr {
        "192.0.2.1:51820".parse().expect("an address")
    }

    #[test]
    fn hello_is_padded_and_holds_the_longest_record() {
        for (length, datagram) in [(200, HELLO_MIN), (RECORD_MAX, 536)] {
            let record = vec![9; length];
            let hello = Hello {
                hash: [3; 32],
                flags: 0,
                record: &record,
            };
            let body = hello.write(&head(Kind::Hello));
            assert_eq!(body.len() + OVERHEAD, datagram);
            let (read, rest) = Head::parse(&body).expect("a head");
            assert_eq!(read, head(Kind::Hello));
            let read = Hello::parse(rest).expect("a HELLO");
            assert_eq!(
                (read.hash, &read.record[..length]),
                ([3; 32], record.as_slice())
            );
        }
    }

    #[test]
    fn a_token_is_smaller_than_a_hello() {
        let reply = TokenReply {
            echo: 4,
            token: [5; 16],
            observed: observed(),
        };
        let body = reply.write(&head(Kind::Token));
        assert!(body.len() + OVERHEAD < HELLO_MIN);
        assert_eq!(TokenReply::parse(&body[HEAD_LENGTH..]), Some(reply));
        assert_eq!(TokenReply::parse(&body[HEAD_LENGTH..body.len() - 1]), None);
    }

    #[test]
    fn reserved_types_are_ignored() {
        let mut body = Hello {
            hash: [3; 32],
            flags: 0,
            record: &[],
        }
        .write(&head(Kind::Hello));
        for kind in (0..=255).filter(|kind| !(1..=4).contains(kind)) {
            body[0] = kind;
            assert_eq!(Head::parse(&body), None);
        }
    }

    #[test]
    fn digests_out_of_order_or_range_are_refused() {
        let part = |items: Vec<Item>| {
            let mut writer = SyncWriter::new(&head(Kind::Sync), 1, observed(), 0);
            assert!(writer.push(&Part::Digest {
                first: 10,
                last: 20,
                items
            }));
            Sync::parse(&writer.finish()[HEAD_LENGTH..]).is_some()
        };
        let item = |hash, kind| Item {
            hash,
            kind,
            sequence: 1,
        };
        assert!(part(vec![item(10, 0), item(10, 1), item(20, 0)]));
        assert!(!part(vec![item(12, 0), item(11, 0)]));
        assert!(!part(vec![item(12, 0), item(12, 0)]));
        assert!(!part(vec![item(9, 0)]) && !part(vec![item(21, 0)]));
    }

    prop_compose! {
        fn items()(items in proptest::collection::btree_map((any::<u64>(), 0u8..5), any::<u64>(), 0..20)) -> Vec<Item> {
            items.into_iter().map(|((hash, kind), sequence)| Item { hash, kind, sequence }).collect()
        }
    }

    proptest! {
        #[test]
        fn syncs_survive_the_wire(
            echo: u64, flags: u8, items in items(),
            wants in proptest::collection::vec((0u8..5, any::<u64>()), 0..20),
        ) {
            let record = testing::record("mars", 1, &["192.0.2.7:1"]);
            let parts = vec![
                Part::Own(record.raw()),
                Part::Digest { first: 0, last: u64::MAX, items },
                Part::Wants(wants),
                Part::Record(record.raw()),
                Part::Statement(&[1, 2, 3]),
            ];
            let mut writer = SyncWriter::new(&head(Kind::Sync), echo, observed(), flags);
            for part in &parts {
                prop_assert!(writer.push(part));
            }
            let body = writer.finish();
            prop_assert!(body.len() <= BODY_MAX);
            let sync = Sync::parse(&body[HEAD_LENGTH..]).expect("itself");
            prop_assert_eq!(&sync, &Sync { echo, observed: observed(), flags, parts });
            for length in HEAD_LENGTH..body.len() {
                if let Some(cut) = Sync::parse(&body[HEAD_LENGTH..length]) {
                    prop_assert!(cut.parts.len() < 5);
                }
            }
        }

        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..1200)) {
            if let Some((_, rest)) = Head::parse(&bytes) {
                let _ = (Hello::parse(rest), TokenReply::parse(rest), Sync::parse(rest));
            }
            let _ = Sync::parse(&bytes);
        }

        #[test]
        fn a_datagram_is_never_overfilled(sizes in proptest::collection::vec(0usize..=RECORD_MAX, 0..20)) {
            let mut writer = SyncWriter::new(&head(Kind::Sync), 1, observed(), 0);
            for size in sizes {
                let room = writer.digest_room();
                let fits = writer.push(&Part::Record(&vec![0; size]));
                prop_assert!(fits || size + 3 > room * ITEM_LENGTH);
            }
            prop_assert!(writer.finish().len() <= BODY_MAX);
        }
    }
}
