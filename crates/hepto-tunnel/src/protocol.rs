//! boringtun, and nothing else knows it: handshakes, sessions, cookies and their clocks.
//!
//! Five of its habits shape this file. It starts a handshake by itself when asked to seal without a session, so sealing
//! needs a [`Sealer`], which exists only while there is one. It queues 256 packets meanwhile; our own queue is
//! [`queue`](crate::queue). Its rate limiter counts a handshake wherever it is shown one, so the door has a limited one
//! and every peer an unlimited one. That limiter lets a source do anything once it has returned its cookie, so the door counts
//! [each source](crate::source) itself. And after 90 s without an answer it says `ConnectionExpired` at every tick until
//! someone starts a handshake anew.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use boringtun::noise::errors::WireGuardError;
use boringtun::noise::handshake::parse_handshake_anon;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Packet, Tunn, TunnResult};
use boringtun::x25519::{PublicKey, StaticSecret};

use crate::source::Sources;

/// What sealing adds to a packet: header 16, tag 16 bytes.
pub(crate) const OVERHEAD: usize = 32;

/// Room for any handshake message (an initiation, 148 bytes).
pub(crate) const HANDSHAKE: usize = 148;

/// Bits of a receiver index that belong to the session, below those of the peer.
const SESSION_BITS: u32 = 8;

/// Handshake messages a second, of all sources together, beyond which a source must first return a cookie, and may send
/// only so many.
const HANDSHAKES_PER_SECOND: u64 = 100;

/// A WireGuard message by its first four bytes and its length. The index names our peer (24 bits).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    Initiation,
    Response { index: u32 },
    Cookie { index: u32 },
    Data { index: u32 },
}

impl Message {
    /// None for what is not WireGuard, or has not the length that its type demands.
    pub(crate) fn of(datagram: &[u8]) -> Option<Message> {
        let word = |at: usize| {
            let bytes = datagram.get(at..at + 4)?;
            Some(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
        };
        let index = |at| Some(word(at)? >> SESSION_BITS);
        match (word(0)?, datagram.len()) {
            (1, 148) => Some(Message::Initiation),
            (2, 92) => Some(Message::Response { index: index(8)? }),
            (3, 64) => Some(Message::Cookie { index: index(4)? }),
            (4, OVERHEAD..) => Some(Message::Data { index: index(4)? }),
            _ => None,
        }
    }
}

/// Our key pair, and what stands before every handshake message.
pub(crate) struct Door {
    private: StaticSecret,
    public: PublicKey,
    limiter: RateLimiter,
    /// Handshake messages of this second, of all sources: as the limiter counts, which does not tell.
    asked: AtomicU64,
    sources: Mutex<Sources>,
    unlimited: Arc<RateLimiter>,
}

/// The door's answer to a handshake message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// Let it through.
    Pass,
    /// Too many: send the first so many bytes of the buffer (a cookie) back.
    Cookie(usize),
    /// Too many of this source, which has shown its cookie.
    Often,
    /// Not meant for our key, or forged.
    Refused,
}

impl Door {
    pub(crate) fn new(private_key: [u8; 32]) -> Door {
        let private = StaticSecret::from(private_key);
        let public = PublicKey::from(&private);
        Door {
            limiter: RateLimiter::new(&public, HANDSHAKES_PER_SECOND),
            asked: AtomicU64::new(0),
            sources: Mutex::new(Sources::new(Instant::now())),
            unlimited: Arc::new(RateLimiter::new(&public, u64::MAX)),
            private,
            public,
        }
    }

    #[cfg(feature = "internals")]
    pub(crate) fn public_key(&self) -> [u8; 32] {
        self.public.to_bytes()
    }

    /// Checks a handshake message that came from `source`. Always with its source: without one, a flood would lock
    /// every peer out, as nobody could prove to be another than the attacker.
    pub(crate) fn admit(&self, source: IpAddr, datagram: &[u8], reply: &mut [u8]) -> Admission {
        match self.limiter.verify_packet(Some(source), datagram, reply) {
            Ok(_) if self.is_often(source) => Admission::Often,
            Ok(_) => Admission::Pass,
            Err(TunnResult::WriteToNetwork(cookie)) => Admission::Cookie(cookie.len()),
            Err(_) => Admission::Refused,
        }
    }

    /// Counts a message that the limiter let through. True when it is under load, and so has seen a valid cookie of this
    /// source, which asks too often.
    fn is_often(&self, source: IpAddr) -> bool {
        if self.asked.fetch_add(1, Ordering::Relaxed) < HANDSHAKES_PER_SECOND {
            return false;
        }
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        !sources.admit(source, Instant::now())
    }

    /// The public key that an initiation's sender claims, which only our private key can read.
    pub(crate) fn sender(&self, initiation: &[u8]) -> Option<[u8; 32]> {
        match Tunn::parse_incoming_packet(initiation) {
            Ok(Packet::HandshakeInit(packet)) => {
                parse_handshake_anon(&self.private, &self.public, &packet)
                    .ok()
                    .map(|half| half.peer_static_public)
            }
            _ => None,
        }
    }

    /// Starts a new second of the limit. Called each second.
    pub(crate) fn new_second(&self) {
        self.limiter.reset_count();
        self.asked.store(0, Ordering::Relaxed);
    }
}

/// One peer's handshake and sessions.
pub(crate) struct Protocol {
    tunn: Tunn,
    initiator: bool,
    #[cfg(feature = "without-crypto")]
    clear: crate::clear::Clear,
}

/// What a datagram turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Opened {
    /// An IP packet of `length` bytes in the buffer, with the source address in its header.
    Packet { length: usize, source: IpAddr },
    /// Authenticated and empty.
    Keepalive,
    /// A valid initiation; its answer, of `length` bytes, is in the buffer.
    Answer { length: usize },
    /// A valid response: the session stands, and the buffer has `length` bytes to confirm it with.
    Established { length: usize },
    /// A cookie for our next handshake message.
    Cookie,
    /// A valid initiation whose time stamp is not above the last one's: replayed, or sent by a box whose clock went
    /// back.
    Stale,
    /// Data for a session that we do not have.
    NoSession,
    /// Authentic, but no IP packet inside.
    Malformed,
    /// Forged, replayed, or for another.
    Refused,
}

/// What is to be done now that time has passed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Tick {
    Nothing,
    /// Send the first so many bytes of the buffer.
    Send(usize),
    /// The attempts at a handshake have ended without an answer; sessions are gone.
    Expired,
}

impl Protocol {
    /// `index` has 24 bits and names the peer in what it sends us.
    pub(crate) fn new(
        door: &Door,
        public_key: [u8; 32],
        preshared_key: [u8; 32],
        index: u32,
    ) -> Protocol {
        let tunn = Tunn::new(
            door.private.clone(),
            PublicKey::from(public_key),
            Some(preshared_key),
            None,
            index,
            Some(Arc::clone(&door.unlimited)),
        );
        Protocol {
            tunn,
            initiator: false,
            #[cfg(feature = "without-crypto")]
            clear: crate::clear::Clear::default(),
        }
    }

    /// Since the last handshake; None without a session that can send.
    pub(crate) fn session_age(&self) -> Option<Duration> {
        self.tunn.time_since_last_handshake()
    }

    /// True when the last handshake was started here: that side renews it.
    pub(crate) fn is_initiator(&self) -> bool {
        self.initiator
    }

    /// None while there is no session.
    pub(crate) fn sealer(&mut self) -> Option<Sealer<'_>> {
        self.session_age()?;
        Some(Sealer(self))
    }

    /// Opens a datagram into `out`, which must be as long as the datagram and no less than [`HANDSHAKE`].
    pub(crate) fn open(&mut self, datagram: &[u8], message: Message, out: &mut [u8]) -> Opened {
        #[cfg(feature = "without-crypto")]
        if let Some(opened) = self.clear.open(datagram, message, out) {
            return opened;
        }
        // The source is the door's business; here the limiter has no limit.
        match self.tunn.decapsulate(None, datagram, out) {
            TunnResult::WriteToTunnelV4(packet, source) => Opened::Packet {
                length: packet.len(),
                source: source.into(),
            },
            TunnResult::WriteToTunnelV6(packet, source) => Opened::Packet {
                length: packet.len(),
                source: source.into(),
            },
            TunnResult::WriteToNetwork(answer) => {
                let length = answer.len();
                self.initiator = matches!(message, Message::Response { .. });
                if self.initiator {
                    Opened::Established { length }
                } else {
                    Opened::Answer { length }
                }
            }
            TunnResult::Done if matches!(message, Message::Data { .. }) => Opened::Keepalive,
            TunnResult::Done => Opened::Cookie,
            TunnResult::Err(WireGuardError::WrongTai64nTimestamp) => Opened::Stale,
            TunnResult::Err(WireGuardError::NoCurrentSession | WireGuardError::WrongIndex) => {
                Opened::NoSession
            }
            TunnResult::Err(WireGuardError::InvalidPacket) => Opened::Malformed,
            TunnResult::Err(_) => Opened::Refused,
        }
    }

    /// Writes an initiation, also while another is under way. None only when `out` is shorter than [`HANDSHAKE`].
    pub(crate) fn initiate(&mut self, out: &mut [u8]) -> Option<usize> {
        match self.tunn.format_handshake_initiation(out, true) {
            TunnResult::WriteToNetwork(initiation) => Some(initiation.len()),
            _ => None,
        }
    }

    /// Lets time pass: initiations repeated after 5 s, sessions ended after 180 s, an answer to data within 10 s.
    pub(crate) fn tick(&mut self, out: &mut [u8]) -> Tick {
        match self.tunn.update_timers(out) {
            TunnResult::WriteToNetwork(message) => Tick::Send(message.len()),
            TunnResult::Err(WireGuardError::ConnectionExpired) => Tick::Expired,
            _ => Tick::Nothing,
        }
    }
}

/// Seals with the current session, whose counter never goes back.
pub(crate) struct Sealer<'a>(&'a mut Protocol);

impl Sealer<'_> {
    /// Seals `packet` (empty for a keepalive) into `out`, which must have [`OVERHEAD`] bytes more and no less than
    /// [`HANDSHAKE`]. Returns the length.
    pub(crate) fn seal(&mut self, packet: &[u8], out: &mut [u8]) -> usize {
        #[cfg(feature = "without-crypto")]
        if let Some(length) = self.0.clear.seal(packet, out) {
            return length;
        }
        match self.0.tunn.encapsulate(packet, out) {
            TunnResult::WriteToNetwork(sealed) => sealed.len(),
            // A session cannot end while it is borrowed, and with one boringtun has no other answer.
            other => unreachable!("sealing with a session gave {other:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: [u8; 32] = [0x11; 32];
    const B: [u8; 32] = [0x22; 32];
    const PSK: [u8; 32] = [7; 32];

    fn public(private: [u8; 32]) -> [u8; 32] {
        PublicKey::from(&StaticSecret::from(private)).to_bytes()
    }

    fn pair() -> (Protocol, Protocol) {
        let (a, b) = (Door::new(A), Door::new(B));
        (
            Protocol::new(&a, public(B), PSK, 1),
            Protocol::new(&b, public(A), PSK, 2),
        )
    }

    fn carry(to: &mut Protocol, datagram: &[u8]) -> (Opened, Vec<u8>) {
        let mut out = vec![0; 2048];
        let message = Message::of(datagram).expect("WireGuard");
        let opened = to.open(datagram, message, &mut out);
        let length = match opened {
            Opened::Answer { length }
            | Opened::Established { length }
            | Opened::Packet { length, .. } => length,
            _ => 0,
        };
        out.truncate(length);
        (opened, out)
    }

    fn initiation(from: &mut Protocol) -> Vec<u8> {
        let mut out = vec![0; HANDSHAKE];
        let length = from.initiate(&mut out).expect("room");
        out.truncate(length);
        out
    }

    fn connect(a: &mut Protocol, b: &mut Protocol) {
        let (_, answer) = carry(b, &initiation(a));
        let (opened, confirmation) = carry(a, &answer);
        assert!(matches!(opened, Opened::Established { .. }));
        assert_eq!(carry(b, &confirmation).0, Opened::Keepalive);
    }

    #[test]
    fn a_handshake_makes_a_session_on_both_sides() {
        let (mut a, mut b) = pair();
        assert!(
            a.sealer().is_none() && b.sealer().is_none(),
            "nothing is sealed before"
        );
        connect(&mut a, &mut b);
        assert!(a.is_initiator() && !b.is_initiator());
        let packet = [
            &[0x45, 0, 0, 20, 0, 0, 0, 0, 64, 17, 0, 0][..],
            &[10, 0, 0, 1],
            &[10, 0, 0, 2],
        ]
        .concat();
        let mut sealed = vec![0; 256];
        let length = b.sealer().expect("confirmed").seal(&packet, &mut sealed);
        let (opened, plain) = carry(&mut a, &sealed[..length]);
        assert_eq!(
            opened,
            Opened::Packet {
                length: 20,
                source: [10, 0, 0, 1].into()
            }
        );
        assert_eq!(plain, packet);
        assert_eq!(
            carry(&mut a, &sealed[..length]).0,
            Opened::Refused,
            "a second time"
        );
    }

    #[test]
    fn an_older_initiation_is_stale() {
        let (mut a, mut b) = pair();
        let (older, newer) = (initiation(&mut a), initiation(&mut a));
        assert!(matches!(carry(&mut b, &newer).0, Opened::Answer { .. }));
        assert_eq!(carry(&mut b, &newer).0, Opened::Stale, "replayed");
        assert_eq!(carry(&mut b, &older).0, Opened::Stale, "late");
    }

    #[test]
    fn another_preshared_key_never_makes_a_session() {
        let (mut a, _) = pair();
        let mut b = Protocol::new(&Door::new(B), public(A), [8; 32], 2);
        let (opened, answer) = carry(&mut b, &initiation(&mut a));
        assert!(
            matches!(opened, Opened::Answer { .. }),
            "the initiation does not show the key"
        );
        assert_eq!(carry(&mut a, &answer).0, Opened::Refused);
        assert!(a.sealer().is_none() && b.sealer().is_none());
    }

    #[test]
    fn messages_are_told_by_type_and_length() {
        let message = |kind: u8, length: usize| {
            let mut datagram = vec![0; length];
            datagram[0] = kind;
            datagram[4..8].copy_from_slice(&0x0001_0203u32.to_le_bytes());
            Message::of(&datagram)
        };
        assert_eq!(message(1, 148), Some(Message::Initiation));
        assert_eq!(message(2, 92), Some(Message::Response { index: 0 }));
        assert_eq!(message(3, 64), Some(Message::Cookie { index: 0x0102 }));
        assert_eq!(message(4, 32), Some(Message::Data { index: 0x0102 }));
        assert_eq!(message(4, 65_000), Some(Message::Data { index: 0x0102 }));
        for (kind, length) in [
            (1, 147),
            (1, 149),
            (2, 91),
            (3, 65),
            (4, 31),
            (0, 148),
            (5, 148),
            (0xe8, 400),
        ] {
            assert_eq!(message(kind, length), None, "type {kind}, {length} bytes");
        }
        assert_eq!(Message::of(&[4, 0, 0]), None);
        assert_eq!(Message::of(&[]), None);
    }

    #[test]
    fn the_door_reads_the_sender_and_asks_for_cookies_when_many_come() {
        let (mut a, _) = pair();
        let door = Door::new(B);
        let mut reply = [0; HANDSHAKE];
        let source: IpAddr = "192.0.2.1".parse().expect("an address");
        let first = initiation(&mut a);
        assert_eq!(door.sender(&first), Some(public(A)));
        assert_eq!(Door::new(A).sender(&first), None, "meant for another key");
        assert_eq!(
            Door::new(A).admit(source, &first, &mut reply),
            Admission::Refused
        );
        for _ in 0..HANDSHAKES_PER_SECOND {
            assert_eq!(door.admit(source, &first, &mut reply), Admission::Pass);
        }
        assert_eq!(
            door.admit(source, &first, &mut reply),
            Admission::Cookie(64)
        );
        // Who returns the cookie is let through; the same bytes from another address are not.
        assert_eq!(carry(&mut a, &reply[..64]).0, Opened::Cookie);
        let second = initiation(&mut a);
        assert_eq!(door.admit(source, &second, &mut reply), Admission::Pass);
        let elsewhere: IpAddr = "192.0.2.2".parse().expect("an address");
        assert_eq!(
            door.admit(elsewhere, &second, &mut reply),
            Admission::Cookie(64)
        );
    }

    /// A cookie is no licence: whoever has one, or has overheard a message with one, must leave time for the others.
    #[test]
    fn a_source_with_a_cookie_is_limited_and_no_other_is() {
        let (mut a, _) = pair();
        let door = Door::new(B);
        let mut reply = [0; HANDSHAKE];
        let flooder: IpAddr = "192.0.2.1".parse().expect("an address");
        let first = initiation(&mut a);
        while door.admit(flooder, &first, &mut reply) == Admission::Pass {}
        assert_eq!(carry(&mut a, &reply[..64]).0, Opened::Cookie);
        let second = initiation(&mut a);
        let start = Instant::now();
        let passed = (0..2000)
            .filter(|_| match door.admit(flooder, &second, &mut reply) {
                Admission::Pass => true,
                Admission::Often => false,
                other => panic!("its cookie is valid: {other:?}"),
            })
            .count();
        // A burst of five and twenty a second; a busy machine takes its time.
        let most = 6 + start.elapsed().as_millis() as usize / 50;
        assert!((5..=most).contains(&passed), "{passed} of {most}");

        let other: IpAddr = "192.0.2.2".parse().expect("an address");
        let mut b = Protocol::new(&Door::new([0x33; 32]), public(B), PSK, 3);
        let third = initiation(&mut b);
        assert_eq!(door.admit(other, &third, &mut reply), Admission::Cookie(64));
        assert_eq!(carry(&mut b, &reply[..64]).0, Opened::Cookie);
        let fourth = initiation(&mut b);
        assert_eq!(door.admit(other, &fourth, &mut reply), Admission::Pass);
        door.new_second();
        assert_eq!(
            door.admit(flooder, &second, &mut reply),
            Admission::Pass,
            "no load, no limit"
        );
    }

    /// RFC 6479's sliding window, 1024 wide here as in the kernel: late is fine, twice or too late is not.
    #[test]
    fn the_replay_window_takes_each_once_and_not_too_late() {
        let (mut a, mut b) = pair();
        connect(&mut a, &mut b);
        let packet = [
            &[0x45, 0, 0, 20, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1][..],
            &[10, 0, 0, 2],
        ]
        .concat();
        let sealed: Vec<Vec<u8>> = (0..3000)
            .map(|_| {
                let mut out = vec![0; 256];
                let length = a.sealer().expect("a session").seal(&packet, &mut out);
                out.truncate(length);
                out
            })
            .collect();
        let counters: Vec<&[u8]> = sealed.iter().map(|datagram| &datagram[8..16]).collect();
        assert!(counters.windows(2).all(|pair| pair[0] != pair[1]));
        let mut open = |number: usize| carry(&mut b, &sealed[number]).0;
        let taken = |opened: &Opened| matches!(opened, Opened::Packet { .. });
        for number in [0, 5, 3, 4, 1, 2, 999] {
            assert!(taken(&open(number)), "{number} out of order");
            assert_eq!(open(number), Opened::Refused, "{number} again");
        }
        assert!(taken(&open(998 - 900)), "late by nine hundred");
        assert!(taken(&open(2999)));
        for number in [6, 999, 1000, 1500] {
            assert_eq!(open(number), Opened::Refused, "{number} is far too late");
        }
        for number in 2100..2999 {
            assert!(taken(&open(number)), "{number} is not");
        }
        assert_eq!(open(2500), Opened::Refused);
    }

    /// What boringtun's `Tunn` seals as data, whoever asks for it, has a counter of its own.
    #[test]
    fn no_counter_is_used_twice_also_over_renewals() {
        let (mut a, mut b) = pair();
        let mut seen = std::collections::HashSet::new();
        for _ in 0..5 {
            connect(&mut a, &mut b);
            for side in [&mut a, &mut b] {
                for _ in 0..100 {
                    let mut out = [0; HANDSHAKE];
                    let length = side.sealer().expect("a session").seal(&[], &mut out);
                    assert_eq!(length, OVERHEAD);
                    // The receiver's index and the counter, which the nonce is made of.
                    assert!(seen.insert(out[4..16].to_vec()));
                }
            }
        }
        assert_eq!(seen.len(), 1000);
    }
}
