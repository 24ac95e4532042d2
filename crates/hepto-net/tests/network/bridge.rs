//! Whether packets that a bridge carries meet a firewall is each namespace's own business.

use std::fs;

use crate::lab::{close, converge, inside, isolated, open, settings, wire};

/// Of the namespace of who looks.
const CALL: &str = "/proc/sys/net/bridge/bridge-nf-call-iptables";

#[test]
fn the_nodes_bridges_are_filtered_and_the_hosts_stay_as_they_are() {
    isolated(
        "bridge::the_nodes_bridges_are_filtered_and_the_hosts_stay_as_they_are",
        || async {
            wire();
            fs::write(CALL, "0").expect("this kernel has br_netfilter: modprobe br_netfilter");
            let mut wanted = settings();
            wanted.filter_bridges = true;
            let mut network = open(wanted).await;
            inside("sysctl -q -w net.bridge.bridge-nf-call-iptables=0");
            converge(&mut network).await;
            assert_eq!(inside(&format!("cat {CALL}")).trim(), "1");
            assert_eq!(fs::read_to_string(CALL).unwrap().trim(), "0");
            assert!(converge(&mut network).await.steps.is_empty());
            close(network).await;
        },
    );
}

#[test]
fn without_pods_nobody_asks_for_it() {
    isolated("bridge::without_pods_nobody_asks_for_it", || async {
        wire();
        let mut network = open(settings()).await;
        inside("sysctl -q -w net.bridge.bridge-nf-call-iptables=0");
        converge(&mut network).await;
        assert_eq!(inside(&format!("cat {CALL}")).trim(), "0");
        close(network).await;
    });
}
