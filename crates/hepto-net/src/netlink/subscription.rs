//! What the kernel announces about one namespace, boiled down to which link or table it is about. Who wants details
//! asks for them: announcements may be lost, answers are not.

use std::io;

use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::LinkAttribute;
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage};
use rtnetlink::sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use rtnetlink::sys::{Socket, SocketAddr};
use tokio::io::unix::AsyncFd;

/// What to be told about.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Group {
    /// Links alone.
    Links,
    /// Links, addresses and routes of both families.
    Everything,
    /// Removals from tables of nftables' family `inet`.
    Nftables,
}

/// One announcement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Notice {
    /// A link came, changed or went.
    Link { index: u32, name: Option<String> },
    /// An address of this link came, changed or went.
    Address { link: u32 },
    /// A route over this link came, changed or went.
    Route { link: u32 },
    /// Something was removed from this table of the family `inet`, or the table itself was.
    Removed { table: String },
    /// Announcements were lost: all may have changed.
    Overrun,
}

/// A subscribed socket of the namespace in which it was opened, not yet part of any runtime. It queues from now on.
pub(crate) struct SubscriptionSocket {
    socket: Socket,
    group: Group,
}

const RTNETLINK: [MulticastGroup; 5] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
];

/// `NFNLGRP_NFTABLES` (linux/netfilter/nfnetlink.h).
const NFTABLES_GROUP: u32 = 7;

/// Room for a burst, such as the routes of all nodes at once. The kernel doubles it and counts its own overhead.
const RECEIVE_BUFFER: u32 = 256 * 1024;

impl SubscriptionSocket {
    /// Subscribes the calling thread's namespace.
    pub fn open(group: Group) -> io::Result<SubscriptionSocket> {
        let protocol = match group {
            Group::Links | Group::Everything => NETLINK_ROUTE,
            Group::Nftables => NETLINK_NETFILTER,
        };
        let mut socket = Socket::new(protocol)?;
        socket.set_non_blocking(true)?;
        socket.set_rx_buf_sz(RECEIVE_BUFFER)?;
        socket.bind(&SocketAddr::new(0, 0))?;
        match group {
            Group::Links => socket.add_membership(MulticastGroup::Link as u32)?,
            Group::Everything => {
                for group in RTNETLINK {
                    socket.add_membership(group as u32)?;
                }
            }
            Group::Nftables => socket.add_membership(NFTABLES_GROUP)?,
        }
        Ok(SubscriptionSocket { socket, group })
    }
}

/// A subscription as part of the runtime.
#[derive(Debug)]
pub(crate) struct Subscription {
    socket: AsyncFd<Socket>,
    group: Group,
}

impl Subscription {
    pub fn attach(socket: SubscriptionSocket) -> io::Result<Subscription> {
        Ok(Subscription {
            socket: super::message::async_fd(socket.socket)?,
            group: socket.group,
        })
    }

    /// All that waits, at least one datagram. Cancel-safe: nothing is read before something is returned.
    pub async fn next(&mut self) -> io::Result<Vec<Notice>> {
        loop {
            let mut guard = self.socket.readable_mut().await?;
            let mut notices = Vec::new();
            let mut any = false;
            loop {
                match guard.get_inner().recv_from_full() {
                    Ok((datagram, _)) => {
                        any = true;
                        read(self.group, &datagram, &mut notices);
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        guard.clear_ready();
                        break;
                    }
                    Err(error)
                        if error.raw_os_error() == Some(nix::errno::Errno::ENOBUFS as i32) =>
                    {
                        any = true;
                        notices.push(Notice::Overrun);
                    }
                    Err(error) => return Err(error),
                }
            }
            if any {
                return Ok(notices);
            }
        }
    }
}

/// The length of a message's header, `struct nlmsghdr`.
const HEADER: usize = 16;

fn read(group: Group, mut datagram: &[u8], notices: &mut Vec<Notice>) {
    while let Some(length) = datagram
        .first_chunk::<4>()
        .map(|bytes| u32::from_ne_bytes(*bytes) as usize)
    {
        if length < HEADER || length > datagram.len() {
            notices.push(Notice::Overrun);
            return;
        }
        let message = &datagram[..length];
        match group {
            Group::Links | Group::Everything => routing(message, notices),
            Group::Nftables => notices.extend(removal(message)),
        }
        datagram = datagram
            .get(length.next_multiple_of(4)..)
            .unwrap_or_default();
    }
}

fn routing(message: &[u8], notices: &mut Vec<Notice>) {
    use RouteNetlinkMessage as M;
    let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(message) else {
        // A newer kernel's message that the library cannot read may be about anything.
        notices.push(Notice::Overrun);
        return;
    };
    let NetlinkPayload::InnerMessage(message) = message.payload else {
        return;
    };
    match message {
        M::NewLink(link) | M::DelLink(link) => {
            let name = link
                .attributes
                .into_iter()
                .find_map(|attribute| match attribute {
                    LinkAttribute::IfName(name) => Some(name),
                    _ => None,
                });
            notices.push(Notice::Link {
                index: link.header.index,
                name,
            });
        }
        M::NewAddress(address) | M::DelAddress(address) => {
            notices.push(Notice::Address {
                link: address.header.index,
            });
        }
        M::NewRoute(route) | M::DelRoute(route) => {
            notices.extend(links_of(&route).map(|link| Notice::Route { link }));
        }
        _ => {}
    }
}

fn links_of(route: &RouteMessage) -> impl Iterator<Item = u32> {
    route
        .attributes
        .iter()
        .flat_map(|attribute| match attribute {
            RouteAttribute::Oif(link) => vec![*link],
            RouteAttribute::MultiPath(hops) => hops.iter().map(|hop| hop.interface_index).collect(),
            _ => Vec::new(),
        })
}

/// The subsystem of nftables (`NFNL_SUBSYS_NFTABLES`), in the upper byte of a message's type; below it
/// `NFT_MSG_DELTABLE`, `DELCHAIN` and `DELRULE` (linux/netfilter/nf_tables.h).
const NFTABLES: u8 = 10;
const DELETIONS: [u8; 3] = [2, 5, 8];
/// `NFPROTO_INET`, in the first byte after the header (`struct nfgenmsg`, four bytes).
const INET: u8 = 1;
/// `NFTA_TABLE_NAME`, `NFTA_CHAIN_TABLE` and `NFTA_RULE_TABLE` all are 1.
const TABLE: u16 = 1;

fn removal(message: &[u8]) -> Option<Notice> {
    let [kind, subsystem] = u16::from_ne_bytes(*message.get(4..)?.first_chunk()?).to_le_bytes();
    if subsystem != NFTABLES || !DELETIONS.contains(&kind) || *message.get(HEADER)? != INET {
        return None;
    }
    let mut attributes = message.get(HEADER + 4..)?;
    loop {
        let length = usize::from(u16::from_ne_bytes(*attributes.first_chunk()?));
        let kind = u16::from_ne_bytes(*attributes.get(2..)?.first_chunk()?);
        if kind == TABLE {
            let name = attributes.get(4..length)?.split(|byte| *byte == 0).next()?;
            return Some(Notice::Removed {
                table: String::from_utf8_lossy(name).into_owned(),
            });
        }
        attributes = attributes.get(length.max(4).next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nft(kind: u8, family: u8, table: &str) -> Vec<u8> {
        let mut attribute = Vec::new();
        attribute.extend(u16::to_ne_bytes(4 + table.len() as u16 + 1));
        attribute.extend(u16::to_ne_bytes(1));
        attribute.extend(table.as_bytes());
        attribute.push(0);
        attribute.resize(attribute.len().next_multiple_of(4), 0);
        let mut message = Vec::new();
        message.extend(u32::to_ne_bytes((HEADER + 4 + attribute.len()) as u32));
        message.extend(u16::to_ne_bytes(u16::from(NFTABLES) << 8 | u16::from(kind)));
        message.extend([0; 10]);
        message.extend([family, 0, 0, 0]);
        message.extend(attribute);
        message
    }

    #[test]
    fn only_removals_of_the_inet_family_are_announced() {
        let mut notices = Vec::new();
        let all = [
            nft(2, INET, "hepto"),
            nft(0, INET, "hepto"),
            nft(8, 2, "hepto"),
            nft(8, INET, "kube-proxy"),
        ];
        read(Group::Nftables, &all.concat(), &mut notices);
        assert_eq!(
            notices,
            [
                Notice::Removed {
                    table: "hepto".into()
                },
                Notice::Removed {
                    table: "kube-proxy".into()
                }
            ]
        );
    }

    proptest::proptest! {
        #[test]
        fn no_datagram_is_too_strange(
            bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..64),
            claimed in 0..80_u32,
        ) {
            let mut datagram = claimed.to_ne_bytes().to_vec();
            datagram.extend(u16::to_ne_bytes(u16::from(NFTABLES) << 8 | 2));
            datagram.extend([0; 10]);
            datagram.extend([INET, 0, 0, 0]);
            datagram.extend(bytes);
            read(Group::Nftables, &datagram, &mut Vec::new());
        }
    }

    #[test]
    fn cut_off_datagrams_mean_that_something_is_lost() {
        for cut in 1..nft(2, INET, "hepto").len() {
            let mut notices = Vec::new();
            read(Group::Nftables, &nft(2, INET, "hepto")[..cut], &mut notices);
            assert!(
                cut < 4 || notices == [Notice::Overrun],
                "{cut}: {notices:?}"
            );
        }
    }
}
