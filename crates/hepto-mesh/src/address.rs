//! Overlay addresses: functions of names, so that a node that moves house keeps its own.
//!
//! A receiver always computes the address of a name; nobody's claim is believed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use blake2::{Blake2s256, Digest};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::name::{ClusterName, NodeName};

/// Why a prefix cannot be the cluster's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PrefixError {
    /// Not a /48 of fc00::/7 (RFC 4193).
    #[error(
        "the cluster's ULA {0} is not a /48 within fc00::/7; give one such as fd12:3456:789a::/48, or leave it out"
    )]
    Ula(Ipv6Net),
    /// Too small to hold nodes, or not unicast.
    #[error(
        "the overlay's IPv4 prefix {0} is not a unicast prefix of /8 to /24; give one such as 10.44.0.0/16"
    )]
    Ipv4(Ipv4Net),
    /// wesher knows whole bytes alone.
    #[error(
        "wesher computes no addresses in {0}; write mesh.ipv4 as its --overlay-net was, a /8, /16 or /24 such as 10.0.0.0/8"
    )]
    Wesher(Ipv4Net),
}

impl PrefixError {
    /// The stable code of the error, as printed and documented.
    pub fn code(&self) -> &'static str {
        match self {
            PrefixError::Ula(_) => "E-MESH-ULA",
            PrefixError::Ipv4(_) => "E-MESH-IPV4",
            PrefixError::Wesher(_) => "E-MESH-WESHER",
        }
    }
}

/// How a node's IPv4 overlay address follows from its name. All nodes of a cluster have to do it alike.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Addressing {
    /// Our own way: another address for each cluster, and another `attempt` where two names meet.
    #[default]
    Hepto,
    /// As wesher did, so that a cluster that comes from there keeps its addresses: from the name alone.
    Wesher,
}

impl Addressing {
    /// As `mesh.addressing` names it.
    pub fn name(self) -> &'static str {
        match self {
            Addressing::Hepto => "hepto",
            Addressing::Wesher => "wesher",
        }
    }
}

/// The address plan of a cluster: one ULA /48 for all IPv6, and the IPv4 prefix of the overlay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prefixes {
    cluster: ClusterName,
    ula: Ipv6Net,
    ipv4: Ipv4Net,
    addressing: Addressing,
    inner: Vec<IpNet>,
}

impl Prefixes {
    /// The plan of `cluster`: its ULA /48 comes from its name unless `ula` is given; `ipv4` holds the overlay's nodes.
    pub fn new(
        cluster: &ClusterName,
        ula: Option<Ipv6Net>,
        ipv4: Ipv4Net,
    ) -> Result<Self, PrefixError> {
        let ula = ula.unwrap_or_else(|| ula_of(cluster)).trunc();
        if ula.prefix_len() != 48 || ula.addr().octets()[0] & 0xfe != 0xfc {
            return Err(PrefixError::Ula(ula));
        }
        let ipv4 = ipv4.trunc();
        let first = ipv4.addr();
        if !(8..=24).contains(&ipv4.prefix_len())
            || first.is_loopback()
            || first.is_multicast()
            || first.octets()[0] == 0
        {
            return Err(PrefixError::Ipv4(ipv4));
        }
        Ok(Self {
            cluster: cluster.clone(),
            ula,
            ipv4,
            addressing: Addressing::default(),
            inner: Vec::new(),
        })
    }

    /// The same plan with IPv4 overlay addresses computed in this way.
    ///
    /// # Errors
    /// The IPv4 prefix is none that this way knows.
    pub fn with_addressing(mut self, addressing: Addressing) -> Result<Self, PrefixError> {
        if addressing == Addressing::Wesher && !self.ipv4.prefix_len().is_multiple_of(8) {
            return Err(PrefixError::Wesher(self.ipv4));
        }
        self.addressing = addressing;
        Ok(self)
    }

    /// Adds prefixes that exist inside the overlay only (pods, services), so that no endpoint is ever sought there.
    pub fn with_inner(mut self, prefixes: impl IntoIterator<Item = IpNet>) -> Self {
        self.inner.extend(prefixes);
        self
    }

    /// The cluster that this plan is of.
    pub fn cluster(&self) -> &ClusterName {
        &self.cluster
    }

    /// How IPv4 overlay addresses follow from names.
    pub fn addressing(&self) -> Addressing {
        self.addressing
    }

    /// The ULA /48 of everything.
    pub fn ula(&self) -> Ipv6Net {
        self.ula
    }

    /// The overlay's IPv6 /64 (subnet 0000).
    pub fn overlay_net_v6(&self) -> Ipv6Net {
        self.subnet(0x0000, 64)
    }

    /// The overlay's IPv4 prefix.
    pub fn overlay_net_v4(&self) -> Ipv4Net {
        self.ipv4
    }

    /// Default IPv6 prefix of pods: the /56 at subnet 0100.
    pub fn pods_v6(&self) -> Ipv6Net {
        self.subnet(0x0100, 56)
    }

    /// Default IPv6 prefix of services: the /112 at subnet 0200.
    pub fn services_v6(&self) -> Ipv6Net {
        self.subnet(0x0200, 112)
    }

    /// The IPv6 overlay address of `name` at its `attempt`: the /64 and the first 8 bytes of its hash.
    pub fn overlay_v6(&self, name: &NodeName, attempt: u8) -> Ipv6Addr {
        let host = u128::from(self.host(name, attempt));
        Ipv6Addr::from(u128::from(self.overlay_net_v6().addr()) | host)
    }

    /// The IPv4 overlay address of `name` at its `attempt`: the same hash modulo the prefix's hosts, never the first
    /// or the last address. In wesher's way it is the end of the name's own hash, whatever the `attempt`.
    pub fn overlay_v4(&self, name: &NodeName, attempt: u8) -> Ipv4Addr {
        let host_bits = 32 - self.ipv4.prefix_len();
        let host = match self.addressing {
            Addressing::Hepto => 1 + self.host(name, attempt) % ((1 << host_bits) - 2),
            // The last bytes, in the order of the network: the low bits of the number.
            Addressing::Wesher => fnv1a(name.as_str().as_bytes()) as u64 % (1 << host_bits),
        };
        let host = u32::try_from(host).expect("a prefix of /8 or longer has at most 2^24 hosts");
        Ipv4Addr::from(u32::from(self.ipv4.addr()) | host)
    }

    /// Whether `address` lies in the overlay, its pods or its services: never the endpoint of a node.
    pub fn is_inner(&self, address: IpAddr) -> bool {
        IpNet::V6(self.ula).contains(&address)
            || IpNet::V4(self.ipv4).contains(&address)
            || self.inner.iter().any(|net| net.contains(&address))
    }

    fn subnet(&self, number: u16, length: u8) -> Ipv6Net {
        let address = u128::from(self.ula.addr()) | u128::from(number) << 64;
        Ipv6Net::new(address.into(), length).expect("the length is below 128")
    }

    fn host(&self, name: &NodeName, attempt: u8) -> u64 {
        let hash = Blake2s256::new()
            .chain_update(b"hepto v1 host\0")
            .chain_update(self.cluster.as_str())
            .chain_update([0])
            .chain_update(name.as_str())
            .chain_update([0, attempt])
            .finalize();
        u64::from_be_bytes(*hash.first_chunk().expect("a hash of 32 bytes"))
    }
}

/// FNV-1a of 128 bits (Fowler, Noll, Vo; draft-eastlake-fnv): offset basis and prime are its own.
fn fnv1a(bytes: &[u8]) -> u128 {
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = (1 << 88) + 0x13b;
    bytes.iter().fold(OFFSET, |hash, byte| {
        (hash ^ u128::from(*byte)).wrapping_mul(PRIME)
    })
}

/// fd, then the first 40 bits of BLAKE2s-256(`hepto v1 ula`, 0, cluster): a pseudo-random global ID as RFC 4193 asks.
fn ula_of(cluster: &ClusterName) -> Ipv6Net {
    let hash = Blake2s256::new()
        .chain_update(b"hepto v1 ula\0")
        .chain_update(cluster.as_str())
        .finalize();
    let mut octets = [0; 16];
    octets[0] = 0xfd;
    octets[1..6].copy_from_slice(&hash[..5]);
    Ipv6Net::new(octets.into(), 48).expect("48 is below 128")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(cluster: &str) -> Prefixes {
        let cluster = cluster.parse().expect("a name");
        Prefixes::new(&cluster, None, "10.44.0.0/16".parse().expect("a prefix")).expect("a plan")
    }

    fn node(name: &str) -> NodeName {
        name.parse().expect("a name")
    }

    /// Computed with Python's hashlib.
    #[test]
    fn addresses_are_golden() {
        let plan = plan("acides");
        insta::assert_snapshot!(
            format!(
                "{} overlay {} pods {} services {}\n{} {}\n{} {}",
                plan.ula(),
                plan.overlay_net_v6(),
                plan.pods_v6(),
                plan.services_v6(),
                plan.overlay_v6(&node("grumpy"), 0),
                plan.overlay_v4(&node("grumpy"), 0),
                plan.overlay_v6(&node("grumpy"), 1),
                plan.overlay_v4(&node("grumpy"), 1)
            ),
            @"
        fdbe:f14d:c41::/48 overlay fdbe:f14d:c41::/64 pods fdbe:f14d:c41:100::/56 services fdbe:f14d:c41:200::/112
        fdbe:f14d:c41:0:3ec9:1f4c:7de2:394b 10.44.168.142
        fdbe:f14d:c41:0:be50:6a36:7db0:c2dd 10.44.89.168
        "
        );
    }

    #[test]
    fn cluster_name_and_attempt_each_change_the_address() {
        let name = node("mars");
        assert_ne!(
            plan("a").overlay_v6(&name, 0),
            plan("b").overlay_v6(&name, 0)
        );
        assert_ne!(
            plan("a").overlay_v4(&name, 0),
            plan("a").overlay_v4(&name, 1)
        );
    }

    #[test]
    fn given_prefixes_are_checked() {
        let cluster = "c".parse().expect("a name");
        let refuse = |ula: Option<&str>, ipv4: &str| {
            let ula = ula.map(|text| text.parse().expect("a prefix"));
            Prefixes::new(&cluster, ula, ipv4.parse().expect("a prefix"))
                .expect_err("refused")
                .code()
        };
        assert_eq!(refuse(Some("fd00::/64"), "10.0.0.0/16"), "E-MESH-ULA");
        assert_eq!(refuse(Some("2001:db8::/48"), "10.0.0.0/16"), "E-MESH-ULA");
        assert_eq!(refuse(None, "10.0.0.0/28"), "E-MESH-IPV4");
        assert_eq!(refuse(None, "127.0.0.0/16"), "E-MESH-IPV4");
        assert_eq!(refuse(None, "224.0.0.0/16"), "E-MESH-IPV4");
    }

    /// The published vectors of the empty string, "a" and "foobar" (draft-eastlake-fnv, appendix).
    #[test]
    fn the_hash_is_fnv_1a_of_128_bits() {
        for (text, hash) in [
            ("", 0x6c62272e07bb014262b821756295c58d),
            ("a", 0xd228cb696f1a8caf78912b704e4a8964),
            ("foobar", 0x343e1662793c64bf6f0d3597ba446f18),
        ] {
            assert_eq!(fnv1a(text.as_bytes()), hash, "{text:?}");
        }
    }

    fn wesher(ipv4: &str) -> Prefixes {
        let cluster = "acides".parse().expect("a name");
        Prefixes::new(&cluster, None, ipv4.parse().expect("a prefix"))
            .and_then(|plan| plan.with_addressing(Addressing::Wesher))
            .expect("a plan")
    }

    /// What wesher itself gives the name `test`.
    #[test]
    fn weshers_addresses_are_weshers() {
        for (ipv4, address) in [
            ("10.0.0.0/8", "10.221.153.165"),
            ("10.0.0.0/24", "10.0.0.165"),
            ("172.31.0.0/16", "172.31.153.165"),
        ] {
            for attempt in [0, 1] {
                let found = wesher(ipv4).overlay_v4(&node("test"), attempt);
                assert_eq!(found.to_string(), address, "{ipv4}, attempt {attempt}");
            }
        }
        let ours = plan("acides").overlay_v6(&node("test"), 1);
        assert_eq!(wesher("10.0.0.0/8").overlay_v6(&node("test"), 1), ours);
    }

    #[test]
    fn wesher_knows_whole_bytes_alone() {
        let refused = plan("acides")
            .with_addressing(Addressing::Wesher)
            .and_then(|_| {
                Prefixes::new(
                    &"c".parse().expect("a name"),
                    None,
                    "10.0.0.0/12".parse().expect("a prefix"),
                )
            })
            .and_then(|plan| plan.with_addressing(Addressing::Wesher));
        assert_eq!(refused.expect_err("refused").code(), "E-MESH-WESHER");
    }

    proptest::proptest! {
        /// wesher copied byte after byte from the end of the hash over the end of the prefix's address. Multiplied here
        /// digit by digit, as on paper.
        #[test]
        fn weshers_addresses_are_those_of_an_independent_computation(name in "[a-z][a-z0-9]{0,30}", bytes in 1usize..=3) {
            let mut hash: [u8; 16] = [
                0x6c, 0x62, 0x27, 0x2e, 0x07, 0xbb, 0x01, 0x42, 0x62, 0xb8, 0x21, 0x75, 0x62, 0x95, 0xc5, 0x8d,
            ];
            for byte in name.bytes() {
                hash[15] ^= byte;
                let mut product = [0u32; 16];
                for (place, digit) in hash.iter().rev().enumerate() {
                    // The prime's digits to the base of 256: 0x3b, 1, and 1 at the eleventh.
                    for (shift, factor) in [(0, 0x3b), (1, 1), (11, 1)] {
                        if let Some(sum) = product.get_mut(place + shift) {
                            *sum += u32::from(*digit) * factor;
                        }
                    }
                }
                let mut carry = 0;
                for (place, sum) in product.iter().enumerate() {
                    carry += sum;
                    hash[15 - place] = carry as u8;
                    carry >>= 8;
                }
            }
            let mut expected = [10, 0, 0, 0];
            for place in 1..=bytes {
                expected[4 - place] = hash[16 - place];
            }
            let found = wesher(&format!("10.0.0.0/{}", 32 - 8 * bytes)).overlay_v4(&node(&name), 0);
            proptest::prop_assert_eq!(found.octets(), expected);
        }
    }

    #[test]
    fn inner_addresses_are_known() {
        let plan = plan("acides").with_inner(["10.42.0.0/16".parse().expect("a prefix")]);
        assert!(plan.is_inner(plan.overlay_v4(&node("x"), 0).into()));
        assert!(plan.is_inner(plan.pods_v6().addr().into()));
        assert!(plan.is_inner("10.42.3.4".parse().expect("an address")));
        assert!(!plan.is_inner("192.168.1.1".parse().expect("an address")));
    }

    proptest::proptest! {
        #[test]
        fn hosts_stay_inside_and_off_the_edges(name in "[a-z]{1,20}", attempt: u8, length in 8u8..=24) {
            let cluster = "c".parse().expect("a name");
            let net = Ipv4Net::new([10, 0, 0, 0].into(), length).expect("a prefix");
            let plan = Prefixes::new(&cluster, None, net).expect("a plan");
            let address = plan.overlay_v4(&node(&format!("n{name}")), attempt);
            proptest::prop_assert!(net.contains(&address));
            proptest::prop_assert_ne!(address, net.network());
            proptest::prop_assert_ne!(address, net.broadcast());
        }
    }
}
