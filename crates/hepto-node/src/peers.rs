//! From members of the mesh and pod routes to peers of the tunnel: plain data in, plain data out.
//!
//! A peer may send from, and is sent to at, its computed overlay addresses and every pod network whose route on
//! `hepto0` names it as the gateway: flannel writes those from the API server's allocation, so no node can claim
//! another's. A route outside the cluster's pod networks is nobody's.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;

use hepto_mesh::core::Peer;
use hepto_mesh::name::NodeName;
use hepto_net::PodRoute;
use hepto_tunnel::PeerConfig;
use ipnet::IpNet;

/// What the tunnel is to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Change {
    /// Add the peer, or change its allowed addresses.
    Set(PeerConfig),
    /// Forget the peer.
    Remove([u8; 32]),
}

/// The members and the pod routes now.
#[derive(Debug, Default)]
pub struct Peers {
    members: BTreeMap<NodeName, Peer>,
    routes: Vec<PodRoute>,
    pods: Vec<IpNet>,
}

impl Peers {
    /// No members yet; pod routes will be believed inside `pods` alone.
    pub fn new(pods: Vec<IpNet>) -> Self {
        Peers {
            pods,
            ..Peers::default()
        }
    }

    /// How many members there are beside this node.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// A member's WireGuard public key.
    pub fn key(&self, name: &NodeName) -> Option<[u8; 32]> {
        Some(self.members.get(name)?.public_key)
    }

    /// The overlay address of the member with this WireGuard public key.
    pub fn address(&self, key: &[u8; 32]) -> Option<Ipv6Addr> {
        let mut members = self.members.values();
        Some(members.find(|member| member.public_key == *key)?.overlay_v6)
    }

    /// Adds or changes a member.
    pub fn set(&mut self, peer: Peer) -> Vec<Change> {
        let mut changes = Vec::new();
        let config = self.config(&peer);
        if let Some(old) = self.members.insert(peer.name.clone(), peer)
            && old.public_key != config.public_key
        {
            changes.push(Change::Remove(old.public_key));
        }
        changes.push(Change::Set(config));
        changes
    }

    /// Removes a member.
    pub fn remove(&mut self, name: &NodeName) -> Vec<Change> {
        self.members
            .remove(name)
            .map(|old| Change::Remove(old.public_key))
            .into_iter()
            .collect()
    }

    /// Replaces the pod routes: only the peers whose networks changed are set anew.
    pub fn route(&mut self, mut routes: Vec<PodRoute>) -> Vec<Change> {
        let inside = |route: &PodRoute| {
            self.pods
                .iter()
                .any(|pods| pods.contains(&route.destination))
        };
        routes.retain(inside);
        let before: Vec<PeerConfig> = self
            .members
            .values()
            .map(|member| self.config(member))
            .collect();
        self.routes = routes;
        let after = self.members.values().map(|member| self.config(member));
        before
            .into_iter()
            .zip(after)
            .filter(|(before, after)| before != after)
            .map(|(_, after)| Change::Set(after))
            .collect()
    }

    fn config(&self, peer: &Peer) -> PeerConfig {
        let addresses = peer.addresses();
        let own = addresses.iter().map(|address| IpNet::from(*address));
        let pods = self
            .routes
            .iter()
            .filter(|route| addresses.contains(&route.gateway))
            .map(|route| route.destination);
        PeerConfig {
            public_key: peer.public_key,
            preshared_key: *peer.preshared_key,
            allowed_ips: own.chain(pods).collect(),
            endpoint: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(name: &str, key: u8, address: &str) -> Peer {
        Peer {
            name: name.parse().expect("a name"),
            public_key: [key; 32],
            preshared_key: [9; 32].into(),
            generation: 0,
            overlay_v6: "fd00::1".parse().expect("an address"),
            overlay_v4: Some(address.parse().expect("an address")),
            mtu: 1320,
        }
    }

    fn route(destination: &str, gateway: &str) -> PodRoute {
        PodRoute {
            destination: destination.parse().expect("a network"),
            gateway: gateway.parse().expect("an address"),
        }
    }

    fn peers() -> Peers {
        let mut peers = Peers::new(vec!["10.42.0.0/16".parse().expect("a network")]);
        peers.set(peer("venus", 1, "10.44.0.1"));
        peers.set(peer("mars", 2, "10.44.0.2"));
        peers
    }

    #[test]
    fn a_route_changes_its_gateways_peer_alone() {
        let mut peers = peers();
        let changes = peers.route(vec![route("10.42.1.0/24", "10.44.0.2")]);
        let [Change::Set(mars)] = &changes[..] else {
            panic!("{changes:?}")
        };
        assert_eq!(mars.public_key, [2; 32]);
        assert_eq!(
            mars.allowed_ips
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>(),
            ["10.44.0.2/32", "fd00::1/128", "10.42.1.0/24"]
        );
        assert!(
            peers
                .route(vec![route("10.42.1.0/24", "10.44.0.2")])
                .is_empty(),
            "the same again changes nothing"
        );
        assert_eq!(
            peers.route(Vec::new()).len(),
            1,
            "a route that goes takes its network along"
        );
    }

    #[test]
    fn a_route_outside_the_pod_networks_is_nobodys() {
        assert!(
            peers()
                .route(vec![
                    route("0.0.0.0/0", "10.44.0.2"),
                    route("10.44.0.1/32", "10.44.0.2")
                ])
                .is_empty()
        );
    }

    #[test]
    fn a_new_key_removes_the_old_peer() {
        let changes = peers().set(peer("mars", 3, "10.44.0.2"));
        assert_eq!(changes[0], Change::Remove([2; 32]));
        assert!(matches!(&changes[1], Change::Set(config) if config.public_key == [3; 32]));
    }
}
