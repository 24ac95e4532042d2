//! Peers that come and go, links too, and the end.

use std::time::Instant;

use hepto_tunnel::{Options, Socket, Tun, Tunnel};
use zeroize::Zeroizing;

use crate::home::{Home, NOT_SOON, Node, PSK, SOON, config, pair, private, public};

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
    let Node {
        home,
        tunnel,
        number,
        heard,
    } = a;
    tunnel.stop();
    assert!(started.elapsed() < SOON);
    let again = home.run(|| {
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
        again
    });
    let again = Node {
        home,
        tunnel: again,
        number,
        heard,
    };
    assert!(again.reaches(&b, SOON) && b.reaches(&again, SOON));
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

#[test]
fn an_interface_that_is_deleted_is_survived() {
    let (a, b) = pair();
    a.home.ip("link del hepto0");
    // The network side goes on: a new session can be had.
    b.tunnel.remove_peer(&public(1));
    b.know(1, PSK);
    b.connect(1, "192.0.2.1:51820");
    let started = Instant::now();
    a.tunnel.stop();
    assert!(started.elapsed() < SOON);
}
