//! k3s runs, but does not work.

use hepto_tests::isolated_for;

use crate::{SOON, control, end, k3s, reaches, server, starts};

#[test]
fn a_hung_k3s_is_degraded_until_it_answers_again() {
    isolated_for(3 * SOON, || {
        let (_lab, mut node) = server();
        node.start();
        let before = reaches(&node, "ready");
        control(&node, "hang\n");
        let hung = reaches(&node, "degraded");
        assert_eq!(hung["ready"], false);
        assert!(
            hung["detail"]
                .as_str()
                .is_some_and(|detail| detail.contains("API server")),
            "{hung}"
        );
        assert_eq!(hung["pid"], before["pid"], "it is not ended for that");
        control(&node, "");
        let after = reaches(&node, "ready");
        assert_eq!((&after["pid"], starts(&node)), (&before["pid"], 1));
        end(node);
    });
}

#[test]
fn a_k3s_that_hangs_from_its_start_is_not_called_ready() {
    isolated_for(2 * SOON, || {
        let (_lab, mut node) = server();
        control(&node, "hang\n");
        node.start();
        let k3s_now = reaches(&node, "joining");
        assert_eq!(k3s_now["ready"], false);
        // The node itself is up: an agent without its server must not make systemd kill it.
        assert_eq!(node.ask(&["status"]).status.code(), Some(0));
        control(&node, "");
        reaches(&node, "ready");
        assert_eq!(k3s(&node).expect("it runs")["restarts"], 0);
        end(node);
    });
}
