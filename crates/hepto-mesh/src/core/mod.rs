//! The pure core: membership, endpoints and rendezvous, in the manner of quinn-proto.
//!
//! [`Core::handle`] takes an [`Input`] and the time; [`Core::poll_output`] yields what is to be done, in order;
//! [`Core::next_timeout`] says when [`Input::Timeout`] is due. There is no socket, file, clock or randomness in here: time is
//! an argument, nonces come from the seed given at construction. One seed and one history give one outcome.

mod book;
mod event;
mod limit;
mod notice;
mod report;
mod saved;
#[cfg(test)]
pub(crate) mod testing;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

pub use book::{NAMES_MAX, Refusal, Roster};
pub use event::{Anchor, GossipState, Input, Output, Peer, PeerChange, Session, Settings};
pub use notice::Notice;
pub use report::{AnchorReport, AnchorState, Counters, Member, Report};
pub use saved::{Damaged, Saved, SavedMember};

use crate::identity::Identity;
use crate::record::Record;

/// Random at each start: tells a node's runs apart, and its own messages from others'.
pub type BootId = [u8; 8];

/// The state machine of one node.
pub struct Core {
    book: book::Book,
    outputs: VecDeque<Output>,
    attempt: u8,
}

impl Core {
    /// A core that starts now. `boot` and `seed` are fresh OS randomness; `saved` is what the last run left.
    pub fn new(
        settings: Settings,
        identity: Identity,
        saved: Saved,
        boot: BootId,
        seed: [u8; 32],
        now: Instant,
    ) -> Self {
        let _ = (boot, ChaCha20Rng::from_seed(seed));
        let content = crate::record::Content {
            attempt: saved.attempt,
            flags: 0,
            name: settings.node.clone(),
            sequence: crate::record::Sequence {
                start: saved.starts + 1,
                change: 0,
            },
            endpoints: Vec::new(),
            key_ids: [settings.keys.key_id; 2],
            mtu: settings.mtu,
            identity: identity.public(),
            wireguard: identity.wireguard_public(),
            tail: Vec::new(),
        };
        let own = Record::sign(content, &settings.cluster, &identity);
        let book = book::Book::new(settings.cluster, own, saved.members, saved.statements, now);
        Self {
            book,
            outputs: VecDeque::from([Output::Save]),
            attempt: saved.attempt,
        }
    }

    /// Takes something that happened at `now`.
    pub fn handle(&mut self, input: Input<'_>, now: Instant) {
        let _ = (input, now);
    }

    /// The next thing to do; `None`: nothing before the next input.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Input::Timeout`] is due.
    pub fn next_timeout(&self) -> Option<Instant> {
        None
    }

    /// What is to be on disk now.
    pub fn saved(&self, now: Instant) -> Saved {
        Saved {
            attempt: self.attempt,
            members: self.book.saved(now),
            ..Saved::default()
        }
    }

    /// Our own record, as gossip spreads it.
    pub fn own_record(&self) -> &Record {
        self.book.own()
    }

    /// Who is known, for the checks that gossip makes beside us.
    pub fn roster(&self) -> Arc<Roster> {
        self.book.roster()
    }

    /// Peers whose session can carry packets: those that gossip joins.
    pub fn live_peers(&self) -> Vec<Peer> {
        Vec::new()
    }

    /// All there is to show.
    pub fn report(&self, now: Instant) -> Report {
        let _ = now;
        Report {
            own: self.book.own().content().clone(),
            fingerprint: crate::identity::fingerprint(&self.book.own().content().identity),
            addresses: Vec::new(),
            joined: false,
            members: Vec::new(),
            anchors: Vec::new(),
            observed: Vec::new(),
            symmetric_nat: false,
            statements: self.book.statements().count(),
            counters: Counters::default(),
        }
    }
}
