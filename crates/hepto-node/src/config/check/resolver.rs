//! `network.dns`: resolvers that the node can reach.

use std::net::IpAddr;

use ipnet::IpNet;

use super::network::{is_auto, is_link_local};
use super::{Checking, Diagnostic};
use crate::config::HostAddress;
use crate::config::file::{NetworkSection, Text};

/// glibc, musl and kubelet look at no more resolvers.
const MOST_RESOLVERS: usize = 3;

pub(super) fn resolvers(
    file: &NetworkSection,
    addresses: &[IpNet],
    checking: &mut Checking<'_>,
) -> Vec<IpAddr> {
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
    // Where the link between the two leads.
    let near = |host: &HostAddress| {
        let parent = file.interface.as_ref().map(|text| text.get_ref());
        parent == Some(&host.interface)
    };
    let host = checking.is_host(address).map(near);
    let reason = if address.is_loopback() || address.is_unspecified() {
        "is a loopback address: in the node nothing answers there"
    } else if is_link_local(address) || matches!(address, IpAddr::V4(v4) if v4.is_link_local()) {
        "is link-local, which workloads cannot reach"
    } else if address.is_multicast() {
        "is a multicast address"
    } else if host == Some(true) && !file.is_linked() {
        "is this machine's own: a node cannot reach the machine that it runs on"
    } else if host == Some(false) {
        "is this machine's own, and not of the node's interface: a node cannot reach it"
    } else if lacks_family(address, file, addresses) {
        "is of a family of which the node has no address"
    } else {
        return Some(address);
    };
    let found = Diagnostic::error("E-NET-DNS-USE", format!("the resolver {address} {reason}"))
        .at(text.span());
    let others = "write your router's address, or your provider's resolver";
    checking.report(match host {
        Some(true) if !file.is_linked() => found.fix(format!(
            "set network.host_link = true, a link to this machine; or {others}"
        )),
        _ => found.fix(others),
    });
    None
}
