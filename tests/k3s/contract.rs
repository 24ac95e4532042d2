//! The contract itself: kept by a node, and noticed where it is not.

use std::fs;
use std::process::Command;

use hepto_tests::{isolated, stand_in, until};

use crate::{PROGRAM, SOON, end, file, k3s_log, reaches, server, starts};

#[test]
fn a_server_alone_is_ready() {
    isolated(|| {
        let (_lab, mut node) = server();
        node.start();
        let k3s = reaches(&node, "ready");
        assert_eq!(k3s["ready"], true);
        assert_eq!(k3s["restarts"], 0, "{}", k3s_log(&node));
        assert_eq!(starts(&node), 1);
        assert!(!k3s_log(&node).contains("contract broken"));
        // The pid is the host's: there it is the stand-in.
        let line = fs::read(format!("/proc/{}/cmdline", k3s["pid"]))
            .expect("the process that `status` names");
        assert!(
            String::from_utf8_lossy(&line).contains("k3s-stand-in"),
            "{k3s}"
        );
        assert!(node.log().contains("k3s is ready"), "{}", node.log());
        end(node);
    });
}

#[test]
fn kubectl_lists_the_node() {
    isolated(|| {
        let (_lab, mut node) = server();
        node.start();
        reaches(&node, "ready");
        let listed = || {
            let output = node.ask(&["kubectl", "get", "nodes"]);
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            text.lines()
                .any(|line| line.starts_with("mars ") && line.contains(" Ready "))
        };
        until(SOON, "kubectl lists mars as Ready", listed);
        end(node);
    });
}

#[test]
fn the_kernels_own_settings_stay_the_hosts() {
    isolated(|| {
        let files = [
            "vm/overcommit_memory",
            "kernel/panic",
            "kernel/panic_on_oops",
        ];
        let read = || {
            files.map(|file| {
                fs::read_to_string(format!("/proc/sys/{file}")).expect("a setting of the kernel")
            })
        };
        let before = read();
        let (_lab, mut node) = server();
        node.start();
        // The stand-in writes them, as the kubelet does, and reads back what it wrote.
        reaches(&node, "ready");
        assert_eq!(read(), before);
        end(node);
    });
}

#[test]
fn a_restart_keeps_certificates_and_password() {
    isolated(|| {
        let (_lab, mut node) = server();
        node.start();
        reaches(&node, "ready");
        let certificates = file(&node, "starts").with_file_name("server/tls/server-ca.crt");
        let before = fs::read(&certificates).expect("the cluster's authority");
        assert!(node.stop(SOON).success(), "{}", node.log());
        node.start();
        reaches(&node, "ready");
        assert_eq!(starts(&node), 2);
        assert_eq!(
            fs::read(&certificates).expect("the cluster's authority"),
            before
        );
        assert!(
            !k3s_log(&node).contains("Node password rejected"),
            "{}",
            k3s_log(&node)
        );
        end(node);
    });
}

/// The stand-in is no rubber stamp: started by hand it finds what is missing.
#[test]
fn a_place_that_is_no_sandbox_is_refused() {
    isolated(|| {
        let directory = tempfile::tempdir().expect("a folder");
        let config = directory.path().join("config.yaml");
        let text = "data-dir: \"/var/lib/rancher/k3s\"\nnode-name: \"mars\"\nnode-ip: \"10.44.0.1\"\ntoken: \"x\"\n";
        fs::write(&config, text).expect("a config file");
        let mut command = Command::new(stand_in(PROGRAM));
        command
            .args(["server", "--config"])
            .arg(&config)
            .env("INVOCATION_ID", "x");
        let output = command.output().expect("the stand-in starts");
        assert_eq!(output.status.code(), Some(64));
        let said = String::from_utf8_lossy(&output.stderr);
        for line in [
            "token is in the config file",
            "INVOCATION_ID is in the environment",
            "not of the node's init",
            "/var/lib/kubelet is not the node's own mount",
            "is not on flannel-iface",
            "is not of mode 0600",
        ] {
            assert!(said.contains(line), "{line:?} is missing in\n{said}");
        }
    });
}
