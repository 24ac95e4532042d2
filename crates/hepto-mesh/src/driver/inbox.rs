//! The door between the tunnel's receiving thread and the mesh: what is plainly not ours is dropped here, and a flood
//! finds a full queue, not memory.
//!
//! Datagrams from the addresses of live peers have a queue of their own, so that strangers cannot keep members from
//! being heard.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};

use tokio::sync::mpsc::{self, error::TrySendError};

/// First two bytes of every envelope: magic and version. A WireGuard message begins with 1 to 4.
pub use crate::seal::MAGIC;
/// The shortest envelope, in bytes: header 4, nonce 24, body's head 33, tag 16.
pub const SHORTEST: usize = 4 + 24 + 33 + 16;
/// The longest envelope, in bytes: a PROBE that fills an Ethernet frame.
pub const LONGEST: usize = crate::seal::PROBE_MAX;

/// Datagrams that may wait, from live peers and from others.
const PEERS: usize = 256;
const OTHERS: usize = 128;
/// Sources under a foreign key that may wait: one is enough to tell a person.
const FOREIGN: usize = 8;
/// No key id is set yet.
const NO_KEY: u16 = 0x100;

/// A datagram that passed the door.
#[derive(Debug, PartialEq, Eq)]
pub struct Letter {
    /// All of it.
    pub bytes: Vec<u8>,
    /// Its source.
    pub from: SocketAddr,
    /// The local address that was asked: answers leave from there.
    pub to: Option<IpAddr>,
}

/// What arrives through the door.
#[derive(Debug, PartialEq, Eq)]
pub enum Arrival {
    /// An envelope under our key id.
    Letter(Letter),
    /// An envelope under another key id, from here.
    Foreign(SocketAddr),
}

/// What the door has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InboxCounts {
    /// Neither WireGuard's nor ours: wrong magic, version or length.
    pub garbage: u64,
    /// Ours by its form, under another key id.
    pub foreign_key: u64,
    /// From live peers, dropped since the queue was full.
    pub peers_dropped: u64,
    /// From others, dropped since the queue was full.
    pub others_dropped: u64,
}

#[derive(Debug)]
struct Shared {
    key_id: AtomicU16,
    garbage: AtomicU64,
    foreign_key: AtomicU64,
    peers_dropped: AtomicU64,
    others_dropped: AtomicU64,
}

/// The sending side: the tunnel's receiving thread holds one. It never waits.
#[derive(Clone, Debug)]
pub struct Inbox {
    shared: Arc<Shared>,
    peers: mpsc::Sender<Letter>,
    others: mpsc::Sender<Letter>,
    foreign: mpsc::Sender<SocketAddr>,
}

/// The mesh's side.
#[derive(Debug)]
pub struct InboxReceiver {
    shared: Arc<Shared>,
    peers: mpsc::Receiver<Letter>,
    others: mpsc::Receiver<Letter>,
    foreign: mpsc::Receiver<SocketAddr>,
}

/// Makes a door. Until the mesh has the receiver and knows its key, everything is dropped.
pub fn inbox() -> (Inbox, InboxReceiver) {
    let shared = Arc::new(Shared {
        key_id: AtomicU16::new(NO_KEY),
        garbage: AtomicU64::new(0),
        foreign_key: AtomicU64::new(0),
        peers_dropped: AtomicU64::new(0),
        others_dropped: AtomicU64::new(0),
    });
    let (peers_in, peers) = mpsc::channel(PEERS);
    let (others_in, others) = mpsc::channel(OTHERS);
    let (foreign_in, foreign) = mpsc::channel(FOREIGN);
    let inbox = Inbox {
        shared: shared.clone(),
        peers: peers_in,
        others: others_in,
        foreign: foreign_in,
    };
    (
        inbox,
        InboxReceiver {
            shared,
            peers,
            others,
            foreign,
        },
    )
}

impl Inbox {
    /// Offers a datagram that is not WireGuard's; it is copied only if it passes and finds room. `to` is the local
    /// address that it was sent to, `from_peer` says that `from` is the address of a live peer.
    pub fn offer(&self, bytes: &[u8], from: SocketAddr, to: Option<IpAddr>, from_peer: bool) {
        let &[first, second, key_id, 0, ..] = bytes else {
            return count(&self.shared.garbage);
        };
        if [first, second] != MAGIC || !(SHORTEST..=LONGEST).contains(&bytes.len()) {
            return count(&self.shared.garbage);
        }
        let own = self.shared.key_id.load(Ordering::Relaxed);
        if own == NO_KEY {
            // The tunnel hears the others before the mesh runs. They are no strangers, and ask again.
            return;
        }
        if u16::from(key_id) != own {
            count(&self.shared.foreign_key);
            // A full queue is no loss: one source is enough to tell a person.
            let _ = self.foreign.try_send(from);
            return;
        }
        let (queue, dropped) = if from_peer {
            (&self.peers, &self.shared.peers_dropped)
        } else {
            (&self.others, &self.shared.others_dropped)
        };
        match queue.try_reserve() {
            Ok(room) => room.send(Letter {
                bytes: bytes.to_vec(),
                from,
                to,
            }),
            Err(TrySendError::Full(()) | TrySendError::Closed(())) => count(dropped),
        }
    }
}

impl InboxReceiver {
    /// Opens the door to envelopes under this key id.
    pub(super) fn open(&self, key_id: u8) {
        self.shared.key_id.store(key_id.into(), Ordering::Relaxed);
    }

    /// The next arrival; `None` once all senders are gone. The queues take turns. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<Arrival> {
        tokio::select! {
            Some(letter) = self.peers.recv() => Some(Arrival::Letter(letter)),
            Some(letter) = self.others.recv() => Some(Arrival::Letter(letter)),
            Some(from) = self.foreign.recv() => Some(Arrival::Foreign(from)),
            else => None,
        }
    }

    /// What was counted since the start.
    pub(super) fn counts(&self) -> InboxCounts {
        InboxCounts {
            garbage: self.shared.garbage.load(Ordering::Relaxed),
            foreign_key: self.shared.foreign_key.load(Ordering::Relaxed),
            peers_dropped: self.shared.peers_dropped.load(Ordering::Relaxed),
            others_dropped: self.shared.others_dropped.load(Ordering::Relaxed),
        }
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope(key_id: u8, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        bytes[..4].copy_from_slice(&[MAGIC[0], MAGIC[1], key_id, 0]);
        bytes
    }

    fn source(port: u16) -> SocketAddr {
        ([192, 0, 2, 1], port).into()
    }

    #[tokio::test]
    async fn envelopes_pass_with_their_addresses() {
        let (inbox, mut receiver) = inbox();
        receiver.open(9);
        let to = Some([198, 51, 100, 1].into());
        inbox.offer(&envelope(9, SHORTEST), source(1), to, true);
        let letter = Letter {
            bytes: envelope(9, SHORTEST),
            from: source(1),
            to,
        };
        assert_eq!(receiver.next().await, Some(Arrival::Letter(letter)));
        drop(inbox);
        assert_eq!(receiver.next().await, None);
    }

    #[tokio::test]
    async fn what_is_not_ours_is_dropped_and_counted() {
        let (inbox, mut receiver) = inbox();
        receiver.open(9);
        let mut version = envelope(9, 200);
        version[1] = 2;
        let mut reserved = envelope(9, 200);
        reserved[3] = 1;
        let garbage = [
            vec![],
            vec![0xE8],
            vec![7; 500],
            envelope(9, SHORTEST - 1),
            envelope(9, LONGEST + 1),
            version,
            reserved,
        ];
        for bytes in &garbage {
            inbox.offer(bytes, source(1), None, false);
        }
        inbox.offer(&envelope(8, 200), source(2), None, false);
        assert_eq!(receiver.next().await, Some(Arrival::Foreign(source(2))));
        let counts = receiver.counts();
        assert_eq!(
            (counts.garbage, counts.foreign_key),
            (garbage.len() as u64, 1)
        );
        drop(inbox);
        assert_eq!(receiver.next().await, None);
    }

    #[tokio::test]
    async fn a_flood_of_strangers_leaves_room_for_peers() {
        let (inbox, mut receiver) = inbox();
        receiver.open(9);
        for port in 0..1000 {
            inbox.offer(&envelope(9, 500), source(port), None, false);
            inbox.offer(&envelope(7, 500), source(port), None, false);
        }
        inbox.offer(&envelope(9, 500), source(2000), None, true);
        let counts = receiver.counts();
        assert_eq!(counts.others_dropped, 1000 - OTHERS as u64);
        assert_eq!(counts.foreign_key, 1000);
        assert_eq!(counts.peers_dropped, 0);
        drop(inbox);
        let (mut letters, mut foreign, mut heard) = (0, 0, false);
        while let Some(arrival) = receiver.next().await {
            match arrival {
                Arrival::Letter(letter) => {
                    letters += 1;
                    heard |= letter.from == source(2000);
                }
                Arrival::Foreign(_) => foreign += 1,
            }
        }
        assert_eq!((letters, foreign, heard), (OTHERS + 1, FOREIGN, true));
    }

    #[test]
    fn nothing_passes_before_the_key_is_known() {
        let (inbox, receiver) = inbox();
        inbox.offer(&envelope(0, 200), source(1), None, true);
        assert!(receiver.peers.is_empty() && receiver.foreign.is_empty());
        assert_eq!(receiver.counts().foreign_key, 0);
    }
}
