//! boringtun, and nothing else knows it: handshakes, sessions, cookies and their clocks.
//!
//! Five of its habits shape this module. It starts a handshake by itself when asked to seal without a session, so sealing
//! needs a [`Sealer`], which exists only while there is one. It queues 256 packets meanwhile; our own queue is
//! [`queue`](crate::queue). Its rate limiter counts a handshake wherever it is shown one, so the door has a limited one
//! and every peer an unlimited one. That limiter lets a source do anything once it has returned its cookie, so the door counts
//! [each source](crate::source) itself. And after 90 s without an answer it says `ConnectionExpired` at every tick until
//! someone starts a handshake anew.

mod door;
mod message;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use boringtun::noise::errors::WireGuardError;
use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519::PublicKey;

pub(crate) use door::{Admission, Door};
pub(crate) use message::Message;

/// What sealing adds to a packet: header 16, tag 16 bytes.
pub(crate) const OVERHEAD: usize = 32;

/// Room for any handshake message (an initiation, 148 bytes).
pub(crate) const HANDSHAKE: usize = 148;

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
mod tests;
