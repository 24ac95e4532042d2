//! Nodes find one another.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use hepto_tests::{Capture, Echo, LAN, Node, Space, isolated, within};

use crate::{SOON, new_lab, seconds};

/// The promise of the default `network.mtu`, 1400.
const TUNNEL_MTU: usize = 1320;
const EMSGSIZE: i32 = 90;
const MEGABYTE: f64 = 1048576.0;

#[test]
fn three_nodes_reach_one_another_by_address_and_name_within_five_seconds() {
    isolated(|| {
        let lab = new_lab();
        let mut nodes = lab.nodes(&["mars", "venus", "pluto"]);
        for node in &mut nodes {
            node.start();
        }
        let start = Instant::now();
        let all: Vec<&Node> = nodes.iter().collect();
        Node::all_meet(&all, start, seconds(5));
        for node in &nodes {
            for other in &nodes {
                let addresses = other.overlay();
                let left = seconds(5).saturating_sub(start.elapsed());
                within(
                    left,
                    &format!("{} resolves {}", node.name(), other.name()),
                    || {
                        let known = node.exec_net(&["getent", "ahosts", other.name()])?;
                        let all = addresses
                            .iter()
                            .all(|address| known.contains(&address.to_string()));
                        all.then_some(()).ok_or(known)
                    },
                );
            }
        }
        for node in &nodes {
            let log = node.log();
            let calm = !log.contains(" WARN ") && !log.contains("ERROR");
            assert!(calm, "nothing is wrong, and nothing is said to be:\n{log}");
        }
    });
}

#[test]
fn a_lone_master_has_its_overlay_addresses_within_a_second() {
    isolated(|| {
        let lab = new_lab();
        let mut nodes = lab.nodes(&["mars"]);
        let ask = |node: &Node| {
            let addresses = node.overlay_now()?;
            let inside = node.inside()?;
            for address in addresses {
                // An address that is absent or still tentative cannot be bound.
                let bound = inside.run(|| UdpSocket::bind(SocketAddr::new(address, 0)));
                bound
                    .map_err(|error| error.to_string())?
                    .map_err(|error| format!("{address}: {error}"))?;
            }
            Ok::<_, String>(())
        };
        // A moment in which the whole machine stands still is not the node's: the best of three counts.
        let times: Vec<Duration> = (0..3)
            .map(|_| {
                nodes[0].start();
                let what = "the master has its overlay addresses";
                let (_, took) = within(SOON, what, || ask(&nodes[0]));
                assert!(nodes[0].stop(SOON).success(), "{}", nodes[0].log());
                took
            })
            .collect();
        assert!(times.iter().min() < Some(&seconds(1)), "{times:?}");
    });
}

#[test]
fn a_packet_of_the_tunnels_mtu_passes_whole_and_one_byte_more_is_too_big() {
    isolated(|| {
        let lab = new_lab();
        let mut nodes = lab.nodes(&["mars", "venus"]);
        for node in &mut nodes {
            // The line carries no more than the default `network.mtu` promises.
            node.home()
                .space()
                .limit(LAN, 1400)
                .expect("a link has an MTU");
            node.start();
        }
        Node::all_meet(&[&nodes[0], &nodes[1]], Instant::now(), SOON);
        let line = Capture::of(nodes[0].home());
        for to in nodes[1].overlay() {
            let whole = Echo {
                size: TUNNEL_MTU,
                ..Echo::new(to)
            };
            within(SOON, "the MTU passes", || nodes[0].echo(whole));
            let error = too_big(
                &nodes[0].inside().expect("it runs"),
                Echo {
                    size: TUNNEL_MTU + 1,
                    ..Echo::new(to)
                },
            );
            assert_eq!(error, Some(EMSGSIZE), "{to}");
        }
        // A fragment is no whole datagram: the capture would not show it.
        let outer = TUNNEL_MTU + 32;
        let _ = line.first(SOON, "inner packet and WireGuard's 32 bytes", |seen| {
            seen.bytes.len() == outer
        });
        assert!(line.seen().iter().all(|seen| seen.bytes.len() <= outer));
    });
}

#[test]
fn pods_reach_pods_over_routes_on_the_overlay_and_hear_too_big() {
    isolated(|| {
        let lab = new_lab();
        let home = [lab.home(1), lab.home(2)];
        let recipe = |number, name| {
            lab.recipe(number, name)
                .with("cluster", "ula = \"fd77:77:77::/48\"")
        };
        let mut nodes = [
            lab.node(&home[0], recipe(1, "mars")),
            lab.node(&home[1], recipe(2, "venus")),
        ];
        nodes.iter_mut().for_each(Node::start);
        Node::all_meet(&[&nodes[0], &nodes[1]], Instant::now(), SOON);
        let pods = [0, 1].map(|number| pod(&nodes[number], number + 1));
        for (number, node) in nodes.iter().enumerate() {
            let other = 1 - number;
            let [ipv4, ipv6] = nodes[other].overlay();
            let inside = node.inside().expect("it runs");
            let route = |net: String, via| {
                inside
                    .route(net.parse().expect("a prefix"), via, Some("hepto0"))
                    .expect("a route")
            };
            route(format!("10.42.{}.0/24", other + 1), ipv4);
            route(format!("fd77:77:77:10{}::/64", other + 1), ipv6);
        }
        for to in ["10.42.2.2", "fd77:77:77:102::2"] {
            let request = Echo {
                size: TUNNEL_MTU,
                ..Echo::new(to.parse().expect("an address"))
            };
            let ask = || {
                pods[0]
                    .run(|| hepto_tests::echo(request))
                    .expect("the pod lives")
            };
            within(SOON, &format!("a pod hears {to}"), ask);
            let larger = Echo {
                size: TUNNEL_MTU + 1,
                ..request
            };
            assert_eq!(
                too_big(&pods[0], larger),
                Some(EMSGSIZE),
                "the node tells its pod, {to}"
            );
        }
    });
}

/// A network of its own behind a node, as a pod has: 10.42.N.2 and the same of IPv6.
fn pod(node: &Node, number: usize) -> Space {
    let pod = Space::private().expect("a pod's namespaces");
    let net = |text: String| text.parse().expect("a prefix");
    let nets = |host: u8| {
        [
            net(format!("10.42.{number}.{host}/24")),
            net(format!("fd77:77:77:10{number}::{host}/64")),
        ]
    };
    let inside = node.inside().expect("it runs");
    inside
        .join(("pod0", &nets(1)), (&pod, "eth0", &nets(2)))
        .expect("a pod's link");
    pod.route(net("0.0.0.0/0".to_owned()), nets(1)[0].addr(), None)
        .expect("a route");
    pod.route(net("::/0".to_owned()), nets(1)[1].addr(), None)
        .expect("a route");
    pod
}

/// The error of an echo request, as a number.
fn too_big(space: &Space, request: Echo) -> Option<i32> {
    let answer = space
        .run(|| hepto_tests::echo(request))
        .expect("the space lives");
    answer
        .expect_err("it is larger than the MTU")
        .raw_os_error()
}

#[test]
fn three_nodes_meet_on_a_line_that_loses_a_fifth() {
    isolated(|| {
        let lab = new_lab();
        let mut nodes = lab.nodes(&["mars", "venus", "pluto"]);
        let _lossy = nodes
            .iter()
            .map(|node| hepto_tests::Filter::loss(&lab.street, node.home(), 10))
            .collect::<Vec<_>>();
        nodes.iter_mut().for_each(Node::start);
        let all: Vec<&Node> = nodes.iter().collect();
        Node::all_meet(&all, Instant::now(), seconds(30));
    });
}

/// Carries so many megabytes from one node to another as one TCP stream.
fn stream(from: &Node, to: &Node, megabytes: usize) {
    let place = |node: &Node| node.inside().expect("it runs");
    let listener = place(to)
        .run(|| TcpListener::bind(SocketAddr::new(to.overlay()[0], 0)))
        .expect("the node lives")
        .expect("a port");
    let address = listener.local_addr().expect("bound");
    let mut near = place(from)
        .run(|| TcpStream::connect(address))
        .expect("the node lives")
        .expect("a connection");
    let (mut far, _) = listener.accept().expect("the connection");
    thread::scope(|scope| {
        scope.spawn(move || {
            let chunk = vec![7; 1 << 20];
            for _ in 0..megabytes {
                near.write_all(&chunk).expect("the stream lives");
            }
        });
        let arrived = io::copy(&mut far, &mut io::sink()).expect("it arrives");
        assert_eq!(arrived, (megabytes as u64) << 20);
    });
}

#[test]
fn a_node_of_three_is_small_before_and_after_bulk() {
    isolated(|| {
        let lab = new_lab();
        let mut nodes = lab.nodes(&["mars", "venus", "pluto"]);
        nodes.iter_mut().for_each(Node::start);
        let all: Vec<&Node> = nodes.iter().collect();
        Node::all_meet(&all, Instant::now(), SOON);
        let before: Vec<u64> = nodes.iter().map(|node| node.memory().own).collect();
        thread::scope(|scope| {
            scope.spawn(|| stream(&nodes[0], &nodes[1], 40));
            stream(&nodes[1], &nodes[0], 40);
        });
        for (node, before) in nodes.iter().zip(before) {
            within(SOON, "the buffers of the stream are given back", || {
                let more = node.memory().own.saturating_sub(before) as f64 / MEGABYTE;
                let said = format!("{} has {more:.1} MB more than before", node.name());
                (more <= 0.4).then_some(()).ok_or(said)
            });
            let memory = node.memory();
            let own = memory.own as f64 / MEGABYTE;
            // In a debug build 1 MB of it is the program's relocated data, and glibc gives each thread 0.3 MB to begin
            // with; the static program has neither.
            assert!(own <= 6.0, "{} has {own:.1} MB of its own", node.name());
            // The promise: 12 MB with the program's code, which in a debug build is several times as large.
            let all = memory.resident as f64 / MEGABYTE;
            assert!(
                all <= 12.0 || cfg!(debug_assertions),
                "{} has {all:.1} MB resident",
                node.name()
            );
        }
    });
}
