//! A server and its agents, each in its own home.

use std::fs;
use std::path::Path;
use std::time::Instant;

use hepto_tests::{Lab, Node, Recipe, isolated_for, until};

use crate::{PROGRAM, SOON, control, end, k3s_log, pid_in, reaches, starts, was_told, with_k3s};

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

/// Names another file for the key with which an agent joins.
fn join_by(agent: &Node, setting: &str, key: &Path) {
    let text = fs::read_to_string(&agent.config).expect("the agent's config file");
    let lines = text
        .lines()
        .map(|line| match line.starts_with("cluster_key_file") {
            true => format!("{setting} = {key:?}\n"),
            false => format!("{line}\n"),
        });
    fs::write(&agent.config, lines.collect::<String>()).expect("the agent's config file");
}

#[test]
fn the_agents_own_key_is_enough_to_join() {
    isolated_for(3 * SOON, || {
        let (lab, mut nodes) = cluster();
        nodes.truncate(2);
        let (from, key) = (
            lab.directory.join("cluster.key"),
            lab.directory.join("agent.key"),
        );
        let derived = nodes[1]
            .command(&["keys", "derive-agent", "--cluster", &lab.cluster, "--from"])
            .arg(&from)
            .arg("--out")
            .arg(&key)
            .output()
            .expect("hepto-node starts");
        assert!(
            derived.status.success(),
            "{}",
            String::from_utf8_lossy(&derived.stderr)
        );
        join_by(&nodes[1], "agent_key_file", &key);
        nodes.iter_mut().for_each(Node::start);
        nodes.iter().for_each(|node| drop(reaches(node, "ready")));
        nodes.into_iter().for_each(end);
    });
}

#[test]
fn an_agent_with_another_key_is_turned_away_and_not_ready() {
    isolated_for(3 * SOON, || {
        let (lab, mut nodes) = cluster();
        nodes.truncate(2);
        let key = lab.secret("agent.key", "An0therKeyAn0therKeyAn0therKey04");
        join_by(&nodes[1], "agent_key_file", &key);
        nodes.iter_mut().for_each(Node::start);
        reaches(&nodes[0], "ready");
        reaches(&nodes[1], "joining");
        until(SOON, "the server turns it away", || {
            k3s_log(&nodes[0]).contains("wrong token") && k3s_log(&nodes[1]).contains("401")
        });
        assert_eq!(ready(&nodes[0]), ["mars"]);
        assert_eq!(reaches(&nodes[1], "joining")["ready"], false);
        nodes.into_iter().for_each(end);
    });
}

/// Two clusters of other people may have a node of one name each on one host.
#[test]
fn nodes_of_one_name_in_two_clusters_share_a_host_and_nothing_else() {
    isolated_for(3 * SOON, || {
        let (lab, mut nodes) = cluster();
        nodes.truncate(1);
        let home = nodes[0].home().clone();
        let other = Recipe {
            cluster: format!("{}b", lab.cluster),
            overlay_key: lab.secret("other.key", "An0therKeyAn0therKeyAn0therKey03"),
            anchors: vec!["192.168.77.104".to_owned()],
            ..lab.recipe(4, "mars")
        };
        nodes.push(lab.node(&home, with_k3s(other).with("mesh", "port = 51821")));
        nodes.iter_mut().for_each(Node::start);
        for node in &nodes {
            reaches(node, "ready");
            control(node, "leave-children\n");
            pid_in(node, "pod");
        }
        let survivor = nodes.pop().expect("the second");
        nodes.into_iter().for_each(end);
        assert!(
            !was_told(&survivor, "pod"),
            "the other's stop is none of its pod's business"
        );
        assert_eq!(
            (
                reaches(&survivor, "ready")["restarts"].clone(),
                starts(&survivor)
            ),
            (0.into(), 1)
        );
        end(survivor);
    });
}
