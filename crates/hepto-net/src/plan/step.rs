//! The steps of a plan, and how they read in a log.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::bandwidth::Direction;
use crate::settings::{Gateway, UplinkKind};

/// What a step is about. Where one step fails, the later ones about the same are not tried, the others are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// The namespace as a whole.
    Namespace,
    /// The link into the mesh.
    Overlay,
    /// The link to the outside.
    Uplink,
    /// The host's interface that carries it.
    Parent,
    /// How fast the node may send and receive.
    Limits,
    /// The node's end of the pair between host and node, and the pair itself.
    HostLink,
    /// The host's end of it.
    HostEnd,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Subject::Namespace => "namespace",
            Subject::Overlay => "overlay",
            Subject::Uplink => "uplink",
            Subject::Parent => "parent",
            Subject::Limits => "limits",
            Subject::HostLink => "host link",
            Subject::HostEnd => "host's end",
        })
    }
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// What it is about.
    pub subject: Subject,
    /// What is done.
    pub action: Action,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.subject, self.action)
    }
}

/// A route to one address through the pair between host and node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PairRoute {
    /// Where it leads.
    pub to: IpAddr,
    /// The other end, by its link-local address.
    pub via: IpAddr,
    /// The address that packets get which have none yet; the kernel's choice when absent.
    pub source: Option<IpAddr>,
}

impl fmt::Display for PairRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} via {}", self.to, self.via)?;
        match self.source {
            Some(source) => write!(f, " from {source}"),
            None => Ok(()),
        }
    }
}

/// What a step does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Sets `lo` or the link up.
    SetUp,
    /// Sets a kernel setting.
    SetSysctl {
        /// Its path below `/proc/sys`.
        path: String,
        /// Its value.
        value: String,
    },
    /// Loads the firewall in place of what is there.
    LoadFirewall,
    /// Takes the firewall away.
    UnloadFirewall,
    /// Makes the uplink.
    MakeLink {
        /// Its kind.
        kind: UplinkKind,
        /// The host's interface.
        parent: String,
        /// A macvlan's hardware address.
        mac: Option<[u8; 6]>,
    },
    /// Deletes the link.
    DeleteLink,
    /// Puts an ipvlan back to L2 mode.
    SetL2,
    /// Sets the MTU, in bytes.
    SetMtu(u32),
    /// Sets how many packets may wait.
    SetQueue(u32),
    /// Sets the interface identifier for addresses from router advertisements.
    SetToken([u8; 8]),
    /// Turns `rx-udp-gro-forwarding` of the host's interface on, or takes note that a node did.
    Tune {
        /// The interface.
        parent: String,
    },
    /// Adds an address.
    AddAddress(IpNet),
    /// Removes an address.
    RemoveAddress(IpNet),
    /// Adds a default route, or puts it in place of the one with its metric.
    AddDefault {
        /// The router.
        gateway: Gateway,
        /// The route's metric.
        metric: u32,
    },
    /// Removes a default route.
    RemoveDefault {
        /// Everything, of one family.
        destination: IpNet,
        /// The router.
        gateway: Option<IpAddr>,
        /// The route's metric.
        metric: u32,
    },
    /// Makes the pair between host and node.
    MakePair {
        /// The name of the host's end.
        name: String,
    },
    /// Sets a link's alias.
    SetAlias(String),
    /// Leads an address through the pair.
    AddRoute(PairRoute),
    /// No longer does.
    RemoveRoute(PairRoute),
    /// Limits the uplink in one direction, in place of what is there.
    Shape {
        /// Which.
        direction: Direction,
        /// Bits a second.
        rate: u64,
    },
    /// Takes the limit of one direction away.
    Unshape {
        /// Which.
        direction: Direction,
    },
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let via = |gateway: &Option<IpAddr>| {
            gateway.map_or_else(|| "no one".to_owned(), |via| via.to_string())
        };
        match self {
            Action::SetUp => f.write_str("set up"),
            Action::SetSysctl { path, value } => write!(f, "set {path} to {value}"),
            Action::LoadFirewall => f.write_str("load the firewall"),
            Action::UnloadFirewall => f.write_str("take the firewall away"),
            Action::MakeLink { kind, parent, .. } => {
                write!(f, "make {} link on {parent}", kind.with_article())
            }
            Action::DeleteLink => f.write_str("delete"),
            Action::SetL2 => f.write_str("put back to L2 mode"),
            Action::Tune { parent } => write!(f, "have {parent} forward joined UDP datagrams"),
            Action::SetMtu(mtu) => write!(f, "set the MTU to {mtu}"),
            Action::SetQueue(length) => write!(f, "set the queue's length to {length}"),
            Action::SetToken(token) => write!(
                f,
                "set the interface identifier to {:016x}",
                u64::from_be_bytes(*token)
            ),
            Action::AddAddress(net) => write!(f, "add the address {net}"),
            Action::RemoveAddress(net) => write!(f, "remove the address {net}"),
            Action::AddDefault { gateway, metric } => {
                let onlink = if gateway.onlink { " onlink" } else { "" };
                write!(
                    f,
                    "add the default route via {}{onlink}, metric {metric}",
                    gateway.via
                )
            }
            Action::RemoveDefault {
                gateway, metric, ..
            } => {
                write!(
                    f,
                    "remove the default route via {}, metric {metric}",
                    via(gateway)
                )
            }
            Action::MakePair { name } => write!(f, "make a veth pair, the host's end {name}"),
            Action::SetAlias(alias) => write!(f, "mark as {alias}"),
            Action::AddRoute(route) => write!(f, "add the route to {route}"),
            Action::RemoveRoute(route) => write!(f, "remove the route to {route}"),
            Action::Shape { direction, rate } => {
                write!(f, "{} at most {rate} bits a second", verb(*direction))
            }
            Action::Unshape { direction } => {
                write!(f, "{} as fast as it goes", verb(*direction))
            }
        }
    }
}

fn verb(direction: Direction) -> &'static str {
    match direction {
        Direction::Up => "send",
        Direction::Down => "receive",
    }
}
