//! What a person should know, said once: what happened, its stable code, and what to do.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::event::Anchor;
use crate::address::Addressing;
use crate::name::NodeName;
use crate::record::RecordError;

/// The code of [`Notice::AddressingDiffers`].
pub(super) const ADDRESSING: &str = "E-MESH-ADDRESSING";

/// Something that a person should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// No anchor has answered since the start, or since the last session was lost.
    NoAnchorAnswers {
        /// Those asked.
        anchors: Vec<Anchor>,
        /// Whether messages under another key came from one of them.
        foreign: bool,
    },
    /// An anchor answers again after [`Notice::NoAnchorAnswers`].
    AnchorAnswers {
        /// Its address.
        address: SocketAddr,
    },
    /// Someone speaks our protocol under another overlay key.
    ForeignKey {
        /// Source of the first such datagram.
        from: SocketAddr,
    },
    /// A second identity under a name that is pinned.
    IdentityRefused {
        /// The name.
        name: NodeName,
        /// Fingerprint that the name is pinned to.
        pinned: String,
        /// Fingerprint that was refused.
        presented: String,
    },
    /// Another identity uses the name of this node.
    NameTaken {
        /// Fingerprint of the other.
        presented: String,
    },
    /// A second name with the WireGuard key of another node.
    TunnelKeyRefused {
        /// The name refused.
        name: NodeName,
        /// The name that has the key.
        holder: NodeName,
    },
    /// 256 names are known; this one is refused.
    BookFull {
        /// The name refused.
        name: NodeName,
    },
    /// A record that cannot be read or does not hold.
    BadRecord {
        /// What is wrong with it.
        error: RecordError,
    },
    /// Another machine was brought up as this node from a snapshot.
    Moved,
    /// The machine from before this node was brought up from a snapshot runs again.
    OldMachine,
    /// Our own record, signed by us, came back with a higher sequence: a backup was restored here, or the disk was full.
    SequenceBehind,
    /// This node took other overlay addresses since a name had its IPv4 address already.
    AddressMoved {
        /// The node that keeps the address.
        holder: NodeName,
        /// What both computed.
        from: Ipv4Addr,
        /// Ours now.
        to: Ipv4Addr,
    },
    /// Two nodes compute one IPv4 overlay address and neither can move any more.
    AddressConflict {
        /// The node that goes without.
        name: NodeName,
        /// The node that keeps it.
        holder: NodeName,
        /// The address.
        address: Ipv4Addr,
    },
    /// A node computes IPv4 overlay addresses in another way than this one.
    AddressingDiffers {
        /// The node.
        name: NodeName,
        /// Its way.
        theirs: Addressing,
    },
    /// A node computes them as this one does, after [`Notice::AddressingDiffers`].
    AddressingAgrees {
        /// The node.
        name: NodeName,
    },
    /// Every observer sees us under another port: unreachable from outside without a port forward.
    SymmetricNat {
        /// The public address.
        address: IpAddr,
    },
}

impl Notice {
    /// The stable code, as printed and documented.
    pub fn code(&self) -> &'static str {
        match self {
            Notice::NoAnchorAnswers { .. } => "E-MESH-ANCHORS",
            Notice::AnchorAnswers { .. } => "I-MESH-ANCHOR",
            Notice::ForeignKey { .. } => "W-MESH-FOREIGN-KEY",
            Notice::IdentityRefused { .. } => "E-MESH-IDENTITY",
            Notice::NameTaken { .. } => "E-MESH-NAME-TAKEN",
            Notice::TunnelKeyRefused { .. } => "E-MESH-TUNNEL-KEY",
            Notice::BookFull { .. } => "E-MESH-FULL",
            Notice::BadRecord { .. } => "W-MESH-RECORD",
            Notice::Moved => "E-MESH-MOVED",
            Notice::OldMachine => "W-MESH-OLD-MACHINE",
            Notice::SequenceBehind => "I-MESH-SEQUENCE",
            Notice::AddressMoved { .. } => "I-MESH-ADDRESS",
            Notice::AddressConflict { .. } => "E-MESH-ADDRESS",
            Notice::AddressingDiffers { .. } => ADDRESSING,
            Notice::AddressingAgrees { .. } => "I-MESH-ADDRESSING",
            Notice::SymmetricNat { .. } => "W-MESH-SYMMETRIC-NAT",
        }
    }

    /// Whether something needs a person.
    pub fn is_problem(&self) -> bool {
        !self.code().starts_with('I')
    }

    /// Whether `earlier` is over with this one.
    pub fn ends(&self, earlier: &Notice) -> bool {
        match (self, earlier) {
            (Notice::AnchorAnswers { .. }, Notice::NoAnchorAnswers { .. }) => true,
            (Notice::AddressingAgrees { name }, Notice::AddressingDiffers { name: other, .. }) => {
                name == other
            }
            _ => false,
        }
    }

    /// What to do about it.
    pub fn fix(&self) -> Option<String> {
        Some(match self {
            Notice::NoAnchorAnswers { foreign: true, .. } => {
                "compare overlay_key_file and cluster.name with the other nodes: an anchor answers under another key".into()
            }
            Notice::NoAnchorAnswers { foreign: false, .. } => {
                "check, in this order: an anchor runs; its UDP port is open in its firewall and forwarded by its router; \
                 the addresses in cluster.anchors; that overlay_key_file and cluster.name are the same on all nodes"
                    .into()
            }
            Notice::ForeignKey { .. } => {
                "if it is a node of this cluster, give it the same overlay key and cluster name; else nothing is wrong".into()
            }
            Notice::IdentityRefused { name, .. } => {
                format!(
                    "if {name} lost its storage, restore its identity folder from a backup, or start it under a new name; \
                     else someone poses as it"
                )
            }
            Notice::NameTaken { .. } => "give one of the two nodes another name".into(),
            Notice::Moved => {
                "take the node off this machine: hepto-node uninstall --config FILE; to have it here again, restore a \
                 snapshot of the other here, with hepto-node restore --force"
                    .into()
            }
            Notice::OldMachine => {
                "see that no node of this name is left there: hepto-node uninstall --config FILE".into()
            }
            Notice::TunnelKeyRefused { name, .. } => {
                format!("if {name} is a copy of another node's storage, remove its identity folder there")
            }
            Notice::BookFull { .. } => "use the name of a node that is gone; a cluster holds 256 names".into(),
            Notice::BadRecord { .. } => "update the node that sends it; the others are not affected".into(),
            Notice::AddressConflict { name, .. } => {
                format!("rename {name}, or move the cluster to a larger mesh.ipv4 prefix")
            }
            Notice::AddressingDiffers { .. } => {
                "give all nodes of the cluster the same mesh.addressing, and start those anew that had another".into()
            }
            Notice::SymmetricNat { .. } => {
                "forward a UDP port to this node and write it into mesh.endpoints; otherwise it is reached only from \
                 nodes that it can reach itself"
                    .into()
            }
            Notice::AnchorAnswers { .. }
            | Notice::SequenceBehind
            | Notice::AddressMoved { .. }
            | Notice::AddressingAgrees { .. } => return None,
        })
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Notice::NoAnchorAnswers { anchors, .. } => {
                let list: Vec<String> = anchors.iter().map(Anchor::to_string).collect();
                write!(f, "no anchor answers: {}", list.join(", "))
            }
            Notice::AnchorAnswers { address } => write!(f, "the anchor {address} answers"),
            Notice::ForeignKey { from } => {
                write!(f, "{from} speaks under another overlay key; it is ignored")
            }
            Notice::IdentityRefused {
                name,
                pinned,
                presented,
            } => {
                write!(
                    f,
                    "{name} is pinned to identity {pinned}; {presented} under this name is refused"
                )
            }
            Notice::NameTaken { presented } => {
                write!(
                    f,
                    "another node, identity {presented}, uses the name of this one"
                )
            }
            Notice::TunnelKeyRefused { name, holder } => {
                write!(f, "{name} is refused: it has the WireGuard key of {holder}")
            }
            Notice::BookFull { name } => {
                write!(f, "{name} is refused: 256 names are known already")
            }
            Notice::BadRecord { error } => write!(f, "a record was skipped: {error}"),
            Notice::Moved => {
                write!(
                    f,
                    "this node was brought up from a snapshot on another machine since, and is there now"
                )
            }
            Notice::OldMachine => {
                write!(
                    f,
                    "the machine that this node was moved from has run again beside this one"
                )
            }
            Notice::SequenceBehind => {
                write!(
                    f,
                    "others know a newer record of this node than its storage does; it went past that one"
                )
            }
            Notice::AddressMoved { holder, from, to } => {
                write!(
                    f,
                    "{holder} has the overlay address {from}; this node took {to}"
                )
            }
            Notice::AddressConflict {
                name,
                holder,
                address,
            } => {
                write!(
                    f,
                    "{name} and {holder} both compute {address}; {name} is reached over IPv6 alone"
                )
            }
            Notice::AddressingDiffers { name, theirs } => {
                let theirs = theirs.name();
                write!(
                    f,
                    "{name} has mesh.addressing = \"{theirs}\", this node has another; it is reached over IPv6 alone"
                )
            }
            Notice::AddressingAgrees { name } => {
                write!(f, "{name} has the same mesh.addressing now")
            }
            Notice::SymmetricNat { address } => {
                write!(
                    f,
                    "the NAT at {address} gives this node another port for every peer"
                )
            }
        }
    }
}
