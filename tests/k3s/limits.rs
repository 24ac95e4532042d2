//! What the host's owner grants is what the node gets, says and, reloaded, gets anew.

use std::fs;

use hepto_tests::{Node, isolated, until, within};
use serde_json::Value;

use crate::{SOON, control, end, folder, pid_in, reaches, server, with_k3s};

fn limits(node: &Node) -> Value {
    node.status().expect("it runs")["limits"].clone()
}

#[test]
fn limits_hold_for_the_whole_node_and_a_reload_changes_them_without_ending_a_pod() {
    isolated(|| {
        let (lab, node) = server();
        let recipe = with_k3s(lab.recipe(1, "mars"))
            .with("limits", "memory = \"1G\"")
            .with("limits", "cpu = 1.5")
            .with("limits", "pids = 1000")
            .with("limits", "bandwidth = { up = \"20M\", down = \"50M\" }");
        let home = node.home().clone();
        let mut node = lab.node(&home, recipe);
        node.start();
        reaches(&node, "ready");
        control(&node, "leave-children\n");
        let pod = pid_in(&node, "pod");
        let said = limits(&node);
        assert_eq!(said["memory_bytes"]["limit"], 1_u64 << 30, "{said}");
        assert_eq!(said["cpu_thousandths"]["limit"], 1500, "{said}");
        assert_eq!(said["pids"]["limit"], 1000, "{said}");
        assert_eq!(said["up"]["limit_bits_s"], 20_000_000, "{said}");
        assert_eq!(said["down"]["limit_bits_s"], 50_000_000, "{said}");
        for used in ["memory_bytes", "pids"] {
            assert!(said[used]["used"].as_u64() > Some(0), "{used}: {said}");
        }
        // kubelet is told to keep what lies beyond: this machine has more.
        let config = fs::read_to_string(folder(&node, "etc-rancher").join("k3s/config.yaml"));
        let config = config.expect("k3s's settings");
        assert!(config.contains("system-reserved="), "{config}");
        until(SOON, "what is sent is counted", || {
            limits(&node)["up"]["bytes"].as_u64() > Some(0)
        });
        let queues = node
            .exec_net(&["tc", "class", "show", "dev", "uplink"])
            .expect("tc");
        assert!(queues.contains("ceil 20Mbit"), "{queues}");

        let text = fs::read_to_string(&node.config).expect("the config file");
        let text = text
            .replace("\"1G\"", "\"2G\"")
            .replace("\"20M\"", "\"10M\"");
        fs::write(&node.config, text.replace("pids = 1000\n", "")).expect("the config file");
        let output = node.ask(&["reload", "--wait"]);
        let words = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{words}");
        let changed = || {
            let said = limits(&node);
            let new = said["memory_bytes"]["limit"] == 2_u64 << 30
                && said["pids"]["limit"].is_null()
                && said["up"]["limit_bits_s"] == 10_000_000;
            new.then_some(()).ok_or_else(|| said.to_string())
        };
        within::<_, String>(SOON, "the limits are new", changed);
        let queues = node
            .exec_net(&["tc", "class", "show", "dev", "uplink"])
            .expect("tc");
        assert!(
            queues.contains("ceil 10Mbit") && !queues.contains("ceil 20Mbit"),
            "{queues}"
        );
        assert_eq!(pid_in(&node, "pod"), pod, "the pod runs on");
        reaches(&node, "ready");
        end(node);
    });
}
