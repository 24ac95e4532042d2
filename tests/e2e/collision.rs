//! Two names whose IPv4 overlay addresses are the same.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Instant;

use hepto_mesh::address::Prefixes;
use hepto_mesh::name::{ClusterName, NodeName};
use hepto_tests::{Node, Recipe, isolated, within};

use crate::{PROGRAM, SOON, new_lab};

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

#[test]
fn an_ipv4_collision_is_resolved_before_the_joiners_k3s_starts() {
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
        let k3s = format!("binary = {:?}", stand_in());
        let joiner = recipe(2, &second).without("k3s").with("k3s", &k3s);
        let mut nodes = [
            lab.node(&lab.home(1), recipe(1, &first)),
            lab.node(&lab.home(2), joiner),
        ];
        nodes[0].start();
        nodes[0].overlay();
        nodes[1].start();
        let read = || nodes[1].exec(&["cat", "/etc/rancher/k3s/config.yaml"]);
        let (told, _) = within(SOON, "k3s is told its settings", read);
        let [ipv4, _] = nodes[1].overlay();
        assert_ne!(ipv4, address);
        assert!(told.contains(&ipv4.to_string()), "{ipv4} in:\n{told}");
        assert!(
            !told.contains(&format!("{address},")),
            "{address} in:\n{told}"
        );
        assert!(nodes[1].stop(SOON).success());
    });
}

/// The stand-in for k3s, which `cargo build -p hepto-tests --bins` puts beside the program under test.
fn stand_in() -> PathBuf {
    let path = Path::new(PROGRAM).with_file_name("k3s-stand-in");
    assert!(
        path.exists(),
        "{} is missing: cargo build --workspace --bins",
        path.display()
    );
    path
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
