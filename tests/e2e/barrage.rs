//! Strangers at the open port, and pods at gossip's.

use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hepto_tests::{Capture, Echo, Node, Space, isolated};

use crate::{SOON, new_lab, seconds};

#[test]
fn ten_seconds_of_garbage_replays_and_fragments_disturb_nothing() {
    isolated(|| {
        let lab = new_lab();
        let mut nodes = lab.nodes(&["mars", "venus", "pluto"]);
        let line = Capture::of(nodes[0].home());
        nodes.iter_mut().for_each(Node::start);
        Node::all_meet(&nodes.iter().collect::<Vec<_>>(), Instant::now(), SOON);
        let recorded: Vec<Vec<u8>> = line.seen().into_iter().map(|seen| seen.bytes).collect();
        drop(line);
        assert!(
            recorded
                .iter()
                .any(|bytes| bytes.starts_with(&[1, 0, 0, 0])),
            "a handshake was recorded"
        );

        let before = nodes[0].memory().own;
        let neighbour = lab.home(9);
        let pod = pod(&nodes[1]);
        let over = AtomicBool::new(false);
        let sent = AtomicU64::new(0);
        let targets = nodes[0]
            .recipe
            .uplink
            .map(|address| SocketAddr::new(address, 51820));
        let gossip = nodes[0]
            .overlay()
            .map(|address| SocketAddr::new(address, 7947));
        let peak = thread::scope(|scope| {
            scope.spawn(|| {
                neighbour
                    .space()
                    .run(|| flood(&targets, &shapes(&recorded), &over, &sent))
            });
            scope.spawn(|| pod.run(|| pester(gossip[0], &recorded, &over)));
            let peak = endure(&nodes, seconds(10));
            over.store(true, Ordering::Relaxed);
            peak
        });
        assert!(
            sent.load(Ordering::Relaxed) > 50_000,
            "a flood is more than {} packets",
            sent.into_inner()
        );
        let grown = peak.saturating_sub(before) as f64 / f64::from(1 << 20);
        assert!(grown < 8.0, "the node grew by {grown:.1} MB");
        Node::all_meet(&nodes.iter().collect::<Vec<_>>(), Instant::now(), SOON);
    });
}

/// Asks all through the barrage; the most memory that the victim had.
fn endure(nodes: &[Node], time: Duration) -> u64 {
    let start = Instant::now();
    let [ipv4, ipv6] = nodes[0].overlay();
    let (mut asked, mut heard, mut peak) = (0, 0, 0);
    while start.elapsed() < time {
        for to in [ipv4, ipv6] {
            asked += 1;
            heard += u32::from(nodes[2].echo(Echo::new(to)).is_ok());
        }
        peak = peak.max(nodes[0].memory().own);
        thread::sleep(Duration::from_millis(50));
    }
    // A full queue loses packets, as any line does; the mesh itself stays.
    assert!(
        heard * 10 >= asked * 9,
        "{heard} of {asked} answers during the barrage"
    );
    peak
}

/// Garbage, truncated and repeated datagrams.
fn shapes(recorded: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut shapes = recorded.to_vec();
    for whole in recorded {
        shapes.extend(
            [1, 4, whole.len() / 2, whole.len() - 1].map(|length| whole[..length].to_vec()),
        );
    }
    // Not random, and the same each time: multiples of a prime.
    let noise = |length: usize| {
        (0..length)
            .map(|at| (at * 167 % 251) as u8)
            .collect::<Vec<u8>>()
    };
    for first in [
        [1, 0, 0, 0],
        [2, 0, 0, 0],
        [3, 0, 0, 0],
        [4, 0, 0, 0],
        [0xe8, 1, 0, 0],
    ] {
        for length in [4, 32, 92, 148, 400, 1200, 1400] {
            let mut shape = noise(length);
            shape[..4].copy_from_slice(&first);
            shapes.push(shape);
        }
    }
    shapes.extend([0, 1, 3, 1472].map(noise));
    shapes
}

fn flood(targets: &[SocketAddr], shapes: &[Vec<u8>], over: &AtomicBool, sent: &AtomicU64) {
    let socket = UdpSocket::bind("[::]:0").expect("a socket");
    let ipv4 = UdpSocket::bind("0.0.0.0:0").expect("a socket");
    while !over.load(Ordering::Relaxed) {
        for shape in shapes {
            for target in targets {
                let socket = if target.is_ipv4() { &ipv4 } else { &socket };
                // A full queue of our own is no failure.
                sent.fetch_add(
                    u64::from(socket.send_to(shape, target).is_ok()),
                    Ordering::Relaxed,
                );
            }
        }
    }
}

/// A pod that sends to gossip's port by both protocols.
fn pester(target: SocketAddr, recorded: &[Vec<u8>], over: &AtomicBool) {
    let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
    while !over.load(Ordering::Relaxed) {
        for bytes in recorded {
            socket.send_to(bytes, target).ok();
        }
        let connected = TcpStream::connect_timeout(&target, Duration::from_millis(20));
        assert!(connected.is_err(), "a pod reached gossip");
    }
}

pub fn pod(node: &Node) -> Space {
    let pod = Space::private().expect("a pod's namespaces");
    let nets = ["10.42.9.1/24", "10.42.9.2/24"].map(|net| net.parse().expect("a prefix"));
    let inside = node.inside().expect("it runs");
    inside
        .join(("pod0", &nets[..1]), (&pod, "eth0", &nets[1..]))
        .expect("a pod's link");
    pod.route("0.0.0.0/0".parse().expect("a prefix"), nets[0].addr(), None)
        .expect("a route");
    pod
}
