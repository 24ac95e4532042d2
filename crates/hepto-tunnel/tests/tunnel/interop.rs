//! Another implementation at the other end: both directions, both families.
//!
//! `HEPTO_INTEROP_PEER` says which: `wireguard-go` (Debian's; the default) or `kernel` (the running kernel's own). Both
//! need root, iproute2 and wireguard-tools.
//!
//! No toolchain is needed where they run, only this binary, which finds nothing by a path of the checkout:
//! `cargo test --workspace --test tunnel --no-run` builds it and prints where it is. It is linked to the C library of
//! the machine that built it; with `--target x86_64-unknown-linux-musl` it runs on any kernel that is to be tried. There:
//! `modprobe wireguard; HEPTO_INTEROP_PEER=kernel ./tunnel-… interop::`; without `interop::`, all that tunnels promise.

use std::net::UdpSocket;
use std::time::Duration;

use crate::home::{MTU, Node, PSK, SOON, homes, receive, wait};

mod other;

use other::Other;

fn ends() -> (Node, Other) {
    let (near, far) = homes();
    let (node, other) = (Node::start(near, 1, |_| {}), Other::start(far));
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
