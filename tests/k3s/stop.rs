//! The end of a node with k3s in it.

use std::time::{Duration, Instant};

use hepto_tests::{Inventory, isolated, isolated_for};

use crate::{SOON, all_gone, control, k3s_log, pid_in, reaches, server, was_told, with_k3s};

#[test]
fn sigterm_tells_k3s_and_pods_and_leaves_nothing() {
    isolated(|| {
        let (_lab, mut node) = server();
        let before = Inventory::of(node.home());
        node.start();
        reaches(&node, "ready");
        control(&node, "leave-children\n");
        pid_in(&node, "pod");
        let start = Instant::now();
        assert!(node.stop(SOON).success(), "{}", node.log());
        assert!(
            start.elapsed() < Duration::from_secs(10),
            "all ended when told, in {:?}",
            start.elapsed()
        );
        assert!(was_told(&node, "pod"), "the pod was asked to end");
        assert!(
            !was_told(&node, "shim"),
            "the shim was not: it waits for its pod"
        );
        all_gone(SOON);
        assert_eq!(
            Inventory::of(node.home()).more_than(&before),
            Vec::<String>::new()
        );
    });
}

#[test]
fn what_ignores_sigterm_is_ended_when_the_grace_is_over() {
    isolated_for(2 * SOON, || {
        let (lab, node) = server();
        let home = node.home().clone();
        let before = Inventory::of(&home);
        let recipe = with_k3s(lab.recipe(1, "mars")).with("k3s", "drain = \"3s\"");
        let mut node = lab.node(&home, recipe);
        control(&node, "ignore-term\n");
        node.start();
        reaches(&node, "ready");
        let start = Instant::now();
        assert!(node.stop(SOON).success(), "{}", node.log());
        // A part of the grace is k3s's, the rest its pods'; what is left then is killed and removed.
        let took = start.elapsed().as_secs_f64();
        assert!(
            (1.0..8.0).contains(&took),
            "the grace is 3 s, it took {took:.1}"
        );
        assert!(
            k3s_log(&node).contains("SIGTERM: ignored"),
            "{}",
            k3s_log(&node)
        );
        all_gone(SOON);
        assert_eq!(
            Inventory::of(&home).more_than(&before),
            Vec::<String>::new()
        );
    });
}

#[test]
fn a_node_whose_k3s_is_missing_says_so_and_leaves_nothing() {
    isolated(|| {
        let (lab, node) = server();
        let home = node.home().clone();
        let before = Inventory::of(&home);
        let recipe = lab
            .recipe(1, "mars")
            .without("k3s")
            .with("k3s", "binary = \"/usr/local/bin/no-such-k3s\"");
        let mut node = lab.node(&home, recipe);
        node.start();
        assert!(!node.end(SOON).success(), "{}", node.log());
        node.says("/usr/local/bin/no-such-k3s", SOON);
        assert_eq!(
            Inventory::of(&home).more_than(&before),
            Vec::<String>::new()
        );
    });
}

#[test]
fn a_node_of_a_dead_supervisor_is_stopped_by_hand() {
    isolated(|| {
        let (_lab, mut node) = server();
        let before = Inventory::of(node.home());
        node.start();
        reaches(&node, "ready");
        control(&node, "leave-children\n");
        pid_in(&node, "pod");
        node.crash();
        let output = node.ask(&["stop"]);
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(was_told(&node, "pod"));
        all_gone(SOON);
        assert_eq!(
            Inventory::of(node.home()).more_than(&before),
            Vec::<String>::new()
        );
    });
}
