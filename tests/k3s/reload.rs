//! A node is reloaded; its pods are none the wiser.

use std::fs;

use hepto_tests::{Lab, Node, Recipe, isolated, isolated_for, until};

use crate::{PROGRAM, SOON, control, end, k3s, pid_in, reaches, server, starts, with_k3s};

fn reloaded(node: &Node) {
    let output = node.ask(&["reload", "--wait"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{}", node.log());
}

/// Adds a line to the section `[k3s]`.
fn set(node: &Node, line: &str) {
    let text = fs::read_to_string(&node.config).expect("the config file");
    let text = text.replace("[k3s]\n", &format!("[k3s]\n{line}\n"));
    fs::write(&node.config, text).expect("the config file");
}

#[test]
fn a_reload_leaves_k3s_and_its_pods_alone() {
    isolated(|| {
        let (_lab, mut node) = server();
        node.start();
        let before = reaches(&node, "ready");
        control(&node, "leave-children\n");
        let pod = pid_in(&node, "pod");
        let process = node.pid();
        for _ in 0..3 {
            reloaded(&node);
            let after = k3s(&node).expect("it runs");
            assert_eq!(
                (&after["pid"], &after["ready"]),
                (&before["pid"], &true.into())
            );
            assert_eq!(after["restarts"], 0);
        }
        assert_eq!(
            (starts(&node), pid_in(&node, "pod"), node.pid()),
            (1, pod, process)
        );
        end(node);
    });
}

/// Each reload of one finds the other in the middle of finding it again.
#[test]
fn a_server_and_its_agent_are_reloaded_in_quick_turn() {
    isolated_for(4 * SOON, || {
        let lab = Lab::new(PROGRAM);
        let nodes = [(1, "mars"), (2, "venus")].map(|(number, name)| {
            let recipe = Recipe {
                master: "mars".to_owned(),
                ..lab.recipe(number, name)
            };
            let mut node = lab.node(&lab.home(number), with_k3s(recipe));
            node.start();
            node
        });
        let pids = || [0, 1].map(|node: usize| reaches(&nodes[node], "ready")["pid"].clone());
        let before = pids();
        for _ in 0..4 {
            nodes.iter().for_each(reloaded);
        }
        assert_eq!((pids(), nodes.each_ref().map(starts)), (before, [1, 1]));
        nodes.into_iter().rev().for_each(end);
    });
}

#[test]
fn changed_settings_of_k3s_restart_it_alone() {
    isolated(|| {
        let (_lab, mut node) = server();
        node.start();
        let before = reaches(&node, "ready");
        control(&node, "leave-children\n");
        let pod = pid_in(&node, "pod");
        set(&node, "args = [\"--node-label=site=attic\"]");
        reloaded(&node);
        assert_eq!(starts(&node), 2);
        let after = reaches(&node, "ready");
        assert_ne!(after["pid"], before["pid"]);
        assert_eq!(pid_in(&node, "pod"), pod, "the pod lives on");
        reloaded(&node);
        assert_eq!(starts(&node), 2, "once");
        // What a running node with k3s keeps.
        set(&node, "enabled = false");
        let output = node.ask(&["reload", "--wait"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            !output.status.success() && said.contains("k3s.enabled"),
            "{said}"
        );
        assert_eq!(reaches(&node, "ready")["pid"], after["pid"]);
        end(node);
    });
}

#[test]
fn a_k3s_that_hangs_is_started_anew_and_its_pods_live_on() {
    isolated_for(3 * SOON, || {
        let (_lab, mut node) = server();
        // Five minutes in earnest.
        let hang = ("HEPTO_DEBUG_HANG_SECONDS".to_owned(), "2".to_owned());
        node.environment.push(hang);
        node.start();
        reaches(&node, "ready");
        control(&node, "leave-children\n");
        let pod = pid_in(&node, "pod");
        control(&node, "leave-children\nhang\n");
        until(3 * SOON, "k3s is started again", || starts(&node) == 2);
        control(&node, "leave-children\n");
        let after = reaches(&node, "ready");
        assert_eq!((&after["restarts"], pid_in(&node, "pod")), (&1.into(), pod));
        assert!(node.log().contains("k3s hung"), "{}", node.log());
        end(node);
    });
}
