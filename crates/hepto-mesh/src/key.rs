//! Keys that an operator writes down, and what is derived from them.
//!
//! The overlay key is never used itself. Each use has a key of its own:
//! HMAC-BLAKE2s(key: its 32 bytes; message: `hepto v1 <purpose>`, a zero byte, the cluster's name).

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use blake2::Blake2s256;
use hmac::{KeyInit, Mac, SimpleHmac};
use rand_core::CryptoRng;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::name::ClusterName;

/// Characters of a written key.
pub const TEXT_LENGTH: usize = 32;
/// Bytes of a check value: enough that two keys do not have the same by chance, and too few to be of use for anything else.
const CHECK_LENGTH: usize = 5;
/// Purpose under which the agents' key is derived from the cluster key.
pub const AGENT_PURPOSE: &str = "agent";

const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// Why a text is not a key. The text itself is never repeated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Neither of the two forms of an overlay key.
    #[error(
        "the overlay key has {length} characters and is neither 32 letters and digits nor base64 of 32 bytes; \
         make one with `hepto-node keys generate overlay`"
    )]
    Overlay {
        /// Characters given.
        length: usize,
    },
    /// Not the form of a cluster or agent key.
    #[error(
        "the {what} key has {length} characters and is not 32 letters and digits; \
         make a cluster key with `hepto-node keys generate cluster`"
    )]
    Token {
        /// `cluster` or `agent`.
        what: &'static str,
        /// Characters given.
        length: usize,
    },
    /// k3s reads a token that begins with `K10` as its long form and would refuse it.
    #[error(
        "the {what} key begins with \"K10\", which k3s takes for another kind of token; \
         make a new one with `hepto-node keys generate cluster`"
    )]
    TokenPrefix {
        /// `cluster` or `agent`.
        what: &'static str,
    },
}

impl KeyError {
    /// The stable code of the error, as printed and documented.
    pub fn code(&self) -> &'static str {
        match self {
            KeyError::Overlay { .. } => "E-KEY-OVERLAY-FORM",
            KeyError::Token { .. } => "E-KEY-CLUSTER-FORM",
            KeyError::TokenPrefix { .. } => "E-KEY-CLUSTER-PREFIX",
        }
    }
}

/// The secret that all nodes of a cluster share. It keeps strangers out; against a member it is nothing.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct OverlayKey([u8; 32]);

impl OverlayKey {
    /// A new key as its text: 32 letters and digits (190 bits).
    pub fn generate(rng: &mut impl CryptoRng) -> Zeroizing<String> {
        random_text(rng)
    }

    /// All keys of the cluster `cluster` under this overlay key.
    pub fn derive(&self, cluster: &ClusterName) -> Derived {
        Derived {
            rendezvous: derive(&self.0, "rendezvous", cluster),
            gossip: derive(&self.0, "gossip", cluster),
            key_id: derive(&self.0, "keyid", cluster)[0],
            psk_root: derive(&self.0, "psk-root", cluster),
        }
    }

    /// Equal for equal keys, and nothing that a key could be found from: HMAC-BLAKE2s(key: its 32 bytes; message:
    /// `hepto v1 check`), its first 5 bytes as 8 lower-case base32 characters (RFC 4648).
    pub fn check_value(&self) -> String {
        check_value(&self.0)
    }
}

impl FromStr for OverlayKey {
    type Err = KeyError;

    /// 32 letters and digits, or base64 (padded or not) of 32 bytes. White space around it is the caller's to remove.
    fn from_str(text: &str) -> Result<Self, KeyError> {
        let error = KeyError::Overlay {
            length: text.chars().count(),
        };
        let mut key = [0; 32];
        if is_token(text) {
            key.copy_from_slice(text.as_bytes());
            return Ok(Self(key));
        }
        let decoded = match text.len() {
            44 => STANDARD.decode(text),
            43 => STANDARD_NO_PAD.decode(text),
            _ => return Err(error),
        };
        let decoded = Zeroizing::new(decoded.map_err(|_| error.clone())?);
        if decoded.len() != key.len() {
            return Err(error);
        }
        key.copy_from_slice(&decoded);
        Ok(Self(key))
    }
}

impl fmt::Debug for OverlayKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OverlayKey(hidden)")
    }
}

/// What the overlay key becomes. The cluster's name is part of each.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Derived {
    /// XChaCha20-Poly1305 key of rendezvous messages.
    pub rendezvous: [u8; 32],
    /// memberlist's AES-256 key.
    pub gossip: [u8; 32],
    /// Third byte of every rendezvous message: tells apart clusters and generations of keys before decrypting.
    pub key_id: u8,
    psk_root: [u8; 32],
}

impl Derived {
    /// The WireGuard preshared key of two nodes, by their public keys in any order.
    pub fn preshared(&self, one: &[u8; 32], other: &[u8; 32]) -> [u8; 32] {
        let (low, high) = if one <= other {
            (one, other)
        } else {
            (other, one)
        };
        hmac(&self.psk_root, &[low, high])
    }
}

impl fmt::Debug for Derived {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Derived {{ key_id: {:#04x}, .. }}", self.key_id)
    }
}

/// The k3s server token: 32 letters and digits. Only the master needs it.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct ClusterKey(String);

impl ClusterKey {
    /// A new key as its text.
    pub fn generate(rng: &mut impl CryptoRng) -> Zeroizing<String> {
        loop {
            let text = random_text(rng);
            if !text.starts_with("K10") {
                return text;
            }
        }
    }

    /// The token as k3s reads it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The agents' token: HMAC-BLAKE2s(key: the 32 characters; message: `hepto v1 agent`, 0, cluster), its first
    /// 20 bytes as 32 lower-case base32 characters (RFC 4648). A stolen agent thus does not hold the server token.
    pub fn agent(&self, cluster: &ClusterName) -> AgentKey {
        let key = Zeroizing::new(hmac(self.0.as_bytes(), &message(AGENT_PURPOSE, cluster)));
        AgentKey(base32(&key[..20]))
    }
}

impl FromStr for ClusterKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        token(text, "cluster").map(Self)
    }
}

impl fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterKey(hidden)")
    }
}

/// The k3s agent token: 32 letters and digits, derived from the cluster key.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct AgentKey(String);

impl AgentKey {
    /// The token as k3s reads it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// As [`OverlayKey::check_value`], of the 32 characters.
    pub fn check_value(&self) -> String {
        check_value(self.0.as_bytes())
    }
}

impl FromStr for AgentKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        token(text, "agent").map(Self)
    }
}

impl fmt::Debug for AgentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AgentKey(hidden)")
    }
}

fn is_token(text: &str) -> bool {
    text.len() == TEXT_LENGTH && text.bytes().all(|b| b.is_ascii_alphanumeric())
}

fn token(text: &str, what: &'static str) -> Result<String, KeyError> {
    if !is_token(text) {
        return Err(KeyError::Token {
            what,
            length: text.chars().count(),
        });
    }
    if text.starts_with("K10") {
        return Err(KeyError::TokenPrefix { what });
    }
    Ok(text.to_owned())
}

fn random_text(rng: &mut impl CryptoRng) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(TEXT_LENGTH));
    let mut byte = Zeroizing::new([0u8; 1]);
    while text.len() < TEXT_LENGTH {
        rng.fill_bytes(&mut byte[..]);
        // 248 is the largest multiple of 62 in a byte: beyond it some characters would be likelier.
        if byte[0] < 248 {
            text.push(char::from(ALPHABET[usize::from(byte[0] % 62)]));
        }
    }
    text
}

/// RFC 4648 base32 in lower case; `bytes` is a multiple of five long, so there is no padding.
pub(crate) fn base32(bytes: &[u8]) -> String {
    debug_assert!(bytes.len().is_multiple_of(5));
    let mut text = String::with_capacity(bytes.len() / 5 * 8);
    for chunk in bytes.chunks_exact(5) {
        let bits = chunk
            .iter()
            .fold(0u64, |bits, byte| bits << 8 | u64::from(*byte));
        for digit in (0..8).rev() {
            text.push(char::from(BASE32[(bits >> (5 * digit)) as usize & 31]));
        }
    }
    text
}

fn message<'a>(purpose: &'a str, cluster: &'a ClusterName) -> [&'a [u8]; 4] {
    [
        b"hepto v1 ",
        purpose.as_bytes(),
        &[0],
        cluster.as_str().as_bytes(),
    ]
}

fn derive(key: &[u8; 32], purpose: &str, cluster: &ClusterName) -> [u8; 32] {
    hmac(key, &message(purpose, cluster))
}

fn check_value(key: &[u8]) -> String {
    base32(&hmac(key, &[b"hepto v1 check"])[..CHECK_LENGTH])
}

fn hmac<P: AsRef<[u8]>>(key: &[u8], parts: &[P]) -> [u8; 32] {
    let mut mac =
        SimpleHmac::<Blake2s256>::new_from_slice(key).expect("HMAC takes a key of any length");
    for part in parts {
        mac.update(part.as_ref());
    }
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng;

    const TEXT: &str = "abcdefghijklmnopqrstuvwxyz012345";

    fn cluster() -> ClusterName {
        "acides".parse().expect("a name")
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    #[test]
    fn both_forms_of_the_overlay_key_are_one_key() {
        let text: OverlayKey = TEXT.parse().expect("32 letters and digits");
        assert_eq!(text, STANDARD.encode(TEXT).parse().expect("padded base64"));
        assert_eq!(
            text,
            STANDARD_NO_PAD
                .encode(TEXT)
                .parse()
                .expect("base64 without padding")
        );
    }

    #[test]
    fn other_forms_are_refused_without_being_repeated() {
        for text in [
            "",
            "short",
            &TEXT[1..],
            &format!("{TEXT}="),
            "abcdefghijklmnopqrstuvwxyz01234!",
            &"é".repeat(22),
        ] {
            let error = text.parse::<OverlayKey>().expect_err(text);
            assert_eq!(error.code(), "E-KEY-OVERLAY-FORM");
            assert!(text.is_empty() || !error.to_string().contains(text));
        }
        assert_eq!(
            "K10aefghijklmnopqrstuvwxyz012345"
                .parse::<ClusterKey>()
                .expect_err("K10")
                .code(),
            "E-KEY-CLUSTER-PREFIX"
        );
        assert_eq!(
            "a-b".parse::<AgentKey>().expect_err("form").code(),
            "E-KEY-CLUSTER-FORM"
        );
    }

    /// Computed with Python's hashlib and hmac.
    #[test]
    fn derivations_are_golden() {
        let derived = TEXT
            .parse::<OverlayKey>()
            .expect("a key")
            .derive(&cluster());
        insta::assert_snapshot!(
            format!(
                "rendezvous {}\ngossip {}\nkeyid {:02x}\npsk {}",
                hex(&derived.rendezvous),
                hex(&derived.gossip),
                derived.key_id,
                hex(&derived.preshared(&[1; 32], &[2; 32]))
            ),
            @"
        rendezvous 21b20933e5a407fac74b8fe9cc810b6912d2bb1d98d682edb8db74ef20ecfd5a
        gossip 757f1f459f57e022eb81e860a8e9e0deefa4a437dfe9f3bb844f199f6631b6f9
        keyid fe
        psk dddd4d23ad0a0023dcaaa5752551cac9ef04cebf4fc53acc861f0b246c0ec10f
        "
        );
        let agent = TEXT.parse::<ClusterKey>().expect("a key").agent(&cluster());
        insta::assert_snapshot!(agent.expose(), @"lyn46t735henftxu3jmxirnx7c7twvn2");
    }

    #[test]
    fn the_order_of_two_peers_does_not_matter_and_the_cluster_does() {
        let key: OverlayKey = TEXT.parse().expect("a key");
        let derived = key.derive(&cluster());
        assert_eq!(
            derived.preshared(&[1; 32], &[2; 32]),
            derived.preshared(&[2; 32], &[1; 32])
        );
        let other = key.derive(&"bases".parse().expect("a name"));
        assert_ne!(derived.rendezvous, other.rendezvous);
        assert_ne!(
            derived.preshared(&[1; 32], &[2; 32]),
            other.preshared(&[1; 32], &[2; 32])
        );
    }

    #[test]
    fn generated_keys_parse_and_debug_hides() {
        let mut rng = ChaCha20Rng::seed_from_u64(7);
        let overlay = OverlayKey::generate(&mut rng);
        let cluster_key = ClusterKey::generate(&mut rng);
        let parsed: OverlayKey = overlay.parse().expect("a generated key");
        assert_eq!(format!("{parsed:?}"), "OverlayKey(hidden)");
        let parsed: ClusterKey = cluster_key.parse().expect("a generated key");
        assert_eq!(
            parsed
                .agent(&cluster())
                .expose()
                .parse::<AgentKey>()
                .expect("an agent key"),
            parsed.agent(&cluster())
        );
        assert!(!format!("{:?}", parsed).contains(cluster_key.as_str()));
    }

    #[test]
    fn base32_is_that_of_rfc_4648() {
        assert_eq!(base32(b"fooba"), "mzxw6ytb");
    }
}
