//! A node with another overlay key.

use std::time::Instant;

use hepto_mesh::key::OverlayKey;
use hepto_mesh::name::ClusterName;
use hepto_tests::{Lab, Node, Recipe, isolated, until, within};
use serde_json::Value;

use crate::{SOON, new_lab};

#[test]
fn a_node_with_another_key_never_appears_and_says_why() {
    isolated(|| stranger(false));
}

#[test]
fn a_node_with_another_key_of_the_same_id_never_appears_and_says_why() {
    isolated(|| stranger(true));
}

fn stranger(same_id: bool) {
    let lab = new_lab();
    let mut nodes = lab.nodes(&["mars", "venus"]);
    nodes.iter_mut().for_each(Node::start);
    Node::all_meet(&[&nodes[0], &nodes[1]], Instant::now(), SOON);
    let pids = [nodes[0].pid(), nodes[1].pid()];
    let overlay_key = lab.secret("stranger.key", &other_key(&lab, same_id));
    let recipe = Recipe {
        overlay_key,
        master: "mars".to_owned(),
        ..lab.recipe(3, "stranger")
    };
    let mut stranger = lab.node(&lab.home(3), recipe);
    stranger.start();

    let (problem, _) = within(SOON, "the stranger says that no anchor answers", || {
        no_anchor(&stranger)
    });
    let fix = problem["fix"].as_str().unwrap_or_default();
    assert!(fix.contains("key"), "it names the likely causes: {problem}");
    let refused = || {
        nodes[0]
            .status()
            .map_or(0, |status| total(&status["mesh"]["refused"]))
    };
    until(SOON, "the others count it", || refused() > 0);
    // It goes on trying; that is counted, and not said again.
    let counted = refused();
    until(SOON, "the others count it again", || refused() > counted);
    let lines = nodes[0]
        .log()
        .lines()
        .filter(|line| line.contains("192.168.77.103"))
        .count();
    assert!(lines <= 1, "said {lines} times:\n{}", nodes[0].log());

    assert!(
        nodes[0]
            .peers()
            .expect("it runs")
            .iter()
            .all(|peer| peer["name"] == "venus")
    );
    assert!(stranger.peers().expect("it runs").is_empty());
    assert_eq!([nodes[0].pid(), nodes[1].pid()], pids);
    Node::all_meet(&[&nodes[0], &nodes[1]], Instant::now(), SOON);
}

fn no_anchor(node: &Node) -> Result<Value, String> {
    let status = node.status()?;
    let problems = status["problems"].as_array().cloned().unwrap_or_default();
    let found = problems
        .into_iter()
        .find(|problem| problem["code"] == "E-MESH-ANCHORS");
    found.ok_or_else(|| status["problems"].to_string())
}

/// The sum of a map of counters.
fn total(counters: &Value) -> u64 {
    counters
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(_, count)| count.as_u64())
        .sum()
}

/// A key that is not the lab's, and whose id, one byte, is the same or not.
fn other_key(lab: &Lab, same_id: bool) -> String {
    let cluster: ClusterName = lab.cluster.parse().expect("a cluster's name");
    let id = |text: &str| {
        text.parse::<OverlayKey>()
            .expect("a key")
            .derive(&cluster)
            .key_id
    };
    let own = std::fs::read_to_string(lab.directory.join("overlay.key")).expect("the lab's key");
    let mut candidates =
        (0..100_000).map(|number| format!("Strang3rKeyStrang3rKeyStra{number:06}"));
    candidates
        .find(|key| (id(key) == id(&own)) == same_id)
        .expect("one key in 256 has the id")
}
