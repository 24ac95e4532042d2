//! The supervisor dies; k3s is none the worse for it.

use hepto_tests::isolated;

use crate::{SOON, all_gone, control, end, k3s, pid_in, reaches, server, stand_ins, starts};

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
