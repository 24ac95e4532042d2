//! `[network]`: interface, addresses, MTU, ports, firewall. Gateways and resolvers have files of their own.

use std::net::{IpAddr, Ipv6Addr};

use hepto_mesh::address::Prefixes;
use hepto_net::UNFRAGMENTED;
use ipnet::IpNet;

use super::gateway::gateways;
use super::resolver::resolvers;
use super::{Checking, Diagnostic, addresses_of, refuse_inner};
use crate::config::file::{AUTO, GatewayValue, NetworkSection, Spanned, Text};
use crate::config::{FirewallMode, GOSSIP_PORT, Mode, Network, OpenPort, Protocol, SNAPSHOT_PORT};

/// What the guide supposes between every two nodes, bytes.
pub const DEFAULT_MTU: u16 = 1400;

/// The largest MTU of common Ethernet hardware, bytes.
const LARGEST_MTU: u16 = 9216;

/// The kernel's IFNAMSIZ without its final zero, bytes.
const LONGEST_INTERFACE: usize = 15;

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
    let dns = resolvers(file, &addresses, checking);
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
        host_link: file.is_linked(),
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
pub(super) fn is_auto(file: &NetworkSection) -> bool {
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
        Some(mtu) if mtu < UNFRAGMENTED => {
            let what = format!(
                "with an MTU of {mtu} every full packet travels in two pieces: slower, and lost if either is"
            );
            let found = Diagnostic::warning("W-NET-MTU", what).at(value.span());
            checking.report(found.fix(format!(
                "use at least {UNFRAGMENTED} if every path between two nodes carries that"
            )));
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

pub(super) fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
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
