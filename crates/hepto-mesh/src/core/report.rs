//! The core's state as data, for status and metrics.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::event::{Anchor, GossipState};
use crate::name::NodeName;
use crate::record::{Content, Endpoint};

/// All there is to show.
#[derive(Debug, Clone)]
pub struct Report {
    /// What our own record says.
    pub own: Content,
    /// Fingerprint of our own identity.
    pub fingerprint: String,
    /// Our own overlay addresses, IPv4 first.
    pub addresses: Vec<IpAddr>,
    /// Whether another member's book has been compared with ours since the start.
    pub joined: bool,
    /// The others, by name.
    pub members: Vec<Member>,
    /// The anchors, as configured.
    pub anchors: Vec<AnchorReport>,
    /// Public addresses on which two observers agree.
    pub observed: Vec<SocketAddr>,
    /// Whether observers disagree on our port.
    pub symmetric_nat: bool,
    /// Statements of the operator that are held.
    pub statements: usize,
    /// What was counted since the start.
    pub counters: Counters,
}

/// Another node.
#[derive(Debug, Clone)]
pub struct Member {
    /// Its name.
    pub name: NodeName,
    /// Its overlay addresses, IPv4 first.
    pub addresses: Vec<IpAddr>,
    /// Its WireGuard key.
    pub public_key: [u8; 32],
    /// MTU of its tunnel, bytes.
    pub mtu: u16,
    /// Fingerprint of its identity.
    pub fingerprint: String,
    /// Where it says that it can be reached.
    pub endpoints: Vec<Endpoint>,
    /// Where the tunnel's packets to it go.
    pub endpoint: Option<SocketAddr>,
    /// Time since the last handshake.
    pub session_age: Option<Duration>,
    /// Whether that session can still carry packets.
    pub live: bool,
    /// Gossip's opinion.
    pub gossip: GossipState,
    /// Time since it last answered or asked us, or had a session; `None`: not since the start.
    pub heard: Option<Duration>,
    /// Not yet met, nor vouched for by two members.
    pub provisional: bool,
    /// Not heard of in 30 days: known, but no peer of the tunnel.
    pub dormant: bool,
}

/// An anchor.
#[derive(Debug, Clone)]
pub struct AnchorReport {
    /// As configured.
    pub anchor: Anchor,
    /// What it resolves to.
    pub addresses: Vec<SocketAddr>,
    /// What became of asking it.
    pub state: AnchorState,
}

/// What became of asking an anchor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnchorState {
    /// Its name has no address (yet).
    Unresolved,
    /// It was not asked yet, or so lately that its first answer may be on its way.
    Unasked,
    /// It has not answered in the last minute.
    Silent,
    /// It answers.
    Answers,
    /// It is this node.
    Myself,
}

/// What was counted since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Datagrams that were taken in.
    pub received: u64,
    /// Datagrams sent.
    pub sent: u64,
    /// Datagrams under another key id.
    pub foreign_key: u64,
    /// Datagrams under our key id that do not open: another key with the same id, or damage.
    pub undecryptable: u64,
    /// Datagrams that open and make no sense.
    pub malformed: u64,
    /// HELLO or SYNC seen before.
    pub replayed: u64,
    /// TOKEN or SYNC that answer nothing of ours.
    pub unasked: u64,
    /// HELLO with a token that does not hold.
    pub bad_token: u64,
    /// Messages left unanswered by a limit.
    pub limited: u64,
    /// Our own messages that came back to us.
    pub own: u64,
    /// Records taken in, new or newer.
    pub records: u64,
    /// Records refused for their form or signature.
    pub records_bad: u64,
    /// Records refused for another identity, key or name.
    pub records_refused: u64,
    /// Statements refused.
    pub statements_refused: u64,
    /// Handshakes asked of the tunnel.
    pub handshakes: u64,
}
