//! Two names whose IPv4 overlay addresses are the same.

use std::collections::HashMap;
use std::net::IpAddr;

use std::time::Instant;

use hepto_mesh::address::Prefixes;
use hepto_mesh::name::{ClusterName, NodeName};
use hepto_tests::{Lab, Node, Recipe, isolated, stand_in, within};

use crate::{PROGRAM, SOON, new_lab};

/// Small, so that a pair is soon found.
const OVERLAY: &str = "10.44.0.0/24";

#[test]
fn an_ipv4_collision_of_two_new_nodes_is_resolved_and_stays_resolved() {
    isolated(|| {
        let lab = new_lab();
        // Neither was there first, as far as k3s knows: the lower name keeps the address.
        let Pair {
            lower,
            higher,
            address,
        } = Pair::of(&lab.cluster);
        let mut nodes = [
            lab.node(&lab.home(1), recipe(&lab, 1, &lower, &lower)),
            lab.node(&lab.home(2), recipe(&lab, 2, &higher, &lower)),
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

#[test]
fn an_ipv4_collision_is_resolved_by_the_joiner_before_its_k3s_starts() {
    isolated(|| {
        let lab = new_lab();
        // The lower name joins, so that it is not by its name that the other keeps the address.
        let Pair {
            lower: joiner,
            higher: first,
            address,
        } = Pair::of(&lab.cluster);
        let k3s = format!("binary = {:?}", stand_in(PROGRAM));
        let with_k3s = |recipe: Recipe| recipe.without("k3s").with("k3s", &k3s);
        let mut nodes = [
            lab.node(&lab.home(1), with_k3s(recipe(&lab, 1, &first, &first))),
            lab.node(&lab.home(2), with_k3s(recipe(&lab, 2, &joiner, &first))),
        ];
        nodes[0].start();
        k3s_is_ready(&nodes[0]);
        nodes[1].start();
        // Ready: the stand-in has compared what it was told with the overlay's own addresses.
        k3s_is_ready(&nodes[1]);
        let resolved = settled(&nodes, address);
        let told = nodes[1]
            .exec(&["cat", "/etc/rancher/k3s/config.yaml"])
            .expect("k3s's settings");
        assert!(
            told.contains(&resolved.to_string()),
            "{resolved} in:\n{told}"
        );
        let log = nodes[1].log();
        let at = |words: &str| {
            log.find(words)
                .unwrap_or_else(|| panic!("{words} in:\n{log}"))
        };
        assert!(
            at("I-MESH-ADDRESS") < at("k3s is starting"),
            "k3s started first:\n{log}"
        );
        for node in nodes.iter_mut().rev() {
            assert!(node.stop(SOON).success());
        }
    });
}

fn recipe(lab: &Lab, number: u8, name: &str, master: &str) -> Recipe {
    let recipe = Recipe {
        master: master.to_owned(),
        ..lab.recipe(number, name)
    };
    recipe.with("mesh", &format!("ipv4 = {OVERLAY:?}"))
}

fn k3s_is_ready(node: &Node) {
    let ask = || {
        let status = node.status()?;
        (status["k3s"]["ready"] == true)
            .then_some(())
            .ok_or(status.to_string())
    };
    within(SOON, &format!("k3s of {} is ready", node.name()), ask);
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
struct Pair {
    lower: String,
    higher: String,
    address: IpAddr,
}

impl Pair {
    fn of(cluster: &str) -> Pair {
        let cluster: ClusterName = cluster.parse().expect("a cluster's name");
        let prefixes =
            Prefixes::new(&cluster, None, OVERLAY.parse().expect("a prefix")).expect("a plan");
        let mut taken = HashMap::new();
        for number in 0.. {
            let name = format!("node{number}");
            let parsed: NodeName = name.parse().expect("a node's name");
            let address = prefixes.overlay_v4(&parsed, 0);
            if let Some(other) = taken.insert(address, name.clone()) {
                let (lower, higher) = if other < name {
                    (other, name)
                } else {
                    (name, other)
                };
                return Pair {
                    lower,
                    higher,
                    address: address.into(),
                };
            }
        }
        unreachable!("there are more names than addresses")
    }
}
