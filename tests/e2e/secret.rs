//! Secrets stay in their files.

use std::os::unix::fs::PermissionsExt;
use std::time::Instant;

use hepto_tests::{Node, isolated};

use crate::{SOON, new_lab};

#[test]
fn secrets_are_in_no_argument_environment_log_or_report() {
    isolated(|| {
        let lab = new_lab();
        let mut nodes = lab.nodes(&["mars", "venus"]);
        for node in &mut nodes {
            node.environment
                .push(("RUST_LOG".to_owned(), "trace".to_owned()));
            node.start();
        }
        Node::all_meet(&[&nodes[0], &nodes[1]], Instant::now(), SOON);
        let mut public = vec![nodes[0].log(), nodes[1].log()];
        for file in ["cmdline", "environ"] {
            let read = std::fs::read(format!("/proc/{}/{file}", nodes[0].pid()))
                .expect("a running process");
            public.push(String::from_utf8_lossy(&read).into_owned());
        }
        public.push(nodes[0].status().expect("it runs").to_string());
        public.push(format!("{:?}", nodes[0].peers().expect("it runs")));
        public.push(String::from_utf8_lossy(&config_show(&nodes[0])).into_owned());
        let mut secrets: Vec<String> = ["overlay.key", "cluster.key"]
            .iter()
            .map(|name| lab.directory.join(name))
            .map(|path| std::fs::read_to_string(path).expect("the lab's key"))
            .collect();
        for node in &nodes {
            let own = node
                .recipe
                .storage
                .join(node.name())
                .join("identity/node.key");
            let own = std::fs::read_to_string(own).expect("the node's keys");
            let keys = own.split([' ', '=', ':', '\n', '"']);
            secrets.extend(keys.filter(|key| key.len() >= 40).map(str::to_owned));
        }
        assert_eq!(
            secrets.len(),
            6,
            "two keys of the cluster, two of each node"
        );
        for secret in secrets {
            let secret = secret.trim();
            assert!(
                public.iter().all(|text| !text.contains(secret)),
                "a secret was shown"
            );
        }
    });
}

#[test]
fn a_secret_file_that_others_may_read_is_refused() {
    isolated(|| {
        let lab = new_lab();
        let mut nodes = lab.nodes(&["mars"]);
        let mode = std::fs::Permissions::from_mode(0o644);
        std::fs::set_permissions(lab.directory.join("overlay.key"), mode).expect("the lab's key");
        nodes[0].start();
        assert_eq!(nodes[0].end(SOON).code(), Some(78));
        nodes[0].says("overlay.key", SOON);
        nodes[0].says("0600", SOON);
    });
}

fn config_show(node: &Node) -> Vec<u8> {
    let output = node
        .command(&["config", "show"])
        .arg(&node.config)
        .output()
        .expect("hepto-node starts");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}
