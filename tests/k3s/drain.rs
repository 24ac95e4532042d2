//! Pods go to other nodes before theirs ends, as far as they can.

use std::fs;

use hepto_tests::{Lab, Node, Recipe, isolated, isolated_for};

use crate::{PROGRAM, SOON, end, file, reaches, server, with_k3s};

/// A server and an agent that are ready, with these pods: `NODE NAME OWNER [blocked]` a line.
fn pair(pods: &str) -> (Lab, Vec<Node>) {
    let lab = Lab::new(PROGRAM);
    let node = |(number, name): (u8, &&str)| {
        let recipe = Recipe {
            master: "mars".to_owned(),
            ..lab.recipe(number, name)
        };
        let recipe = with_k3s(recipe).with("k3s", "drain = \"6s\"");
        lab.node(&lab.home(number), recipe)
    };
    let mut nodes: Vec<Node> = (1..).zip(&["mars", "venus"]).map(node).collect();
    nodes.iter_mut().for_each(Node::start);
    nodes.iter().for_each(|node| drop(reaches(node, "ready")));
    fs::write(file(&nodes[0], "pods"), pods).expect("the pods");
    (lab, nodes)
}

/// The pods that the API still knows, by their names.
fn pods(server: &Node) -> Vec<String> {
    let text = fs::read_to_string(file(server, "pods")).expect("the pods");
    let name = |line: &str| line.split_whitespace().nth(1).map(str::to_owned);
    text.lines().filter_map(name).collect()
}

/// Whether the API keeps new pods from a node.
fn is_cordoned(server: &Node, name: &str) -> bool {
    let output = server.ask(&["kubectl", "get", "nodes"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find(|line| line.starts_with(name));
    line.expect("the node is registered")
        .contains("SchedulingDisabled")
}

fn asked(node: &Node, command: &[&str]) -> (bool, String) {
    let output = node.ask(command);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.success(), said)
}

#[test]
fn an_owner_drains_his_node_and_gives_it_free() {
    isolated_for(4 * SOON, || {
        let given =
            "mars web-0 ReplicaSet\nvenus web-1 ReplicaSet\nvenus log DaemonSet\nvenus lonely -\n";
        let (_lab, mut nodes) = pair(given);
        // An agent, with what its kubelet may do.
        let (well, said) = asked(&nodes[1], &["drain"]);
        assert!(well, "{said}");
        assert!(said.contains("default/web-1 is asked to go"), "{said}");
        assert!(said.contains("default/lonely stays"), "{said}");
        assert_eq!(pods(&nodes[0]), ["web-0", "log", "lonely"]);
        assert!(is_cordoned(&nodes[0], "venus") && !is_cordoned(&nodes[0], "mars"));
        let problems = nodes[1].status().expect("it runs")["problems"].to_string();
        assert!(problems.contains("W-NODE-DRAINED"), "{problems}");
        // The owner's word outlasts a restart.
        assert!(nodes[1].stop(SOON).success(), "{}", nodes[1].log());
        nodes[1].start();
        reaches(&nodes[1], "ready");
        assert!(is_cordoned(&nodes[0], "venus"));
        let (well, said) = asked(&nodes[1], &["uncordon"]);
        assert!(well && !is_cordoned(&nodes[0], "venus"), "{said}");
        let problems = nodes[1].status().expect("it runs")["problems"].to_string();
        assert!(!problems.contains("W-NODE-DRAINED"), "{problems}");
        // The server, as the administrator; a disruption budget bounds it.
        fs::write(file(&nodes[0], "pods"), "mars web ReplicaSet blocked\n").expect("the pods");
        let (well, said) = asked(&nodes[0], &["drain", "--timeout", "2s"]);
        assert!(!well && said.contains("E-DRAIN-LEFT"), "{said}");
        assert!(
            said.contains("default/web") && said.contains("disruption budget"),
            "{said}"
        );
        assert!(asked(&nodes[0], &["uncordon"]).0);
        nodes.into_iter().rev().for_each(end);
    });
}

#[test]
fn a_stop_drains_within_its_time_and_the_next_start_takes_pods_again() {
    isolated_for(4 * SOON, || {
        let given =
            "venus web ReplicaSet\nvenus stubborn ReplicaSet blocked\nmars db StatefulSet\n";
        let (_lab, mut nodes) = pair(given);
        let start = std::time::Instant::now();
        assert!(nodes[1].stop(SOON).success(), "{}", nodes[1].log());
        let took = start.elapsed().as_secs_f64();
        assert!(
            (2.5..12.0).contains(&took),
            "half of 6 s is for the drain: {took:.1}"
        );
        assert_eq!(pods(&nodes[0]), ["stubborn", "db"]);
        assert!(is_cordoned(&nodes[0], "venus"));
        nodes[1].start();
        reaches(&nodes[1], "ready");
        assert!(!is_cordoned(&nodes[0], "venus"));
        nodes.into_iter().rev().for_each(end);
    });
}

#[test]
fn the_pods_of_a_node_alone_have_nowhere_to_go() {
    isolated(|| {
        let (_lab, mut node) = server();
        node.start();
        reaches(&node, "ready");
        fs::write(file(&node, "pods"), "mars db StatefulSet\n").expect("the pods");
        assert!(node.stop(SOON).success(), "{}", node.log());
        assert_eq!(pods(&node), ["db"]);
    });
}
