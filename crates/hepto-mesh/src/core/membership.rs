//! Members as peers of the tunnel: differences, never a replacement of the whole set.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use super::book::{Book, Entry};
use super::event::{GossipState, Output, Peer, PeerChange, Session};
use crate::key::Derived;
use crate::name::NodeName;

/// Our own time without contact after which a peer is no peer of the tunnel any more.
pub(super) const DORMANT_AFTER: Duration = Duration::from_secs(30 * 24 * 3600);
/// WireGuard's REJECT_AFTER_TIME: an older session carries nothing.
pub(super) const SESSION_LIFETIME: Duration = Duration::from_secs(180);
/// HELLOs of one peer that wait for the tunnel: one a candidate.
const WAITING_MAX: usize = 8;

/// A HELLO that is answered once the tunnel has the peer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Waiting {
    pub from: SocketAddr,
    pub to: Option<IpAddr>,
    pub boot: [u8; 8],
    pub counter: u64,
    pub hash: [u8; 32],
}

/// An address at which someone has proved to receive.
#[derive(Debug, Clone, Copy)]
pub(super) struct Validated {
    pub address: SocketAddr,
    pub at: Instant,
    /// It answered a HELLO that we sent to an address from the peer's own record; else it only called under its name.
    pub asked: bool,
}

/// A peer of the tunnel.
#[derive(Debug)]
pub(super) struct PeerState {
    pub peer: Peer,
    /// The tunnel has it.
    pub ready: bool,
    pub gossip: GossipState,
    /// The peer's run, as last heard.
    pub boot: Option<[u8; 8]>,
    /// Its session could carry packets when we last looked.
    pub up: bool,
    /// When its last session was made.
    pub established: Option<Instant>,
    /// Where the tunnel sends to.
    pub endpoint: Option<SocketAddr>,
    /// Sessions made before are of an earlier run of the peer.
    pub void: Option<Instant>,
    /// Since when there is no session.
    pub lost: Instant,
    /// When to say HELLO next, while there is none.
    pub next_try: Instant,
    /// When HELLO was last said.
    pub tried: Option<Instant>,
    /// Where it may be reached for a handshake.
    pub validated: Option<Validated>,
    /// When we answered its HELLO: it is its turn to start a handshake.
    pub answered: Option<Instant>,
    /// When to start a handshake, while there is no session.
    pub initiate_at: Option<Instant>,
    /// When we last started one.
    pub initiated: Option<Instant>,
    pub waiting: Vec<Waiting>,
}

impl PeerState {
    fn new(peer: Peer, now: Instant) -> Self {
        Self {
            peer,
            ready: false,
            gossip: GossipState::Absent,
            boot: None,
            up: false,
            established: None,
            endpoint: None,
            void: None,
            lost: now,
            next_try: now,
            tried: None,
            validated: None,
            answered: None,
            initiate_at: None,
            initiated: None,
            waiting: Vec::new(),
        }
    }

    /// Whether its session can carry packets.
    pub fn is_live(&self, now: Instant) -> bool {
        self.established.is_some_and(|made| {
            now.saturating_duration_since(made) < SESSION_LIFETIME
                && self.void.is_none_or(|void| made > void)
        })
    }

    /// When its session ends unless it is renewed.
    pub fn expires(&self) -> Option<Instant> {
        self.established.map(|made| made + SESSION_LIFETIME)
    }

    /// Takes the tunnel's view.
    pub fn set_session(&mut self, session: &Session, now: Instant) {
        self.established = session.age.and_then(|age| now.checked_sub(age));
        self.endpoint = session.endpoint;
    }

    /// Notes the peer's run; a new one has none of the old one's sessions.
    pub fn set_boot(&mut self, boot: [u8; 8], now: Instant) {
        if self.boot.is_some_and(|known| known != boot) {
            self.void = Some(now);
        }
        self.boot = Some(boot);
    }

    /// Whether its packets go to one of these addresses.
    pub fn is_at(&self, addresses: &[SocketAddr]) -> bool {
        self.endpoint
            .is_some_and(|endpoint| addresses.contains(&endpoint))
    }

    /// One end of the path has changed: whether the session still works is to be found out by a new one.
    pub fn doubt(&mut self, now: Instant) {
        self.void = Some(now);
    }

    /// Keeps a HELLO until the tunnel is ready; the newest of each address.
    pub fn wait(&mut self, hello: Waiting) {
        self.waiting.retain(|waiting| waiting.from != hello.from);
        if self.waiting.len() < WAITING_MAX {
            self.waiting.push(hello);
        }
    }
}

/// All peers of the tunnel, by WireGuard key.
#[derive(Debug, Default)]
pub(super) struct Membership {
    pub peers: BTreeMap<[u8; 32], PeerState>,
    holders: BTreeMap<Ipv4Addr, NodeName>,
    hosts: Vec<(NodeName, Vec<IpAddr>)>,
}

impl Membership {
    pub fn by_name(&self, name: &NodeName) -> Option<&PeerState> {
        self.peers.values().find(|state| state.peer.name == *name)
    }

    pub fn by_name_mut(&mut self, name: &NodeName) -> Option<&mut PeerState> {
        self.peers
            .values_mut()
            .find(|state| state.peer.name == *name)
    }

    pub fn live(&self, now: Instant) -> impl Iterator<Item = &PeerState> {
        self.peers.values().filter(move |state| state.is_live(now))
    }

    /// Whether a peer of the tunnel has been without contact for too long.
    pub fn has_dormant(&self, book: &Book, now: Instant) -> bool {
        let is_peer = |entry: &&Entry| self.peers.contains_key(&entry.record.content().wireguard);
        book.entries()
            .filter(is_peer)
            .any(|entry| entry.idle(now) >= DORMANT_AFTER)
    }

    /// Brings the tunnel's peers and the hosts file in line with the book. Sessions of unchanged peers are not touched.
    pub fn reconcile(&mut self, book: &Book, keys: &Derived, now: Instant) -> Vec<Output> {
        self.hold_addresses(book);
        let awake = book
            .entries()
            .filter(|entry| entry.idle(now) < DORMANT_AFTER);
        let wanted: BTreeMap<[u8; 32], Peer> = awake
            .map(|entry| self.peer(entry, book, keys))
            .map(|peer| (peer.public_key, peer))
            .collect();
        let mut outputs = Vec::new();
        self.peers.retain(|public_key, state| {
            let kept = wanted.contains_key(public_key);
            if !kept {
                let (name, public_key) = (state.peer.name.clone(), *public_key);
                outputs.push(Output::Peer(PeerChange::Removed { name, public_key }));
            }
            kept
        });
        for (public_key, peer) in wanted {
            let state = self.peers.get_mut(&public_key);
            if state.as_ref().is_some_and(|state| state.peer == peer) {
                continue;
            }
            outputs.push(Output::Peer(PeerChange::Set(peer.clone())));
            match state {
                Some(state) => state.peer = peer,
                None => drop(self.peers.insert(public_key, PeerState::new(peer, now))),
            }
        }
        let hosts = self.hosts(book);
        if hosts != self.hosts {
            self.hosts = hosts.clone();
            outputs.push(Output::Hosts(hosts));
        }
        outputs
    }

    fn peer(&self, entry: &Entry, book: &Book, keys: &Derived) -> Peer {
        let content = entry.record.content();
        let known = self
            .peers
            .get(&content.wireguard)
            .map(|state| state.peer.preshared_key.clone());
        let preshared =
            || Zeroizing::new(keys.preshared(&book.own().content().wireguard, &content.wireguard));
        Peer {
            name: content.name.clone(),
            public_key: content.wireguard,
            preshared_key: known.unwrap_or_else(preshared),
            generation: 0,
            overlay_v6: entry.overlay.v6,
            overlay_v4: self.holds(entry).then_some(entry.overlay.v4),
            mtu: content.mtu,
        }
    }

    fn holds(&self, entry: &Entry) -> bool {
        self.holders.get(&entry.overlay.v4) == Some(entry.record.name())
    }

    /// Each IPv4 address belongs to one node: us, who had it before, who has settled, or the lower name.
    fn hold_addresses(&mut self, book: &Book) {
        let mut holders: BTreeMap<Ipv4Addr, (bool, bool, &NodeName)> = BTreeMap::new();
        // Who computes them in another way has another one than we think.
        let alike = |entry: &&Entry| entry.record.addressing() == book.own().addressing();
        for entry in book.entries().filter(alike) {
            let claim = (
                !self.holds(entry),
                !entry.record.is_settled(),
                entry.record.name(),
            );
            let best = holders.entry(entry.overlay.v4).or_insert(claim);
            *best = claim.min(*best);
        }
        holders.insert(book.own_overlay().v4, (false, false, book.own().name()));
        self.holders = holders
            .into_iter()
            .map(|(address, (_, _, name))| (address, name.clone()))
            .collect();
    }

    fn hosts(&self, book: &Book) -> Vec<(NodeName, Vec<IpAddr>)> {
        let own = book.own_overlay();
        let own = (
            book.own().name().clone(),
            vec![own.v4.into(), own.v6.into()],
        );
        let others = book
            .entries()
            .filter(|entry| entry.is_confirmed())
            .map(|entry| {
                let v4 = self.holds(entry).then_some(IpAddr::V4(entry.overlay.v4));
                (
                    entry.record.name().clone(),
                    v4.into_iter()
                        .chain([IpAddr::V6(entry.overlay.v6)])
                        .collect(),
                )
            });
        [own].into_iter().chain(others).collect()
    }
}
