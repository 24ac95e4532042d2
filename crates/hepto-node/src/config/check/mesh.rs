//! `[mesh]` and the cluster's prefixes: ports, endpoints, and that no two networks overlap.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use hepto_mesh::address::{Addressing, PrefixError, Prefixes};
use ipnet::{IpNet, Ipv4Net};

use super::addressing::{addressing, beside_wesher, default_ipv4};
use super::cluster::{DEFAULT_PORT, Identity};
use super::network::is_reachable;
use super::{Checking, Diagnostic, Refused, from_sentence, refuse_inner};
use crate::config::file::{ClusterSection, MeshSection, NetworkSection, Spanned, Text};
use crate::config::{GOSSIP_PORT, Mesh};

/// k3s's own defaults for IPv4.
const DEFAULT_PODS_IPV4: Ipv4Net = Ipv4Net::new_assert(std::net::Ipv4Addr::new(10, 42, 0, 0), 16);
const DEFAULT_SERVICES_IPV4: Ipv4Net =
    Ipv4Net::new_assert(std::net::Ipv4Addr::new(10, 43, 0, 0), 16);

/// Kubernetes's NodePorts.
const NODE_PORTS: std::ops::RangeInclusive<u16> = 30000..=32767;

/// The cluster's networks.
pub(super) struct Plan {
    pub(super) prefixes: Prefixes,
    pub(super) pods: Vec<IpNet>,
    pub(super) services: Vec<IpNet>,
    networks: Vec<Inside>,
}

/// One of the cluster's networks, or of the home's.
struct Inside {
    net: IpNet,
    noun: &'static str,
    /// `section.key`; empty for what is not ours to change: the home's, and wesher's.
    key: &'static str,
    /// What may stand in its place.
    instead: Option<String>,
    /// Where it is written; `None` for a default.
    span: Option<Range<usize>>,
}

/// What Kubernetes takes for a prefix, by family: the shortest and the longest length.
struct Lengths {
    ipv4: (u8, u8),
    ipv6: (u8, u8),
}

/// The controller manager hands each node a /24 and a /64 and allows 16 bits between them and the whole.
const POD_LENGTHS: Lengths = Lengths {
    ipv4: (8, 23),
    ipv6: (48, 63),
};

/// The API server allows at most 20 bits of services.
const SERVICE_LENGTHS: Lengths = Lengths {
    ipv4: (12, 28),
    ipv6: (108, 124),
};

pub(super) fn plan(
    cluster: &ClusterSection,
    mesh: &MeshSection,
    identity: Option<&Identity>,
    checking: &mut Checking<'_>,
) -> Option<Plan> {
    let ula = cluster
        .ula
        .as_ref()
        .map(|text| (checking.prefix(text), text));
    let ipv4 = mesh.ipv4.as_ref().map(|text| (checking.prefix(text), text));
    let pods = pair(
        cluster.pod_cidrs.as_ref(),
        "pod_cidrs",
        &POD_LENGTHS,
        checking,
    );
    let services = pair(
        cluster.service_cidrs.as_ref(),
        "service_cidrs",
        &SERVICE_LENGTHS,
        checking,
    );
    let (ula, ula_text) = match ula {
        Some((Some(IpNet::V6(net)), text)) => (Some(net), Some(text)),
        Some((net, text)) => {
            return wrong_family(net, text, "ula", "fd12:3456:789a::/48", checking);
        }
        None => (None, None),
    };
    let addressing = addressing(mesh, checking)?;
    let (ipv4, ipv4_text) = match ipv4 {
        Some((Some(IpNet::V4(net)), text)) => (net, Some(text)),
        Some((net, text)) => return wrong_family(net, text, "ipv4", "10.44.0.0/16", checking),
        // It follows from that line then.
        None => (default_ipv4(addressing), mesh.addressing.as_ref()),
    };
    let planned =
        Prefixes::new(&identity?.name, ula, ipv4).and_then(|plan| plan.with_addressing(addressing));
    let prefixes = match planned {
        Ok(prefixes) => prefixes,
        Err(error) => {
            let text = if matches!(error, PrefixError::Ula(_)) {
                ula_text
            } else {
                ipv4_text
            };
            let span = text.map_or_else(|| checking.section("cluster"), |text| text.span());
            checking.report(from_sentence(error.code(), &error.to_string()).at(span));
            return None;
        }
    };
    let span = |text: Option<&Text>| text.map(Spanned::span);
    let pods = pods?.or_default(DEFAULT_PODS_IPV4, prefixes.pods_v6(), span(ula_text));
    let services = services?.or_default(
        DEFAULT_SERVICES_IPV4,
        prefixes.services_v6(),
        span(ula_text),
    );
    let inside = |net, noun, key, span| Inside {
        net,
        noun,
        key,
        span,
        instead: None,
    };
    let overlay_v6 = IpNet::V6(prefixes.overlay_net_v6());
    let from_wesher = addressing == Addressing::Wesher;
    let (overlay, ipv4_key) = match addressing {
        Addressing::Hepto => ("the overlay", "mesh.ipv4"),
        Addressing::Wesher => ("wesher", ""),
    };
    let beside = from_wesher.then(|| beside_wesher(&prefixes)).unzip();
    let mut networks = vec![
        inside(overlay_v6, "the overlay", "cluster.ula", span(ula_text)),
        inside(IpNet::V4(ipv4), overlay, ipv4_key, span(ipv4_text)),
    ];
    let mut within =
        |pair: &[(IpNet, Option<Range<usize>>)], noun, key, instead: Option<String>| {
            networks.extend(pair.iter().map(|(net, span)| Inside {
                instead: instead.clone(),
                ..inside(*net, noun, key, span.clone())
            }));
        };
    within(&pods, "pods", "cluster.pod_cidrs", beside.0);
    within(&services, "services", "cluster.service_cidrs", beside.1);
    let nets = |pair: &[(IpNet, _)]| pair.iter().map(|(net, _)| *net).collect::<Vec<IpNet>>();
    let (pods, services) = (nets(&pods), nets(&services));
    let prefixes = prefixes.with_inner(pods.iter().chain(&services).copied());
    Some(Plan {
        prefixes,
        pods,
        services,
        networks,
    })
}

fn wrong_family(
    net: Option<IpNet>,
    text: &Text,
    key: &str,
    example: &str,
    checking: &mut Checking<'_>,
) -> Option<Plan> {
    if let Some(net) = net {
        let found = Diagnostic::error(
            "E-NET-PREFIX",
            format!("`{key}` cannot be {net}: it is of the other family"),
        );
        checking.report(
            found
                .at(text.span())
                .fix(format!("write `{key} = \"{example}\"`")),
        );
    }
    None
}

/// A prefix of each family with its place; nothing where the default holds.
struct Pair(Option<[(IpNet, Option<Range<usize>>); 2]>);

impl Pair {
    fn or_default(
        self,
        ipv4: Ipv4Net,
        ipv6: ipnet::Ipv6Net,
        ula: Option<Range<usize>>,
    ) -> [(IpNet, Option<Range<usize>>); 2] {
        self.0
            .unwrap_or([(IpNet::V4(ipv4), None), (IpNet::V6(ipv6), ula)])
    }
}

/// Exactly one prefix of each family, IPv4 first in the result.
fn pair(
    texts: Option<&Vec<Text>>,
    key: &str,
    lengths: &Lengths,
    checking: &mut Checking<'_>,
) -> Option<Pair> {
    let path = format!("cluster.{key}");
    let Some(texts) = texts else {
        return (!checking.was_wrong("cluster", key)).then_some(Pair(None));
    };
    let mut good = Vec::new();
    for text in texts {
        let net = checking.prefix(text)?;
        let (shortest, longest) = if net.addr().is_ipv6() {
            lengths.ipv6
        } else {
            lengths.ipv4
        };
        if !(shortest..=longest).contains(&net.prefix_len()) {
            let what = format!("{net} has a length that Kubernetes does not take for `{key}`");
            let found = Diagnostic::error("E-K3S-CIDR", what).at(text.span());
            checking.report(found.fix(format!("use a length from /{shortest} to /{longest}")));
            return None;
        }
        good.push((net, Some(text.span())));
    }
    good.sort_by_key(|(net, _)| net.addr().is_ipv6());
    match <[_; 2]>::try_from(good) {
        Ok(pair) if pair[0].0.addr().is_ipv4() && pair[1].0.addr().is_ipv6() => {
            Some(Pair(Some(pair)))
        }
        _ => {
            let span = texts
                .first()
                .map_or_else(|| checking.section("cluster"), Spanned::span);
            let found = Diagnostic::error(
                "E-K3S-CIDR",
                format!("`{key}` needs one IPv4 and one IPv6 prefix"),
            )
            .at(span);
            checking.report(match super::example(&path) {
                Some(example) => found.fix(format!("write it as `{example}`")),
                None => found,
            });
            None
        }
    }
}

impl Plan {
    /// Refuses networks that overlap, among themselves and with the home's. Says whether none do.
    pub(super) fn disjoint(&self, network: &NetworkSection, checking: &mut Checking<'_>) -> bool {
        let home = |text: &Text| {
            let net = text
                .get_ref()
                .parse::<IpNet>()
                .ok()
                .filter(|net| net.prefix_len() > 0)?;
            Some(Inside {
                net: net.trunc(),
                noun: "your home",
                key: "",
                span: Some(text.span()),
                instead: None,
            })
        };
        let homes: Vec<Inside> = network
            .addresses
            .iter()
            .flatten()
            .filter_map(home)
            .collect();
        let mut disjoint = true;
        for (index, one) in self.networks.iter().enumerate() {
            for other in self.networks[..index].iter().chain(&homes) {
                if one.net.contains(&other.net) || other.net.contains(&one.net) {
                    disjoint = false;
                    report_overlap(one, other, checking);
                }
            }
        }
        disjoint
    }
}

fn report_overlap(one: &Inside, other: &Inside, checking: &mut Checking<'_>) {
    // Mark what somebody wrote, and advise to change what is ours and written, else our default.
    let (marked, beside) = if one.span.is_some() {
        (one, other)
    } else {
        (other, one)
    };
    let changed = if marked.key.is_empty() {
        beside
    } else {
        marked
    };
    let what = format!(
        "the networks of {} and {} overlap: {} and {}",
        marked.noun, beside.noun, marked.net, beside.net
    );
    let place = marked
        .span
        .clone()
        .unwrap_or_else(|| checking.section("cluster"));
    let mut found = Diagnostic::error("E-NET-OVERLAP", what).at(place.clone());
    if let Some(span) = beside.span.clone().filter(|span| *span != place) {
        found = found.beside(span, "the other one");
    }
    let fix = match (changed.key.split_once('.'), &changed.instead) {
        (Some((section, _)), Some(line)) => {
            format!("write `{line}` in [{section}], the same on all nodes")
        }
        (Some((section, key)), None) => format!(
            "give {} another private range, the same on all nodes: `{key}` in [{section}]",
            changed.noun
        ),
        (None, _) => "remove `addressing`, or give your home's network another range".into(),
    };
    checking.report(found.fix(fix));
}

pub(super) fn mesh(file: &MeshSection, checking: &mut Checking<'_>) -> Option<Mesh> {
    let port = match &file.port {
        Some(value) => port(value, checking),
        None => Some(DEFAULT_PORT),
    };
    let mut endpoints = Vec::new();
    for text in file.endpoints.iter().flatten() {
        match endpoint(text.get_ref()) {
            Ok(endpoint) => endpoints.push(endpoint),
            Err(refused) => checking.report(refused.report("E-MESH-ENDPOINT", text)),
        }
    }
    endpoints.sort_unstable();
    endpoints.dedup();
    Some(Mesh {
        port: port?,
        endpoints,
    })
}

fn port(value: &Spanned<i64>, checking: &mut Checking<'_>) -> Option<u16> {
    let written = *value.get_ref();
    let found = match u16::try_from(written) {
        Ok(0) | Err(_) => Diagnostic::error("E-MESH-PORT", format!("{written} is not a port"))
            .fix("use a number from 1 to 65535"),
        Ok(GOSSIP_PORT) => Diagnostic::error(
            "E-MESH-PORT",
            format!("port {GOSSIP_PORT} is taken inside the node, by gossip"),
        )
        .fix("use another one, such as 51820"),
        Ok(port) => {
            if NODE_PORTS.contains(&port) {
                let what = format!(
                    "port {port} is one that Kubernetes may give to a service of type NodePort"
                );
                let found = Diagnostic::warning("W-MESH-PORT", what).at(value.span());
                checking.report(found.fix("use one outside 30000 to 32767, such as 51820"));
            }
            return Some(port);
        }
    };
    checking.report(found.at(value.span()));
    None
}

fn endpoint(written: &str) -> Result<SocketAddr, Refused> {
    if let Ok(address) = written.parse::<IpAddr>() {
        let example = SocketAddr::new(address, DEFAULT_PORT);
        return Err(Refused {
            what: format!("the endpoint {address} lacks the forwarded port"),
            fix: format!("write it with the port that the router forwards, as in \"{example}\""),
        });
    }
    match written.parse::<SocketAddr>() {
        Ok(endpoint) if endpoint.port() != 0 && is_reachable(endpoint.ip()) => Ok(endpoint),
        Ok(_) => Err(Refused {
            what: format!("the endpoint {written} cannot be reached from another machine"),
            fix: "write the router's public address and the port that it forwards, or remove it"
                .to_owned(),
        }),
        Err(_) => Err(Refused {
            what: format!("\"{written}\" is not an address with a port"),
            fix: "write it as in \"203.0.113.7:51821\" or \"[2001:db8:1::7]:51821\"".to_owned(),
        }),
    }
}

/// Refuses endpoints inside the overlay.
pub(super) fn outside_overlay(
    file: &MeshSection,
    prefixes: &Prefixes,
    checking: &mut Checking<'_>,
) {
    let address =
        |text: &Text| Some((text.get_ref().parse::<SocketAddr>().ok()?.ip(), text.span()));
    let found: Vec<(IpAddr, Range<usize>)> = file
        .endpoints
        .iter()
        .flatten()
        .filter_map(address)
        .collect();
    refuse_inner(checking, prefixes, &found, "an endpoint");
}
