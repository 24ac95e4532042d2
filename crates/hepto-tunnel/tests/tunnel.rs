//! Whole tunnels, two namespaces, real packets. Needs root and iproute2.

mod home;

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use hepto_tunnel::{Options, Socket, Tun, Tunnel};
use home::{Home, MTU, Node, PSK, config, homes, pair, private, public, strangers, told, wait};
use zeroize::Zeroizing;

const SOON: Duration = Duration::from_secs(5);

/// Long enough for what should not come to have come.
const NOT_SOON: Duration = Duration::from_millis(700);

#[test]
fn packets_of_both_families_pass_both_ways() {
    let (a, b) = pair();
    assert!(a.reaches(&b, SOON) && b.reaches(&a, SOON));
    let (there, back) = (a.report(2), b.report(1));
    assert!(there.tx_packets >= 2 && there.rx_packets >= 2);
    assert_eq!(
        (there.tx_bytes, there.rx_bytes),
        (back.rx_bytes, back.tx_bytes)
    );
    assert_eq!(there.endpoint, "192.0.2.2:51820".parse().ok());
    assert_eq!(a.tunnel.counters().tx_packets, there.tx_packets);
}

#[test]
fn every_size_up_to_the_mtu_passes_whole_over_either_family() {
    for wire in ["192.0.2.2:51820", "[2001:db8::2]:51820"] {
        let (a, b) = strangers();
        a.connect(2, wire);
        assert!(a.reaches(&b, SOON));
        let (from, to) = (a.home.udp("10.44.0.1:0"), b.home.udp("10.44.0.2:7000"));
        to.set_read_timeout(Some(SOON)).expect("a timeout");
        let mut buffer = vec![0; 2048];
        for length in [0, 1, 2, 15, 16, 17, 100, 1000, MTU - 29, MTU - 28] {
            let payload: Vec<u8> = (0..length).map(|n| n as u8).collect();
            from.send_to(&payload, "10.44.0.2:7000").expect("it fits");
            let (received, _) = to.recv_from(&mut buffer).expect("it arrives");
            assert_eq!(
                &buffer[..received],
                &payload[..],
                "{length} bytes over {wire}"
            );
        }
        // One byte more is two fragments, each a packet of its own.
        let payload = vec![7; MTU - 27];
        from.send_to(&payload, "10.44.0.2:7000")
            .expect("it is fragmented");
        assert_eq!(
            to.recv_from(&mut buffer).expect("both arrive").0,
            payload.len()
        );
    }
}

#[test]
fn packets_wait_for_the_first_session_and_the_owner_is_told() {
    let (a, b) = strangers();
    let changed = a.tunnel.changed().expect("a descriptor");
    let (from, to) = (a.home.udp("10.44.0.1:0"), b.home.udp("10.44.0.2:7000"));
    to.set_read_timeout(Some(SOON)).expect("a timeout");
    for number in 0..12u8 {
        from.send_to(&[number], "10.44.0.2:7000").expect("queued");
    }
    wait("the queue to fill", SOON, || a.report(2).dropped == 4);
    assert!(told(&changed), "traffic wants a session");
    let report = a.report(2);
    assert!(report.wants_session && report.queued == 8 && report.last_handshake.is_none());
    assert_eq!(
        b.report(1).last_received,
        None,
        "no handshake started by itself"
    );

    a.connect(2, "192.0.2.2:51820");
    assert!(told(&changed), "the session");
    let mut buffer = [0; 16];
    for number in 4..12u8 {
        to.recv_from(&mut buffer).expect("what waited arrives");
        assert_eq!(buffer[0], number, "in order, the oldest lost");
    }
    assert!(!a.report(2).wants_session);
    assert_eq!(a.tunnel.counters().no_session, 4);
}

#[test]
fn the_answering_side_releases_its_queue_too() {
    let (a, b) = strangers();
    let (from, to) = (b.home.udp("10.44.0.2:0"), a.home.udp("10.44.0.1:7000"));
    to.set_read_timeout(Some(SOON)).expect("a timeout");
    from.send_to(b"waiting", "10.44.0.1:7000").expect("queued");
    wait("the packet to wait", SOON, || b.report(1).wants_session);
    a.connect(2, "192.0.2.2:51820");
    let mut buffer = [0; 16];
    assert_eq!(to.recv_from(&mut buffer).expect("it arrives").0, 7);
}

#[test]
fn an_answer_leaves_from_the_address_that_was_asked() {
    for (extra, wire) in [
        ("192.0.2.22/24", "192.0.2.22:51820"),
        ("2001:db8::22/64", "[2001:db8::22]:51820"),
    ] {
        let (a, b) = strangers();
        b.home.ip(&format!(
            "addr add {extra} dev wire{}",
            if extra.contains(':') { " nodad" } else { "" }
        ));
        a.connect(2, wire);
        assert_eq!(
            a.report(2).endpoint,
            wire.parse().ok(),
            "the kernel's own choice would be the first address"
        );
        assert!(a.reaches(&b, SOON) && b.reaches(&a, SOON));
        assert_eq!(a.report(2).endpoint, wire.parse().ok(), "data too");
    }
}

#[test]
fn a_peer_that_moves_is_followed_and_its_session_lives_on() {
    let (a, b) = pair();
    assert!(a.reaches(&b, SOON));
    a.home.ip("addr add 192.0.2.101/24 dev wire");
    a.home.ip("addr del 192.0.2.1/24 dev wire");
    a.home.ip("addr replace 192.0.2.101/24 dev wire");
    assert!(
        a.reaches(&b, SOON),
        "from the new address, the old being gone"
    );
    wait("the new address to be learned", SOON, || {
        b.report(1).endpoint == "192.0.2.101:51820".parse().ok()
    });
    assert!(b.reaches(&a, SOON));
    // The caller's belief does not overwrite what the peer has shown.
    let mut stale = config(1, PSK);
    stale.endpoint = "192.0.2.1:51820".parse().ok();
    b.tunnel.set_peer(stale);
    assert_eq!(b.report(1).endpoint, "192.0.2.101:51820".parse().ok());
}

/// A socket on the wire in `b`'s home, which carries datagrams between `a` and `b` and can keep them.
struct Relay {
    towards_a: UdpSocket,
    towards_b: UdpSocket,
}

impl Relay {
    fn new(b: &Node) -> Relay {
        let (towards_a, towards_b) = (b.home.udp("192.0.2.2:9000"), b.home.udp("192.0.2.2:9001"));
        for socket in [&towards_a, &towards_b] {
            socket.set_read_timeout(Some(SOON)).expect("a timeout");
        }
        Relay {
            towards_a,
            towards_b,
        }
    }

    /// The next initiation from `a`, not passed on.
    fn catch(&self, a: &Node) -> (Vec<u8>, SocketAddr) {
        a.tunnel
            .handshake(&public(2), "192.0.2.2:9000".parse().expect("an address"));
        let mut buffer = [0; 2048];
        loop {
            let (length, from) = self
                .towards_a
                .recv_from(&mut buffer)
                .expect("an initiation");
            if buffer[0] == 1 {
                return (buffer[..length].to_vec(), from);
            }
        }
    }

    fn give(&self, datagram: &[u8]) {
        self.towards_b
            .send_to(datagram, "192.0.2.2:51820")
            .expect("sent");
    }
}

#[test]
fn a_replayed_initiation_moves_nobody_and_is_reported() {
    let (a, b) = strangers();
    let relay = Relay::new(&b);
    let (old, _) = relay.catch(&a);
    wait("another second", SOON, || {
        a.tunnel
            .handshake(&public(2), "192.0.2.2:51820".parse().expect("an address"))
    });
    wait("a session", SOON, || b.report(1).last_handshake.is_some());
    assert!(a.reaches(&b, SOON));
    let endpoint = b.report(1).endpoint;
    assert_eq!(endpoint, "192.0.2.1:51820".parse().ok());
    let changed = b.tunnel.changed().expect("a descriptor");
    while told(&changed) {}

    relay.give(&old);
    wait("the refusal", SOON, || b.report(1).stale_clock);
    assert!(told(&changed), "so that the owner may initiate itself");
    assert_eq!(b.report(1).endpoint, endpoint);
    assert!(b.reaches(&a, SOON));
    assert_eq!(b.tunnel.counters().handshakes_refused, 1);
    assert!(relay.towards_b.set_read_timeout(Some(NOT_SOON)).is_ok());
    assert!(
        relay.towards_b.recv(&mut [0; 256]).is_err(),
        "no answer to a replay"
    );
}

#[test]
fn a_delayed_initiation_is_answered_but_moves_nobody() {
    let (a, b) = pair();
    let relay = Relay::new(&b);
    let mut fresh = None;
    wait("an initiation", SOON, || {
        if a.tunnel
            .handshake(&public(2), "192.0.2.2:9000".parse().expect("an address"))
        {
            let mut buffer = [0; 2048];
            let length = relay.towards_a.recv(&mut buffer).expect("the initiation");
            fresh = Some(buffer[..length].to_vec());
        }
        fresh.is_some()
    });
    relay.give(&fresh.expect("caught"));
    let mut buffer = [0; 256];
    assert_eq!(
        relay.towards_b.recv(&mut buffer).expect("an answer"),
        92,
        "it is valid, so it is answered"
    );
    assert_eq!(
        b.report(1).endpoint,
        "192.0.2.1:51820".parse().ok(),
        "traffic does not follow it"
    );
}

#[test]
fn a_clock_that_went_back_gets_in_when_the_other_side_initiates() {
    let (a, b) = strangers();
    let relay = Relay::new(&b);
    let (old, _) = relay.catch(&a);
    a.connect(2, "192.0.2.2:51820");
    // The node starts anew with an earlier clock: to `b` its initiations look as this one does.
    a.tunnel.remove_peer(&public(2));
    a.know(2, PSK);
    relay.give(&old);
    wait("the refusal", SOON, || b.report(1).stale_clock);
    b.connect(1, "192.0.2.1:51820");
    wait("a session", SOON, || a.report(2).last_handshake.is_some());
    assert!(a.reaches(&b, SOON) && b.reaches(&a, SOON));
    assert!(!b.report(1).stale_clock);
}

#[test]
fn an_inner_source_that_is_not_the_senders_is_dropped() {
    let (a, b) = pair();
    a.home.ip("addr add 10.44.0.77/16 dev hepto0");
    let (liar, honest) = (a.home.udp("10.44.0.77:0"), a.home.udp("10.44.0.1:0"));
    let to = b.home.udp("10.44.0.2:7000");
    to.set_read_timeout(Some(SOON)).expect("a timeout");
    for _ in 0..3 {
        liar.send_to(b"lie", "10.44.0.2:7000").expect("sent");
    }
    honest.send_to(b"truth", "10.44.0.2:7000").expect("sent");
    let mut buffer = [0; 16];
    let (length, from) = to.recv_from(&mut buffer).expect("the honest one arrives");
    assert_eq!(
        (&buffer[..length], from.ip().to_string().as_str()),
        (&b"truth"[..], "10.44.0.1")
    );
    assert_eq!(b.tunnel.counters().spoofed, 3);
    wait("the count", SOON, || b.report(1).rx_packets == 1);

    let mut wider = config(1, PSK);
    wider
        .allowed_ips
        .push("10.44.0.77/32".parse().expect("a network"));
    b.tunnel.set_peer(wider);
    liar.send_to(b"mine", "10.44.0.2:7000").expect("sent");
    assert_eq!(to.recv_from(&mut buffer).expect("allowed now").0, 4);
}

#[test]
fn a_packet_to_nobody_is_counted() {
    let (a, _b) = pair();
    a.home
        .udp("10.44.0.1:0")
        .send_to(b"x", "10.44.9.9:1")
        .expect("sent");
    wait("the count", SOON, || a.tunnel.counters().no_peer == 1);
}

#[test]
fn another_preshared_key_never_gets_up_until_it_is_changed() {
    let (a, b) = strangers();
    b.know(1, [1; 32]);
    let deadline = Instant::now() + Duration::from_secs(3);
    while Instant::now() < deadline {
        a.tunnel
            .handshake(&public(2), "192.0.2.2:51820".parse().expect("an address"));
        assert!(a.report(2).last_handshake.is_none() && b.report(1).last_handshake.is_none());
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(a.tunnel.counters().handshakes_refused > 0);
    b.know(1, PSK);
    a.connect(2, "192.0.2.2:51820");
    assert!(a.reaches(&b, SOON) && b.reaches(&a, SOON));
}

#[test]
fn a_stranger_is_not_answered() {
    let (a, b) = strangers();
    b.tunnel.remove_peer(&public(1));
    let relay = Relay::new(&b);
    let (initiation, _) = relay.catch(&a);
    relay.give(&initiation);
    wait("the refusal", SOON, || {
        b.tunnel.counters().handshakes_refused == 1
    });
    assert!(relay.towards_b.set_read_timeout(Some(NOT_SOON)).is_ok());
    assert!(relay.towards_b.recv(&mut [0; 256]).is_err());
}

#[test]
fn a_removed_peer_is_gone_and_may_return() {
    let (a, b) = pair();
    assert!(a.reaches(&b, SOON));
    b.tunnel.remove_peer(&public(1));
    b.tunnel.remove_peer(&public(1));
    assert!(b.tunnel.peers().is_empty());
    assert!(!a.reaches(&b, NOT_SOON));
    assert!(b.tunnel.counters().unknown_session > 0);
    b.know(1, PSK);
    a.connect(2, "192.0.2.2:51820");
    assert!(
        b.tunnel
            .handshake(&public(1), "192.0.2.1:51820".parse().expect("an address"))
    );
    assert!(a.reaches(&b, SOON) && b.reaches(&a, SOON));
}

#[test]
fn setting_the_same_peer_again_keeps_its_session() {
    let (a, b) = pair();
    let before = a.report(2);
    a.know(2, PSK);
    let mut more = config(2, PSK);
    more.allowed_ips
        .push("10.42.2.0/24".parse().expect("a network"));
    a.tunnel.set_peer(more);
    let after = a.report(2);
    assert!(
        after.last_handshake >= before.last_handshake,
        "no new handshake"
    );
    assert_eq!(after.endpoint, before.endpoint);
    assert!(a.reaches(&b, SOON));
}

#[test]
fn after_91_seconds_without_an_answer_it_still_comes_back() {
    let (a, b) = strangers();
    b.home.ip("link set wire down");
    a.tunnel
        .handshake(&public(2), "192.0.2.2:51820".parse().expect("an address"));
    std::thread::sleep(Duration::from_secs(92));
    b.home.ip("link set wire up");
    b.home.ip("addr replace 2001:db8::2/64 dev wire nodad");
    let quiet = Instant::now();
    while quiet.elapsed() < Duration::from_secs(6) {
        assert!(
            a.report(2).last_handshake.is_none(),
            "boringtun has given up, and nobody asked"
        );
        std::thread::sleep(Duration::from_millis(100));
    }
    a.connect(2, "192.0.2.2:51820");
    assert!(a.reaches(&b, SOON) && b.reaches(&a, SOON));
}

#[test]
fn a_session_is_renewed_without_traffic() {
    let (a, b) = homes();
    let short = |options: &mut Options| options.renew_after = Duration::from_secs(1);
    let (a, b) = (Node::start(a, 1, short), Node::start(b, 2, |_| {}));
    a.know(2, PSK);
    b.know(1, PSK);
    a.connect(2, "192.0.2.2:51820");
    wait("an older session", SOON, || {
        a.report(2).last_handshake > Some(Duration::from_millis(900))
    });
    wait("a new one", Duration::from_secs(8), || {
        a.report(2).last_handshake < Some(Duration::from_millis(500))
    });
    assert!(a.reaches(&b, SOON) && b.reaches(&a, SOON));
}

#[test]
fn silence_is_broken_by_keepalives() {
    let (a, b) = homes();
    let often = |options: &mut Options| options.keepalive = Duration::from_secs(1);
    let (a, b) = (Node::start(a, 1, often), Node::start(b, 2, |_| {}));
    a.know(2, PSK);
    b.know(1, PSK);
    a.connect(2, "192.0.2.2:51820");
    wait("silence", SOON, || {
        b.report(1).last_received > Some(Duration::from_millis(700))
    });
    wait("a keepalive", SOON, || {
        b.report(1).last_received < Some(Duration::from_millis(300))
    });
    assert_eq!(b.report(1).rx_packets, 0);
}

#[test]
fn other_datagrams_go_to_the_sink_and_are_answered() {
    let (a, b) = pair();
    // The set of peers' addresses is as old as the last tick.
    std::thread::sleep(Duration::from_millis(600));
    let stranger = a.home.udp("192.0.2.1:7777");
    stranger
        .send_to(b"\xe8hello", "192.0.2.2:51820")
        .expect("sent");
    a.tunnel
        .messenger()
        .send(
            b"\xe8peer",
            "192.0.2.2:51820".parse().expect("an address"),
            None,
        )
        .expect("sent");
    // Not WireGuard either: a type with the wrong length.
    stranger
        .send_to(&[1, 0, 0, 0, 9], "[::ffff:192.0.2.2]:51820")
        .err();
    stranger
        .send_to(&[1, 0, 0, 0, 9], "192.0.2.2:51820")
        .expect("sent");
    wait("three datagrams", SOON, || {
        b.heard.lock().expect("no panic").len() >= 3
    });
    let heard = b.heard.lock().expect("no panic").clone();
    let to = "192.0.2.2".parse().ok();
    assert!(heard.contains(&(
        b"\xe8hello".to_vec(),
        "192.0.2.1:7777".parse().expect("an address"),
        to,
        false
    )));
    assert!(heard.contains(&(
        b"\xe8peer".to_vec(),
        "192.0.2.1:51820".parse().expect("an address"),
        to,
        true
    )));
    assert!(heard.iter().any(|(bytes, ..)| bytes == &[1, 0, 0, 0, 9]));

    stranger.set_read_timeout(Some(SOON)).expect("a timeout");
    b.tunnel
        .messenger()
        .send(b"answer", "192.0.2.1:7777".parse().expect("an address"), to)
        .expect("sent");
    let mut buffer = [0; 16];
    let (length, from) = stranger.recv_from(&mut buffer).expect("the answer");
    assert_eq!(
        (&buffer[..length], from),
        (
            &b"answer"[..],
            "192.0.2.2:51820".parse().expect("an address")
        )
    );
}

#[test]
fn a_flood_of_garbage_stops_nothing() {
    let (a, b) = pair();
    let attacker = a.home.udp("192.0.2.1:6666");
    let end = Instant::now() + Duration::from_secs(3);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut random = 0x9e37_79b9_7f4a_7c15u64;
            while Instant::now() < end {
                for length in [0usize, 1, 3, 4, 31, 32, 64, 92, 148, 400, 1400] {
                    let mut datagram = vec![0; length];
                    for byte in &mut datagram {
                        random = random
                            .wrapping_mul(6_364_136_223_846_793_005)
                            .wrapping_add(1);
                        *byte = (random >> 56) as u8;
                    }
                    if length > 4 {
                        datagram[..4].copy_from_slice(&[(random >> 40) as u8 % 6, 0, 0, 0]);
                    }
                    // The other end's buffer may be full: that is the point.
                    let _ = attacker.send_to(&datagram, "192.0.2.2:51820");
                }
            }
        });
        while Instant::now() < end {
            assert!(a.reaches(&b, SOON) && b.reaches(&a, SOON));
        }
    });
    let counters = b.tunnel.counters();
    assert!(
        counters.sink > 1000 && counters.handshakes_refused > 100,
        "{counters:?}"
    );
    assert_eq!(b.report(1).endpoint, "192.0.2.1:51820".parse().ok());
}

#[test]
fn the_interface_may_go_down_and_up() {
    let (a, b) = pair();
    assert!(a.reaches(&b, SOON));
    a.home.ip("link set hepto0 down");
    assert!(!b.reaches(&a, NOT_SOON));
    a.home.ip("link set hepto0 up");
    a.home.ip("addr replace fd44::1/64 dev hepto0 nodad");
    assert!(a.reaches(&b, SOON) && b.reaches(&a, SOON));
}

#[test]
fn the_uplink_may_be_rebuilt() {
    let (a, b) = pair();
    let index = |home: &Home| {
        home.run(|| {
            let index = std::fs::read_to_string("/proc/thread-self/net/dev_mcast")
                .expect("the list of links");
            let line = index
                .lines()
                .find(|line| line.contains("wire"))
                .expect("the wire")
                .trim()
                .to_owned();
            line.split_whitespace()
                .next()
                .expect("an index")
                .parse::<u32>()
                .expect("a number")
        })
    };
    a.tunnel
        .set_uplink(Some(index(&a.home)))
        .expect("the link is there");
    assert!(a.reaches(&b, SOON));
    a.home.ip("link del wire");
    a.home.ip(&format!(
        "link add wire type veth peer name wire netns {}",
        b.home.path()
    ));
    for (home, number) in [(&a.home, 1), (&b.home, 2)] {
        home.ip(&format!("addr add 192.0.2.{number}/24 dev wire"));
        home.ip("link set wire up");
    }
    a.tunnel
        .set_uplink(Some(index(&a.home)))
        .expect("the new link is there");
    assert!(
        a.reaches(&b, SOON) && b.reaches(&a, SOON),
        "the same session"
    );
}

#[test]
fn stop_ends_the_threads_and_closes_everything() {
    let (a, b) = pair();
    let messenger = a.tunnel.messenger();
    let started = Instant::now();
    let Node { home, tunnel, .. } = a;
    tunnel.stop();
    assert!(started.elapsed() < Duration::from_secs(1));
    home.run(|| {
        Socket::open(51820)
            .map(drop)
            .expect_err("the messenger still has the socket");
        drop(messenger);
        // The interface stayed, with its addresses, for the next run.
        let tun = Tun::open("hepto0").expect("it is nobody's now");
        let socket = Socket::open(51820).expect("so is the port");
        let options = Options::new(Zeroizing::new(private(1)));
        let again = Tunnel::start(options, tun, socket, Box::new(|_| {})).expect("threads");
        assert!(matches!(Tun::open("hepto0"), Err(error) if error.code() == "E-TUNNEL-TUN-BUSY"));
        again.set_peer(config(2, PSK));
        assert!(again.handshake(&public(2), "192.0.2.2:51820".parse().expect("an address")));
        wait("a new session", SOON, || {
            again.peers()[0].last_handshake.is_some()
        });
        wait("news of it", SOON, || {
            b.report(1).last_handshake < Some(Duration::from_millis(500))
        });
    });
}

#[test]
fn names_that_the_kernel_refuses_are_refused_first() {
    for name in ["", "sixteen-letters!", "a b", "a/b"] {
        assert_eq!(
            Tun::open(name).expect_err("refused").code(),
            "E-TUNNEL-TUN-NAME"
        );
    }
}
