//! `[network]`: interface, addresses, gateways, resolvers, MTU, firewall.

use std::net::{IpAddr, Ipv6Addr};

use hepto_mesh::address::Prefixes;
use ipnet::IpNet;
use toml::Spanned;

use super::{Checking, Diagnostic, addresses_of, refuse_inner};
use crate::config::file::{AUTO, GatewayValue, NetworkSection, Text};
use crate::config::{
    FirewallMode, GOSSIP_PORT, Gateway, Mode, Network, OpenPort, Protocol, SNAPSHOT_PORT,
};

/// What the guide supposes between every two nodes, bytes.
pub const DEFAULT_MTU: u16 = 1400;

/// Below it the tunnel's packets no longer fit into the path's, bytes: 1280 and the tunnel's 80.
const WHOLE_MTU: u16 = 1360;

/// The largest MTU of common Ethernet hardware, bytes.
const LARGEST_MTU: u16 = 9216;

/// The kernel's IFNAMSIZ without its final zero, bytes.
const LONGEST_INTERFACE: usize = 15;

/// glibc, musl and kubelet look at no more resolvers.
const MOST_RESOLVERS: usize = 3;

pub(super) fn network(file: &NetworkSection, checking: &mut Checking<'_>) -> Option<Network> {
    let interface = checking.required("network", "interface", file.interface.as_ref());
    let interface = interface.and_then(|text| interface_name(text, checking));
    let mode = match &file.mode {
        Some(text) => one_of(
            text,
            "mode",
            &[("ipvlan", Mode::Ipvlan), ("macvlan", Mode::Macvlan)],
            checking,
        ),
        None => Some(Mode::Ipvlan),
    };
    let addresses = addresses(file, checking);
    let gateways = gateways(file, &addresses, checking);
    let dns = dns(file, &addresses, checking);
    let mtu = mtu(file.mtu.as_ref(), checking);
    let open = open(file.open.as_ref(), checking);
    let firewall = match &file.firewall {
        Some(text) => firewall(text, checking),
        None => Some(FirewallMode::On),
    };
    Some(Network {
        interface: interface?,
        mode: mode?,
        addresses,
        auto: is_auto(file),
        gateways,
        dns,
        mtu: mtu?,
        open,
        firewall: firewall?,
        tune_host: file.tune_host.as_ref().is_some_and(|tune| *tune.get_ref()),
    })
}

fn interface_name(text: &Text, checking: &mut Checking<'_>) -> Option<String> {
    let name = text.get_ref();
    let reason = if name.is_empty() {
        "is empty"
    } else if name.len() > LONGEST_INTERFACE {
        "is longer than the 15 characters that Linux allows"
    } else if name == "."
        || name == ".."
        || name
            .chars()
            .any(|c| c == '/' || c == ':' || c.is_whitespace())
    {
        "has a character that Linux does not allow"
    } else if name == "lo" {
        "is the loopback, which reaches no router"
    } else {
        return Some(name.clone());
    };
    let found = Diagnostic::error(
        "E-NET-INTERFACE",
        format!("the interface name \"{name}\" {reason}"),
    );
    checking.report(
        found
            .at(text.span())
            .fix("`ip -br link` lists the interfaces of this machine"),
    );
    None
}

pub(super) fn one_of<T: Copy>(
    text: &Text,
    key: &str,
    known: &[(&str, T)],
    checking: &mut Checking<'_>,
) -> Option<T> {
    if let Some((_, value)) = known.iter().find(|(word, _)| word == text.get_ref()) {
        return Some(*value);
    }
    let words: Vec<String> = known
        .iter()
        .map(|(word, _)| format!("\"{word}\""))
        .collect();
    let what = format!("`{key}` cannot be \"{}\"", text.get_ref());
    let found = Diagnostic::error("E-CONFIG-VALUE", what).at(text.span());
    checking.report(found.fix(format!("write {}", words.join(" or "))));
    None
}

fn firewall(text: &Text, checking: &mut Checking<'_>) -> Option<FirewallMode> {
    let mode = one_of(
        text,
        "firewall",
        &[("on", FirewallMode::On), ("none", FirewallMode::None)],
        checking,
    )?;
    if mode == FirewallMode::None {
        let what = "without its packet filter the node answers on every port, and gossip stays off";
        let found = Diagnostic::warning("W-NET-FIREWALL", what).at(text.span());
        checking.report(found.fix("install nft (package nftables) and remove this line"));
    }
    Some(mode)
}

/// Whether routers' advertisements are followed.
fn is_auto(file: &NetworkSection) -> bool {
    let mut texts = file.addresses.iter().flatten();
    texts.any(|text| text.get_ref() == AUTO)
}

fn addresses(file: &NetworkSection, checking: &mut Checking<'_>) -> Vec<IpNet> {
    let Some(texts) = checking.required("network", "addresses", file.addresses.as_ref()) else {
        return Vec::new();
    };
    let mut good: Vec<(IpNet, &Text)> = Vec::new();
    for text in texts.iter().filter(|text| text.get_ref() != AUTO) {
        let Some(net) = address(text, checking) else {
            continue;
        };
        match good.iter().find(|(other, _)| other.addr() == net.addr()) {
            Some((_, first)) => {
                let what = format!("the address {} stands here twice", net.addr());
                let found = Diagnostic::error("E-NET-ADDR-DUP", what).at(text.span());
                checking.report(
                    found
                        .beside(first.span(), "first here")
                        .fix("remove one of them"),
                );
            }
            None => good.push((net, text)),
        }
    }
    if texts.is_empty() && !checking.was_wrong("network", "addresses") {
        let what = "the node has no address: IPv6 or IPv4 may be missing, not both";
        let found = Diagnostic::error("E-NET-ADDR-NONE", what).at(checking.section("network"));
        checking
            .report(found.fix("give it at least one free address of your network with its prefix"));
    }
    good.into_iter().map(|(net, _)| net).collect()
}

fn address(text: &Text, checking: &mut Checking<'_>) -> Option<IpNet> {
    let written = text.get_ref();
    let found = match written.parse::<IpNet>() {
        Ok(net) => match refuse_address(&net, checking) {
            None => return Some(net),
            Some(found) => found,
        },
        Err(_) => match written.parse::<IpAddr>() {
            Ok(address) => {
                let length = if address.is_ipv6() { 64 } else { 24 };
                Diagnostic::error("E-NET-ADDR-PREFIX", format!("the address {address} lacks the length of its prefix"))
                    .fix(format!("most home networks have /{length}: `\"{address}/{length}\"`; `ip -br address` shows this machine's"))
            }
            Err(_) => Diagnostic::error(
                "E-NET-ADDR-FORM",
                format!("\"{written}\" is not an address with a prefix"),
            )
            .fix("write it as in \"2001:db8:1::1/64\" or \"192.168.1.123/24\""),
        },
    };
    checking.report(found.at(text.span()));
    None
}

fn refuse_address(net: &IpNet, checking: &Checking<'_>) -> Option<Diagnostic> {
    let address = net.addr();
    if let Some(host) = checking.is_host(address) {
        let what = format!(
            "{address} is this machine's own address, on {}",
            host.interface
        );
        return Some(Diagnostic::error("E-NET-ADDR-HOST", what).fix(
            "give the node a free address of the same network: with this one the machine would lose its own connections",
        ));
    }
    let point_to_point = if address.is_ipv6() { 127 } else { 31 };
    let reason = match address {
        _ if address.is_unspecified() => "is no address at all",
        _ if address.is_loopback() => "is a loopback address",
        _ if address.is_multicast() => "is a multicast address",
        IpAddr::V6(v6) if v6.is_unicast_link_local() => {
            "is link-local: the kernel makes it by itself"
        }
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => "is an IPv4 address in IPv6 form",
        IpAddr::V4(v4) if v4.is_broadcast() => "is the broadcast address",
        _ if net.prefix_len() == 0 => "has the whole Internet for its prefix",
        _ if net.prefix_len() < point_to_point && address == net.network() => {
            "is the network's own address"
        }
        IpAddr::V4(_) if net.prefix_len() < point_to_point && address == net.broadcast() => {
            "is the network's broadcast address"
        }
        _ => return None,
    };
    Some(
        Diagnostic::error("E-NET-ADDR-USE", format!("{net} {reason}"))
            .fix("give the node a free address of your network"),
    )
}

fn gateways(
    file: &NetworkSection,
    addresses: &[IpNet],
    checking: &mut Checking<'_>,
) -> Vec<Gateway> {
    let mut good: Vec<(Gateway, &Spanned<GatewayValue>)> = Vec::new();
    for text in file.gateways.iter().flatten() {
        let Some(gateway) = gateway(text, file, addresses, checking) else {
            continue;
        };
        let same_family = |other: &&(Gateway, _)| other.0.via.is_ipv6() == gateway.via.is_ipv6();
        match good.iter().find(same_family) {
            Some((first, other)) => {
                let what = format!(
                    "{} is a second {} gateway",
                    gateway.via,
                    family(gateway.via)
                );
                let found = Diagnostic::error("E-NET-GW-TWO", what).at(text.span());
                checking.report(
                    found
                        .beside(other.span(), "first here")
                        .fix(format!("keep {} or this one", first.via)),
                );
            }
            None => good.push((gateway, text)),
        }
    }
    let alone = is_auto(file) && addresses.iter().all(|net| net.addr().is_ipv6());
    if file.gateways.as_ref().is_none_or(Vec::is_empty)
        && !alone
        && !checking.was_wrong("network", "gateways")
    {
        let what = "the node has no gateway: it reaches nothing beyond its own network";
        let found = Diagnostic::warning("W-NET-GW-NONE", what).at(checking.section("network"));
        checking.report(found.fix("add your router: gateways = [\"192.168.1.254\"]"));
    }
    good.into_iter().map(|(gateway, _)| gateway).collect()
}

fn gateway(
    text: &Spanned<GatewayValue>,
    file: &NetworkSection,
    addresses: &[IpNet],
    checking: &mut Checking<'_>,
) -> Option<Gateway> {
    let GatewayValue { via, onlink } = text.get_ref();
    let Ok(via) = via.parse::<IpAddr>() else {
        let found = Diagnostic::error(
            "E-NET-GW-FORM",
            format!("\"{via}\" is not the address of a gateway"),
        );
        checking.report(
            found
                .at(text.span())
                .fix("write the router's address without a prefix, as in \"192.168.1.254\""),
        );
        return None;
    };
    // Some addresses may be missing here because they are wrong, and are reported: say nothing that follows from it.
    let all_good = file.addresses.as_ref().is_some_and(|texts| {
        let written = texts.iter().filter(|text| text.get_ref() != AUTO);
        written.count() == addresses.len()
    }) && !checking.was_wrong("network", "addresses");
    let mut own = addresses
        .iter()
        .filter(|net| net.addr().is_ipv6() == via.is_ipv6())
        .peekable();
    let found = if let Some(host) = checking.is_host(via) {
        let what = format!(
            "the gateway {via} is this machine's own address, on {}",
            host.interface
        );
        Diagnostic::error("E-NET-GW-HOST", what)
            .fix("write your router's address: a node cannot reach the machine that it runs on")
    } else if via.is_unspecified() || via.is_loopback() || via.is_multicast() {
        Diagnostic::error("E-NET-GW-FORM", format!("{via} cannot be a gateway"))
            .fix("write your router's address")
    } else if is_auto(file) && via.is_ipv6() {
        Diagnostic::error(
            "E-NET-GW-AUTO",
            format!(
                "the gateway {via} stands beside \"{AUTO}\", with which routers announce themselves"
            ),
        )
        .fix("remove it, or write the node's IPv6 address in the place of \"auto\"")
    } else if addresses.iter().any(|net| net.addr() == via) {
        Diagnostic::error(
            "E-NET-GW-SELF",
            format!("the gateway {via} is the node's own address"),
        )
        .fix("write your router's address")
    } else if own.peek().is_none() && all_good {
        let family = family(via);
        Diagnostic::error(
            "E-NET-GW-FAMILY",
            format!("the gateway {via} is {family}, and the node has no {family} address"),
        )
        .fix(format!(
            "add an {family} address to `addresses`, or remove this gateway"
        ))
    } else if !onlink && all_good && !is_link_local(via) && !own.any(|net| net.contains(&via)) {
        Diagnostic::error("E-NET-GW-OUTSIDE", format!("the gateway {via} lies outside the prefix of every address"))
            .fix(format!("correct it or the prefix; if the router is meant to be reached so: {{ via = \"{via}\", onlink = true }}"))
    } else {
        return Some(Gateway {
            via,
            onlink: *onlink,
        });
    };
    checking.report(found.at(text.span()));
    None
}

fn family(address: IpAddr) -> &'static str {
    if address.is_ipv6() { "IPv6" } else { "IPv4" }
}

fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

fn dns(file: &NetworkSection, addresses: &[IpNet], checking: &mut Checking<'_>) -> Vec<IpAddr> {
    let texts = file.dns.as_deref().unwrap_or_default();
    if let Some(text) = texts.get(MOST_RESOLVERS) {
        let what = format!("only the first {MOST_RESOLVERS} resolvers are ever asked");
        checking.report(
            Diagnostic::warning("W-NET-DNS", what)
                .at(text.span())
                .fix("remove the others"),
        );
    }
    texts
        .iter()
        .filter_map(|text| resolver(text, file, addresses, checking))
        .collect()
}

/// Whether the node has addresses, and none of this one's family.
fn lacks_family(address: IpAddr, file: &NetworkSection, addresses: &[IpNet]) -> bool {
    let given = is_auto(file).then_some(true);
    let written = addresses.iter().map(|net| net.addr().is_ipv6());
    let mut families = given.into_iter().chain(written).peekable();
    families.peek().is_some() && families.all(|ipv6| ipv6 != address.is_ipv6())
}

fn resolver(
    text: &Text,
    file: &NetworkSection,
    addresses: &[IpNet],
    checking: &mut Checking<'_>,
) -> Option<IpAddr> {
    let Ok(address) = text.get_ref().parse::<IpAddr>() else {
        let found = Diagnostic::error(
            "E-NET-DNS-FORM",
            format!("\"{}\" is not the address of a resolver", text.get_ref()),
        );
        checking.report(
            found
                .at(text.span())
                .fix("write an address without a prefix, as in \"192.168.1.254\""),
        );
        return None;
    };
    let reason = if address.is_loopback() || address.is_unspecified() {
        "is a loopback address: in the node nothing answers there"
    } else if is_link_local(address) || matches!(address, IpAddr::V4(v4) if v4.is_link_local()) {
        "is link-local, which workloads cannot reach"
    } else if address.is_multicast() {
        "is a multicast address"
    } else if checking.is_host(address).is_some() {
        "is this machine's own: a node cannot reach the machine that it runs on"
    } else if lacks_family(address, file, addresses) {
        "is of a family of which the node has no address"
    } else {
        return Some(address);
    };
    let found = Diagnostic::error("E-NET-DNS-USE", format!("the resolver {address} {reason}"))
        .at(text.span());
    checking.report(found.fix("write your router's address, or your provider's resolver"));
    None
}

fn mtu(value: Option<&Spanned<i64>>, checking: &mut Checking<'_>) -> Option<u16> {
    let Some(value) = value else {
        return Some(DEFAULT_MTU);
    };
    let bytes = *value.get_ref();
    let sound = u16::try_from(bytes)
        .ok()
        .filter(|mtu| (1280..=LARGEST_MTU).contains(mtu));
    match sound {
        None if bytes < 1280 => {
            let what = format!("an MTU of {bytes} is less than the 1280 bytes that IPv6 needs");
            let found = Diagnostic::error("E-NET-MTU", what).at(value.span());
            checking.report(
                found.fix(
                    "leave it at 1400, or measure: hepto-node preflight asks the anchors, hepto-node mtu all nodes",
                ),
            );
        }
        None => {
            let found = Diagnostic::error(
                "E-NET-MTU",
                format!("an MTU of {bytes} is more than any network has"),
            )
            .at(value.span());
            checking.report(
                found.fix("leave it at 1400; 1500 if every path between two nodes carries that"),
            );
        }
        Some(mtu) if mtu < WHOLE_MTU => {
            let what = format!(
                "with an MTU of {mtu} every full packet travels in two pieces: slower, and lost if either is"
            );
            let found = Diagnostic::warning("W-NET-MTU", what).at(value.span());
            checking.report(
                found.fix("use at least 1360 if every path between two nodes carries that"),
            );
        }
        Some(_) => {}
    }
    sound
}

fn open(texts: Option<&Vec<Text>>, checking: &mut Checking<'_>) -> Vec<OpenPort> {
    let Some(texts) = texts else {
        return [80, 443]
            .map(|port| OpenPort {
                protocol: Protocol::Tcp,
                port,
            })
            .to_vec();
    };
    let mut ports: Vec<OpenPort> = texts
        .iter()
        .filter_map(|text| open_port(text, checking))
        .collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

fn open_port(text: &Text, checking: &mut Checking<'_>) -> Option<OpenPort> {
    let written = text.get_ref();
    let parsed = written.split_once('/').and_then(|(protocol, port)| {
        let protocol = match protocol {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            _ => return None,
        };
        Some(OpenPort {
            protocol,
            port: port.parse().ok().filter(|port| *port != 0)?,
        })
    });
    let found = match parsed {
        Some(open) if [GOSSIP_PORT, SNAPSHOT_PORT].contains(&open.port) => Diagnostic::error(
            "E-NET-OPEN",
            format!(
                "port {} belongs to the mesh and is never open to the outside",
                open.port
            ),
        )
        .fix("remove it"),
        Some(open) => return Some(open),
        None => Diagnostic::error("E-NET-OPEN", format!("\"{written}\" is not a port"))
            .fix("write \"tcp/80\" or \"udp/53\""),
    };
    checking.report(found.at(text.span()));
    None
}

/// Refuses gateways and resolvers inside the overlay.
pub(super) fn outside_overlay(
    file: &NetworkSection,
    prefixes: &Prefixes,
    checking: &mut Checking<'_>,
) {
    refuse_inner(
        checking,
        prefixes,
        &addresses_of(file.dns.as_ref()),
        "a resolver",
    );
    let gateway =
        |text: &Spanned<GatewayValue>| Some((text.get_ref().via.parse().ok()?, text.span()));
    let gateways: Vec<_> = file.gateways.iter().flatten().filter_map(gateway).collect();
    refuse_inner(checking, prefixes, &gateways, "a gateway");
}

/// Whether others could ever reach this address from elsewhere.
pub(super) fn is_reachable(address: IpAddr) -> bool {
    let local = match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => {
            v6.is_unicast_link_local()
                || v6.to_ipv4_mapped().is_some()
                || v6 == Ipv6Addr::UNSPECIFIED
        }
    };
    !local && !address.is_loopback() && !address.is_multicast() && !address.is_unspecified()
}
