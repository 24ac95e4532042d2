//! Rendezvous messages on the wire: sealed with a key that strangers lack.
//!
//! `E8 01 <key id> 00`, 24 bytes of nonce, then XChaCha20-Poly1305 of the body with those four bytes as associated data; at
//! most 1,200 bytes in all, so that no path has to fragment it. A PROBE alone may be longer: it is how long a packet may be
//! that it asks. WireGuard's first word is 1 to 4, little-endian: the two never look alike on their shared port.

pub mod message;
pub mod probe;
pub mod replay;
pub mod token;

use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{KeyInit, XChaCha20Poly1305, XNonce};

use crate::key::Derived;

/// Longest datagram in bytes.
pub const DATAGRAM_MAX: usize = 1200;
/// Bytes around a body.
pub const OVERHEAD: usize = 4 + 24 + 16;
/// Longest body in bytes.
pub const BODY_MAX: usize = DATAGRAM_MAX - OVERHEAD;
/// Longest datagram of a PROBE: with the headers of UDP and IPv4 it fills an Ethernet frame.
pub const PROBE_MAX: usize = 1500 - 28;
/// Shortest datagram that can be a message.
pub const DATAGRAM_MIN: usize = OVERHEAD + message::HEAD_LENGTH;

/// Random bytes of one datagram.
pub type Nonce = [u8; 24];

/// First two bytes of every datagram: magic and version.
pub const MAGIC: [u8; 2] = [0xe8, 0x01];

/// What a datagram looks like from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Ours, as far as one sees without opening it.
    Ours,
    /// Our protocol under another key id.
    Foreign,
    /// Something else.
    Noise,
}

/// Looks at the outside of a datagram: cheap enough for every stray packet.
pub fn classify(datagram: &[u8], key_id: u8) -> Class {
    match datagram {
        [0xe8, 0x01, id, 0, ..] if (DATAGRAM_MIN..=PROBE_MAX).contains(&datagram.len()) => {
            if *id == key_id {
                Class::Ours
            } else {
                Class::Foreign
            }
        }
        _ => Class::Noise,
    }
}

/// The nonce of a datagram that was opened.
pub(crate) fn nonce(datagram: &[u8]) -> &[u8] {
    &datagram[4..28]
}

/// Seals and opens bodies.
pub struct Seal {
    cipher: XChaCha20Poly1305,
    header: [u8; 4],
}

impl Seal {
    /// Under the keys of one cluster.
    pub fn new(keys: &Derived) -> Self {
        let cipher = XChaCha20Poly1305::new((&keys.rendezvous).into());
        Self {
            cipher,
            header: [MAGIC[0], MAGIC[1], keys.key_id, 0],
        }
    }

    /// The datagram of `body` (at most [`BODY_MAX`] bytes, more in a PROBE). A random nonce of 24 bytes never repeats.
    pub fn seal(&self, body: &[u8], nonce: Nonce) -> Vec<u8> {
        debug_assert!(body.len() + OVERHEAD <= PROBE_MAX);
        let payload = Payload {
            msg: body,
            aad: &self.header,
        };
        let sealed = self
            .cipher
            .encrypt(&XNonce::from(nonce), payload)
            .expect("a datagram is within the cipher's limit");
        [self.header.as_slice(), &nonce, &sealed].concat()
    }

    /// The body of a datagram; `None` for anything that was not sealed under this key.
    pub fn open(&self, datagram: &[u8]) -> Option<Vec<u8>> {
        if classify(datagram, self.header[2]) != Class::Ours {
            return None;
        }
        let (header, rest) = datagram.split_first_chunk::<4>()?;
        let (nonce, sealed) = rest.split_first_chunk::<24>()?;
        self.cipher
            .decrypt(
                &XNonce::from(*nonce),
                Payload {
                    msg: sealed,
                    aad: header,
                },
            )
            .ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::OverlayKey;

    fn keys(text: &str) -> Derived {
        let key: OverlayKey = text.parse().expect("a key");
        key.derive(&"acides".parse().expect("a name"))
    }

    fn seal() -> Seal {
        Seal::new(&keys("abcdefghijklmnopqrstuvwxyz012345"))
    }

    #[test]
    fn the_envelope_is_golden() {
        let datagram = seal().seal(&[7; message::HEAD_LENGTH], [9; 24]);
        let hex: String = datagram.iter().map(|byte| format!("{byte:02x}")).collect();
        insta::assert_snapshot!(hex, @"e801fe000909090909090909090909090909090909090909090909097d81fa3f730856122ca0b96887af8c584393ede24f5b96b82261f0ec8bd16b15ab17ada2c2537cdbc4f70be5dbb683b83f");
    }

    #[test]
    fn what_is_sealed_opens_and_no_bit_can_be_changed() {
        let body = [5; 100];
        let datagram = seal().seal(&body, [1; 24]);
        assert_eq!(datagram.len(), body.len() + OVERHEAD);
        assert_eq!(seal().open(&datagram).as_deref(), Some(body.as_slice()));
        for bit in 0..datagram.len() * 8 {
            let mut damaged = datagram.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(seal().open(&damaged), None, "bit {bit}");
        }
        for length in 0..datagram.len() {
            assert_eq!(seal().open(&datagram[..length]), None, "cut to {length}");
        }
    }

    #[test]
    fn another_key_is_foreign_and_the_same_id_by_chance_does_not_open() {
        let other = keys("ABCDEFGHIJKLMNOPQRSTUVWXYZ012345");
        let mut datagram = Seal::new(&other).seal(&[5; 100], [1; 24]);
        let own = keys("abcdefghijklmnopqrstuvwxyz012345").key_id;
        assert_ne!(own, other.key_id);
        assert_eq!(classify(&datagram, own), Class::Foreign);
        datagram[2] = own;
        assert_eq!(classify(&datagram, own), Class::Ours);
        assert_eq!(seal().open(&datagram), None);
    }

    #[test]
    fn wireguard_is_noise() {
        for kind in 1..=4 {
            let mut datagram = [0; 148];
            datagram[0] = kind;
            assert_eq!(classify(&datagram, 0), Class::Noise);
        }
        assert_eq!(classify(&[0xe8, 1, 0, 0], 0), Class::Noise);
    }
}
