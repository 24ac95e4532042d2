//! Where nodes can be reached: which addresses count, and which of them are our own.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::address::Prefixes;
use crate::name::NodeName;
use crate::record::{ENDPOINTS_MAX, Endpoint, EndpointKind};
use crate::wire::{plain, plain_socket};

/// How long an observation counts.
const OBSERVATION_LIFETIME: Duration = Duration::from_secs(600);
/// Observers that have to agree.
const OBSERVERS: usize = 2;

/// What has become of the uplink's addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// They are as they were.
    Nothing,
    /// There are new ones.
    Added,
    /// One is gone: sessions may have lost their path.
    Moved,
}

/// Our own endpoints, and the filter for everyone's.
#[derive(Debug)]
pub(super) struct Endpoints {
    port: u16,
    prefixes: Prefixes,
    configured: Vec<SocketAddr>,
    interface: Vec<IpAddr>,
    observations: BTreeMap<(NodeName, bool), Observation>,
}

#[derive(Debug)]
struct Observation {
    address: SocketAddr,
    at: Instant,
}

impl Endpoints {
    pub fn new(port: u16, prefixes: Prefixes, configured: &[SocketAddr]) -> Self {
        let configured = configured.iter().copied().map(plain_socket).collect();
        Self {
            port,
            prefixes,
            configured,
            interface: Vec::new(),
            observations: BTreeMap::new(),
        }
    }

    /// Whether a node could be at `address`: unicast, of a scope that leaves the link, and outside the overlay.
    pub fn is_usable(&self, address: SocketAddr) -> bool {
        let ip = plain(address.ip());
        let scope = match ip {
            IpAddr::V4(v4) => {
                v4.is_loopback() || v4.is_link_local() || v4.is_broadcast() || v4.octets()[0] == 0
            }
            IpAddr::V6(v6) => v6.is_loopback() || v6.is_unicast_link_local() || v6.is_unspecified(),
        };
        address.port() != 0 && !scope && !ip.is_multicast() && !self.prefixes.is_inner(ip)
    }

    /// Whether a packet to `address` is worth sending: usable, not ourselves, of a family that the uplink has.
    pub fn is_reachable(&self, address: SocketAddr) -> bool {
        let same_family = self
            .interface
            .iter()
            .any(|own| own.is_ipv4() == address.is_ipv4());
        self.is_usable(address) && same_family && !self.is_interface(address)
    }

    /// Whether `address` is our own port at an address of our uplink.
    pub fn is_interface(&self, address: SocketAddr) -> bool {
        address.port() == self.port && self.interface.contains(&address.ip())
    }

    /// Whether packets to `address` from outside come here: by the configuration, or since another node saw us there.
    pub fn leads_here(&self, address: SocketAddr) -> bool {
        let seen = self
            .observations
            .values()
            .any(|seen| seen.address == address);
        seen || self.configured.contains(&address) || self.is_interface(address)
    }

    /// Takes the uplink's addresses. What others saw of the old ones is forgotten when they change.
    pub fn set_interface(&mut self, addresses: Vec<IpAddr>) -> Change {
        let mut addresses: Vec<IpAddr> = addresses.into_iter().map(plain).collect();
        addresses.retain(|ip| self.is_usable(SocketAddr::new(*ip, self.port)));
        addresses.sort_unstable();
        addresses.dedup();
        if addresses == self.interface {
            return Change::Nothing;
        }
        let before = std::mem::replace(&mut self.interface, addresses);
        self.observations.clear();
        if before.iter().all(|ip| self.interface.contains(ip)) {
            Change::Added
        } else {
            Change::Moved
        }
    }

    /// Whether the uplink has a usable address.
    pub fn is_up(&self) -> bool {
        !self.interface.is_empty()
    }

    /// Notes where `observer` sees us. An interface's address says nothing new: that observer is on our side of any NAT.
    pub fn observe(&mut self, observer: &NodeName, address: SocketAddr, now: Instant) {
        let address = plain_socket(address);
        let key = (observer.clone(), address.is_ipv4());
        if !self.is_usable(address) || self.interface.contains(&address.ip()) {
            self.observations.remove(&key);
        } else {
            self.observations
                .insert(key, Observation { address, at: now });
        }
    }

    /// Public addresses on which enough observers agree: the best of each family.
    pub fn observed(&self, now: Instant) -> Vec<SocketAddr> {
        let best = |ipv4| {
            let counts = self.counts(ipv4, now).into_iter();
            counts
                .filter(|(_, count)| *count >= OBSERVERS)
                .max_by_key(|(address, count)| (*count, *address))
        };
        [best(true), best(false)]
            .into_iter()
            .flatten()
            .map(|(address, _)| address)
            .collect()
    }

    /// The address of a NAT that shows every observer another port.
    pub fn symmetric_nat(&self, now: Instant) -> Option<IpAddr> {
        let seen: Vec<(SocketAddr, usize)> = self.counts(true, now).into_iter().collect();
        let (first, _) = seen.first()?;
        let disagree = seen.len() >= OBSERVERS && seen.iter().all(|(_, count)| *count < OBSERVERS);
        let one_nat = seen.iter().all(|(address, _)| address.ip() == first.ip());
        (disagree && one_nat).then_some(first.ip())
    }

    fn counts(&self, ipv4: bool, now: Instant) -> BTreeMap<SocketAddr, usize> {
        let mut counts = BTreeMap::new();
        for observation in self.observations.values() {
            let fresh = now.saturating_duration_since(observation.at) < OBSERVATION_LIFETIME;
            if fresh && observation.address.is_ipv4() == ipv4 {
                *counts.entry(observation.address).or_default() += 1;
            }
        }
        counts
    }

    /// What our record says: configured first, then observed, then the uplink's own (global ones first), at most
    /// [`ENDPOINTS_MAX`]; in the order of the wire.
    pub fn own(&self, now: Instant) -> Vec<Endpoint> {
        let configured = self
            .configured
            .iter()
            .map(|address| Endpoint::new(EndpointKind::Configured, *address));
        let observed = self
            .observed(now)
            .into_iter()
            .map(|address| Endpoint::new(EndpointKind::Observed, address));
        let mut interface = self.interface.clone();
        interface.sort_by_key(|ip| (is_private(*ip), *ip));
        let interface = interface
            .into_iter()
            .map(|ip| Endpoint::new(EndpointKind::Interface, SocketAddr::new(ip, self.port)));
        let mut own: Vec<Endpoint> = Vec::new();
        for endpoint in configured.chain(observed).chain(interface) {
            let known = own.iter().any(|known| known.address == endpoint.address);
            if !known && own.len() < ENDPOINTS_MAX && self.is_usable(endpoint.address) {
                own.push(endpoint);
            }
        }
        own.sort();
        own
    }
}

fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_private(),
        IpAddr::V6(v6) => v6.is_unique_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::testing;

    fn endpoints(interface: &[&str]) -> Endpoints {
        let prefixes = testing::prefixes();
        let mut endpoints = Endpoints::new(51820, prefixes, &[]);
        let interface = interface
            .iter()
            .map(|text| text.parse().expect("an address"));
        assert_eq!(endpoints.set_interface(interface.collect()), Change::Added);
        endpoints
    }

    fn socket(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    fn name(text: &str) -> NodeName {
        text.parse().expect("a name")
    }

    #[test]
    fn unfit_addresses_are_refused() {
        let endpoints = endpoints(&["192.168.1.2"]);
        let inner = SocketAddr::new(endpoints.prefixes.overlay_v6(&name("mars"), 0).into(), 1);
        assert!(!endpoints.is_usable(inner));
        for text in [
            "127.0.0.1:1",
            "169.254.1.1:1",
            "224.0.0.1:1",
            "255.255.255.255:1",
            "0.0.0.0:1",
            "10.44.1.1:1",
            "192.0.2.1:0",
            "[::1]:1",
            "[fe80::1]:1",
            "[ff02::1]:1",
            "[::]:1",
            "[::ffff:127.0.0.1]:1",
            "[::ffff:10.44.1.1]:1",
        ] {
            assert!(!endpoints.is_usable(socket(text)), "{text}");
        }
        for text in [
            "192.168.7.1:1",
            "203.0.113.1:65535",
            "[2001:db8::1]:1",
            "[fd00::1]:1",
        ] {
            assert!(endpoints.is_usable(socket(text)), "{text}");
        }
        assert!(
            !endpoints.is_reachable(socket("[2001:db8::1]:1")),
            "no such family here"
        );
        assert!(
            !endpoints.is_reachable(socket("192.168.1.2:51820")),
            "ourselves"
        );
        assert!(
            endpoints.is_reachable(socket("192.168.1.2:51821")),
            "a neighbour on the same host's address"
        );
    }

    #[test]
    fn an_observed_address_needs_two_observers() {
        let now = testing::now();
        let mut endpoints = endpoints(&["192.168.1.2"]);
        endpoints.observe(&name("a"), socket("203.0.113.5:4000"), now);
        endpoints.observe(&name("a"), socket("203.0.113.5:4000"), now);
        assert_eq!(endpoints.observed(now), []);
        endpoints.observe(&name("b"), socket("[::ffff:203.0.113.5]:4000"), now);
        assert_eq!(endpoints.observed(now), [socket("203.0.113.5:4000")]);
        assert_eq!(endpoints.symmetric_nat(now), None);
        assert_eq!(endpoints.own(now).len(), 2);
        assert_eq!(endpoints.observed(now + OBSERVATION_LIFETIME), []);
        let moved = vec!["192.168.1.3".parse().expect("an address")];
        assert_eq!(endpoints.set_interface(moved.clone()), Change::Moved);
        assert_eq!(endpoints.set_interface(moved), Change::Nothing);
        assert_eq!(endpoints.observed(now), [], "that was of the old address");
    }

    #[test]
    fn observers_that_disagree_on_the_port_show_a_symmetric_nat() {
        let now = testing::now();
        let mut endpoints = endpoints(&["192.168.1.2"]);
        endpoints.observe(&name("a"), socket("203.0.113.5:4000"), now);
        assert_eq!(endpoints.symmetric_nat(now), None);
        endpoints.observe(&name("lan"), socket("192.168.1.2:51820"), now);
        assert_eq!(
            endpoints.symmetric_nat(now),
            None,
            "a neighbour sees no NAT"
        );
        endpoints.observe(&name("b"), socket("203.0.113.5:4001"), now);
        assert_eq!(
            endpoints.symmetric_nat(now),
            Some("203.0.113.5".parse().expect("an address"))
        );
        endpoints.observe(&name("c"), socket("203.0.113.5:4001"), now);
        assert_eq!(endpoints.symmetric_nat(now), None);
    }

    #[test]
    fn the_record_has_at_most_eight_and_the_configured_ones_first() {
        let now = testing::now();
        let many: Vec<String> = (1..=12).map(|host| format!("192.168.1.{host}")).collect();
        let mut own = endpoints(&many.iter().map(String::as_str).collect::<Vec<_>>());
        own.configured = vec![socket("203.0.113.7:51821"), socket("127.0.0.1:1")];
        let list = own.own(now);
        assert_eq!(list.len(), ENDPOINTS_MAX);
        assert!(list.is_sorted());
        assert_eq!(
            list[0],
            Endpoint::new(EndpointKind::Configured, socket("203.0.113.7:51821"))
        );
    }
}
