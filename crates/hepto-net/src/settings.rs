//! What a node asks of its network, as plain, already validated data.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::bandwidth::Bandwidth;

/// The name of the link to the outside, in every node's namespace.
pub const UPLINK: &str = "uplink";

/// The name of the node's end of the pair between host and node, in the node's namespace.
pub const HOST_LINK: &str = "host0";

/// The MTU of a path, in bytes, from which the outer packets of a tunnel of 1280 bytes fit unfragmented: 1280 and 80 of
/// headers.
pub const UNFRAGMENTED: u16 = 1360;

/// All that a node asks of its network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The namespace's name, `hepto-<cluster>.<node>`; it is pinned at `/run/netns/<namespace>`.
    pub namespace: String,
    /// The mark of ownership, `hepto:<cluster>:<node>`, kept as the alias of the namespace's `lo`.
    pub marker: String,
    /// The link to the outside.
    pub uplink: Uplink,
    /// The link into the mesh.
    pub overlay: Overlay,
    /// Whether there is a pair of links between host and node, by which each reaches the other's addresses.
    pub host_link: bool,
    /// What the uplink lets in.
    pub firewall: Firewall,
    /// How fast the node may send and receive.
    pub bandwidth: Bandwidth,
    /// Whether packets that a bridge carries in the namespace meet its firewall, as kube-proxy needs it for pods.
    pub filter_bridges: bool,
}

/// The link to the outside: a virtual link on one of the host's interfaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uplink {
    /// The host's interface that carries it; waited for while it is absent.
    pub parent: String,
    /// How it is carried.
    pub kind: UplinkKind,
    /// The hardware address of a macvlan, as [`crate::address::mac_for`] derives it; an ipvlan has its parent's.
    pub mac: Option<[u8; 6]>,
    /// The smallest MTU on the path between two nodes, in bytes. Above the parent's it is refused; from 1280 to 1359
    /// the uplink itself gets it, so that outer packets are fragmented here; else the uplink has its parent's.
    pub mtu: Option<u32>,
    /// The node's own addresses with their prefix lengths.
    pub addresses: Vec<IpNet>,
    /// Take IPv6 addresses and default routers from router advertisements, beside those.
    pub auto: bool,
    /// Default routers, in order of preference within a family.
    pub gateways: Vec<Gateway>,
    /// Whether the parent, which is the host's, may be told to forward joined UDP datagrams; undone at the end.
    pub tune: bool,
}

/// How the uplink shares its parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UplinkKind {
    /// One hardware address for host and nodes, in L2 mode: works on Wi-Fi and behind port security.
    Ipvlan,
    /// A hardware address of its own, in bridge mode.
    Macvlan,
}

impl UplinkKind {
    pub(crate) fn with_article(self) -> &'static str {
        match self {
            UplinkKind::Ipvlan => "an ipvlan",
            UplinkKind::Macvlan => "a macvlan",
        }
    }
}

impl fmt::Display for UplinkKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            UplinkKind::Ipvlan => "ipvlan",
            UplinkKind::Macvlan => "macvlan",
        })
    }
}

/// A default router.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gateway {
    /// Its address.
    pub via: IpAddr,
    /// Reached directly although no address of the node has it in its prefix.
    pub onlink: bool,
}

/// The link into the mesh. The tunnel makes it; here it gets MTU, queue length and addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlay {
    /// Its name, `hepto0`.
    pub link: String,
    /// Its MTU in bytes, at least 1280: below, the kernel drops every IPv6 address and route.
    pub mtu: u32,
    /// The node's overlay addresses, each with the length of the whole overlay prefix, /64 and /16.
    pub addresses: Vec<IpNet>,
    /// Overlay, pod and service prefixes of the cluster: never seen on the uplink, in neither direction.
    pub own: Vec<IpNet>,
}

/// What the uplink lets in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Firewall {
    /// The table `inet hepto`.
    On {
        /// The mesh's one public UDP port.
        mesh_port: u16,
        /// Gossip's port, reached from the overlay by nodes alone.
        gossip_port: u16,
        /// Where nodes take the master's snapshots: the same.
        snapshot_port: u16,
        /// Ports of the node itself that anyone may reach.
        open: Vec<OpenPort>,
    },
    /// The operator has one of his own.
    Off,
}

/// A port of the node that anyone may reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct OpenPort {
    /// Transport protocol.
    pub proto: Proto,
    /// Port number.
    pub port: u16,
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Proto {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl fmt::Display for Proto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Proto::Tcp => "tcp",
            Proto::Udp => "udp",
        })
    }
}
