//! The supervisor dies; k3s is none the worse for it.

use std::fs;
use std::net::UdpSocket;
use std::process::Command;

use hepto_tests::{Inventory, Node, isolated, isolated_for};

use crate::{
    SOON, all_gone, control, end, folder, k3s, pid_in, reaches, server, stand_ins, starts,
};

#[test]
fn k3s_outlives_its_supervisor_and_the_next_one_takes_it_over() {
    isolated(|| {
        let (_lab, mut node) = server();
        node.start();
        let before = reaches(&node, "ready");
        control(&node, "leave-children\n");
        let pod = pid_in(&node, "pod");
        let mut running = stand_ins();
        running.sort_unstable();
        assert_eq!(running.len(), 3, "k3s, shim and pod run");
        node.crash();
        let mut left = stand_ins();
        left.sort_unstable();
        assert_eq!(left, running, "k3s, shim and pod run on");
        node.start();
        let after = reaches(&node, "ready");
        assert_eq!(after["pid"], before["pid"]);
        assert_eq!((starts(&node), pid_in(&node, "pod")), (1, pod));
        assert_eq!(after["restarts"], 0);
        // What was taken over is supervised like any other.
        control(&node, "leave-children\ncrash\n");
        hepto_tests::until(SOON, "k3s is started again", || starts(&node) == 2);
        reaches(&node, "ready");
        assert!(node.stop(SOON).success(), "{}", node.log());
        all_gone(SOON);
    });
}

#[test]
fn a_k3s_that_ended_while_nobody_looked_is_started_again() {
    isolated(|| {
        let (_lab, mut node) = server();
        node.start();
        reaches(&node, "ready");
        node.crash();
        control(&node, "crash\n");
        let gone = || stand_ins().is_empty();
        hepto_tests::until(SOON, "k3s ended", gone);
        node.start();
        reaches(&node, "ready");
        assert_eq!(starts(&node), 2);
        assert_eq!(k3s(&node).expect("it runs")["ready"], true);
        end(node);
    });
}

/// A server that is ready, with a pod, whose supervisor has crashed; what runs.
fn crashed(node: &mut Node) -> Vec<i32> {
    node.start();
    reaches(node, "ready");
    control(node, "leave-children\n");
    pid_in(node, "pod");
    node.crash();
    running()
}

/// k3s, its shim and its pod.
fn running() -> Vec<i32> {
    let mut running = stand_ins();
    running.sort_unstable();
    running
}

/// Has the note beside the config name another identity; gives what it said.
fn forget_identity(node: &Node) -> Vec<u8> {
    let note = node.config.with_extension("toml.identity");
    let identity = fs::read(&note).expect("the note of the identity");
    fs::write(&note, "another\n").expect("the note of the identity");
    identity
}

/// Marks the node's network as somebody's.
fn mark(node: &Node, owner: &str) {
    let inside = node.inside().expect("the namespace is there");
    let mut command = Command::new("ip");
    command.args(["link", "set", "lo", "alias", owner]);
    let mut child = inside.spawn(&mut command).expect("ip starts");
    assert!(child.wait().expect("it is ours").success());
}

#[test]
fn a_start_that_fails_after_a_crash_leaves_all_to_the_next() {
    isolated_for(4 * SOON, || {
        let (_lab, mut node) = server();
        let left = crashed(&mut node);
        assert_eq!(left.len(), 3, "k3s, shim and pod run on");
        let fails = |node: &mut Node, code: &str| {
            let before = node.log().len();
            node.start();
            let ended = node.end(SOON);
            let said = node.log().split_off(before);
            assert!(!ended.success() && said.contains(code), "{code}: {said}");
            assert_eq!(running(), left, "{code}: {said}");
            said
        };
        // Each at another point of the start, from its beginning to k3s.
        let config = fs::read(&node.config).expect("the config file");
        fs::write(&node.config, [&config[..], b"nonsense"].concat()).expect("the config file");
        fails(&mut node, "nonsense");
        fs::write(&node.config, &config).expect("the config file");

        let identity = forget_identity(&node);
        let said = fails(&mut node, "E-STORAGE-ABSENT");
        assert!(said.contains("W-RUN-LEFT"), "{said}");
        let note = node.config.with_extension("toml.identity");
        fs::write(note, identity).expect("the note of the identity");

        mark(&node, "somebody");
        fails(&mut node, "E-NET-FOREIGN");
        mark(&node, &format!("hepto:{}:mars", node.recipe.cluster));

        let inside = node.inside().expect("the namespace is there");
        let taken = inside.run(|| UdpSocket::bind("[::]:51820"));
        let taken = taken.expect("the namespace can be entered");
        fails(&mut node, "E-TUNNEL-PORT-BUSY");
        drop(taken.expect("the port is free after the crash"));

        let settings = folder(&node, "etc-rancher").join("k3s/config.yaml");
        let aside = settings.with_extension("aside");
        fs::rename(&settings, &aside).expect("k3s's settings");
        fs::create_dir(&settings).expect("k3s's folder");
        fails(&mut node, "E-K3S-FILE");
        fs::remove_dir(&settings).expect("k3s's folder");
        fs::rename(&aside, &settings).expect("k3s's settings");

        node.start();
        let after = reaches(&node, "ready");
        assert_eq!(running(), left);
        assert_eq!((starts(&node), &after["restarts"]), (1, &0.into()));
        assert!(node.stop(SOON).success(), "{}", node.log());
        all_gone(SOON);
    });
}

#[test]
fn what_a_failed_start_left_is_ended_by_a_stop() {
    isolated(|| {
        let (_lab, mut node) = server();
        let before = Inventory::of(node.home());
        let left = crashed(&mut node);
        forget_identity(&node);
        node.start();
        assert!(!node.end(SOON).success());
        assert_eq!(running(), left);
        let stop = node.ask(&["stop"]);
        let said = String::from_utf8_lossy(&stop.stderr);
        assert!(stop.status.success(), "{said}");
        all_gone(SOON);
        assert_eq!(
            Inventory::of(node.home()).more_than(&before),
            Vec::<String>::new()
        );
    });
}
