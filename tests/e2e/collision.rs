//! Two names whose IPv4 overlay addresses are the same.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Instant;

use hepto_mesh::address::Prefixes;
use hepto_mesh::name::{ClusterName, NodeName};
use hepto_tests::{Node, Recipe, isolated};

use crate::{SOON, new_lab};

/// Small, so that a pair is soon found.
const OVERLAY: &str = "10.44.0.0/24";

#[test]
fn an_ipv4_collision_is_resolved_by_the_joiner_and_stays_resolved() {
    isolated(|| {
        let lab = new_lab();
        let (first, second, address) = colliding(&lab.cluster);
        let recipe = |number, name: &str| {
            Recipe {
                master: first.clone(),
                ..lab.recipe(number, name)
            }
            .with("mesh", &format!("ipv4 = {OVERLAY:?}"))
        };
        let mut nodes = [
            lab.node(&lab.home(1), recipe(1, &first)),
            lab.node(&lab.home(2), recipe(2, &second)),
        ];
        nodes[0].start();
        assert_eq!(
            nodes[0].overlay()[0],
            address,
            "the address is a function of the name"
        );
        nodes[1].start();
        let resolved = settled(&nodes, address);
        nodes[1].crash();
        nodes[1].start();
        assert_eq!(
            nodes[1].overlay()[0],
            resolved,
            "it begins where it had ended"
        );
        nodes.iter_mut().for_each(Node::crash);
        nodes.iter_mut().rev().for_each(Node::start);
        assert_eq!(settled(&nodes, address), resolved);
    });
}

/// Waits until the first node has kept the address and the second reaches it from another.
fn settled(nodes: &[Node; 2], address: IpAddr) -> IpAddr {
    hepto_tests::until(SOON, "the joiner takes another address", || {
        nodes[1].overlay_now().is_ok_and(|own| own[0] != address)
    });
    Node::all_meet(&[&nodes[0], &nodes[1]], Instant::now(), SOON);
    assert_eq!(nodes[0].overlay()[0], address, "who was there keeps it");
    nodes[1].overlay()[0]
}

/// Two names that have the same first IPv4 address.
fn colliding(cluster: &str) -> (String, String, IpAddr) {
    let cluster: ClusterName = cluster.parse().expect("a cluster's name");
    let prefixes =
        Prefixes::new(&cluster, None, OVERLAY.parse().expect("a prefix")).expect("a plan");
    let mut taken = HashMap::new();
    for number in 0.. {
        let name = format!("node{number}");
        let parsed: NodeName = name.parse().expect("a node's name");
        let address = prefixes.overlay_v4(&parsed, 0);
        if let Some(other) = taken.insert(address, name.clone()) {
            return (other, name, address.into());
        }
    }
    unreachable!("there are more names than addresses")
}
