//! A server and its agents, each in its own home.

use std::time::Instant;

use hepto_tests::{Lab, Node, Recipe, isolated_for, until};

use crate::{PROGRAM, SOON, control, end, reaches, starts, with_k3s};

/// A server and two agents, not started.
fn cluster() -> (Lab, Vec<Node>) {
    let lab = Lab::new(PROGRAM);
    let node = |(number, name): (u8, &&str)| {
        let recipe = Recipe {
            master: "mars".to_owned(),
            ..lab.recipe(number, name)
        };
        lab.node(&lab.home(number), with_k3s(recipe))
    };
    let nodes = (1..).zip(&["mars", "venus", "pluto"]).map(node).collect();
    (lab, nodes)
}

/// What `kubectl get nodes` says is Ready.
fn ready(server: &Node) -> Vec<String> {
    let output = server.ask(&["kubectl", "get", "nodes"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let ready = text.lines().filter(|line| line.contains(" Ready "));
    ready
        .filter_map(|line| line.split(' ').next())
        .map(str::to_owned)
        .collect()
}

#[test]
fn three_nodes_are_ready() {
    isolated_for(3 * SOON, || {
        let (_lab, mut nodes) = cluster();
        let start = Instant::now();
        nodes.iter_mut().for_each(Node::start);
        for node in &nodes {
            reaches(node, "ready");
        }
        until(SOON, "kubectl lists three", || {
            ready(&nodes[0]) == ["mars", "pluto", "venus"]
        });
        println!(
            "three nodes Ready {:.1} s after the first start",
            start.elapsed().as_secs_f64()
        );
        assert!(
            nodes.iter().all(|node| starts(node) == 1),
            "each at the first start"
        );
        nodes.into_iter().for_each(end);
    });
}

#[test]
fn an_agent_waits_for_its_master_and_says_so() {
    isolated_for(3 * SOON, || {
        let (_lab, mut nodes) = cluster();
        nodes.truncate(2);
        nodes[1].start();
        let waits = || {
            let k3s = crate::k3s(&nodes[1]).unwrap_or_default();
            k3s["detail"]
                .as_str()
                .is_some_and(|detail| detail.contains("master mars"))
        };
        until(SOON, "the agent says that it waits for mars", waits);
        assert_eq!(starts(&nodes[1]), 0);
        nodes[0].start();
        reaches(&nodes[1], "ready");
        assert_eq!(starts(&nodes[1]), 1);
        nodes.into_iter().for_each(end);
    });
}

#[test]
fn agents_run_on_while_the_server_is_restarted() {
    isolated_for(3 * SOON, || {
        let (_lab, mut nodes) = cluster();
        nodes.truncate(2);
        nodes.iter_mut().for_each(Node::start);
        let before = [reaches(&nodes[0], "ready"), reaches(&nodes[1], "ready")];
        control(&nodes[0], "crash\n");
        until(SOON, "the server is started again", || {
            starts(&nodes[0]) == 2
        });
        reaches(&nodes[0], "ready");
        let after = reaches(&nodes[1], "ready");
        assert_eq!((&after["pid"], starts(&nodes[1])), (&before[1]["pid"], 1));
        until(SOON, "kubectl lists both", || {
            ready(&nodes[0]) == ["mars", "venus"]
        });
        nodes.into_iter().for_each(end);
    });
}
