//! The pair between host and node: who reaches whom by it, from which address, and that it is there only while it is
//! wanted.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use hepto_net::{Event, Network, teardown};

use crate::firewall::{Answer, cluster, iptables_alone, knock};
use crate::lab::*;

/// What `hepto_net::address::host_end` makes of the marker.
const END: &str = "hepto-marsb62d4";

const HOST: [&str; 2] = ["192.0.2.10", "2001:db8::10"];
const NODE: [&str; 2] = ["192.0.2.1", "2001:db8::1"];

/// A host with addresses of its own on the street, and elsewhere, as strict as hosts are.
fn host() {
    // The kernel's first choice of an address.
    ip("link add docker0 type bridge");
    ip("link set docker0 up");
    for address in ["172.17.0.1/16", "fd17::1/64"] {
        ip(&format!("address add {address} dev docker0 nodad"));
    }
    wire();
    for address in ["192.0.2.10/24", "2001:db8::10/64"] {
        ip(&format!("address add {address} dev ens1 nodad"));
    }
    for path in ["all", "default"] {
        fs::write(format!("/proc/sys/net/ipv4/conf/{path}/rp_filter"), "1").unwrap();
    }
}

/// A node on it, whose overlay is older than its uplink, as in life.
async fn made() -> Network {
    host();
    let mut network = open(linked()).await;
    inside("ip tuntap add hepto0 mode tun");
    converge(&mut network).await;
    usable(&mut network).await;
    // What was still to be said of its making is said.
    while tokio::time::timeout(Duration::from_millis(200), network.event())
        .await
        .is_ok()
    {}
    network
}

fn pings(words: &str) -> bool {
    let output = try_run("ip", &format!("netns exec {words}"));
    output.status.success()
}

fn host_pings(address: &str) -> bool {
    try_run("ping", &format!("-c 1 -W 1 {address}"))
        .status
        .success()
}

fn node_pings(address: &str) -> bool {
    pings(&format!("{NAMESPACE} ping -c 1 -W 1 {address}"))
}

/// The address by which a listener at `to`, in the host, sees who connects from this namespace.
fn seen_by_host(from: &str, to: &str) -> IpAddr {
    let listener = TcpListener::bind(SocketAddr::new(to.parse().unwrap(), 0)).unwrap();
    let at = listener.local_addr().unwrap();
    let stream = within(from, move || {
        TcpStream::connect_timeout(&at, PATIENCE).unwrap()
    });
    let (_, peer) = listener.accept().unwrap();
    drop(stream);
    peer.ip()
}

/// The address by which the node's open port sees the host.
fn seen_by_node(to: &str) -> IpAddr {
    let at = SocketAddr::new(to.parse().unwrap(), 443);
    let listener = within(NAMESPACE, move || TcpListener::bind(at).unwrap());
    let _stream = TcpStream::connect_timeout(&at, PATIENCE).unwrap();
    listener.accept().unwrap().1.ip()
}

/// All settings of the host's network but those of the pair's own link.
fn host_settings() -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![PathBuf::from("/proc/sys/net")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.ends_with(END) {
                folders.push(path);
            } else if let Ok(value) = fs::read_to_string(&path) {
                found.insert(path, value);
            }
        }
    }
    // A counter.
    found.retain(|path, _| !path.ends_with("nf_conntrack_count"));
    found
}

fn assert_gone() {
    assert!(!ip("-o link").contains("hepto-"), "{}", ip("-o link"));
    for family in ["-4", "-6"] {
        let routes = ip(&format!("{family} route show table all"));
        assert!(
            !routes.contains("hepto-") && !routes.contains("169.254"),
            "{routes}"
        );
    }
}

#[test]
fn without_it_neither_reaches_the_other() {
    isolated(
        "host_link::without_it_neither_reaches_the_other",
        async || {
            host();
            let mut network = open(settings()).await;
            converge(&mut network).await;
            usable(&mut network).await;
            assert!(node_pings("192.0.2.254"), "the node is well");
            for address in NODE {
                assert!(!host_pings(address), "{address}");
            }
            for address in HOST {
                assert!(!node_pings(address), "{address}");
            }
            assert_eq!(network.host_link(), None);
            close(network).await;
        },
    );
}

#[test]
fn each_reaches_the_other_by_the_addresses_that_both_know() {
    isolated(
        "host_link::each_reaches_the_other_by_the_addresses_that_both_know",
        async || {
            host();
            let before = (host_settings(), ip("route"), ip("-6 route show table main"));
            let ways = || {
                ["192.0.2.254", "2001:db8::ffff", "203.0.113.1"]
                    .map(|to| try_run("ip", &format!("route get {to}")).stdout)
            };
            let before_ways = ways();
            let mut network = open(linked()).await;
            inside("ip tuntap add hepto0 mode tun");
            converge(&mut network).await;
            usable(&mut network).await;
            for address in NODE {
                assert!(host_pings(address), "{address}");
            }
            for (host, node) in HOST.iter().zip(NODE) {
                assert!(node_pings(host), "{host}");
                let (host_address, node_address): (IpAddr, IpAddr) =
                    (host.parse().unwrap(), node.parse().unwrap());
                assert_eq!(seen_by_host(NAMESPACE, host), node_address);
                assert_eq!(seen_by_node(node), host_address);
            }
            assert_eq!(
                host_settings(),
                before.0,
                "a setting of the host is another one"
            );
            assert_eq!(
                ways(),
                before_ways,
                "what concerns no node goes where it went"
            );
            assert!(inside("ip route get 192.0.2.254").contains("dev uplink"));
            assert!(inside("ip route get 203.0.113.1").contains("dev uplink"));
            let link = network.host_link().unwrap();
            assert_eq!(link.name, END);
            let addresses = |texts: [&str; 2]| texts.map(|text| text.parse::<IpAddr>().unwrap());
            assert_eq!(
                (link.host.clone(), link.node.clone()),
                (addresses(HOST).into(), addresses(NODE).into())
            );
            assert!(
                ip(&format!("link show {END}")).contains(MARKER),
                "who sees it knows whose it is"
            );
            close(network).await;
            assert_gone();
            assert_eq!(
                (ip("route"), ip("-6 route show table main")),
                (before.1, before.2)
            );
        },
    );
}

#[test]
fn what_a_pod_sends_to_the_host_has_its_nodes_address() {
    isolated(
        "host_link::what_a_pod_sends_to_the_host_has_its_nodes_address",
        async || {
            host();
            let network = cluster(linked()).await;
            // As flannel does.
            inside("nft add table inet flannel");
            inside("nft add chain inet flannel post { type nat hook postrouting priority 100 ; }");
            inside(
                "nft add rule inet flannel post ip saddr 10.42.0.0/16 ip daddr != 10.42.0.0/16 masquerade",
            );
            ip("-n pod route replace 192.0.2.0/24 via 10.42.0.1 src 10.42.0.2");
            assert_eq!(
                seen_by_host("pod", HOST[0]),
                NODE[0].parse::<IpAddr>().unwrap()
            );
            close(network).await;
        },
    );
}

/// What the host reaches is what a neighbour reaches, and neither is a router to the other.
fn judged_as_a_neighbour() {
    for (target, answer) in [
        ("192.0.2.1:443", Answer::Yes),
        ("[2001:db8::1]:443", Answer::Yes),
        ("192.0.2.1:6443", Answer::Silence),
        ("[2001:db8::1]:6443", Answer::Silence),
        ("192.0.2.1:7947", Answer::Silence),
        ("192.0.2.1:7948", Answer::Silence),
        ("[2001:db8::1]:7947", Answer::Silence),
        ("10.44.7.9:443", Answer::Silence),
        ("[fd00::9]:443", Answer::Silence),
        ("10.42.0.2:443", Answer::Silence),
        ("10.44.3.3:443", Answer::Silence),
        ("10.43.0.1:443", Answer::Silence),
        ("198.18.0.2:443", Answer::Silence),
        // Through the node, to another's: it would answer.
        ("198.51.100.9:443", Answer::Silence),
    ] {
        assert_eq!(knock("host", target), answer, "{target}");
    }
}

/// A host that leads all of that to the node, and a neighbour that leads to the host through it.
async fn led() -> Network {
    host();
    let network = cluster(linked()).await;
    ip(&format!("netns attach host {}", std::process::id()));
    for net in ["10.0.0.0/8", "198.18.0.0/24", "198.51.100.0/24"] {
        ip(&format!("route add {net} via 192.0.2.1 dev {END} onlink"));
    }
    ip(&format!("-6 route add fd00::/16 via fe80::2 dev {END}"));
    ip("-n lan address add 198.51.100.9/32 dev ens1");
    inside("ip route add 198.51.100.9/32 via 192.0.2.254");
    network
}

#[test]
fn the_host_is_judged_as_any_neighbour() {
    isolated(
        "host_link::the_host_is_judged_as_any_neighbour",
        async || {
            let network = led().await;
            judged_as_a_neighbour();
            // Nor does a neighbour reach the host through the node, or the node's pods others' pods.
            ip("-n lan route add 192.0.2.10/32 via 192.0.2.1");
            let listener = TcpListener::bind("192.0.2.10:8053").unwrap();
            assert_eq!(knock("lan", "192.0.2.10:8053"), Answer::Silence);
            assert_eq!(knock(NAMESPACE, "192.0.2.10:8053"), Answer::Yes);
            drop(listener);
            // Nothing for the cluster leaves to the host in clear text.
            inside("ip route add 10.44.9.9/32 via 192.0.2.10 dev host0 onlink");
            let error = within(NAMESPACE, || {
                let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
                socket.send_to(b"hello", "10.44.9.9:9").unwrap_err()
            });
            assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
            close(network).await;
        },
    );
}

#[test]
fn the_host_is_judged_by_iptables_too() {
    isolated(
        "host_link::the_host_is_judged_by_iptables_too",
        async || {
            iptables_alone();
            let mut network = led().await;
            assert_eq!(text(&converge(&mut network).await.steps), "");
            judged_as_a_neighbour();
            close(network).await;
        },
    );
}

#[test]
fn it_follows_the_hosts_addresses() {
    isolated("host_link::it_follows_the_hosts_addresses", async || {
        let mut network = made().await;
        for change in [
            "del 192.0.2.10/24",
            "add 192.0.2.20/24",
            "del 2001:db8::10/64",
        ] {
            ip(&format!("address {change} dev ens1"));
        }
        event(&mut network, |event| *event == Event::HostLink).await;
        converge(&mut network).await;
        assert_eq!(text(&converge(&mut network).await.steps), "");
        assert!(node_pings("192.0.2.20"));
        assert_eq!(
            seen_by_node(NODE[0]),
            "192.0.2.20".parse::<IpAddr>().unwrap()
        );
        // Without an address of its own the host still reaches the node.
        assert!(host_pings(NODE[1]));
        let link = network.host_link().unwrap();
        assert_eq!(link.host, ["192.0.2.20".parse::<IpAddr>().unwrap()]);
        close(network).await;
    });
}

#[test]
fn whoever_harms_it_has_it_mended() {
    isolated("host_link::whoever_harms_it_has_it_mended", async || {
        let mut network = made().await;
        for harm in [
            format!("link delete {END}"),
            format!("link set {END} down"),
            format!("address flush dev {END}"),
            format!("-6 route del 2001:db8::1 dev {END}"),
            format!("netns exec {NAMESPACE} ip route del 192.0.2.10"),
            format!("netns exec {NAMESPACE} ip address flush dev host0"),
        ] {
            ip(&harm);
            event(&mut network, |event| *event == Event::HostLink).await;
            converge(&mut network).await;
            assert_eq!(text(&converge(&mut network).await.steps), "", "{harm}");
            assert!(host_pings(NODE[0]) && host_pings(NODE[1]), "{harm}");
            assert!(node_pings(HOST[0]) && node_pings(HOST[1]), "{harm}");
        }
        close(network).await;
    });
}

#[test]
fn a_run_that_died_is_adopted_and_another_wish_is_met() {
    isolated(
        "host_link::a_run_that_died_is_adopted_and_another_wish_is_met",
        async || {
            drop(made().await);
            let before = ip(&format!("-o link show {END}"));
            let mut network = open(linked()).await;
            assert_eq!(text(&converge(&mut network).await.steps), "");
            assert_eq!(ip(&format!("-o link show {END}")), before);
            drop(network);
            let mut network = open(settings()).await;
            assert_eq!(
                text(&converge(&mut network).await.steps),
                "host link: delete\n"
            );
            assert_gone();
            assert_eq!(network.host_link(), None);
            drop(network);
            let mut other = linked();
            other.uplink.addresses = vec!["192.0.2.2/24".parse().unwrap()];
            other.uplink.gateways.truncate(1);
            let mut network = open(other).await;
            converge(&mut network).await;
            assert!(host_pings("192.0.2.2"));
            assert!(
                !ip("route").contains("192.0.2.1 "),
                "the old address is nobody's"
            );
            drop(network);
            assert_eq!(codes(&teardown(NAMESPACE, MARKER, "ens1").await), [""; 0]);
            assert_nothing_left();
            assert_gone();
        },
    );
}

#[test]
fn a_link_of_someone_else_is_refused_and_left_alone() {
    isolated(
        "host_link::a_link_of_someone_else_is_refused_and_left_alone",
        async || {
            host();
            ip(&format!(
                "link add {END} type veth peer name other netns lan"
            ));
            let foreign = || {
                let accepts = format!("/proc/sys/net/ipv6/conf/{END}/accept_ra");
                let accepts = fs::read_to_string(accepts).unwrap();
                ip(&format!("-o address show {END}")) + &accepts
            };
            let before = foreign();
            let mut network = open(linked()).await;
            let error = network.converge().await.unwrap_err();
            assert_eq!(error.code(), "E-NET-HOST-LINK", "{error}");
            assert!(error.fix().unwrap().contains("network.host_link = false"));
            assert!(inside("ip link").contains("uplink"), "the rest is there");
            assert_eq!(network.host_link(), None);
            assert_eq!(codes(&network.close().await), [""; 0]);
            assert_eq!(foreign(), before);
            assert_eq!(codes(&teardown(NAMESPACE, MARKER, "ens1").await), [""; 0]);
            assert!(ip("-o link").contains(END));
        },
    );
}

#[test]
fn a_network_in_use_is_left_to_its_users() {
    isolated(
        "host_link::a_network_in_use_is_left_to_its_users",
        async || {
            host();
            // The first that this node would take, and the whole that any machine may be in.
            ip("address add 169.254.91.245/30 dev ens1");
            ip("address add 169.254.7.7/16 dev lo");
            let mut network = open(linked()).await;
            converge(&mut network).await;
            let given = ip(&format!("-o -4 address show {END}"));
            assert!(
                given.contains("169.254.") && !given.contains("169.254.91.245"),
                "{given}"
            );
            assert!(host_pings(NODE[0]));
            ip("address del 169.254.91.245/30 dev ens1");
            assert_eq!(
                text(&converge(&mut network).await.steps),
                "",
                "it stays where it is"
            );
            close(network).await;
        },
    );
}

#[test]
fn a_host_that_gives_links_no_ipv6_keeps_it_so() {
    isolated(
        "host_link::a_host_that_gives_links_no_ipv6_keeps_it_so",
        async || {
            host();
            fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").unwrap();
            let mut network = open(linked()).await;
            converge(&mut network).await;
            assert!(host_pings(NODE[0]) && node_pings(HOST[0]));
            assert_eq!(ip(&format!("-6 address show {END}")), "");
            assert_eq!(text(&converge(&mut network).await.steps), "");
            close(network).await;
        },
    );
}

#[test]
fn two_nodes_of_a_host_have_one_each() {
    isolated("host_link::two_nodes_of_a_host_have_one_each", async || {
        let mut one = made().await;
        let mut other = linked();
        other.namespace = "hepto-other.mars".into();
        other.marker = "hepto:other:mars".into();
        other.uplink.mac = Some(hepto_net::address::mac_for("other", "mars"));
        other.uplink.addresses = vec!["192.0.2.2/24".parse().unwrap()];
        other.uplink.gateways.truncate(1);
        let mut two = open(other).await;
        converge(&mut two).await;
        assert!(host_pings("192.0.2.1") && host_pings("192.0.2.2"));
        assert_eq!(text(&converge(&mut one).await.steps), "");
        assert_eq!(codes(&one.close().await), [""; 0]);
        assert!(host_pings("192.0.2.2"));
        assert_eq!(codes(&two.close().await), [""; 0]);
        assert_nothing_left();
        assert_gone();
    });
}
