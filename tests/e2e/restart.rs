//! Nodes come back.

use std::time::{Duration, Instant};

use hepto_tests::{Node, isolated};

use crate::{SOON, new_lab, seconds};

#[test]
fn a_killed_node_is_back_within_three_seconds_with_its_keys_and_addresses() {
    isolated(|| {
        let lab = new_lab();
        let mut nodes = lab.nodes(&["mars", "venus", "pluto"]);
        nodes.iter_mut().for_each(Node::start);
        meet(&nodes, Instant::now(), SOON);
        let before = (nodes[2].overlay(), public_key(&nodes[0], "pluto"));
        quickly_back(&mut nodes, |nodes| {
            nodes[2].crash();
            nodes[2].start();
        });
        assert_eq!((nodes[2].overlay(), public_key(&nodes[0], "pluto")), before);
    });
}

#[test]
fn three_nodes_killed_at_once_are_back_within_three_seconds() {
    isolated(|| {
        let lab = new_lab();
        let mut nodes = lab.nodes(&["mars", "venus", "pluto"]);
        nodes.iter_mut().for_each(Node::start);
        meet(&nodes, Instant::now(), SOON);
        let before = nodes.iter().map(Node::overlay).collect::<Vec<_>>();
        quickly_back(&mut nodes, |nodes| {
            nodes.iter_mut().for_each(Node::crash);
            nodes.iter_mut().for_each(Node::start);
        });
        assert_eq!(nodes.iter().map(Node::overlay).collect::<Vec<_>>(), before);
    });
}

#[test]
fn a_second_run_of_one_node_is_refused_and_the_first_goes_on() {
    isolated(|| {
        let lab = new_lab();
        let mut nodes = lab.nodes(&["mars"]);
        nodes[0].start();
        let addresses = nodes[0].overlay();
        let second = nodes[0].ask(&["run"]);
        assert_eq!(
            second.status.code(),
            Some(75),
            "{}",
            String::from_utf8_lossy(&second.stderr)
        );
        let said = String::from_utf8_lossy(&second.stderr).into_owned();
        assert!(
            said.contains(&nodes[0].pid().to_string()),
            "it names the process that runs: {said}"
        );
        assert_eq!(nodes[0].overlay(), addresses);
    });
}

#[test]
fn a_node_whose_identity_vanished_is_no_new_node() {
    isolated(|| {
        let lab = new_lab();
        let mut nodes = lab.nodes(&["mars", "venus"]);
        nodes.iter_mut().for_each(Node::start);
        meet(&nodes, Instant::now(), SOON);
        let key = public_key(&nodes[0], "venus");
        assert!(nodes[1].stop(SOON).success());
        // The storage was not mounted: an empty directory stands in its place.
        std::fs::remove_dir_all(&nodes[1].recipe.storage).expect("the test's own storage");
        std::fs::create_dir(&nodes[1].recipe.storage).expect("the test's own storage");
        nodes[1].start();
        let ended = nodes[1].end(SOON);
        assert!(!ended.success());
        nodes[1].says("E-STORAGE-ABSENT", SOON);
        assert_eq!(public_key(&nodes[0], "venus"), key);
    });
}

fn meet(nodes: &[Node], start: Instant, patience: Duration) -> Duration {
    let all: Vec<&Node> = nodes.iter().collect();
    Node::all_meet(&all, start, patience)
}

/// All hear one another within three seconds of this. A moment in which the whole machine stands still is none of the
/// nodes': the best of three counts.
fn quickly_back(nodes: &mut [Node], disturb: impl Fn(&mut [Node])) {
    let times: Vec<Duration> = (0..3)
        .map(|_| {
            disturb(nodes);
            meet(nodes, Instant::now(), SOON)
        })
        .collect();
    assert!(times.iter().min() < Some(&seconds(3)), "{times:?}");
}

/// The WireGuard key by which one node knows another.
fn public_key(of: &Node, name: &str) -> String {
    let peers = of.peers().expect("it runs");
    let peer = peers
        .iter()
        .find(|peer| peer["name"] == name)
        .expect("it knows the other");
    peer["public_key"].as_str().expect("a key").to_owned()
}
