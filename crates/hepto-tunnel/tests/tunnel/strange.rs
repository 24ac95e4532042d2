//! What is not plain TCP or UDP, and a path that lies about itself.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::Command;

use crate::home::{Home, MTU, Node, SOON, pair, receive};
use crate::offload::{between, exchange};

/// A protocol number for experiments (RFC 3692).
const EXPERIMENT: libc::c_int = 253;

/// Destination options of eight bytes, all padding (RFC 8200, 4.2).
const OPTIONS: [u8; 8] = [0, 0, 1, 4, 0, 0, 0, 0];

/// A raw socket, which `std`'s UDP methods serve as well.
fn raw(home: &Home, family: libc::c_int, protocol: libc::c_int) -> UdpSocket {
    home.run(|| {
        // SAFETY: takes integers and returns a descriptor that nobody else owns.
        let fd = unsafe { libc::socket(family, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol) };
        assert!(fd >= 0, "a raw socket: {}", io::Error::last_os_error());
        // SAFETY: the descriptor was made just now and is owned by nobody.
        UdpSocket::from(unsafe { OwnedFd::from_raw_fd(fd) })
    })
}

fn set_options(socket: &impl AsRawFd) {
    // SAFETY: the kernel reads eight bytes that outlive the call.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IPV6,
            libc::IPV6_DSTOPTS,
            OPTIONS.as_ptr().cast(),
            8,
        )
    };
    assert_eq!(set, 0, "{}", io::Error::last_os_error());
}

#[test]
fn other_protocols_pass_in_both_families() {
    let (a, b) = pair();
    for (family, target, head) in [
        (libc::AF_INET, "10.44.0.2:0", 20),
        (libc::AF_INET6, "[fd44::2]:0", 0),
    ] {
        let (from, to) = (
            raw(&a.home, family, EXPERIMENT),
            raw(&b.home, family, EXPERIMENT),
        );
        to.set_read_timeout(Some(SOON)).expect("a timeout");
        let mut buffer = vec![0; 2048];
        for length in [1, 8, 100, MTU - 40] {
            let payload: Vec<u8> = (0..length).map(|n| (n * 3) as u8).collect();
            from.send_to(&payload, target).expect("sent");
            let (received, _) = receive(&to, &mut buffer).expect("it arrives");
            // IPv4 shows its header too.
            assert_eq!(&buffer[head..received], &payload[..]);
        }
    }
}

#[test]
fn extension_headers_and_fragments_pass() {
    let (a, b) = pair();
    let (from, to) = (a.home.udp("[fd44::1]:0"), b.home.udp("[fd44::2]:7000"));
    to.set_read_timeout(Some(SOON)).expect("a timeout");
    let mut buffer = vec![0; 1 << 16];
    for options in [false, true] {
        if options {
            set_options(&from);
        }
        // The largest are fragments, of IPv6's own kind.
        for length in [0, 1, 500, MTU - 56, MTU, 5000, 20_000] {
            let payload: Vec<u8> = (0..length).map(|n| (n * 5) as u8).collect();
            from.send_to(&payload, "[fd44::2]:7000").expect("sent");
            let (received, _) = receive(&to, &mut buffer).expect("it arrives");
            assert_eq!(&buffer[..received], &payload[..], "options: {options}");
        }
    }
}

/// The kernel cuts no burst with such headers for a device, or does: whatever it gives, the stream is whole.
#[test]
fn a_stream_with_extension_headers_is_whole() {
    let (a, b) = pair();
    let listener = b
        .home
        .run(|| TcpListener::bind("[fd44::2]:7000").expect("a port"));
    let near = a
        .home
        .run(|| TcpStream::connect("[fd44::2]:7000").expect("a connection"));
    let (far, _) = listener.accept().expect("the connection");
    // Not on the accepting side: Linux 6.18 then sends nothing at all, on a bare veth either.
    set_options(&near);
    std::thread::scope(|scope| {
        scope.spawn(|| exchange(&near, 1, 2));
        exchange(&far, 2, 1);
    });
    let lost = |node: &Node| {
        let counters = node.tunnel.counters();
        (counters.malformed, counters.unroutable, counters.tun_failed)
    };
    assert_eq!((lost(&a), lost(&b)), ((0, 0, 0), (0, 0, 0)));
}

/// Forges "fragmentation needed, at most 600" about a datagram of ours from 192.0.2.1 to 192.0.2.2.
fn forge_v4(port: u16) -> Vec<u8> {
    let mut message = vec![3, 4, 0, 0, 0, 0];
    message.extend(600u16.to_be_bytes());
    message.extend([0x45, 0, 5, 0, 0, 0, 0x40, 0, 64, 17, 0, 0]);
    message.extend(Ipv4Addr::new(192, 0, 2, 1).octets());
    message.extend(Ipv4Addr::new(192, 0, 2, 2).octets());
    message.extend(port.to_be_bytes());
    message.extend(51820u16.to_be_bytes());
    message.extend([5, 0, 0, 0]);
    let sum: u32 = message
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

/// Forges "packet too big, at most 1280" about one from 2001:db8::1 to 2001:db8::2. The kernel makes its checksum.
fn forge_v6(port: u16) -> Vec<u8> {
    let mut message = vec![2, 0, 0, 0];
    message.extend(1280u32.to_be_bytes());
    message.extend([0x60, 0, 0, 0, 5, 0, 17, 64]);
    for host in [1, 2] {
        message.extend(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, host).octets());
    }
    message.extend(port.to_be_bytes());
    message.extend(51820u16.to_be_bytes());
    message.extend([5, 0, 0, 0]);
    message
}

/// The kernel learns a forged path MTU through another socket of the node; sends of the tunnel must not fail for it.
#[test]
fn a_forged_path_mtu_stops_nothing() {
    for (wire, own, near, far, icmp) in [
        (
            "192.0.2.2:51820",
            "192.0.2.1:0",
            "192.0.2.1:0",
            "192.0.2.2",
            libc::IPPROTO_ICMP,
        ),
        (
            "[2001:db8::2]:51820",
            "[2001:db8::1]:0",
            "[2001:db8::1]:0",
            "2001:db8::2",
            libc::IPPROTO_ICMPV6,
        ),
    ] {
        let (a, b) = pair();
        a.connect(2, wire);
        let before = a.tunnel.offload();
        let victim = a.home.udp(own);
        victim.connect(wire).expect("an address");
        let port = victim.local_addr().expect("bound").port();
        for own_port in [port, 51820] {
            let (forged, family) = if icmp == libc::IPPROTO_ICMP {
                (forge_v4(own_port), libc::AF_INET)
            } else {
                (forge_v6(own_port), libc::AF_INET6)
            };
            let liar = raw(&b.home, family, icmp);
            liar.send_to(&forged, near).expect("sent");
        }
        let learned = || {
            let route = a
                .home
                .run(|| Command::new("ip").args(["route", "get", far]).output());
            let route = route.expect("iproute2 is installed");
            String::from_utf8_lossy(&route.stdout).contains(" mtu ")
        };
        crate::home::wait("the kernel to believe the lie", SOON, learned);
        between(&a.home, &b.home);
        assert_eq!(a.tunnel.offload(), before);
        assert_eq!(a.tunnel.counters().send_failed, 0);
    }
}
