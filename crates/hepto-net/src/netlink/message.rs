//! Kernel messages translated to the crate's own data, and sockets to the runtime's.
#![allow(unsafe_code)]

use std::io;
use std::net::IpAddr;
use std::os::fd::{FromRawFd, IntoRawFd};

use ipnet::IpNet;
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use rtnetlink::packet_route::link::{
    AfSpecInet6, AfSpecUnspec, InfoData, InfoIpVlan, InfoKind, InfoMacVlan, InfoPortKind,
    IpVlanMode, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, MacVlanMode,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteNextHopFlags,
    RouteProtocol, RouteType,
};
use rtnetlink::sys::TokioSocket;
use tokio::io::unix::AsyncFd;

use crate::state::{Address, Kind, Link, Origin, Route};

/// The socket as part of the current runtime.
pub(super) fn tokio_socket(socket: rtnetlink::sys::Socket) -> io::Result<TokioSocket> {
    socket.set_non_blocking(true)?;
    // SAFETY: the descriptor comes from a netlink socket that gives up its ownership here.
    Ok(unsafe { TokioSocket::from_raw_fd(socket.into_raw_fd()) })
}

/// The socket as something to wait on.
pub(super) fn async_fd(
    socket: rtnetlink::sys::Socket,
) -> io::Result<AsyncFd<rtnetlink::sys::Socket>> {
    // SAFETY: a netlink socket owns its descriptor, answers with the same one each time, and closes it only when it is
    // dropped, which the returned value alone can do.
    Ok(unsafe { AsyncFd::register(socket) }?)
}

pub(super) fn link(message: &LinkMessage) -> Link {
    let flags = message.header.flags;
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        kind: Kind::Other,
        mtu: 0,
        txqueuelen: 0,
        mac: None,
        up: flags.contains(LinkFlags::Up),
        carrier: flags.contains(LinkFlags::LowerUp),
        lower: None,
        lower_elsewhere: false,
        master: None,
        captive: false,
        alias: None,
        token: None,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::TxQueueLen(length) => link.txqueuelen = *length,
            LinkAttribute::Address(address) => link.mac = address.as_slice().try_into().ok(),
            LinkAttribute::Link(index) => link.lower = Some(*index),
            LinkAttribute::LinkNetNsId(_) => link.lower_elsewhere = true,
            LinkAttribute::Controller(index) => link.master = Some(*index),
            LinkAttribute::IfAlias(alias) => link.alias = Some(alias.clone()),
            LinkAttribute::AfSpecUnspec(specifications) => link.token = token(specifications),
            LinkAttribute::LinkInfo(infos) => {
                link.kind = kind(infos);
                // A VRF's ports keep their packets; those of the others hand all of them over.
                link.captive = infos.iter().any(|info| {
                    matches!(
                        info,
                        LinkInfo::PortKind(
                            InfoPortKind::Bridge | InfoPortKind::Bond | InfoPortKind::Team
                        )
                    )
                });
            }
            _ => {}
        }
    }
    link
}

fn token(specifications: &[AfSpecUnspec]) -> Option<[u8; 8]> {
    let inet6 = specifications
        .iter()
        .find_map(|specification| match specification {
            AfSpecUnspec::Inet6(attributes) => Some(attributes),
            _ => None,
        })?;
    let address = inet6.iter().find_map(|attribute| match attribute {
        AfSpecInet6::Token(address) => Some(*address),
        _ => None,
    })?;
    let token = address.octets().last_chunk::<8>().copied()?;
    (token != [0; 8]).then_some(token)
}

fn kind(infos: &[LinkInfo]) -> Kind {
    let data = infos.iter().find_map(|info| match info {
        LinkInfo::Data(data) => Some(data),
        _ => None,
    });
    let named = infos.iter().find_map(|info| match info {
        LinkInfo::Kind(kind) => Some(kind),
        _ => None,
    });
    match (named, data) {
        (Some(InfoKind::IpVlan), Some(InfoData::IpVlan(infos))) => Kind::Ipvlan {
            l2: infos.contains(&InfoIpVlan::Mode(IpVlanMode::L2)),
        },
        (Some(InfoKind::MacVlan), Some(InfoData::MacVlan(infos))) => Kind::Macvlan {
            bridge: infos.contains(&InfoMacVlan::Mode(MacVlanMode::Bridge)),
        },
        (Some(InfoKind::Bridge), _) => Kind::Bridge,
        (Some(InfoKind::Veth), _) => Kind::Veth,
        (Some(InfoKind::Tun), _) => Kind::Tun,
        _ => Kind::Other,
    }
}

pub(super) fn address(message: &AddressMessage) -> Option<Address> {
    let mut flags = AddressFlags::from_bits_retain(message.header.flags.bits().into());
    let (mut address, mut local) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Address(found) => address = Some(*found),
            AddressAttribute::Local(found) => local = Some(*found),
            // The header has only the lowest byte of them.
            AddressAttribute::Flags(found) => flags = *found,
            _ => {}
        }
    }
    Some(Address {
        link: message.header.index,
        // On a point-to-point link `address` is the far end.
        net: IpNet::new(local.or(address)?, message.header.prefix_len).ok()?,
        tentative: flags.contains(AddressFlags::Tentative),
        duplicate: flags.contains(AddressFlags::Dadfailed),
        deprecated: flags.contains(AddressFlags::Deprecated),
        permanent: flags.contains(AddressFlags::Permanent),
    })
}

/// A request for all routes of a family.
pub(super) fn all_routes(v6: bool) -> RouteMessage {
    let mut message = RouteMessageBuilder::<IpAddr>::new().build();
    message.header = RouteHeader::default();
    message.header.address_family = if v6 {
        AddressFamily::Inet6
    } else {
        AddressFamily::Inet
    };
    message
}

/// The route of a message, one for each next hop; none for other tables and other kinds.
pub(super) fn routes(message: &RouteMessage) -> Vec<Route> {
    let header = &message.header;
    if header.table != RouteHeader::RT_TABLE_MAIN
        || header.kind != RouteType::Unicast
        || header.flags.contains(RouteFlags::Cloned)
    {
        return Vec::new();
    }
    let any: IpAddr = match header.address_family {
        AddressFamily::Inet => std::net::Ipv4Addr::UNSPECIFIED.into(),
        AddressFamily::Inet6 => std::net::Ipv6Addr::UNSPECIFIED.into(),
        _ => return Vec::new(),
    };
    let (mut destination, mut gateway, mut metric, mut link, mut hops) = (any, None, 0, None, None);
    let mut source = None;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(found) => destination = ip(found).unwrap_or(any),
            RouteAttribute::Gateway(found) => gateway = ip(found),
            RouteAttribute::Priority(found) => metric = *found,
            RouteAttribute::Oif(found) => link = Some(*found),
            RouteAttribute::PrefSource(found) => source = ip(found),
            RouteAttribute::MultiPath(found) => hops = Some(found),
            _ => {}
        }
    }
    let Ok(destination) = IpNet::new(destination, header.destination_prefix_length) else {
        return Vec::new();
    };
    let origin = match header.protocol {
        RouteProtocol::Static | RouteProtocol::Boot => Origin::Static,
        RouteProtocol::Ra => Origin::Advertised,
        _ => Origin::Other,
    };
    let route = |gateway, link, onlink| Route {
        destination,
        gateway,
        onlink,
        metric,
        link,
        source,
        origin,
    };
    let Some(hops) = hops else {
        let onlink = header.flags.contains(RouteFlags::Onlink);
        return link
            .map(|link| route(gateway, link, onlink))
            .into_iter()
            .collect();
    };
    hops.iter()
        .map(|hop| {
            let gateway = hop.attributes.iter().find_map(|attribute| match attribute {
                RouteAttribute::Gateway(found) => ip(found),
                _ => None,
            });
            route(
                gateway,
                hop.interface_index,
                hop.flags.contains(RouteNextHopFlags::Onlink),
            )
        })
        .collect()
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

/// Link-local of either family (RFC 3927, RFC 4291).
pub(crate) fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}
