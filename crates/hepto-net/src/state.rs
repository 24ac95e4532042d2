//! The two pictures that a plan is made from: what is there ([`Observed`]) and what should be ([`Desired`]).

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};

use crate::bandwidth::{Direction, Rates};
use crate::firewall::Loaded;
use crate::netlink::is_link_local;
use crate::settings::{Gateway, UplinkKind};

/// A link as the kernel shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its index, unique within its namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// How many packets may wait for it.
    pub txqueuelen: u32,
    /// Its hardware address, when it has one of six bytes.
    pub mac: Option<[u8; 6]>,
    /// Set up by an administrator.
    pub up: bool,
    /// Its wire, or what stands for it, is there.
    pub carrier: bool,
    /// The index of the link that carries it, in that link's namespace.
    pub lower: Option<u32>,
    /// The link that carries it is in another namespace.
    pub lower_elsewhere: bool,
    /// The index of the link that it is a port of.
    pub master: Option<u32>,
    /// Its master is one that takes all it receives: a bridge, bond or team.
    pub captive: bool,
    /// Its alias.
    pub alias: Option<String>,
    /// The interface identifier of its addresses from router advertisements, when one is set.
    pub token: Option<[u8; 8]>,
}

/// What a link is, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An ipvlan.
    Ipvlan {
        /// In L2 mode.
        l2: bool,
    },
    /// A macvlan.
    Macvlan {
        /// In bridge mode.
        bridge: bool,
    },
    /// A bridge.
    Bridge,
    /// An end of a veth pair.
    Veth,
    /// A TUN or TAP.
    Tun,
    /// Anything else.
    Other,
}

/// An address as the kernel shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// The index of its link.
    pub link: u32,
    /// The address with its prefix length.
    pub net: IpNet,
    /// Duplicate address detection still runs (RFC 4862).
    pub tentative: bool,
    /// Duplicate address detection found another one.
    pub duplicate: bool,
    /// Not to be used for new connections.
    pub deprecated: bool,
    /// Without a lifetime, as addresses from router advertisements have.
    pub permanent: bool,
}

impl Address {
    /// Another machine may reach it, and nobody else has it.
    pub(crate) fn is_global(&self) -> bool {
        let address = self.net.addr();
        !self.duplicate && !is_link_local(address) && !address.is_loopback()
    }
}

/// A route of the main table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// Where it leads.
    pub destination: IpNet,
    /// The next router; none when the destination is on the link itself.
    pub gateway: Option<IpAddr>,
    /// The gateway is on the link although no address's prefix says so.
    pub onlink: bool,
    /// Its metric; the lowest wins.
    pub metric: u32,
    /// The index of its link.
    pub link: u32,
    /// The address that packets get which have none yet; the kernel's choice when absent.
    pub source: Option<IpAddr>,
    /// Who made it.
    pub origin: Origin,
}

/// Who made a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// An administrator or a program such as this one.
    Static,
    /// A router advertisement, by way of the kernel.
    Advertised,
    /// The kernel along with an address, or a routing daemon.
    Other,
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.destination)?;
        match self.gateway {
            Some(gateway) => write!(f, " via {gateway}"),
            None => Ok(()),
        }
    }
}

/// What should be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    /// Kernel settings of the whole namespace: path below `/proc/sys`, value.
    pub sysctls: Vec<(String, String)>,
    /// The firewall's rules, by which they are known again; none when the operator has one of his own.
    pub firewall: Option<Loaded>,
    /// The link to the outside; none while only the namespace itself is looked at.
    pub uplink: Option<DesiredUplink>,
    /// The link into the mesh.
    pub overlay: DesiredOverlay,
    /// The pair between host and node, when there is to be one.
    pub host_link: Option<DesiredHostLink>,
    /// How fast the node may send and receive, as the kernel keeps it.
    pub rates: Rates,
}

/// The link to the outside as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DesiredUplink {
    /// The host's interface.
    pub parent: String,
    /// How it shares its parent.
    pub kind: UplinkKind,
    /// A macvlan's hardware address.
    pub mac: Option<[u8; 6]>,
    /// The path's MTU in bytes; see [`crate::settings::Uplink::mtu`].
    pub mtu: Option<u32>,
    /// Kernel settings of this link, set before it goes up.
    pub sysctls: Vec<(String, String)>,
    /// All addresses it should have, the link-local one among them.
    pub addresses: Vec<IpNet>,
    /// Take further addresses and routes from router advertisements, with this interface identifier.
    pub auto: Option<[u8; 8]>,
    /// Default routers.
    pub gateways: Vec<Gateway>,
    /// The parent forwards joined UDP datagrams.
    pub tune: bool,
    /// Try once more those addresses that duplicate address detection refused.
    pub retry_duplicates: bool,
}

/// The link into the mesh as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DesiredOverlay {
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Kernel settings of this link.
    pub sysctls: Vec<(String, String)>,
    /// All addresses it should have, link-local ones aside.
    pub addresses: Vec<IpNet>,
}

/// The pair between host and node as it should be. Which addresses each end leads to follows from what the two have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DesiredHostLink {
    /// The name of the host's end.
    pub name: String,
    /// Its alias, the node's marker.
    pub alias: String,
    /// Kernel settings of the node's end.
    pub sysctls: Vec<(String, String)>,
    /// Kernel settings of the host's end.
    pub host_sysctls: Vec<(String, String)>,
    /// Whether it carries IPv6.
    pub ipv6: bool,
    /// The IPv4 networks that it may have, in order of preference.
    pub networks: Vec<Ipv4Net>,
}

/// What is there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// Whether `lo` is up.
    pub loopback_up: bool,
    /// Kernel settings found among those desired; a missing one is one that this kernel does not have.
    pub sysctls: BTreeMap<String, String>,
    /// The firewall's rules.
    pub firewall: Option<Loaded>,
    /// The host's interface for the uplink.
    pub parent: Option<Parent>,
    /// The link to the outside.
    pub uplink: Option<ObservedLink>,
    /// The link into the mesh.
    pub overlay: Option<ObservedLink>,
    /// The pair between host and node.
    pub host_link: ObservedHostLink,
    /// How fast the node may send and receive.
    pub limits: ObservedLimits,
}

/// The pair between host and node, with what its addresses and routes depend on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObservedHostLink {
    /// The link with the name of the node's end.
    pub node: Option<ObservedLink>,
    /// The link with the name of the host's end.
    pub host: Option<ObservedLink>,
    /// The addresses of the host's interface that carries the uplink.
    pub addresses: Vec<Address>,
    /// The host's routers. A node that was given the address of one by mistake must not get what is meant for it.
    pub gateways: Vec<IpAddr>,
    /// What others use, in the host's namespace or the node's, of the networks that the pair may have.
    pub taken: Vec<IpNet>,
}

impl ObservedHostLink {
    /// Both ends, host's and node's, when the two links are ends of one pair: only then is the host's link this node's.
    /// The kernel makes and deletes both at once.
    pub fn pair(&self) -> Option<(&ObservedLink, &ObservedLink)> {
        let (host, node) = (self.host.as_ref()?, self.node.as_ref()?);
        let leads = |one: &Link, other: &Link| {
            one.kind == Kind::Veth && one.lower_elsewhere && one.lower == Some(other.index)
        };
        (leads(&host.link, &node.link) && leads(&node.link, &host.link)).then_some((host, node))
    }
}

/// What a pair between host and node leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostLink {
    /// The name of the host's end.
    pub name: String,
    /// The host's addresses that the node reaches by it.
    pub host: Vec<IpAddr>,
    /// The node's addresses that the host reaches by it.
    pub node: Vec<IpAddr>,
}

/// The limits of the uplink as they are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ObservedLimits {
    /// The rates of what is whole.
    pub rates: Rates,
    /// Whether something is there for what the node sends, whole or not.
    pub up: bool,
    /// The same for what it receives.
    pub down: bool,
}

impl ObservedLimits {
    /// Whether something is there for a direction, whole or not.
    pub fn any(&self, direction: Direction) -> bool {
        match direction {
            Direction::Up => self.up,
            Direction::Down => self.down,
        }
    }
}

/// The host's interface for the uplink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parent {
    /// The interface.
    pub link: Link,
    /// The bridge, bond or team that takes all it receives.
    pub master: Option<String>,
    /// The kind of a virtual link on it that is in the host's own namespace; those in others cannot be seen.
    pub carries: Option<UplinkKind>,
    /// How it stands with forwarding joined UDP datagrams, when that was asked for.
    pub tuning: Option<Tuning>,
}

/// How the host's interface stands with `rx-udp-gro-forwarding`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tuning {
    /// It, or the kernel, has no such feature (Linux 5.12).
    Absent,
    /// Off.
    Off,
    /// On because its owner wants it on: nothing will be undone.
    Owner,
    /// Turned on by a node, of which this one has not taken note yet.
    Unheld,
    /// On, and turned off again when the last node lets go of it, this one among them.
    On,
    /// The kernel could not be asked, or did not do it, for this reason.
    Refused(String),
}

/// A link with what hangs on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedLink {
    /// The link.
    pub link: Link,
    /// Its addresses.
    pub addresses: Vec<Address>,
    /// Its routes.
    pub routes: Vec<Route>,
}
