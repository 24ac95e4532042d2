//! Addresses that follow from a node's names, so that leases, neighbour caches and firewall rules of others outlast
//! a restart; and the check that a node never takes one of the host's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use blake2::{Blake2s256, Digest};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::error::Error;
use crate::netlink::Netlink;

/// The mark of ownership of a node's namespace.
pub fn marker(cluster: &str, node: &str) -> String {
    format!("hepto:{cluster}:{node}")
}

/// The hardware address of a node's macvlan: locally administered, unicast, the same at every start.
pub fn mac_for(cluster: &str, node: &str) -> [u8; 6] {
    let mut mac: [u8; 6] = digest("mac", &marker(cluster, node));
    mac[0] = (mac[0] | 0b10) & !1;
    mac
}

/// The interface identifier of a node's IPv6 addresses on the uplink: not derived from hardware (RFC 7136).
pub(crate) fn token(marker: &str) -> [u8; 8] {
    digest("token", marker)
}

/// The link-local address of the uplink.
pub(crate) fn link_local(marker: &str) -> IpNet {
    let host = u64::from_be_bytes(token(marker));
    let address = Ipv6Addr::from((0xfe80_u128 << 112) | u128::from(host));
    Ipv6Net::new(address, 64)
        .expect("64 is a valid prefix length")
        .into()
}

/// The name of the host's end of a node's pair: its program, the first letters of the node, and what tells it from
/// others of the same first letters. At most 15 bytes, as the kernel has it (`IFNAMSIZ`).
pub fn host_end(marker: &str) -> String {
    let node = marker.rsplit(':').next().unwrap_or_default();
    let first: String = node.chars().filter(char::is_ascii).take(4).collect();
    let [a, b, c]: [u8; 3] = digest("host link", marker);
    format!("hepto-{first}{a:02x}{b:02x}{:x}", c >> 4)
}

/// The IPv6 addresses of the pair's ends, host's and node's: the same in every pair, since they mean nothing beyond it.
pub(crate) const PAIR_V6: [Ipv6Addr; 2] = [
    Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1),
    Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2),
];

/// Where the pairs' IPv4 networks lie: a part of RFC 3927's link-local addresses in which nothing is known to live, such
/// as the metadata of clouds (169.254.169.254) or Kubernetes' cache of names (169.254.20.10).
const PAIRS: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 64, 0), 18);

/// The IPv4 networks that the pair of a node may have, in order of preference: two nodes agree on hardly any.
pub(crate) fn pair_networks(marker: &str) -> Vec<Ipv4Net> {
    let [start, stride] = [digest("pair", marker), digest("pair stride", marker)]
        .map(|bytes: [u8; 2]| u32::from(u16::from_be_bytes(bytes)));
    // Odd, so that no network comes twice: they are a power of two.
    let stride = stride | 1;
    let count = 1 << (30 - PAIRS.prefix_len());
    let base = u32::from(PAIRS.network());
    let network = |turn: u32| base + (start + turn * stride) % count * 4;
    (0..64)
        .map(|turn| Ipv4Net::new_assert(network(turn).into(), 30))
        .collect()
}

/// The addresses of the pair's ends in such a network, host's and node's.
pub(crate) fn pair_v4(network: Ipv4Net) -> [Ipv4Addr; 2] {
    let base = u32::from(network.network());
    [(base + 1).into(), (base + 2).into()]
}

fn digest<const N: usize>(purpose: &str, marker: &str) -> [u8; N] {
    let digest = Blake2s256::new()
        .chain_update("hepto v1 ")
        .chain_update(purpose)
        .chain_update([0])
        .chain_update(marker);
    *digest
        .finalize()
        .first_chunk()
        .expect("a digest has 32 bytes, more than is asked for")
}

/// All addresses of the calling thread's namespace, with the names of their links. Called on the main thread: the
/// host's.
pub async fn host_addresses() -> Result<Vec<(String, IpNet)>, Error> {
    addresses_of(&Netlink::here()?).await
}

pub(crate) async fn addresses_of(host: &Netlink) -> Result<Vec<(String, IpNet)>, Error> {
    let links = host.links().await?;
    let name = |index| {
        links
            .iter()
            .find(|link| link.index == index)
            .map_or(String::new(), |link| link.name.clone())
    };
    Ok(host
        .addresses()
        .await?
        .into_iter()
        .map(|address| (name(address.link), address.net))
        .collect())
}

/// Refuses a node's address that the host has: duplicate address detection does not see it between an ipvlan and its
/// parent, and the host would lose its connections.
pub(crate) fn refuse_host(addresses: &[IpNet], host: &[(String, IpNet)]) -> Result<(), Error> {
    let taken = |address: IpAddr| host.iter().find(|(_, net)| net.addr() == address);
    match addresses.iter().find_map(|net| taken(net.addr())) {
        Some((link, net)) => Err(Error::HostAddress {
            address: net.addr(),
            link: link.clone(),
        }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derived_hardware_addresses_are_local_unicast_and_lasting() {
        for node in ["mars", "venus", "a", ""] {
            assert_eq!(mac_for("acides", node)[0] & 0b11, 0b10);
        }
        assert_ne!(mac_for("acides", "mars"), mac_for("acides", "venus"));
        assert_ne!(mac_for("acides", "mars"), mac_for("other", "mars"));
        // The value itself is a promise: another one would look like a new machine to the neighbours.
        insta::assert_snapshot!(format!("{:02x?}", mac_for("acides", "mars")), @"[72, b8, 1d, d0, 6e, 66]");
    }

    #[test]
    fn link_local_addresses_are_link_local() {
        insta::assert_snapshot!(link_local("hepto:acides:mars"), @"fe80::bc1f:6d78:981e:b516/64");
    }

    #[test]
    fn the_hosts_end_of_a_pair_fits_the_kernel_and_tells_nodes_apart() {
        insta::assert_snapshot!(host_end("hepto:acides:mars"), @"hepto-marsb62d4");
        let names = ["acides:a", "acides:marseille", "other:marseille", "x:élan"]
            .map(|node| host_end(&format!("hepto:{node}")));
        let distinct: std::collections::BTreeSet<_> = names.iter().collect();
        assert_eq!(distinct.len(), names.len(), "{names:?}");
        assert!(names.iter().all(|name| name.len() <= 15), "{names:?}");
    }

    #[test]
    fn a_pair_has_many_networks_to_choose_from_and_all_are_link_local() {
        let networks = pair_networks("hepto:acides:mars");
        let distinct: std::collections::BTreeSet<_> = networks.iter().collect();
        assert_eq!(distinct.len(), 64, "{networks:?}");
        assert!(networks.iter().all(|network| PAIRS.contains(network)));
        let [host, node] = pair_v4(networks[0]);
        assert!(networks[0].hosts().eq([host, node]));
        insta::assert_snapshot!(networks[0], @"169.254.91.244/30");
    }

    #[test]
    fn the_hosts_own_address_is_refused_whatever_its_prefix_length() {
        let host = [("eth0".to_owned(), "192.0.2.1/24".parse().unwrap())];
        let error = refuse_host(&["192.0.2.1/32".parse().unwrap()], &host).unwrap_err();
        assert_eq!(error.code(), "E-NET-ADDR-HOST");
        assert!(error.to_string().contains("eth0"), "{error}");
        refuse_host(&["192.0.2.2/24".parse().unwrap()], &host).unwrap();
    }
}
