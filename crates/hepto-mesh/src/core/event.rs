//! What goes into the core and what comes out of it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use zeroize::Zeroizing;

use super::notice::Notice;
use crate::address::Prefixes;
use crate::key::Derived;
use crate::name::{ClusterName, NodeName};

/// What a core is told once.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The cluster.
    pub cluster: ClusterName,
    /// This node.
    pub node: NodeName,
    /// The node that runs the k3s server; its pinned identity is the operator where none is given.
    pub master: NodeName,
    /// The operator's ed25519 public key, where the configuration names one.
    pub operator: Option<[u8; 32]>,
    /// Keys derived from the overlay key.
    pub keys: Derived,
    /// The address plan.
    pub prefixes: Prefixes,
    /// The one public UDP port.
    pub port: u16,
    /// MTU of the tunnel in bytes, at least 1280.
    pub mtu: u16,
    /// Where to ask first.
    pub anchors: Vec<Anchor>,
    /// Endpoints from the configuration (port forwards).
    pub endpoints: Vec<SocketAddr>,
    /// When this node was last brought up from a snapshot, seconds since 1970; 0 for never.
    pub restored: u64,
}

/// A place where some member of the cluster can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Anchor {
    /// A DNS name or an address without brackets.
    pub host: String,
    /// UDP port.
    pub port: u16,
}

impl fmt::Display for Anchor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.parse::<IpAddr>() {
            Ok(ip) => SocketAddr::new(ip, self.port).fmt(f),
            Err(_) => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// Something that happened.
#[derive(Debug)]
pub enum Input<'a> {
    /// A datagram with our magic and key id.
    Datagram {
        /// All of it.
        bytes: &'a [u8],
        /// Its source.
        from: SocketAddr,
        /// The local address that it was sent to; answers leave from there.
        to: Option<IpAddr>,
    },
    /// A datagram with our magic and another key id: some other cluster, or a wrong overlay key.
    ForeignKey {
        /// Its source.
        from: SocketAddr,
    },
    /// A record that gossip carried.
    GossipRecord(&'a [u8]),
    /// What gossip says of a node. It never removes a peer.
    GossipState(NodeName, GossipState),
    /// The tunnel has this peer now: its handshakes will be answered.
    PeerReady([u8; 32]),
    /// All usable addresses of the uplink.
    Addresses(Vec<IpAddr>),
    /// The answer to [`Output::ResolveAnchors`].
    Anchors(Vec<(Anchor, Vec<SocketAddr>)>),
    /// The tunnel's view of all its peers: each second, and at once after a change.
    Sessions(Vec<Session>),
    /// From here on this node keeps its overlay addresses.
    K3sStarted,
    /// [`super::Core::next_timeout`] has come.
    Timeout,
}

/// What the tunnel knows of one peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// The peer's WireGuard key.
    pub public_key: [u8; 32],
    /// Time since the last completed handshake; `None`: never.
    pub age: Option<Duration>,
    /// Where its packets go to now.
    pub endpoint: Option<SocketAddr>,
    /// Traffic waits for a session.
    pub wants: bool,
    /// The tunnel refuses the peer's initiations since their time stamps went back (a box that boots in 1970).
    pub stale_clock: bool,
}

/// Gossip's opinion of a node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum GossipState {
    /// Not in its list.
    #[default]
    Absent,
    /// Answers.
    Alive,
    /// Did not answer of late.
    Suspect,
}

/// Something to be done, in this order. What one says is done before the next is looked at.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Write [`super::Core::saved`] to disk, synced. A later [`Output::Transmit`] may depend on it. A full disk is logged
    /// and survived.
    Save,
    /// Send a datagram, from a given local address if there is one.
    Transmit {
        /// Destination.
        to: SocketAddr,
        /// Local address.
        from: Option<IpAddr>,
        /// At most 1,200 of them.
        bytes: Vec<u8>,
    },
    /// Send a datagram from a port of its own, from which nothing was ever sent: a dial-back. From the mesh's own port a
    /// gateway would let it in as an answer.
    Dial {
        /// Destination: an address that was proved, and the port that it named.
        to: SocketAddr,
        /// Local address.
        from: Option<IpAddr>,
        /// Some 90 of them.
        bytes: Vec<u8>,
    },
    /// A difference of the set of peers.
    Peer(PeerChange),
    /// The tunnel is to send a handshake initiation.
    Handshake {
        /// To this peer.
        public_key: [u8; 32],
        /// At this address, whatever it has used before.
        endpoint: SocketAddr,
    },
    /// All names and addresses for the hosts file, our own first.
    Hosts(Vec<(NodeName, Vec<IpAddr>)>),
    /// Our own overlay addresses are now those of this attempt.
    Attempt(u8),
    /// Resolve the anchors that are names, and answer with [`Input::Anchors`].
    ResolveAnchors,
    /// Our own record has changed: gossip spreads it.
    OwnRecord,
    /// [`super::Core::roster`] has changed.
    Roster,
    /// Something that a person should know, once.
    Notice(Notice),
}

/// A difference of the set of peers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerChange {
    /// This peer is new, or its addresses have changed. Sessions and learned endpoints stay.
    Set(Peer),
    /// This peer is gone.
    Removed {
        /// Its name.
        name: NodeName,
        /// Its WireGuard key.
        public_key: [u8; 32],
    },
}

/// A member as the tunnel sees it.
#[derive(Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its name.
    pub name: NodeName,
    /// Its WireGuard key.
    pub public_key: [u8; 32],
    /// The pair's preshared key.
    pub preshared_key: Zeroizing<[u8; 32]>,
    /// Generation of the overlay key that `preshared_key` comes from, 0 to 3: the top two bits of the tunnel's indexes.
    pub generation: u8,
    /// Its overlay address.
    pub overlay_v6: Ipv6Addr,
    /// Its overlay address, unless another node holds the same.
    pub overlay_v4: Option<Ipv4Addr>,
    /// MTU of its tunnel in bytes.
    pub mtu: u16,
}

impl Peer {
    /// Its overlay addresses, IPv4 first.
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.overlay_v4
            .map(IpAddr::V4)
            .into_iter()
            .chain([IpAddr::V6(self.overlay_v6)])
            .collect()
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Peer({} {} {:?})",
            self.name, self.overlay_v6, self.overlay_v4
        )
    }
}
