//! `network.gateways`: at most one of each family, and one that the node can reach.

use std::net::IpAddr;

use ipnet::IpNet;

use super::network::{is_auto, is_link_local};
use super::{Checking, Diagnostic};
use crate::config::Gateway;
use crate::config::file::{AUTO, GatewayValue, NetworkSection, Spanned};

pub(super) fn gateways(
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
            .fix("write your router's address: the machine that a node runs on is no router to it")
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
