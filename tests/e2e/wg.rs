//! WireGuard's own tool, as Debian has it, looks at a node's tunnel.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use hepto_tests::{Inventory, Node, isolated, stand_in, until};

use crate::{PROGRAM, SOON, new_lab, seconds};

/// The lines of `wg show hepto0 dump`: the interface's, then one a peer.
fn dump(node: &Node) -> Vec<Vec<String>> {
    let text = node
        .exec_net(&["wg", "show", "hepto0", "dump"])
        .expect("Debian's wireguard-tools are installed");
    text.lines()
        .map(|line| line.split('\t').map(str::to_owned).collect())
        .collect()
}

#[test]
fn wg_shows_the_tunnel_without_its_secrets_and_changes_nothing() {
    isolated(|| {
        let lab = new_lab();
        let mut nodes = lab.nodes(&["mars", "venus"]);
        let before = Inventory::of(nodes[0].home());
        nodes.iter_mut().for_each(Node::start);
        Node::all_meet(&[&nodes[0], &nodes[1]], Instant::now(), SOON);

        let lines = dump(&nodes[0]);
        let [interface, peer] = &lines[..] else {
            panic!("one interface, one peer: {lines:?}")
        };
        assert_eq!(interface[..2], ["(none)", "(none)"], "no private key");
        assert_eq!(interface[2], "51820");
        let known = &nodes[0].peers().expect("it runs")[0];
        assert_eq!(peer[0], known["public_key"].as_str().expect("a key"));
        assert_eq!(peer[1], "(none)", "no preshared key");
        assert_eq!(peer[2], known["endpoint"].as_str().expect("an endpoint"));
        for address in nodes[1].overlay() {
            assert!(peer[3].contains(&address.to_string()), "{peer:?}");
        }
        let number = |field: &String| field.parse::<u64>().expect("a number");
        assert!(number(&peer[4]) > 0, "the handshake's time");
        assert!(number(&peer[5]) > 0 && number(&peer[6]) > 0, "bytes");
        assert_eq!(peer[7], "25");
        let pretty = nodes[0].exec_net(&["wg"]).expect("also without a name");
        assert!(
            pretty.contains("interface: hepto0") && pretty.contains("latest handshake:"),
            "{pretty}"
        );

        let refused = nodes[0]
            .exec_net(&["wg", "set", "hepto0", "peer", &peer[0], "remove"])
            .expect_err("the mesh alone decides");
        assert!(refused.contains("not supported"), "{refused}");
        assert_eq!(dump(&nodes[0]).len(), 2);

        // The host's own place is the host's.
        let outside = nodes[0]
            .home()
            .space()
            .run(|| std::fs::read_dir("/run/wireguard").map_or(0, |entries| entries.count()));
        assert_eq!(outside.expect("the home lives"), 0);
        nodes[0].stop(SOON);
        let left = Inventory::of(nodes[0].home()).more_than(&before);
        let left: Vec<_> = left
            .iter()
            .filter(|item| item.contains("wireguard"))
            .collect();
        assert!(left.is_empty(), "{left:?}");
    });
}

#[test]
fn wg_works_in_all_of_the_nodes_namespaces_or_in_those_that_there_are() {
    isolated(|| {
        let lab = new_lab();
        let k3s = format!("binary = {:?}", stand_in(PROGRAM));
        let home = [lab.home(1), lab.home(2)];
        let mut nodes = [
            lab.node(
                &home[0],
                lab.recipe(1, "mars").without("k3s").with("k3s", &k3s),
            ),
            lab.node(&home[1], lab.recipe(2, "venus")),
        ];
        nodes.iter_mut().for_each(Node::start);
        Node::all_meet(&[&nodes[0], &nodes[1]], Instant::now(), SOON);
        for node in &nodes {
            let show = || node.exec(&["wg", "show", "hepto0", "latest-handshakes"]);
            until(SOON, "the one peer is seen", || {
                show().is_ok_and(|text| text.lines().count() == 1)
            });
        }
        // A new supervisor makes the socket anew; the sandbox is the old one.
        nodes[0].crash();
        nodes[0].start();
        until(SOON, "it is seen again", || {
            let shown = nodes[0].exec(&["wg", "show", "hepto0", "listen-port"]);
            shown.is_ok_and(|text| text == "51820\n")
        });
        for node in &mut nodes {
            assert!(node.stop(SOON).success());
        }
    });
}

/// A folder is bound, not the socket: each run of the supervisor makes the socket anew.
#[test]
fn a_shell_in_the_network_sees_the_tunnel_of_the_next_supervisor_too() {
    isolated(|| {
        let lab = new_lab();
        let mut nodes = lab.nodes(&["mars"]);
        nodes[0].start();
        until(SOON, "the tunnel is seen", || {
            nodes[0].exec_net(&["wg", "show", "hepto0"]).is_ok()
        });
        let mut shell = nodes[0].command(&["exec", "--config"]);
        shell.arg(&nodes[0].config).args([
            "--net",
            "--",
            "sh",
            "-c",
            "read line; wg show hepto0 listen-port",
        ]);
        shell
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped());
        let mut shell = nodes[0].home().space().spawn(&mut shell).expect("a shell");
        let mounted = |pid: u32| {
            std::fs::read_to_string(format!("/proc/{pid}/mountinfo"))
                .is_ok_and(|text| text.contains("/run/wireguard "))
        };
        until(SOON, "the shell stands in the node", || mounted(shell.id()));
        nodes[0].crash();
        nodes[0].start();
        until(SOON, "the node is back", || nodes[0].status().is_ok());
        drop(shell.stdin.take());
        let output = shell.wait_with_output().expect("it is ours");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "51820\n");
    });
}

#[test]
fn slow_and_many_clients_hurt_nobody() {
    isolated(|| {
        let lab = new_lab();
        let mut nodes = lab.nodes(&["mars"]);
        nodes[0].start();
        until(SOON, "the tunnel is seen", || {
            nodes[0].exec_net(&["wg", "show", "hepto0"]).is_ok()
        });
        let recipe = &nodes[0].recipe;
        let path = PathBuf::from(format!(
            "/run/hepto/{}.{}/wireguard/hepto0.sock",
            recipe.cluster, recipe.name
        ));
        let connect = || {
            let path = path.clone();
            nodes[0]
                .home()
                .space()
                .run(move || UnixStream::connect(path))
                .expect("the home lives")
                .expect("the socket takes us")
        };
        // Half a request each, and nobody reads.
        let start = Instant::now();
        let mut slow: Vec<UnixStream> = (0..40).map(|_| connect()).collect();
        for stream in &mut slow {
            stream.write_all(b"get=1\n").expect("there is room");
        }
        assert!(nodes[0].status().is_ok(), "the node itself does not wait");
        // The first eight are cut off after ten seconds; when all were served so, it is our turn.
        let mut stream = slow.swap_remove(0);
        stream
            .set_read_timeout(Some(seconds(30)))
            .expect("a timeout");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("it is closed");
        assert!(answer.is_empty() && start.elapsed() >= Duration::from_secs(9));
        drop(slow);
        until(SOON, "the tunnel is seen", || {
            nodes[0].exec_net(&["wg", "show", "hepto0"]).is_ok()
        });
        // A client that asks without end is cut off as well.
        let mut stream = connect();
        stream
            .set_write_timeout(Some(seconds(30)))
            .expect("a timeout");
        let line = [b'a'; 65_536];
        let cut = (0..64).any(|_| stream.write_all(&line).is_err());
        assert!(cut, "four megabytes are no request");
    });
}
