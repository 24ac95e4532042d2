//! `mesh.addressing`: how IPv4 overlay addresses follow from names, and where wesher's need room.

use hepto_mesh::address::{Addressing, Prefixes};
use hepto_mesh::name::NodeName;
use ipnet::{IpNet, Ipv4Net};

use super::network::one_of;
use super::{Checking, Diagnostic};
use crate::config::file::{MeshSection, NodeSection, Spanned};

/// The overlay's IPv4 prefix where none is given.
const OURS: Ipv4Net = Ipv4Net::new_assert(std::net::Ipv4Addr::new(10, 44, 0, 0), 16);
/// What wesher's `--overlay-net` was where none was given.
const WESHERS: Ipv4Net = Ipv4Net::new_assert(std::net::Ipv4Addr::new(10, 0, 0, 0), 8);

/// Private IPv4 networks beside 10.0.0.0/8, where wesher's addresses take the place of Kubernetes' usual ones.
const PODS_BESIDE: &str = "172.20.0.0/16";
const SERVICES_BESIDE: &str = "172.21.0.0/16";

pub(super) fn addressing(file: &MeshSection, checking: &mut Checking<'_>) -> Option<Addressing> {
    let Some(text) = &file.addressing else {
        return (!checking.was_wrong("mesh", "addressing")).then(Addressing::default);
    };
    let known = [Addressing::Hepto, Addressing::Wesher];
    let named = known.map(|way| (way.name(), way));
    one_of(text, "addressing", &named, checking)
}

pub(super) fn default_ipv4(addressing: Addressing) -> Ipv4Net {
    match addressing {
        Addressing::Hepto => OURS,
        Addressing::Wesher => WESHERS,
    }
}

/// How `pod_cidrs` and `service_cidrs` may be written beside wesher's addresses.
pub(super) fn beside_wesher(prefixes: &Prefixes) -> (String, String) {
    let line = |key, ipv4, ipv6: IpNet| format!("{key} = [\"{ipv4}\", \"{ipv6}\"]");
    (
        line("pod_cidrs", PODS_BESIDE, prefixes.pods_v6().into()),
        line(
            "service_cidrs",
            SERVICES_BESIDE,
            prefixes.services_v6().into(),
        ),
    )
}

/// wesher gives some names the first or the last address of the prefix, which mean the whole network.
pub(super) fn refuse_edge(
    file: &NodeSection,
    name: &NodeName,
    prefixes: &Prefixes,
    checking: &mut Checking<'_>,
) {
    let (net, address) = (prefixes.overlay_net_v4(), prefixes.overlay_v4(name, 0));
    if address != net.network() && address != net.broadcast() {
        return;
    }
    let what = format!("wesher's address of {name} is {address}, which stands for all of {net}");
    let span = file
        .name
        .as_ref()
        .map_or_else(|| checking.section("node"), Spanned::span);
    let found = Diagnostic::error("E-MESH-WESHER", what).at(span);
    checking.report(found.fix("give the node another name"));
}
