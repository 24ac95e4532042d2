//! Tokens: a proof that the sender receives at the address it sends from, kept by the sender alone.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use blake2::Blake2sMac256;
use blake2::digest::{KeyInit, Mac};

use crate::wire::mapped;

/// A token; all zeros stand for none.
pub type Token = [u8; 16];
/// No token yet.
pub const NONE: Token = [0; 16];
/// How long at least a token holds; twice that at most.
pub const LIFETIME: Duration = Duration::from_secs(60);

/// Issues and checks tokens without remembering any: the first 16 bytes of the keyed BLAKE2s of epoch, address, port and
/// boot id. The epoch turns each [`LIFETIME`]; tokens of this one and the last hold.
pub struct Tokens {
    secret: [u8; 32],
    start: Instant,
}

impl Tokens {
    /// Under a fresh secret.
    pub fn new(secret: [u8; 32], start: Instant) -> Self {
        Self { secret, start }
    }

    /// The token of who sends from `address` in its run `boot`.
    pub fn issue(&self, address: SocketAddr, boot: [u8; 8], now: Instant) -> Token {
        self.at(self.epoch(now), address, boot)
    }

    /// Whether `token` was issued to it, and lately.
    pub fn holds(&self, token: &Token, address: SocketAddr, boot: [u8; 8], now: Instant) -> bool {
        let epoch = self.epoch(now);
        let epochs = [Some(epoch), epoch.checked_sub(1)];
        // Both are computed and compared in whole: the time taken says nothing of how much was right.
        epochs.into_iter().flatten().fold(false, |found, epoch| {
            found | equal(&self.at(epoch, address, boot), token)
        })
    }

    fn epoch(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.start).as_secs() / LIFETIME.as_secs()
    }

    fn at(&self, epoch: u64, address: SocketAddr, boot: [u8; 8]) -> Token {
        let mut mac =
            Blake2sMac256::new_from_slice(&self.secret).expect("BLAKE2s takes a key of 32 bytes");
        mac.update(&epoch.to_be_bytes());
        mac.update(&mapped(address.ip()).octets());
        mac.update(&address.port().to_be_bytes());
        mac.update(&boot);
        let sum: [u8; 32] = mac.finalize().into_bytes().into();
        *sum.first_chunk().expect("32 bytes hold 16")
    }
}

fn equal(one: &Token, other: &Token) -> bool {
    one.iter()
        .zip(other)
        .fold(0, |difference, (one, other)| difference | (one ^ other))
        == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_holds_for_its_address_and_run_and_for_one_to_two_minutes() {
        let start = crate::core::testing::now();
        let tokens = Tokens::new([3; 32], start);
        let address = "192.0.2.1:5".parse().expect("an address");
        let issued = start + Duration::from_secs(59);
        let token = tokens.issue(address, [1; 8], issued);
        let holds = |address, boot, after| {
            tokens.holds(&token, address, boot, issued + Duration::from_secs(after))
        };
        assert!(holds(address, [1; 8], 0) && holds(address, [1; 8], 60));
        assert!(!holds(address, [1; 8], 121));
        assert!(!holds(address, [2; 8], 0));
        assert!(!holds(
            "192.0.2.1:6".parse().expect("an address"),
            [1; 8],
            0
        ));
        assert!(!holds(
            "192.0.2.2:5".parse().expect("an address"),
            [1; 8],
            0
        ));
        assert!(
            holds(
                "[::ffff:192.0.2.1]:5".parse().expect("an address"),
                [1; 8],
                0
            ),
            "one address in two forms"
        );
        assert!(!tokens.holds(&NONE, address, [1; 8], issued));
        assert!(!Tokens::new([4; 32], start).holds(&token, address, [1; 8], issued));
    }
}
