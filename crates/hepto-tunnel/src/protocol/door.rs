//! What every handshake message passes first.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use boringtun::noise::handshake::parse_handshake_anon;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Packet, Tunn, TunnResult};
use boringtun::x25519::{PublicKey, StaticSecret};

use crate::source::Sources;

/// Handshake messages a second, of all sources together, beyond which a source must first return a cookie, and may send
/// only so many.
pub(super) const HANDSHAKES_PER_SECOND: u64 = 100;

/// Our key pair, and what stands before every handshake message.
pub(crate) struct Door {
    pub(super) private: StaticSecret,
    public: PublicKey,
    limiter: RateLimiter,
    /// Handshake messages of this second, of all sources: as the limiter counts, which does not tell.
    asked: AtomicU64,
    sources: Mutex<Sources>,
    pub(super) unlimited: Arc<RateLimiter>,
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
