//! The same traffic over every rung of the ladder: what arrives is what was sent.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hepto_tunnel::Offload;

use crate::home::{Home, MTU, Node, PSK, Raise, SOON, homes, receive, wait};

/// Bytes of a stream, each way. A prime, so that no burst ends where a segment does.
const STREAM: usize = 8_000_009;

fn nodes(near: Offload, far: Offload) -> (Node, Node) {
    let (a, b) = homes();
    let a = Node::start(a, 1, |options| options.offload = near);
    let b = Node::start(b, 2, |options| options.offload = far);
    a.know(2, PSK);
    b.know(1, PSK);
    a.connect(2, "192.0.2.2:51820");
    wait("the other side's session", SOON, || {
        b.report(1).last_handshake.is_some()
    });
    (a, b)
}

fn byte(number: usize, salt: usize) -> u8 {
    (number.wrapping_mul(2_654_435_761) >> 7) as u8 ^ salt as u8
}

/// Sends a stream and reads the other one, at once.
pub fn exchange(stream: &TcpStream, sends: usize, reads: usize) {
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .expect("a timeout");
    stream
        .set_write_timeout(Some(Duration::from_secs(20)))
        .expect("a timeout");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let bytes: Vec<u8> = (0..STREAM).map(|number| byte(number, sends)).collect();
            let mut stream = stream;
            // Writes of odd sizes make bursts of odd sizes.
            for chunk in bytes.chunks(77_777) {
                stream.write_all(chunk).expect("the stream lives");
            }
        });
        let (mut stream, mut buffer, mut at) = (stream, vec![0; 1 << 16], 0);
        while at < STREAM {
            let length = match stream.read(&mut buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                other => other.expect("it arrives"),
            };
            assert!(length > 0, "closed after {at} bytes");
            for (offset, found) in buffer[..length].iter().enumerate() {
                assert_eq!(*found, byte(at + offset, reads), "byte {}", at + offset);
            }
            at += length;
        }
    });
}

fn streams(a: &Node, b: &Node) {
    between(&a.home, &b.home);
}

/// Streams of both families between two homes whose inner addresses end in 1 and 2.
pub fn between(near: &Home, far: &Home) {
    for address in ["10.44.0.2:7000", "[fd44::2]:7000"] {
        let listener = far.run(|| TcpListener::bind(address).expect("a port"));
        let near = near.run(|| TcpStream::connect(address).expect("a connection"));
        let (far, _) = listener.accept().expect("the connection");
        std::thread::scope(|scope| {
            scope.spawn(|| exchange(&near, 1, 2));
            exchange(&far, 2, 1);
        });
    }
}

/// One send that the kernel may cut into datagrams of `segment` bytes, or leave to the tunnel.
fn bursts(a: &Node, b: &Node) {
    let segment: libc::c_int = (MTU - 48) as libc::c_int;
    for (near, far) in [
        ("10.44.0.1:0", "10.44.0.2:7001"),
        ("[fd44::1]:0", "[fd44::2]:7001"),
    ] {
        let (from, to) = (a.home.udp(near), b.home.udp(far));
        to.set_read_timeout(Some(SOON)).expect("a timeout");
        // SAFETY: the kernel reads four bytes that outlive the call.
        let set = unsafe {
            libc::setsockopt(
                from.as_raw_fd(),
                libc::SOL_UDP,
                103,
                (&raw const segment).cast(),
                4,
            )
        };
        assert_eq!(set, 0, "this kernel has UDP_SEGMENT");
        let length = 20 * segment as usize + 333;
        let bytes: Vec<u8> = (0..length).map(|number| byte(number, 3)).collect();
        let mut buffer = vec![0; 1 << 16];
        for _ in 0..20 {
            from.send_to(&bytes, far).expect("sent");
            for expected in bytes.chunks(segment as usize) {
                let (received, _) = receive(&to, &mut buffer).expect("it arrives");
                assert_eq!(&buffer[..received], expected);
            }
        }
    }
}

#[test]
fn streams_and_bursts_are_whole_on_every_rung() {
    let all = Offload::ALL;
    for (near, far) in [
        (all, all),
        (all, Offload::NONE),
        (Offload::NONE, all),
        (
            Offload { uso: false, ..all },
            Offload {
                udp_gro: false,
                ..all
            },
        ),
        (
            Offload {
                udp_segment: false,
                ..all
            },
            Offload {
                tso: false,
                uso: false,
                ..all
            },
        ),
    ] {
        let (a, b) = nodes(near, far);
        streams(&a, &b);
        bursts(&a, &b);
        assert!(a.reaches(&b, SOON) && b.reaches(&a, SOON));
        let (near_counters, far_counters) = (a.tunnel.counters(), b.tunnel.counters());
        for counters in [near_counters, far_counters] {
            let lost = (
                counters.spoofed,
                counters.malformed,
                counters.unroutable,
                counters.tun_failed,
            );
            assert_eq!(lost, (0, 0, 0, 0), "{near:?} to {far:?}");
        }
        // Every kernel since 5.0 has all but USO, which came with 6.2.
        let uso = a.tunnel.offload().uso || b.tunnel.offload().uso;
        for (node, permitted) in [(&a, near), (&b, far)] {
            let expected = Offload {
                uso: permitted.uso && uso,
                ..permitted
            };
            assert_eq!(node.tunnel.offload(), expected, "no rung broke");
        }
    }
}

#[test]
fn the_kernels_bursts_are_limited_to_what_one_send_takes() {
    let (a, _b) = nodes(Offload::ALL, Offload::ALL);
    let output = a.home.run(|| {
        Command::new("ip")
            .args(["-details", "link", "show", "hepto0"])
            .output()
    });
    let text = String::from_utf8(output.expect("iproute2 is installed").stdout).expect("text");
    assert!(text.contains(" gso_max_size 58000 "), "{text}");
}

/// Packets that the wire cannot carry whole are fragmented outside the tunnel, also those of a train.
#[test]
fn a_wire_below_the_tunnels_needs_is_slow_but_whole() {
    let (a, b) = nodes(Offload::ALL, Offload::ALL);
    for node in [&a, &b] {
        node.home.ip("link set wire mtu 1300");
    }
    streams(&a, &b);
    bursts(&a, &b);
    for node in [&a, &b] {
        let offload = node.tunnel.offload();
        assert!(offload.udp_segment, "too long is no want of support");
        node.home.ip("link set wire mtu 1500");
        node.tunnel.moved();
    }
    streams(&a, &b);
}

/// A path that sends every seventh datagram twice and swaps every third with its successor.
fn bad_path(from: &UdpSocket, to: &UdpSocket, target: &str, ends: &AtomicBool) {
    let (mut buffer, mut held) = (vec![0; 1 << 16], Vec::new());
    from.set_read_timeout(Some(Duration::from_millis(20)))
        .expect("a timeout");
    let send = |bytes: &[u8]| to.send_to(bytes, target).map(drop).unwrap_or_default();
    let mut number = 0u32;
    while !ends.load(Ordering::Relaxed) {
        let Ok(length) = from.recv(&mut buffer) else {
            if !held.is_empty() {
                send(&std::mem::take(&mut held));
            }
            continue;
        };
        number += 1;
        if number.is_multiple_of(3) && held.is_empty() {
            held = buffer[..length].to_vec();
            continue;
        }
        send(&buffer[..length]);
        if number.is_multiple_of(7) {
            send(&buffer[..length]);
        }
        if !held.is_empty() {
            send(&std::mem::take(&mut held));
        }
    }
}

#[test]
fn a_stream_over_a_path_that_reorders_and_duplicates_is_whole() {
    let (a, b) = homes();
    let (a, b) = (Node::start(a, 1, |_| {}), Node::start(b, 2, |_| {}));
    a.know(2, PSK);
    b.know(1, PSK);
    // Between them: `a` sees the path as the peer, and so does `b`.
    let (near, far) = (b.home.udp("192.0.2.2:9000"), b.home.udp("192.0.2.2:9001"));
    let ends = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| bad_path(&near, &far, "192.0.2.2:51820", &ends));
        scope.spawn(|| bad_path(&far, &near, "192.0.2.1:51820", &ends));
        let _ends = Raise(&ends);
        a.connect(2, "192.0.2.2:9000");
        streams(&a, &b);
    });
    assert!(
        a.tunnel.counters().unauthentic > 0 && b.tunnel.counters().unauthentic > 0,
        "duplicates are refused"
    );
    assert_eq!(a.tunnel.offload(), b.tunnel.offload());
}

/// A stream that goes on while the sender's address changes and sessions are renewed.
#[test]
fn a_stream_survives_roaming_and_rekeying() {
    const MOVES: u8 = 12;
    let (a, b) = nodes(Offload::ALL, Offload::ALL);
    let listener = b
        .home
        .run(|| TcpListener::bind("10.44.0.2:7000").expect("a port"));
    let near = a
        .home
        .run(|| TcpStream::connect("10.44.0.2:7000").expect("a connection"));
    let (far, _) = listener.accept().expect("the connection");
    let moved = AtomicBool::new(false);
    let mut handshakes = 0;
    std::thread::scope(|scope| {
        let stream = scope.spawn(|| {
            let mut rounds = 0;
            while !moved.load(Ordering::Relaxed) {
                std::thread::scope(|scope| {
                    scope.spawn(|| exchange(&near, 1, 2));
                    exchange(&far, 2, 1);
                });
                rounds += 1;
            }
            rounds
        });
        let ends = Raise(&moved);
        for number in 101..=100 + MOVES {
            let before = if number == 101 { 1 } else { number - 1 };
            a.home.ip(&format!("addr add 192.0.2.{number}/24 dev wire"));
            // Deleting the first address of a prefix takes the others with it.
            a.home.ip(&format!("addr del 192.0.2.{before}/24 dev wire"));
            a.home
                .ip(&format!("addr replace 192.0.2.{number}/24 dev wire"));
            let endpoint = format!("192.0.2.{number}:51820");
            a.tunnel.moved();
            wait("the move to be seen", SOON, || {
                b.report(1).endpoint == endpoint.parse().ok()
            });
            let endpoint = endpoint.parse().expect("an address");
            handshakes += u32::from(b.tunnel.handshake(&crate::home::public(1), endpoint));
            std::thread::sleep(Duration::from_millis(150));
        }
        drop(ends);
        assert!(stream.join().expect("whole") > 0);
    });
    assert!(handshakes >= 2, "one a second");
}
