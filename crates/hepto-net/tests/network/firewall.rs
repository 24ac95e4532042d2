//! What the firewall lets through, shown with packets; and that it comes back.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use hepto_net::{Event, Firewall, Network, Settings};

use crate::lab::*;

/// Long enough for an answer on one machine; a dropped packet costs this.
const SILENCE: Duration = Duration::from_millis(400);

#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// A connection, or a refusal by a host without a listener.
    Yes,
    Silence,
}

pub fn knock(from: &str, to: &str) -> Answer {
    let to: SocketAddr = to.parse().unwrap();
    match within(from, move || TcpStream::connect_timeout(&to, SILENCE)) {
        Ok(_) => Answer::Yes,
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Answer::Yes,
        Err(error) if [ErrorKind::TimedOut, ErrorKind::WouldBlock].contains(&error.kind()) => {
            Answer::Silence
        }
        Err(error) => panic!("{to}: {error}"),
    }
}

/// A node with a pod (10.42.0.2, and 198.18.0.2 outside the cluster's prefixes), another node behind `hepto0`
/// (10.44.3.3), and a neighbour who routes everything through it. The wire is there.
pub async fn cluster(settings: Settings) -> Network {
    let mut network = open(settings).await;
    ip("netns add pod");
    ip("netns add mesh");
    inside("ip link add cni0 type veth peer name eth0 netns pod");
    inside("ip address add 10.42.0.1/24 dev cni0");
    inside("ip address add 198.18.0.1/24 dev cni0");
    inside("ip link set cni0 up");
    inside("ip link add hepto0 type veth peer name hepto0 netns mesh");
    ip("-n mesh address add 10.44.3.3/16 dev hepto0");
    ip("-n mesh link set hepto0 up");
    for address in ["10.42.0.2/24", "198.18.0.2/24"] {
        ip(&format!("-n pod address add {address} dev eth0"));
    }
    ip("-n pod link set eth0 up");
    ip("-n pod route add default via 10.42.0.1 src 10.42.0.2");
    ip("-n pod route add 192.0.2.0/24 via 198.18.0.1 src 198.18.0.2");
    ip("-n mesh route add default via 10.44.7.9");
    converge(&mut network).await;
    usable(&mut network).await;
    for destination in ["10.0.0.0/8", "198.18.0.0/24"] {
        ip(&format!("-n lan route add {destination} via 192.0.2.1"));
    }
    ip("-n lan route add fd00::/16 via 2001:db8::1");
    network
}

#[test]
fn strangers_reach_open_ports_echo_and_nothing_else() {
    isolated(
        "firewall::strangers_reach_open_ports_echo_and_nothing_else",
        async || {
            wire();
            let network = cluster(settings()).await;
            for address in ["192.0.2.1", "2001:db8::1"] {
                ip(&format!("netns exec lan ping -c 1 -W 5 {address}"));
            }
            for (target, answer) in [
                ("192.0.2.1:443", Answer::Yes),
                ("[2001:db8::1]:443", Answer::Yes),
                ("192.0.2.1:6443", Answer::Silence),
                ("[2001:db8::1]:6443", Answer::Silence),
                ("192.0.2.1:7947", Answer::Silence),
                // Linux answers for every address on every link.
                ("10.44.7.9:443", Answer::Silence),
                ("[fd00::9]:443", Answer::Silence),
                ("10.42.0.1:443", Answer::Silence),
                // Through the node: its pods, other nodes, Services, and what is none of the cluster's.
                ("10.42.0.2:443", Answer::Silence),
                ("10.44.3.3:443", Answer::Silence),
                ("10.43.0.1:443", Answer::Silence),
                ("198.18.0.2:443", Answer::Silence),
            ] {
                assert_eq!(knock("lan", target), answer, "{target}");
            }
            // The pod itself gets out and is answered.
            assert_eq!(knock("pod", "192.0.2.254:443"), Answer::Yes);
            assert_eq!(knock("pod", "10.44.3.3:443"), Answer::Yes);
            close(network).await;
        },
    );
}

#[test]
fn gossip_and_snapshots_are_for_nodes_alone() {
    isolated(
        "firewall::gossip_and_snapshots_are_for_nodes_alone",
        async || {
            wire();
            let network = cluster(settings()).await;
            for port in ["7947", "7948"] {
                for (from, address, answer, what) in [
                    (NAMESPACE, "10.44.3.3", Answer::Yes, "a node to a node"),
                    ("mesh", "10.44.7.9", Answer::Yes, "a node to this node"),
                    ("pod", "10.44.3.3", Answer::Silence, "a pod to another node"),
                    ("pod", "10.44.7.9", Answer::Silence, "a pod to its own node"),
                    (
                        "pod",
                        "10.42.0.1",
                        Answer::Silence,
                        "a pod to its own node, by the bridge's address",
                    ),
                    ("lan", "192.0.2.1", Answer::Silence, "a neighbour"),
                    (
                        "lan",
                        "10.44.3.3",
                        Answer::Silence,
                        "a neighbour, through the node",
                    ),
                ] {
                    assert_eq!(
                        knock(from, &format!("{address}:{port}")),
                        answer,
                        "{what}, {port}"
                    );
                }
            }
            assert_eq!(
                knock("pod", "10.44.7.9:6443"),
                Answer::Yes,
                "a pod to the API server"
            );
            close(network).await;
        },
    );
}

fn send(from: &str, to: &'static str) -> io::Result<usize> {
    within(from, move || {
        UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"hello", to)
    })
}

#[test]
fn the_mesh_is_let_in_untracked_and_never_routed() {
    isolated(
        "firewall::the_mesh_is_let_in_untracked_and_never_routed",
        async || {
            wire();
            let network = cluster(settings()).await;
            let socket = |namespace: &str| {
                within(namespace, || {
                    let socket = UdpSocket::bind("0.0.0.0:51820").unwrap();
                    socket.set_read_timeout(Some(PATIENCE)).unwrap();
                    socket
                })
            };
            let (node, pod) = (socket(NAMESPACE), socket("pod"));
            let tracked = || {
                inside("cat /proc/sys/net/netfilter/nf_conntrack_count")
                    .trim()
                    .parse::<u32>()
                    .unwrap()
            };
            let before = tracked();
            // Not tracked, it is not new either: it must not pass for that.
            send("lan", "198.18.0.2:51820").unwrap();
            send("lan", "192.0.2.1:51820").unwrap();
            let mut buffer = [0; 16];
            let (length, stranger) = node.recv_from(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], b"hello");
            node.send_to(b"bye", stranger).unwrap();
            assert_eq!(tracked(), before);
            // It went first; it would have been there by now.
            pod.set_nonblocking(true).unwrap();
            assert_eq!(
                pod.recv_from(&mut buffer).unwrap_err().kind(),
                ErrorKind::WouldBlock
            );
            close(network).await;
        },
    );
}

#[test]
fn nothing_for_the_cluster_leaves_in_clear_text() {
    isolated(
        "firewall::nothing_for_the_cluster_leaves_in_clear_text",
        async || {
            wire();
            let mut network = cluster(settings()).await;
            network.remove_overlay().await.unwrap();
            // By the default route now.
            assert!(inside("ip route get 10.44.3.3").contains("dev uplink"));
            let error = send(NAMESPACE, "10.44.3.3:9").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::PermissionDenied);
            send(NAMESPACE, "192.0.2.254:9").unwrap();
            close(network).await;
        },
    );
}

#[test]
fn a_flushed_firewall_comes_back() {
    isolated("firewall::a_flushed_firewall_comes_back", async || {
        wire();
        let mut network = open(settings()).await;
        converge(&mut network).await;
        usable(&mut network).await;
        let rules = inside("nft list ruleset");
        assert!(rules.contains("table inet hepto"), "{rules}");
        let handle = inside("nft -a list chain inet hepto input");
        let handle = handle
            .lines()
            .find_map(|line| line.split_once("the rest\" # handle "))
            .unwrap()
            .1
            .to_owned();
        for harm in [
            "nft flush ruleset".to_owned(),
            "nft flush chain inet hepto forward".into(),
            // Not after the first: the handle is another one then.
            format!("nft delete rule inet hepto input handle {handle}"),
        ]
        .into_iter()
        .rev()
        {
            inside(&harm);
            event(&mut network, |event| *event == Event::FirewallGone).await;
            let steps = text(&converge(&mut network).await.steps);
            assert_eq!(steps, "namespace: load the firewall\n", "{harm}");
            assert_eq!(inside("nft list ruleset"), rules, "{harm}");
        }
        // Our own loading is no alarm: the next event is the one made here.
        inside("ip link set uplink down");
        let next = event(&mut network, |event| {
            matches!(event, Event::Drift | Event::FirewallGone)
        })
        .await;
        assert_eq!(next, Event::Drift);
        close(network).await;
    });
}

#[test]
fn tables_of_others_are_left_alone() {
    isolated("firewall::tables_of_others_are_left_alone", async || {
        let mut network = open(settings()).await;
        inside("nft add table inet kube-proxy");
        inside("nft delete table inet hepto");
        converge(&mut network).await;
        assert!(inside("nft list tables").contains("kube-proxy"));
        close(network).await;
    });
}

/// Where nft is absent iptables keeps the same promises.
#[test]
fn iptables_does_where_nft_is_absent() {
    isolated("firewall::iptables_does_where_nft_is_absent", async || {
        let nft = iptables_alone();
        wire();
        let mut network = cluster(settings()).await;
        assert_eq!(text(&converge(&mut network).await.steps), "");
        for (from, target, answer) in [
            ("lan", "192.0.2.1:443", Answer::Yes),
            ("lan", "[2001:db8::1]:443", Answer::Yes),
            ("lan", "[2001:db8::1]:6443", Answer::Silence),
            ("lan", "192.0.2.1:6443", Answer::Silence),
            ("lan", "10.44.7.9:443", Answer::Silence),
            ("lan", "198.18.0.2:443", Answer::Silence),
            ("pod", "192.0.2.254:443", Answer::Yes),
            ("pod", "10.44.3.3:7947", Answer::Silence),
            ("pod", "10.44.7.9:7947", Answer::Silence),
            ("mesh", "10.44.7.9:7947", Answer::Yes),
        ] {
            assert_eq!(knock(from, target), answer, "{from} to {target}");
        }
        for harm in ["iptables -t mangle -F", "ip6tables -t raw -D PREROUTING 1"] {
            inside(harm);
            let steps = text(&converge(&mut network).await.steps);
            assert_eq!(steps, "namespace: load the firewall\n", "{harm}");
            assert_eq!(text(&converge(&mut network).await.steps), "", "{harm}");
        }
        // nft is installed: it takes over, and nothing of iptables is left.
        run("umount", &nft);
        let mut changed = settings();
        changed.overlay.own.push("10.45.0.0/16".parse().unwrap());
        drop(network);
        let network = open(changed).await;
        let rules = inside("nft list ruleset");
        assert!(
            rules.contains("table inet hepto") && !rules.contains("HEPTO-"),
            "{rules}"
        );
        close(network).await;
    });
}

/// Hides nft; its place.
pub fn iptables_alone() -> String {
    let nft = program("nft");
    run("mount", &format!("--bind /dev/null {nft}"));
    nft
}

/// Where a program of administrators lies.
fn program(name: &str) -> String {
    let folders = ["/usr/local/sbin", "/usr/sbin", "/sbin"];
    let path = folders
        .map(|folder| format!("{folder}/{name}"))
        .into_iter()
        .find(|path| std::path::Path::new(path).exists());
    path.unwrap_or_else(|| panic!("{name} is not installed"))
}

#[test]
fn without_a_firewall_there_is_none() {
    isolated("firewall::without_a_firewall_there_is_none", async || {
        let mut off = settings();
        off.firewall = Firewall::Off;
        let mut network = open(off).await;
        converge(&mut network).await;
        assert_eq!(inside("nft list ruleset"), "");
        close(network).await;
    });
}
