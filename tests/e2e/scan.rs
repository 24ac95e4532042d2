//! What a node's home network can reach of it.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use hepto_tests::{Echo, Node, Recipe, Space, echo, isolated, until, within};

use crate::{SOON, new_lab};

#[test]
fn with_nothing_open_a_scan_gets_no_answer_but_icmps() {
    isolated(|| {
        let lab = new_lab();
        let home = lab.home(1);
        let mut node = lab.node(&home, lab.recipe(1, "mars").with("network", "open = []"));
        node.start();
        let inside = ready(&node);
        // Somebody listens, so that silence is the firewall's doing.
        let listener = inside
            .run(|| TcpListener::bind("[::]:8080"))
            .expect("the node lives")
            .expect("a free port");
        let neighbour = lab.home(9);
        for address in node.recipe.uplink {
            within(SOON, "ICMP answers", || {
                let answer = neighbour.space().run(|| echo(Echo::new(address)));
                answer.expect("the home lives")
            });
            assert_eq!(
                tcp_answers(neighbour.space(), address),
                BTreeSet::new(),
                "TCP at {address}"
            );
            assert_eq!(
                udp_answers(neighbour.space(), address),
                Vec::<u16>::new(),
                "UDP at {address}"
            );
        }
        for address in node.recipe.uplink {
            let mesh = SocketAddr::new(address, 51820);
            let silence = neighbour.space().run(|| provoke(mesh));
            let answered = silence.expect("the home lives");
            assert_eq!(
                answered, None,
                "the mesh port answered a stranger at {mesh}"
            );
        }
        drop(listener);
    });
}

#[test]
fn a_port_that_is_open_answers() {
    isolated(|| {
        let lab = new_lab();
        let mut node = lab.node(
            &lab.home(1),
            lab.recipe(1, "mars")
                .with("network", "open = [\"tcp/8080\"]"),
        );
        node.start();
        let inside = ready(&node);
        let _listener = inside
            .run(|| TcpListener::bind("[::]:8080"))
            .expect("the node lives")
            .expect("a free port");
        let neighbour = lab.home(9);
        for address in node.recipe.uplink {
            let open = SocketAddr::new(address, 8080);
            until(SOON, "the open port answers", || {
                answers(neighbour.space(), open)
            });
            // A scan is in a hurry, and a busy machine may not be in time for it.
            let mut others = tcp_answers(neighbour.space(), address);
            others.remove(&8080);
            assert_eq!(others, BTreeSet::new(), "{address}");
        }
    });
}

#[test]
fn a_neighbour_that_routes_through_a_node_reaches_nothing_inside() {
    isolated(|| {
        let lab = new_lab();
        let recipe = |number, name: &str| {
            let recipe = Recipe {
                master: "mars".to_owned(),
                ..lab.recipe(number, name)
            };
            recipe.with("cluster", "ula = \"fd77:77:77::/48\"")
        };
        let mut nodes = [
            lab.node(&lab.home(1), recipe(1, "mars")),
            lab.node(&lab.home(2), recipe(2, "venus")),
        ];
        nodes.iter_mut().for_each(Node::start);
        Node::all_meet(&[&nodes[0], &nodes[1]], Instant::now(), SOON);
        let _services = nodes.each_ref().map(inner_addresses);
        let neighbour = lab.home(9);
        let [via_ipv4, via_ipv6] = nodes[0].recipe.uplink;
        for net in ["10.42.0.0/16", "10.43.0.0/16", "10.44.0.0/16"] {
            neighbour
                .space()
                .route(net.parse().expect("a prefix"), via_ipv4, None)
                .expect("a route");
        }
        neighbour
            .space()
            .route("fd77:77:77::/48".parse().expect("a prefix"), via_ipv6, None)
            .expect("a route");
        let inner = [
            "10.42.0.1",
            "10.43.0.1",
            "fd77:77:77:100::1",
            "fd77:77:77:200::1",
        ];
        let inner = inner.map(|text| text.parse().expect("an address"));
        for address in nodes[0]
            .overlay()
            .into_iter()
            .chain(nodes[1].overlay())
            .chain(inner)
        {
            let silence = neighbour
                .space()
                .run(|| echo(quick(address)))
                .expect("the home lives");
            silence.expect_err("not even ICMP answers");
            assert_eq!(
                tcp_answers(neighbour.space(), address),
                BTreeSet::new(),
                "TCP at {address}"
            );
            assert_eq!(
                udp_answers(neighbour.space(), address),
                Vec::<u16>::new(),
                "UDP at {address}"
            );
        }
    });
}

#[test]
fn gossip_is_reached_by_nodes_alone() {
    isolated(|| {
        let lab = new_lab();
        let mut nodes = lab.nodes(&["mars", "venus"]);
        nodes.iter_mut().for_each(Node::start);
        Node::all_meet(&[&nodes[0], &nodes[1]], Instant::now(), SOON);
        let pod = Space::private().expect("a pod's namespaces");
        let nets = ["10.42.0.1/24", "10.42.0.2/24"].map(|net| net.parse().expect("a prefix"));
        let inside = nodes[0].inside().expect("it runs");
        inside
            .join(("pod0", &nets[..1]), (&pod, "eth0", &nets[1..]))
            .expect("a pod's link");
        pod.route("0.0.0.0/0".parse().expect("a prefix"), nets[0].addr(), None)
            .expect("a route");
        for node in &nodes {
            let [address, _] = node.overlay();
            assert!(
                !answers(&pod, SocketAddr::new(address, 7947)),
                "a pod reached the gossip of {}",
                node.name()
            );
        }
        let [other, _] = nodes[1].overlay();
        until(SOON, "the nodes themselves talk", || {
            answers(&inside, SocketAddr::new(other, 7947))
        });
    });
}

/// Sends what looks like every message of WireGuard and of the rendezvous; an answer, if there is one.
fn provoke(mesh: SocketAddr) -> Option<Vec<u8>> {
    let any = if mesh.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    };
    let socket = UdpSocket::bind(any).expect("a socket");
    socket.connect(mesh).expect("a route");
    let heads = [
        ([1, 0, 0, 0], 148),
        ([2, 0, 0, 0], 92),
        ([3, 0, 0, 0], 64),
        ([4, 0, 0, 0], 32),
    ];
    // One rendezvous message for each of the 256 ids that a key may have.
    let hellos = (0..=255).map(|id| ([0xe8, 1, id, 0], 480));
    for (head, length) in heads.into_iter().chain(hellos) {
        let mut message = vec![0x5a; length];
        message[..4].copy_from_slice(&head);
        socket.send(&message).expect("a datagram leaves");
    }
    socket
        .set_read_timeout(Some(Duration::from_millis(500)))
        .expect("a socket option");
    let mut answer = [0; 2048];
    let length = socket.recv(&mut answer).ok()?;
    Some(answer[..length].to_vec())
}

/// Gives a node one address of its pods' and one of its services' networks, as a cluster does.
fn inner_addresses(node: &Node) -> TcpListener {
    let inside = node.inside().expect("it runs");
    let nets = [
        "10.42.0.1/24",
        "10.43.0.1/32",
        "fd77:77:77:100::1/64",
        "fd77:77:77:200::1/128",
    ];
    let nets = nets.map(|net| net.parse().expect("a prefix"));
    inside.address("lo", &nets).expect("addresses");
    inside
        .run(|| TcpListener::bind("[::]:6443"))
        .expect("the node lives")
        .expect("a free port")
}

/// Waits until the node's uplink addresses answer.
fn ready(node: &Node) -> Space {
    for address in node.recipe.uplink {
        within(SOON, "the node has its uplink addresses", || {
            let bound = node
                .inside()?
                .run(|| UdpSocket::bind(SocketAddr::new(address, 0)));
            bound
                .map_err(|error| error.to_string())?
                .map_err(|error| error.to_string())
        });
    }
    node.inside().expect("it runs")
}

fn quick(to: IpAddr) -> Echo {
    Echo {
        patience: Duration::from_millis(300),
        ..Echo::new(to)
    }
}

/// The ports worth a look: all below 1024 and those of Kubernetes, gossip, and the mesh.
fn ports() -> Vec<u16> {
    (1..1024)
        .chain([
            2379, 2380, 5001, 6443, 7946, 7947, 8080, 8472, 9100, 10248, 10250, 10256, 30000, 51820,
        ])
        .collect()
}

/// The TCP ports that answer at all, be it with a refusal.
fn tcp_answers(from: &Space, address: IpAddr) -> BTreeSet<u16> {
    let ports = ports();
    let mut found = BTreeSet::new();
    thread::scope(|scope| {
        let parts: Vec<_> = ports
            .chunks(20)
            .map(|part| {
                let ask = move || {
                    part.iter()
                        .copied()
                        .filter(|port| answers_here(SocketAddr::new(address, *port)))
                        .collect::<Vec<_>>()
                };
                scope.spawn(move || from.run(ask).expect("the home lives"))
            })
            .collect();
        for part in parts {
            found.extend(part.join().expect("the scan itself does not fail"));
        }
    });
    found
}

fn answers(from: &Space, to: SocketAddr) -> bool {
    from.run(|| answers_here(to)).expect("the space lives")
}

fn answers_here(to: SocketAddr) -> bool {
    match TcpStream::connect_timeout(&to, Duration::from_millis(100)) {
        Ok(_) => true,
        Err(error) => error.kind() == io::ErrorKind::ConnectionRefused,
    }
}

/// The UDP ports that answer a datagram, be it with a refusal.
fn udp_answers(from: &Space, address: IpAddr) -> Vec<u16> {
    let ask = || {
        let sockets: Vec<(u16, UdpSocket)> = ports()
            .into_iter()
            .map(|port| {
                let socket = UdpSocket::bind(if address.is_ipv4() {
                    "0.0.0.0:0"
                } else {
                    "[::]:0"
                })
                .expect("a socket");
                socket
                    .connect(SocketAddr::new(address, port))
                    .expect("a route");
                socket.send(&[0; 64]).ok();
                socket.set_nonblocking(true).expect("a socket option");
                (port, socket)
            })
            .collect();
        // An answer would come at once; this is what the scan waits, not what a node promises.
        thread::sleep(Duration::from_millis(500));
        let silent = |socket: &UdpSocket| {
            let answer = socket.recv(&mut [0; 2048]);
            answer.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
        };
        sockets
            .iter()
            .filter(|(_, socket)| !silent(socket))
            .map(|(port, _)| *port)
            .collect()
    };
    from.run(ask).expect("the home lives")
}
