//! k3s ends by itself.

use std::fs;
use std::time::Instant;

use hepto_tests::{isolated, isolated_for, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{SOON, control, end, k3s, pid_in, reaches, server, starts};

#[test]
fn a_crash_is_followed_by_a_new_start_and_pods_outlive_it() {
    isolated(|| {
        let (_lab, mut node) = server();
        node.start();
        reaches(&node, "ready");
        control(&node, "leave-children\n");
        let pod = pid_in(&node, "pod");
        let before = k3s(&node).expect("it runs")["pid"].clone();
        control(&node, "leave-children\ncrash\n");
        until(SOON, "k3s is started again", || starts(&node) == 2);
        let after = reaches(&node, "ready");
        assert_eq!(after["restarts"], 1);
        assert_ne!(after["pid"], before);
        assert_eq!(pid_in(&node, "pod"), pod, "the pod lives on");
        assert!(node.log().contains("exit code 1"), "{}", node.log());
        end(node);
    });
}

#[test]
fn a_crash_loop_backs_off() {
    isolated_for(2 * SOON, || {
        let (_lab, mut node) = server();
        control(&node, "crash-loop\n");
        node.start();
        let restarts = |count: u64| {
            let seen = || k3s(&node).is_ok_and(|k3s| k3s["restarts"].as_u64() >= Some(count));
            until(SOON, &format!("restart {count}"), seen);
            Instant::now()
        };
        let times: Vec<Instant> = (1..=4).map(restarts).collect();
        // 1 s, then from 2, 4 at least the half; each end is seen within a fraction of a second.
        let pauses: Vec<f64> = times
            .windows(2)
            .map(|pair| (pair[1] - pair[0]).as_secs_f64())
            .collect();
        assert!(
            pauses[0] >= 0.7 && pauses[1] >= 0.7 && pauses[2] >= 1.7,
            "{pauses:?}"
        );
        let now = k3s(&node).expect("it runs");
        assert_eq!(now["state"], "backing off");
        assert_eq!(now["ready"], false);
        control(&node, "");
        reaches(&node, "ready");
        end(node);
    });
}

#[test]
fn a_dead_init_is_cleaned_up_and_all_is_built_anew() {
    isolated_for(2 * SOON, || {
        let (_lab, mut node) = server();
        node.start();
        let before = reaches(&node, "ready");
        control(&node, "leave-children\n");
        pid_in(&node, "pod");
        let status =
            fs::read_to_string(format!("/proc/{}/status", before["pid"])).expect("k3s runs");
        let parent = status
            .lines()
            .find_map(|line| line.strip_prefix("PPid:"))
            .expect("a parent");
        let init = Pid::from_raw(parent.trim().parse().expect("a pid"));
        control(&node, "");
        kill(init, Signal::SIGKILL).expect("the node's init is ours");
        until(SOON, "k3s is started again", || starts(&node) == 2);
        let after = reaches(&node, "ready");
        assert_ne!(after["pid"], before["pid"]);
        end(node);
    });
}
