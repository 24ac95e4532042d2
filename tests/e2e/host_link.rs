//! The link between a host and its node, from the first wish for it to the end.

use std::fs;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::time::Duration;

use hepto_tests::{
    Echo, Home, Inventory, Lab, Node, Space, echo, isolated, isolated_for, until, within,
};
use nix::mount::{MsFlags, mount};
use serde_json::Value;

use crate::preflight::serve_dns;
use crate::{SOON, new_lab, seconds};

/// The host's own addresses, as both families know it.
const HOST: [&str; 2] = ["192.168.77.1", "2001:db8:77::1"];

/// Ports on which somebody listens in the node: one that is open, the API server's, kubelet's, gossip's, snapshots'.
const OPEN: u16 = 8080;
const CLOSED: [u16; 4] = [6443, 10250, 7947, 7948];

/// A node whose host has a resolver of its own, at its own address alone.
fn node() -> (Lab, Node) {
    let lab = new_lab();
    let home = lab.home(1);
    let recipe = lab
        .recipe(1, "mars")
        .with("network", "open = [\"tcp/8080\"]");
    let node = lab.node(&home, recipe);
    serve_dns(home.space(), &HOST[..1]);
    let file = lab.directory.join("resolv.conf");
    fs::write(&file, "nameserver 127.0.0.53\nnameserver 192.168.77.1\n").expect("a file");
    let cover = || {
        let none = None::<&str>;
        mount(
            Some(&file),
            "/etc/resolv.conf",
            none,
            MsFlags::MS_BIND,
            none,
        )
    };
    home.space()
        .run(cover)
        .expect("the home lives")
        .expect("a bind");
    wish(&node, false);
    (lab, node)
}

/// Has the config ask for the link, or not; and for the host's resolvers.
fn wish(node: &Node, link: bool) {
    let text = fs::read_to_string(&node.config).expect("its config");
    let kept = text
        .lines()
        .filter(|line| !line.starts_with("dns") && !line.starts_with("host_link"));
    let text: Vec<&str> = kept.collect();
    let text = text
        .join("\n")
        .replace("[network]", &format!("[network]\nhost_link = {link}"));
    fs::write(&node.config, text + "\n").expect("its config");
}

fn reload(node: &Node) {
    let output = node.ask(&["reload", "--wait"]);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Waits until it is up, with its own addresses.
fn ready(node: &Node) -> Space {
    for address in node.recipe.uplink {
        within(SOON, "the node has its addresses", || {
            let bound = node.inside()?.run(|| UdpSocket::bind((address, 0)));
            let bound = bound.map_err(|error| error.to_string())?;
            bound.map_err(|error| error.to_string())
        });
    }
    until(SOON, "it is up", || node.status().is_ok());
    node.inside().expect("it runs")
}

fn answers(from: &Space, to: SocketAddr) -> bool {
    let knock = || TcpStream::connect_timeout(&to, Duration::from_millis(500));
    from.run(knock).expect("the space lives").is_ok()
}

fn pings(from: &Space, to: IpAddr) -> bool {
    let request = Echo {
        patience: Duration::from_millis(500),
        ..Echo::new(to)
    };
    from.run(|| echo(request)).expect("the space lives").is_ok()
}

fn listen(space: &Space, port: u16) -> TcpListener {
    let bound = space.run(|| TcpListener::bind(("::", port)));
    bound.expect("the space lives").expect("a free port")
}

/// Who reaches whom, by ping and by TCP: host to node and node to host, each in IPv4 and IPv6.
fn reach(node: &Node) -> Vec<bool> {
    let (host, inside) = (node.home().space(), node.inside().expect("it runs"));
    let _listeners = [listen(host, 9000), listen(&inside, OPEN)];
    let mut found = Vec::new();
    for address in node.recipe.uplink {
        found.push(pings(host, address));
        found.push(answers(host, SocketAddr::new(address, OPEN)));
    }
    for address in HOST.map(|text| text.parse().expect("an address")) {
        found.push(pings(&inside, address));
        found.push(answers(&inside, SocketAddr::new(address, 9000)));
    }
    found
}

fn linked(node: &Node) -> Value {
    node.status().expect("it runs")["network"]["host_link"].clone()
}

/// The host's links with a name of ours, and every route of its main tables.
fn traces(home: &Home) -> Vec<String> {
    let look = || {
        let links = fs::read_dir("/proc/thread-self/net/dev_snmp6").expect("IPv6");
        let links = links
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned());
        let mut found: Vec<String> = links.filter(|name| name.starts_with("hepto-")).collect();
        for path in [
            "/proc/thread-self/net/route",
            "/proc/thread-self/net/ipv6_route",
        ] {
            let table = fs::read_to_string(path).expect("routes");
            // Without what counts its use, and what the kernel does for the home's own link in its own time.
            found.extend(
                table
                    .lines()
                    .filter(|line| !line.starts_with("fe80") || !line.ends_with("lan0"))
                    .map(|line| {
                        let words: Vec<&str> = line.split_whitespace().collect();
                        format!("{} {} {}", words[0], words[1], words[words.len() - 1])
                    }),
            );
        }
        found
    };
    home.space().run(look).expect("the home lives")
}

#[test]
fn host_and_node_reach_each_other_as_long_as_it_is_wished_for() {
    isolated_for(seconds(120), || {
        let (_lab, mut node) = node();
        let before = (Inventory::of(node.home()), traces(node.home()));
        node.start();
        ready(&node);
        assert_eq!(reach(&node), [false; 8]);
        assert_eq!(linked(&node), Value::Null);
        node.says("E-DNS-NONE", SOON);
        assert!(
            node.log().contains("network.host_link = true"),
            "{}",
            node.log()
        );
        let pid = node.pid();

        wish(&node, true);
        reload(&node);
        let inside = ready(&node);
        assert_eq!(reach(&node), [true; 8]);
        let link = linked(&node);
        let name = link["link"].as_str().expect("a name").to_owned();
        assert!(name.starts_with("hepto-mars"), "{name}");
        assert_eq!(link["host"], serde_json::json!(HOST));
        let text = String::from_utf8(node.ask(&["status"]).stdout).expect("text");
        assert!(text.contains(&name), "{text}");

        // The resolver at the host's own address is asked, and answers; the one at a loopback is left out.
        let resolv = node.exec_net(&["cat", "/etc/resolv.conf"]).expect("a file");
        assert!(
            resolv.contains("nameserver 192.168.77.1\n") && !resolv.contains("127."),
            "{resolv}"
        );
        let ask = || {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.set_read_timeout(Some(SOON))?;
            socket.send_to(&[7; 12], "192.168.77.1:53")?;
            socket.recv_from(&mut [0; 12])
        };
        let (_, from) = inside.run(ask).expect("it runs").expect("an answer");
        assert_eq!(from.to_string(), "192.168.77.1:53");

        judged_as_a_neighbour(&node, &inside, &name);

        // Everything of it goes, and nothing else.
        wish(&node, false);
        reload(&node);
        ready(&node);
        assert_eq!(reach(&node), [false; 8]);
        assert_eq!(linked(&node), Value::Null);
        let after = Inventory::of(node.home()).more_than(&before.0);
        assert!(
            !after.iter().any(|item| item.starts_with("link ")),
            "{after:?}"
        );
        assert_eq!(traces(node.home()), before.1);
        assert_eq!(node.pid(), pid, "it was reloaded, not started");
        assert!(node.stop(SOON).success());
    });
}

/// What is closed to the street is closed to the host, and so are the cluster's addresses.
fn judged_as_a_neighbour(node: &Node, inside: &Space, link: &str) {
    // Somebody listens, so that silence is the firewall's doing.
    let bind = |address, port| {
        let bound = inside.run(|| TcpListener::bind((address, port)));
        bound.expect("it runs").expect("a free port")
    };
    let of_each = |address| CLOSED.map(|port| bind(address, port));
    let _listeners = (node.recipe.uplink.map(of_each), listen(inside, OPEN));
    let host = node.home().space();
    for address in node.recipe.uplink {
        for port in CLOSED {
            let to = SocketAddr::new(address, port);
            assert!(!answers(host, to), "{to}");
        }
    }
    for (overlay, via) in node.overlay().into_iter().zip(node.recipe.uplink) {
        let via = match via {
            IpAddr::V4(_) => via.to_string(),
            IpAddr::V6(_) => "fe80::2".to_owned(),
        };
        let mut add = Command::new("ip");
        add.args([
            "route",
            "add",
            &overlay.to_string(),
            "via",
            &via,
            "dev",
            link,
            "onlink",
        ]);
        let mut child = host.spawn(&mut add).expect("ip, of iproute2");
        assert!(child.wait().expect("ours").success());
        assert!(
            !pings(host, overlay) && !answers(host, SocketAddr::new(overlay, OPEN)),
            "{overlay}"
        );
    }
}

/// The host's end, as the kernel numbers it.
fn index(node: &Node) -> u32 {
    let name = linked(node)["link"].as_str().expect("a name").to_owned();
    let look = || nix::net::if_::if_nametoindex(name.as_str());
    node.home()
        .space()
        .run(look)
        .expect("the home lives")
        .expect("a link")
}

#[test]
fn a_crash_leaves_it_to_the_next_start_and_no_stop_leaves_it() {
    isolated_for(seconds(120), || {
        let (_lab, mut node) = node();
        wish(&node, true);
        let before = (Inventory::of(node.home()), traces(node.home()));
        let gone = |node: &Node| {
            assert_eq!(
                Inventory::of(node.home()).more_than(&before.0),
                Vec::<String>::new()
            );
            assert_eq!(traces(node.home()), before.1);
        };
        node.start();
        ready(&node);
        let link = index(&node);
        node.crash();
        let host = node.home().space();
        assert!(
            pings(host, node.recipe.uplink[0]),
            "it outlives a crash, as the node does"
        );
        node.start();
        ready(&node);
        assert_eq!(index(&node), link, "it was taken over");
        assert_eq!(reach(&node), [true; 8]);
        assert!(!node.log().contains("W-NET-DRIFT"), "{}", node.log());
        assert!(node.stop(SOON).success());
        gone(&node);

        node.start();
        ready(&node);
        node.crash();
        let stop = node.ask(&["stop"]);
        assert!(
            stop.status.success(),
            "{}",
            String::from_utf8_lossy(&stop.stderr)
        );
        gone(&node);
    });
}

#[test]
fn it_follows_the_host_to_another_address() {
    isolated(|| {
        let (_lab, mut node) = node();
        wish(&node, true);
        node.start();
        let inside = ready(&node);
        // What it does at its start is done.
        node.says("change=Appeared", SOON);
        assert_eq!(linked(&node)["host"][0], HOST[0]);
        let home = node.home().clone();
        let ip = |words: &str| {
            let mut ip = Command::new("ip");
            let mut child = home
                .space()
                .spawn(ip.args(words.split(' ')))
                .expect("ip, of iproute2");
            assert!(child.wait().expect("ours").success(), "{words}");
        };
        ip("address del 192.168.77.1/24 dev lan0");
        ip("address add 192.168.77.99/24 dev lan0");
        let new: IpAddr = "192.168.77.99".parse().expect("an address");
        until(SOON, "the node reaches the host's new address", || {
            pings(&inside, new)
        });
        assert!(pings(home.space(), node.recipe.uplink[0]));
        until(SOON, "status says so", || {
            linked(&node)["host"][0] == "192.168.77.99"
        });
        assert!(
            !node.log().contains("W-NET-DRIFT"),
            "nobody meddled: {}",
            node.log()
        );
        assert!(node.stop(SOON).success());
    });
}

#[test]
fn a_link_of_someone_else_is_refused_and_left_alone() {
    isolated(|| {
        let (_lab, mut node) = node();
        wish(&node, true);
        node.start();
        ready(&node);
        let name = linked(&node)["link"].as_str().expect("a name").to_owned();
        assert!(node.stop(SOON).success());
        let other = Space::private().expect("a namespace");
        let space = node.home().space();
        space
            .join((&name, &[]), (&other, "other", &[]))
            .expect("a link");
        let before = Inventory::of(node.home());
        node.start();
        let ended = node.end(SOON);
        let log = node.log();
        assert_eq!(ended.code(), Some(1), "{log}");
        assert!(
            log.contains("E-NET-HOST-LINK") && log.contains(&name),
            "{log}"
        );
        assert_eq!(Inventory::of(node.home()), before);
        drop(other);
    });
}

#[test]
fn preflight_tries_it_and_says_where_it_would_help() {
    isolated_for(seconds(120), || {
        let (_lab, node) = node();
        let before = (Inventory::of(node.home()), traces(node.home()));
        let look = || -> Vec<Value> {
            let output = node.ask(&["preflight", "--json"]);
            let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
            hepto_tests::fits("preflight", &report).expect("as published");
            assert_eq!(Inventory::of(node.home()), before.0);
            assert_eq!(traces(node.home()), before.1);
            report["findings"].as_array().expect("a list").clone()
        };
        let of = |findings: &[Value], check: &str| -> Vec<Value> {
            let of_check = findings.iter().filter(|found| found["check"] == check);
            of_check.cloned().collect()
        };
        let without = look();
        let dns = &of(&without, "uplink.dns")[0];
        assert_eq!(dns["code"], "E-DNS-NONE");
        let fix = dns["fix"].as_str().expect("a fix");
        assert!(fix.contains("network.host_link = true"), "{fix}");
        assert_eq!(of(&without, "uplink.host-link"), Vec::<Value>::new());

        wish(&node, true);
        let with = look();
        let link = &of(&with, "uplink.host-link")[0];
        assert_eq!(link["level"], "ok");
        assert!(
            link["what"]
                .as_str()
                .expect("a sentence")
                .contains("192.168.77.1"),
            "{link}"
        );
        let dns = &of(&with, "uplink.dns")[0];
        assert_eq!(
            (&dns["level"], &dns["what"]),
            (&"ok".into(), &"the resolver 192.168.77.1 answers".into())
        );

        // With another resolver beside it the node can live without; that is still worth a word.
        wish(&node, false);
        let resolv = node.config.with_file_name("resolv.conf");
        let inode = fs::metadata(&resolv).expect("a file").ino();
        fs::write(
            &resolv,
            "nameserver 192.168.77.1\nnameserver 192.168.77.254\n",
        )
        .expect("a file");
        assert_eq!(
            fs::metadata(&resolv).expect("a file").ino(),
            inode,
            "it stays where it is bound"
        );
        let codes: Vec<Value> = of(&look(), "uplink.dns")
            .iter()
            .map(|found| found["code"].clone())
            .collect();
        assert!(codes.contains(&"W-PREFLIGHT-DNS-HOST".into()), "{codes:?}");
    });
}
