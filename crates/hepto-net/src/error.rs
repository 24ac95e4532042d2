//! What can go wrong, each with a stable code and, where there is one, the setting or command that mends it.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use crate::settings::UplinkKind;

/// Why networking could not be made, changed or removed. Its text is one sentence: what was tried, on what, what came
/// of it; [`Error::fix`] says what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused for lack of a privilege.
    #[error("{what}: permission denied")]
    Permission {
        /// What was tried.
        what: String,
    },
    /// The namespace's name is taken by something that is not a network namespace.
    #[error("{} is taken by {found}, which is not a network namespace", path.display())]
    PinTaken {
        /// The pin's path.
        path: PathBuf,
        /// What lies there.
        found: String,
    },
    /// The namespace's name is taken by a namespace of someone else.
    #[error(
        "the network namespace {name} is not this node's: it is marked {found}, not `{wanted}`"
    )]
    ForeignNamespace {
        /// The namespace's name.
        name: String,
        /// The marker found, quoted, or "by no one".
        found: String,
        /// The marker of this node.
        wanted: String,
    },
    /// A system call about the namespace failed.
    #[error("{what}: {source}")]
    Namespace {
        /// What was tried, on what.
        what: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A netlink request failed.
    #[error("{what}: {source}")]
    Netlink {
        /// What was tried, on what.
        what: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A node's address is one of the host's own.
    #[error("{address} is already the host's own address, on {link}")]
    HostAddress {
        /// The address asked for.
        address: IpAddr,
        /// The host's interface that carries it.
        link: String,
    },
    /// Another ipvlan on the same parent has the address.
    #[error("{address} is already the address of another ipvlan on this host")]
    AddressTaken {
        /// The address asked for.
        address: IpAddr,
    },
    /// The parent carries the other kind of virtual link, or another exclusive user.
    #[error("{parent} cannot carry {} link: {why}", kind.with_article())]
    ParentKind {
        /// The host's interface.
        parent: String,
        /// The kind asked for.
        kind: UplinkKind,
        /// Who has it.
        why: String,
    },
    /// The parent is a port of a bridge, bond or team, which takes all that it receives.
    #[error("{parent} is a port of {master}, which takes all that it receives")]
    ParentPort {
        /// The host's interface.
        parent: String,
        /// The bridge's, bond's or team's name.
        master: String,
    },
    /// The configured MTU is above the parent's.
    #[error("the MTU {mtu} is above the {parent_mtu} of {parent}")]
    MtuAboveParent {
        /// The MTU asked for, in bytes.
        mtu: u32,
        /// The host's interface.
        parent: String,
        /// Its MTU, in bytes.
        parent_mtu: u32,
    },
    /// The kernel has no driver for this kind of link.
    #[error("this kernel has no {kind} links")]
    NoDriver {
        /// The kind asked for.
        kind: UplinkKind,
    },
    /// The kernel has no driver for the pair between host and node.
    #[error("this kernel has no veth links, of which the link between host and node is made")]
    NoVeth,
    /// The name of the host's end is taken.
    #[error("the host has a link {name} that is not this node's")]
    HostLinkTaken {
        /// The name.
        name: String,
    },
    /// A gateway that no address of the node reaches.
    #[error("the gateway {via} is not on the uplink's link: {source}")]
    Gateway {
        /// The gateway asked for.
        via: IpAddr,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The uplink could not be limited.
    #[error("this kernel cannot limit the uplink: {source}")]
    Bandwidth {
        /// The kernel's answer.
        source: io::Error,
    },
    /// Neither nft nor iptables is there.
    #[error(
        "no firewall tool: neither `nft` nor `iptables-restore` is in PATH or the sbin directories"
    )]
    NoFirewallTool,
    /// The tool could not load the rules.
    #[error("{tool} could not load the firewall: {why}")]
    Firewall {
        /// The tool's name.
        tool: &'static str,
        /// What it said.
        why: String,
    },
}

impl Error {
    /// The stable code; each has a page in the reference.
    pub fn code(&self) -> &'static str {
        match self {
            Error::Permission { .. } => "E-NET-PERM",
            Error::PinTaken { .. } => "E-NET-PIN",
            Error::ForeignNamespace { .. } => "E-NET-FOREIGN",
            Error::Namespace { .. } => "E-NET-NAMESPACE",
            Error::Netlink { .. } => "E-NET-NETLINK",
            Error::HostAddress { .. } => "E-NET-ADDR-HOST",
            Error::AddressTaken { .. } => "E-NET-ADDR-DUP",
            Error::ParentKind { .. } => "E-NET-PARENT-KIND",
            Error::ParentPort { .. } => "E-NET-PARENT-PORT",
            Error::MtuAboveParent { .. } => "E-NET-MTU-PARENT",
            Error::NoDriver {
                kind: UplinkKind::Ipvlan,
            } => "E-NET-IPVLAN",
            Error::NoDriver {
                kind: UplinkKind::Macvlan,
            } => "E-NET-MACVLAN",
            Error::NoVeth => "E-NET-VETH",
            Error::HostLinkTaken { .. } => "E-NET-HOST-LINK",
            Error::Gateway { .. } => "E-NET-GATEWAY",
            Error::Bandwidth { .. } => "E-NET-BANDWIDTH",
            Error::NoFirewallTool => "E-NET-FIREWALL-TOOL",
            Error::Firewall { .. } => "E-NET-FIREWALL",
        }
    }

    /// The setting or command that mends it, where there is one.
    pub fn fix(&self) -> Option<String> {
        Some(match self {
            Error::Permission { .. } => {
                "run as root; in a container it takes CAP_NET_ADMIN and CAP_SYS_ADMIN".into()
            }
            Error::PinTaken { path, .. } => {
                let path = path.display();
                format!("see what it is and remove it: umount {path}; rm -r {path}")
            }
            Error::ForeignNamespace { name, .. } => format!(
                "if nothing uses it, remove it: ip netns delete {name}; else give this node or cluster another name"
            ),
            Error::HostAddress { .. } => {
                "give the node an address of its own in `network.addresses`: with the host's, the host would lose \
                 its connections"
                    .into()
            }
            Error::AddressTaken { .. } => {
                "give each node on this host an address of its own in `network.addresses`".into()
            }
            Error::ParentKind { kind: UplinkKind::Ipvlan, .. } => {
                "set `network.mode = \"macvlan\"`, or use another `network.interface`".into()
            }
            Error::ParentKind { kind: UplinkKind::Macvlan, .. } => {
                "set `network.mode = \"ipvlan\"`, or use another `network.interface`".into()
            }
            Error::ParentPort { master, .. } => format!("set `network.interface = \"{master}\"`"),
            Error::MtuAboveParent { parent_mtu, .. } => {
                format!("set `network.mtu` to at most {parent_mtu}, or raise the interface's MTU")
            }
            Error::NoDriver { kind: UplinkKind::Ipvlan } => {
                "set `network.mode = \"macvlan\"`, or load the kernel's module: modprobe ipvlan".into()
            }
            Error::NoDriver { kind: UplinkKind::Macvlan } => {
                "load the kernel's module: modprobe macvlan; or set `network.mode = \"ipvlan\"`".into()
            }
            Error::NoVeth => {
                "load the kernel's module: modprobe veth; or set `network.host_link = false`".into()
            }
            Error::HostLinkTaken { name } => format!(
                "see whose it is: ip -d link show {name}; rename it or, if nothing uses it, remove it: ip link delete \
                 {name}; or set `network.host_link = false`"
            ),
            Error::Gateway { via, .. } => format!(
                "give the node an address in the gateway's prefix, or write {{ via = \"{via}\", onlink = true }}"
            ),
            Error::Bandwidth { .. } => {
                "load the kernel's modules: modprobe -a sch_htb sch_ingress cls_u32 act_mirred; modprobe ifb numifbs=0; or remove \
                 `limits.bandwidth`"
                    .into()
            }
            Error::NoFirewallTool => {
                "install nftables (apt install nftables), or set `network.firewall = \"none\"` to run without".into()
            }
            Error::Firewall { .. } => {
                "load the kernel's nf_tables and nf_conntrack modules, or set `network.firewall = \"none\"`".into()
            }
            Error::Namespace { .. } | Error::Netlink { .. } => return None,
        })
    }

    /// Whether a missing privilege is the cause; the process then ends with 77.
    pub fn is_permission(&self) -> bool {
        matches!(self, Error::Permission { .. })
    }

    /// A failed system call about the namespace, with the missing privilege told apart.
    pub(crate) fn namespace(what: impl Into<String>, source: impl Into<io::Error>) -> Error {
        let (what, source) = (what.into(), source.into());
        match source.kind() {
            io::ErrorKind::PermissionDenied => Error::Permission { what },
            _ => Error::Namespace { what, source },
        }
    }

    /// A failed netlink request, with the missing privilege told apart.
    pub(crate) fn netlink(what: impl Into<String>, source: impl Into<io::Error>) -> Error {
        let (what, source) = (what.into(), source.into());
        match source.kind() {
            io::ErrorKind::PermissionDenied => Error::Permission { what },
            _ => Error::Netlink { what, source },
        }
    }

    /// The kernel's error number of a failed system call or request.
    pub(crate) fn errno(&self) -> Option<i32> {
        match self {
            Error::Namespace { source, .. }
            | Error::Netlink { source, .. }
            | Error::Bandwidth { source } => source.raw_os_error(),
            _ => None,
        }
    }
}
