//! Another implementation at the other end: both directions, both families.
//!
//! `HEPTO_INTEROP_PEER` says which: `wireguard-go` (Debian's; the default) or `kernel` (the running kernel's own). Both
//! need root, iproute2 and wireguard-tools.
//!
//! No toolchain is needed where they run, only this binary, which finds nothing by a path of the checkout:
//! `cargo test --workspace --test tunnel --no-run` builds it and prints where it is. It is linked to the C library of
//! the machine that built it; with `--target x86_64-unknown-linux-musl` it runs on any kernel that is to be tried. There:
//! `modprobe wireguard; HEPTO_INTEROP_PEER=kernel ./tunnel-… interop::`; without `interop::`, all that tunnels promise.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hepto_tunnel::Options;

use crate::home::{Home, MTU, Node, PSK, Raise, SOON, homes, receive, wait};
use crate::session::{initiation_of_a_stranger, renewed_without_loss};

mod other;

use other::Other;

fn ends() -> (Node, Other) {
    ends_with(|_| {})
}

fn ends_with(change: impl FnOnce(&mut Options) + Send) -> (Node, Other) {
    let (near, far) = homes();
    let (node, other) = (Node::start(near, 1, change), Other::start(far));
    node.know(2, PSK);
    (node, other)
}

fn echo(from: &UdpSocket, to: &UdpSocket, lengths: &[usize]) {
    let mut buffer = vec![0; 2048];
    to.set_read_timeout(Some(Duration::from_secs(5)))
        .expect("a timeout");
    let target = to.local_addr().expect("bound");
    for &length in lengths {
        let payload: Vec<u8> = (0..length).map(|n| (n * 7) as u8).collect();
        from.send_to(&payload, target).expect("sent");
        let (received, _) = receive(to, &mut buffer)
            .unwrap_or_else(|error| panic!("{length} bytes to {target}: {error}"));
        assert_eq!(
            &buffer[..received],
            &payload[..],
            "{length} bytes to {target}"
        );
    }
}

fn talk(node: &Node, other: &Other) {
    for (near, far, head) in [
        ("10.44.0.1:0", "10.44.0.2:0", 28),
        ("[fd44::1]:0", "[fd44::2]:0", 48),
    ] {
        let (a, b) = (node.home.udp(near), other.home.udp(far));
        let lengths = [0, 1, 15, 16, 17, 555, MTU - head - 1, MTU - head];
        echo(&a, &b, &lengths);
        echo(&b, &a, &lengths);
    }
    crate::offload::between(&node.home, &other.home);
}

#[test]
fn the_other_answers_our_handshake() {
    for wire in ["192.0.2.2:51820", "[2001:db8::2]:51820"] {
        let (node, other) = ends();
        node.connect(2, wire);
        talk(&node, &other);
    }
}

#[test]
fn we_answer_the_others_handshake() {
    for wire in ["192.0.2.1:51820", "[2001:db8::1]:51820"] {
        let (node, mut other) = ends();
        other.know(&format!("endpoint {wire} persistent-keepalive 1"));
        wait("a session", SOON, || {
            node.report(2).last_handshake.is_some()
        });
        talk(&node, &other);
        assert_ne!(
            other.show("latest-handshakes"),
            "0",
            "it saw the handshake too"
        );
    }
}

#[test]
fn sessions_are_renewed_without_losing_a_packet() {
    let (node, mut other) = ends();
    node.connect(2, "192.0.2.2:51820");
    let renewed = renewed_without_loss(&node, 2, "192.0.2.2:51820", &other.home);
    assert!(renewed >= 2, "{renewed} new sessions in four seconds");
    talk(&node, &other);
    assert_ne!(other.show("latest-handshakes"), "0");
}

/// Gives the wire of `home` another address.
fn move_house(home: &Home, from: u8, to: u8) {
    home.ip(&format!("addr add 192.0.2.{to}/24 dev wire"));
    // Deleting the first address of a prefix takes the others with it.
    home.ip(&format!("addr del 192.0.2.{from}/24 dev wire"));
    home.ip(&format!("addr replace 192.0.2.{to}/24 dev wire"));
}

#[test]
fn the_other_follows_us_when_we_move() {
    let (node, mut other) = ends();
    node.connect(2, "192.0.2.2:51820");
    talk(&node, &other);
    move_house(&node.home, 1, 101);
    node.tunnel.moved();
    wait("the other to follow", SOON, || {
        other.show("endpoints") == "192.0.2.101:51820"
    });
    talk(&node, &other);
}

/// Sends a stream between the two, to `target`, and lets the other move in its middle.
///
/// wireguard-go goes on to send from the address that it was spoken to at, and forgets it on EINVAL; but the kernel says
/// ENETUNREACH when that address is gone, so it is mute for 15 s, until it tries a new handshake. Its owner, who tells it
/// our endpoint anew, shortens that.
fn move_amid_a_stream(node: &Node, other: &mut Other, (from, to): (&Home, &Home), target: &str) {
    const HALF: usize = 4_000_000;
    let listener = to.run(|| TcpListener::bind(target).expect("a port"));
    let address = listener.local_addr().expect("bound");
    let mut near = from.run(|| TcpStream::connect(address).expect("a connection"));
    let (mut far, _) = listener.accept().expect("the connection");
    far.set_read_timeout(Some(SOON)).expect("a timeout");
    near.set_write_timeout(Some(SOON)).expect("a timeout");
    std::thread::scope(|scope| {
        scope.spawn(move || {
            near.write_all(&[7; HALF]).expect("the first half");
            near.write_all(&[8; HALF]).expect("the second half");
        });
        let mut half = vec![0; HALF];
        far.read_exact(&mut half).expect("the first half arrives");
        move_house(&other.home, 2, 102);
        other.know("endpoint 192.0.2.1:51820 persistent-keepalive 1");
        half.clear();
        far.read_to_end(&mut half).expect("the second half arrives");
        assert!(half.len() == HALF && half.iter().all(|byte| *byte == 8));
    });
    wait("us to follow", SOON, || {
        node.report(2).endpoint == "192.0.2.102:51820".parse().ok()
    });
}

#[test]
fn we_follow_the_other_when_it_moves_in_the_middle_of_a_stream() {
    for target in ["10.44.0.1:0", "10.44.0.2:0"] {
        let (node, mut other) = ends();
        let (ours, its) = (node.home.clone(), other.home.clone());
        node.connect(2, "192.0.2.2:51820");
        let way = if target == "10.44.0.1:0" {
            (&its, &ours)
        } else {
            (&ours, &its)
        };
        move_amid_a_stream(&node, &mut other, way, target);
        talk(&node, &other);
    }
}

#[test]
fn keepalives_of_both_are_heard() {
    let (node, mut other) = ends_with(|options| options.keepalive = Duration::from_secs(1));
    other.know("endpoint 192.0.2.1:51820 persistent-keepalive 1");
    wait("a session", SOON, || {
        node.report(2).last_handshake.is_some()
    });
    let heard = |other: &mut Other| -> u64 {
        let text = other.show("transfer");
        let (received, _) = text.split_once('\t').expect("two numbers");
        received.parse().expect("bytes")
    };
    let before = heard(&mut other);
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(10) {
        let silence = node.report(2).last_received;
        assert!(silence < Some(Duration::from_secs(8)), "{silence:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(heard(&mut other) >= before + 2 * 32, "ours, 32 bytes each");
    assert!(node.report(2).rx_packets <= 8, "keepalives are no packets");
}

/// A stranger's initiations.
struct Flood {
    /// Of the node that they go to.
    number: u8,
    /// So many at once,
    burst: usize,
    /// and so long for their answers, before the next ones.
    patience: Duration,
}

/// Floods port 51820 of a node with initiations of a stranger from its neighbour's home, until it is told to end, and notes
/// whether cookies come back.
fn flood(from: &Home, flood: Flood, ends: &AtomicBool, cookies: &AtomicBool) {
    let initiation = initiation_of_a_stranger(flood.number);
    let socket = from.udp("192.0.2.66:0");
    socket.set_nonblocking(true).expect("a mode");
    let target = format!("192.0.2.{}:51820", flood.number);
    let mut buffer = [0; 256];
    while !ends.load(Ordering::Relaxed) {
        for _ in 0..flood.burst {
            let _ = socket.send_to(&initiation, &target);
        }
        let sent = Instant::now();
        let mut answers = 0;
        loop {
            std::thread::sleep(Duration::from_micros(500));
            while let Ok((length, _)) = socket.recv_from(&mut buffer) {
                answers += 1;
                cookies.fetch_or(length == 64 && buffer[0] == 3, Ordering::Relaxed);
            }
            if answers >= flood.burst || sent.elapsed() >= flood.patience {
                break;
            }
        }
    }
}

/// Waits until what a flood left in the sockets' buffers, where new packets find no room, has been worked off.
fn after_the_flood(one: &Home, other: &Home) {
    let mut buffer = [0; 64];
    let (one, other) = (one.udp("10.44.0.1:0"), other.udp("10.44.0.2:0"));
    for (from, to) in [(&one, &other), (&other, &one)] {
        to.set_read_timeout(Some(Duration::from_millis(100)))
            .expect("a timeout");
        let target = to.local_addr().expect("bound");
        wait("a packet to arrive", Duration::from_secs(20), || {
            from.send_to(b"?", target).expect("sent");
            to.recv_from(&mut buffer).is_ok()
        });
    }
}

#[test]
fn under_its_load_we_return_its_cookie() {
    let (node, other) = ends();
    node.home.ip("addr add 192.0.2.66/24 dev wire");
    let (ends, cookies) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        // Its load is what waits in its queue of 1,024, an eighth of which has to be full.
        let dense = Flood {
            number: 2,
            burst: 200,
            patience: Duration::ZERO,
        };
        scope.spawn(|| flood(&node.home, dense, &ends, &cookies));
        let _ends = Raise(&ends);
        wait("the load to be felt", SOON, || {
            cookies.load(Ordering::Relaxed)
        });
        let endpoint = "192.0.2.2:51820".parse().expect("an address");
        // Once a second: with each initiation that it answers it forgets the session before, if that was not used yet.
        let mut asked: Option<Instant> = None;
        wait("a session", Duration::from_secs(20), || {
            if asked.is_none_or(|asked| asked.elapsed() > Duration::from_secs(1)) {
                node.tunnel.handshake(&crate::home::public(2), endpoint);
                asked = Some(Instant::now());
            }
            node.report(2).last_handshake.is_some()
        });
    });
    after_the_flood(&node.home, &other.home);
    talk(&node, &other);
}

#[test]
fn under_our_load_it_returns_our_cookie() {
    let (node, mut other) = ends();
    other.home.ip("addr add 192.0.2.66/24 dev wire");
    let (ends, cookies) = (AtomicBool::new(false), AtomicBool::new(false));
    let home = other.home.clone();
    std::thread::scope(|scope| {
        // Ours is what comes in a second: no more at once than leaves room in the socket, also on a slow machine.
        let slow = Flood {
            number: 1,
            burst: 20,
            patience: Duration::from_millis(20),
        };
        scope.spawn(|| flood(&home, slow, &ends, &cookies));
        let _ends = Raise(&ends);
        wait("the load to be felt", SOON, || {
            cookies.load(Ordering::Relaxed) && node.tunnel.counters().rate_limited > 1000
        });
        other.know("endpoint 192.0.2.1:51820 persistent-keepalive 1");
        // It tries again after five seconds, then with the cookie.
        wait("a session", Duration::from_secs(60), || {
            node.report(2).last_handshake.is_some()
        });
    });
    after_the_flood(&node.home, &other.home);
    talk(&node, &other);
}
