//! Handshakes, roaming, renewal, clocks.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hepto_tunnel::Options;

use crate::home::{
    Home, NOT_SOON, Node, PSK, Raise, SOON, config, homes, pair, public, receive, strangers, told,
    wait,
};

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
        receive(&to, &mut buffer).expect("what waited arrives");
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
    assert_eq!(receive(&to, &mut buffer).expect("it arrives").0, 7);
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
            let (length, from) = receive(&self.towards_a, &mut buffer).expect("an initiation");
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
    wait("the count", SOON, || {
        b.tunnel.counters().handshakes_refused == 1
    });
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

/// Whoever has our public key can make us compute. Under such load a peer proves its address first, and gets in.
#[test]
fn a_flood_of_valid_initiations_locks_no_peer_out() {
    let (a, b) = strangers();
    let relay = Relay::new(&b);
    let (initiation, _) = relay.catch(&a);
    let ends = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ends.load(Ordering::Relaxed) {
                for _ in 0..50 {
                    relay.give(&initiation);
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        let _ends = Raise(&ends);
        wait("the load to be felt", SOON, || {
            b.tunnel.counters().rate_limited > 1000
        });
        a.connect(2, "192.0.2.2:51820");
        assert!(a.reaches(&b, SOON) && b.reaches(&a, SOON));
    });
}

/// A stranger with our public key, as far as a cookie lets him.
struct Stranger(boringtun::noise::Tunn);

impl Stranger {
    fn new(target: u8) -> Stranger {
        let secret = boringtun::x25519::StaticSecret::from([0x77; 32]);
        let target = boringtun::x25519::PublicKey::from(public(target));
        Stranger(boringtun::noise::Tunn::new(
            secret, target, None, None, 1, None,
        ))
    }

    fn initiation(&mut self) -> Vec<u8> {
        let mut buffer = [0; 148];
        match self.0.format_handshake_initiation(&mut buffer, true) {
            boringtun::noise::TunnResult::WriteToNetwork(bytes) => bytes.to_vec(),
            other => panic!("no initiation: {other:?}"),
        }
    }

    /// Sends initiations until a cookie comes, and gives one that bears it.
    fn with_cookie(&mut self, socket: &UdpSocket, target: &str) -> Vec<u8> {
        let first = self.initiation();
        let mut buffer = [0; 256];
        socket
            .set_read_timeout(Some(Duration::from_millis(1)))
            .expect("a timeout");
        let deadline = Instant::now() + SOON;
        loop {
            assert!(Instant::now() < deadline, "no cookie came");
            for _ in 0..50 {
                let _ = socket.send_to(&first, target);
            }
            if let Ok((64, _)) = socket.recv_from(&mut buffer) {
                self.0.decapsulate(None, &buffer[..64], &mut [0; 148]);
                return self.initiation();
            }
        }
    }
}

/// An initiation of a stranger to `target`: it costs as much as a peer's.
pub fn initiation_of_a_stranger(target: u8) -> Vec<u8> {
    Stranger::new(target).initiation()
}

/// A valid cookie is no licence to make us compute without end.
#[test]
fn a_flood_with_a_valid_cookie_is_limited_and_locks_no_peer_out() {
    let (a, b) = strangers();
    a.home.ip("addr add 192.0.2.66/24 dev wire");
    let flooder = a.home.udp("192.0.2.66:7777");
    let initiation = Stranger::new(2).with_cookie(&flooder, "192.0.2.2:51820");
    let ends = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ends.load(Ordering::Relaxed) {
                for _ in 0..50 {
                    let _ = flooder.send_to(&initiation, "192.0.2.2:51820");
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        let _ends = Raise(&ends);
        let (start, before) = (Instant::now(), b.tunnel.counters());
        wait("the flood to be limited", SOON, || {
            b.tunnel.counters().rate_limited > before.rate_limited + 5000
        });
        // Those that passed the door: a hundred a second of anyone, and what one source may beside.
        let passed = b.tunnel.counters().handshakes_refused - before.handshakes_refused;
        let most = 150 * (start.elapsed().as_secs() + 2);
        assert!(passed <= most, "{passed} of {most}");
        a.connect(2, "192.0.2.2:51820");
        assert!(a.reaches(&b, SOON) && b.reaches(&a, SOON));
    });
}

/// Numbered datagrams, one a millisecond; the numbers that did not arrive.
fn lost_on_the_way(from: &UdpSocket, to: &UdpSocket, count: u32) -> Vec<u32> {
    let target = to.local_addr().expect("bound");
    to.set_read_timeout(Some(Duration::from_secs(2)))
        .expect("a timeout");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0..count {
                from.send_to(&number.to_be_bytes(), target).expect("sent");
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let mut missing: std::collections::BTreeSet<u32> = (0..count).collect();
        let mut buffer = [0; 16];
        while !missing.is_empty() && receive(to, &mut buffer).is_ok() {
            let number = u32::from_be_bytes(buffer[..4].try_into().expect("four bytes"));
            assert!(missing.remove(&number), "{number} came twice");
        }
        missing.into_iter().collect()
    })
}

/// Sends four seconds of numbered datagrams both ways between `node` and `other`, at `far` and `endpoint`, while `node`
/// asks for a new session again and again. Returns how many it got; none of the datagrams may be lost.
pub fn renewed_without_loss(node: &Node, other: u8, endpoint: &str, far: &Home) -> u32 {
    let endpoint = endpoint.parse().expect("an address and port");
    let inner = |home: &Home, number: u8| home.udp(&format!("10.44.0.{number}:0"));
    let (near, far) = (|| inner(&node.home, node.number), || inner(far, other));
    let (there, back) = ((near(), far()), (far(), near()));
    let ends = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let renewals = scope.spawn(|| {
            let (mut count, mut last) = (0, Duration::MAX);
            while !ends.load(Ordering::Relaxed) {
                node.tunnel.handshake(&public(other), endpoint);
                let age = node.report(other).last_handshake.unwrap_or(Duration::MAX);
                count += u32::from(age < last);
                last = age;
                std::thread::sleep(Duration::from_millis(20));
            }
            count
        });
        let raise = Raise(&ends);
        let reverse = scope.spawn(|| lost_on_the_way(&back.0, &back.1, 4000));
        assert_eq!(lost_on_the_way(&there.0, &there.1, 4000), []);
        assert_eq!(reverse.join().expect("it counts"), []);
        drop(raise);
        renewals.join().expect("it counts")
    })
}

#[test]
fn rekeying_under_load_loses_no_packet() {
    let (a, b) = homes();
    let often = |options: &mut Options| options.renew_after = Duration::from_secs(1);
    let (a, b) = (Node::start(a, 1, often), Node::start(b, 2, |_| {}));
    a.know(2, PSK);
    b.know(1, PSK);
    a.connect(2, "192.0.2.2:51820");
    assert!(a.reaches(&b, SOON) && b.reaches(&a, SOON));
    // Both sides renew, also at once.
    let renewed = renewed_without_loss(&b, 1, "192.0.2.1:51820", &a.home);
    assert!(renewed >= 3, "{renewed} new sessions in four seconds");
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
