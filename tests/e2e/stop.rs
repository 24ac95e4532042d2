//! Nothing is left behind.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

use hepto_tests::{Inventory, Node, Recipe, Space, isolated};
use nix::mount::{MsFlags, mount};

use crate::{SOON, new_lab};

const NONE: Option<&str> = None;

#[test]
fn a_stop_by_signal_leaves_nothing() {
    isolated(|| leaves_nothing(|node| assert!(node.stop(SOON).success())));
}

#[test]
fn a_stop_by_command_leaves_nothing() {
    isolated(|| {
        leaves_nothing(|node| {
            let stop = node.ask(&["stop"]);
            assert!(
                stop.status.success(),
                "{}",
                String::from_utf8_lossy(&stop.stderr)
            );
            assert!(node.end(SOON).success());
        });
    });
}

#[test]
fn a_stop_after_a_crash_leaves_nothing() {
    isolated(|| {
        leaves_nothing(|node| {
            node.crash();
            let stop = node.ask(&["stop"]);
            assert!(
                stop.status.success(),
                "{}",
                String::from_utf8_lossy(&stop.stderr)
            );
        });
    });
}

fn leaves_nothing(stop: impl FnOnce(&mut Node)) {
    let lab = new_lab();
    let mut nodes = lab.nodes(&["mars", "venus"]);
    let before = Inventory::of(nodes[1].home());
    nodes[1].start();
    nodes[1].overlay();
    let during = Inventory::of(nodes[1].home());
    for kind in ["mount ", "process ", "file ", "socket unix "] {
        let more = during.more_than(&before);
        assert!(
            more.iter().any(|item| item.starts_with(kind)),
            "the inventory sees a {kind} of a running node: {more:?}"
        );
    }
    nodes[0].start();
    Node::all_meet(&[&nodes[0], &nodes[1]], Instant::now(), SOON);
    nodes[0].stop(SOON);
    stop(&mut nodes[1]);
    assert_eq!(
        Inventory::of(nodes[1].home()).more_than(&before),
        Vec::<String>::new()
    );
}

#[test]
fn a_run_with_an_address_of_its_host_is_refused_and_leaves_nothing() {
    isolated(|| {
        let lab = new_lab();
        let home = lab.home(1);
        let mut recipe = lab.recipe(1, "mars");
        recipe.uplink[0] = "192.168.77.1".parse().expect("the home's own address");
        refused(&mut lab.node(&home, recipe), 78, "E-NET-ADDR-HOST");
    });
}

#[test]
fn a_run_whose_k3s_is_missing_is_refused_and_leaves_nothing() {
    isolated(|| {
        let lab = new_lab();
        let recipe = lab
            .recipe(1, "mars")
            .without("k3s")
            .with("k3s", "binary = \"/nowhere/k3s\"");
        refused(&mut lab.node(&lab.home(1), recipe), 78, "/nowhere/k3s");
    });
}

#[test]
fn a_run_with_a_wrong_setting_is_refused_before_anything_is_made() {
    isolated(|| {
        let lab = new_lab();
        let recipe = lab
            .recipe(1, "mars")
            .with("network", "mtuu = 1400")
            .with("mesh", "port = \"x\"");
        let mut node = lab.node(&lab.home(1), recipe);
        refused(&mut node, 78, "mtuu");
        assert!(
            node.log().contains("port"),
            "all errors at once:\n{}",
            node.log()
        );
        assert!(
            !node.recipe.storage.join("mars").exists(),
            "nothing was made"
        );
    });
}

#[test]
fn a_run_that_fails_half_way_leaves_nothing() {
    isolated(|| {
        let lab = new_lab();
        let home = lab.home(1);
        // The namespace can be made, the overlay's interface in it cannot.
        let hide = || {
            mount(
                Some("/dev/null"),
                "/dev/net/tun",
                NONE,
                MsFlags::MS_BIND,
                NONE,
            )
        };
        home.space()
            .run(hide)
            .expect("the home lives")
            .expect("a bind");
        let mut node = lab.node(&home, lab.recipe(1, "mars"));
        refused(&mut node, 1, "E-TUNNEL");
    });
}

#[test]
fn a_namespace_of_someone_else_is_refused_and_left_alone() {
    isolated(|| {
        let lab = new_lab();
        let home = lab.home(1);
        let other = Space::private().expect("a namespace");
        let place = format!("/run/netns/hepto-{}.mars", lab.cluster);
        // As `ip netns add` leaves it.
        let folder = || {
            std::fs::create_dir("/run/netns")?;
            mount(
                Some("/run/netns"),
                "/run/netns",
                NONE,
                MsFlags::MS_BIND,
                NONE,
            )?;
            mount(NONE, "/run/netns", NONE, MsFlags::MS_SHARED, NONE).map_err(std::io::Error::from)
        };
        let made = home.space().run(folder).expect("the home lives");
        made.expect("its /run");
        home.space().pin(&other, &place).expect("a pin");
        let mut node = lab.node(&home, lab.recipe(1, "mars"));
        refused(&mut node, 1, "E-NET-FOREIGN");
        let there = home.space().network_at(Path::new(&place));
        there.expect("it is still there");
    });
}

#[test]
fn a_run_without_permission_says_so_and_leaves_nothing() {
    isolated(|| {
        let lab = new_lab();
        let home = lab.home(1);
        let node = lab.node(&home, lab.recipe(1, "mars"));
        let before = Inventory::of(&home);
        let mut command = std::process::Command::new("setpriv");
        command.args([
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            crate::PROGRAM,
            "run",
            "--config",
        ]);
        command.arg(&node.config).stderr(Stdio::piped());
        let output = home
            .space()
            .spawn(&mut command)
            .expect("setpriv starts")
            .wait_with_output()
            .expect("it ends");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(77), "{said}");
        assert!(said.contains("root"), "{said}");
        assert_eq!(
            Inventory::of(&home).more_than(&before),
            Vec::<String>::new()
        );
    });
}

/// Starts a node that cannot run: it ends with this code, says these words, and leaves nothing.
fn refused(node: &mut Node, code: i32, words: &str) {
    let before = Inventory::of(node.home());
    node.start();
    let ended = node.end(SOON);
    let log = node.log();
    assert_eq!(ended.code(), Some(code), "{log}");
    assert!(log.contains(words), "{log}");
    assert_eq!(
        Inventory::of(node.home()).more_than(&before),
        Vec::<String>::new()
    );
}

#[test]
fn a_service_manager_is_told_when_the_node_is_up_and_when_it_stops() {
    isolated(|| {
        let lab = new_lab();
        let recipe = Recipe {
            master: "venus".to_owned(),
            ..lab.recipe(1, "mars")
        };
        let mut node = lab.node(&lab.home(1), recipe);
        let path = lab.directory.join("notify.sock");
        let socket = UnixDatagram::bind(&path).expect("a socket");
        socket
            .set_read_timeout(Some(SOON))
            .expect("a socket option");
        node.environment.push((
            "NOTIFY_SOCKET".to_owned(),
            path.to_string_lossy().into_owned(),
        ));
        node.start();
        heard(&socket, "READY=1");
        node.status()
            .expect("the control socket answers when READY is said");
        node.inside()
            .expect("the namespace exists when READY is said");
        heard(&socket, "STATUS=");
        assert!(node.stop(SOON).success());
        heard(&socket, "STOPPING=1");
    });
}

fn heard(socket: &UnixDatagram, words: &str) {
    let mut message = [0; 4096];
    loop {
        let length = socket
            .recv(&mut message)
            .unwrap_or_else(|error| panic!("waiting for {words}: {error}"));
        if String::from_utf8_lossy(&message[..length]).contains(words) {
            return;
        }
    }
}
