//! Asks a node about the way to it, without being a node: what preflight and `mtu` say and hear.
//!
//! As pure as the core: it has no socket and no clock. One asker speaks with one address from one port, since a token is
//! good for no other. It holds the overlay key and shows no record: nobody becomes a member by asking.

use std::net::SocketAddr;

use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};

use crate::core::BootId;
use crate::key::Derived;
use crate::seal::message::{Head, Hello, Kind, TokenReply};
use crate::seal::probe::{FLAG_DIALLED, Probe};
use crate::seal::token::{NONE, Token};
use crate::seal::{DATAGRAM_MAX, Seal};

/// Who asks one address.
pub struct Asker {
    seal: Seal,
    rng: ChaCha20Rng,
    boot: BootId,
    /// Counters above this one and up to `counter` are ours.
    before: u64,
    counter: u64,
    token: Token,
}

/// What was heard in answer to a question of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// A node is there and holds the same overlay key. Questions are answered from now on, for a minute.
    Alive {
        /// Where it saw our datagram come from.
        observed: SocketAddr,
        /// Its run: two addresses of one node say the same.
        boot: BootId,
    },
    /// A question arrived whole.
    Arrived {
        /// Bytes of its datagram.
        length: usize,
        /// Where it saw it come from.
        observed: SocketAddr,
        /// A dial-back is on its way.
        dialled: bool,
        /// Its run.
        boot: BootId,
    },
    /// A dial-back arrived.
    Reached,
}

impl Asker {
    /// Under the keys of one cluster; `seed` is fresh OS randomness.
    pub fn new(keys: &Derived, seed: [u8; 32]) -> Self {
        let mut rng = ChaCha20Rng::from_seed(seed);
        let mut boot = [0; 8];
        rng.fill_bytes(&mut boot);
        // Random, so that no answer that was recorded in another run fits; small enough to count on from.
        let before = rng.next_u64() >> 1;
        Self {
            seal: Seal::new(keys),
            rng,
            boot,
            before,
            counter: before,
            token: NONE,
        }
    }

    /// Asks for a token. What it carries is shorter than a record, so that no more than a token can come back.
    pub fn hello(&mut self) -> Vec<u8> {
        let head = Head {
            token: NONE,
            ..self.head(Kind::Hello)
        };
        let hello = Hello {
            hash: [0; 32],
            flags: 0,
            record: &[],
        };
        self.seal_up(&hello.write(&head))
    }

    /// A question in a datagram of `length` bytes (at least [`QUESTION_MIN`](crate::seal::probe::QUESTION_MIN), at most
    /// [`PROBE_MAX`](crate::seal::PROBE_MAX)), with the port to dial back to if that is asked.
    pub fn question(&mut self, length: usize, dial: Option<u16>) -> Vec<u8> {
        let head = self.head(Kind::Probe);
        self.seal_up(&Probe::Question { dial }.write(&head, length))
    }

    /// What a datagram says; `None`: nothing that answers a question of ours.
    pub fn read(&mut self, datagram: &[u8]) -> Option<Heard> {
        if datagram.len() > DATAGRAM_MAX {
            return None;
        }
        let body = self.seal.open(datagram)?;
        let (head, rest) = Head::parse(&body)?;
        let boot = head.boot;
        match head.kind {
            Kind::Token => {
                let reply = TokenReply::parse(rest).filter(|reply| self.is_mine(reply.echo))?;
                self.token = reply.token;
                Some(Heard::Alive {
                    observed: reply.observed,
                    boot,
                })
            }
            Kind::Probe => match Probe::parse(rest)? {
                Probe::Answer(answer) if self.is_mine(answer.echo) => Some(Heard::Arrived {
                    length: answer.length.into(),
                    observed: answer.observed,
                    dialled: answer.flags & FLAG_DIALLED != 0,
                    boot,
                }),
                Probe::DialBack { echo } if self.is_mine(echo) => Some(Heard::Reached),
                _ => None,
            },
            Kind::Hello | Kind::Sync => None,
        }
    }

    fn is_mine(&self, echo: u64) -> bool {
        self.before < echo && echo <= self.counter
    }

    fn head(&mut self, kind: Kind) -> Head {
        self.counter += 1;
        Head {
            kind,
            boot: self.boot,
            counter: self.counter,
            token: self.token,
        }
    }

    fn seal_up(&mut self, body: &[u8]) -> Vec<u8> {
        let mut nonce = [0; 24];
        self.rng.fill_bytes(&mut nonce);
        self.seal.seal(body, nonce)
    }
}
