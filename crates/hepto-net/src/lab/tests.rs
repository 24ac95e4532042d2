//! The lab itself, on a real kernel. Everything is made inside namespaces of the test's own.

use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use super::{Echo, Street, echo, throughput};

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

struct Pair {
    street: Street,
    one: super::Home,
    two: super::Home,
}

fn pair() -> Pair {
    let street =
        Street::open(&[net("192.0.2.254/24"), net("2001:db8::fe/64")]).expect("the lab needs root");
    let one = street
        .home("one", &[net("192.0.2.1/24"), net("2001:db8::1/64")])
        .unwrap();
    let two = street
        .home("two", &[net("192.0.2.2/24"), net("2001:db8::2/64")])
        .unwrap();
    Pair { street, one, two }
}

/// Enough for a link that has just come up and an address that is asked for twice, a second apart.
const PATIENCE: Duration = Duration::from_secs(3);

fn ask(home: &super::Home, to: &str, size: usize) -> io::Result<Duration> {
    let request = Echo {
        to: ip(to),
        size,
        patience: PATIENCE,
    };
    home.space().run(|| echo(request)).unwrap()
}

#[test]
fn homes_hear_one_another_and_the_router() {
    let pair = pair();
    for (home, to) in [
        (&pair.one, "192.0.2.2"),
        (&pair.two, "2001:db8::1"),
        (&pair.one, "2001:db8::fe"),
    ] {
        ask(home, to, 84).unwrap();
    }
}

#[test]
fn one_byte_above_the_mtu_is_refused() {
    let pair = pair();
    for to in ["192.0.2.2", "2001:db8::2"] {
        ask(&pair.one, to, 1500).unwrap();
        let error = ask(&pair.one, to, 1501).unwrap_err();
        assert_eq!(
            error.raw_os_error(),
            Some(nix::libc::EMSGSIZE),
            "{to}: {error}"
        );
    }
}

#[test]
fn a_cut_is_silent_and_heals() {
    let pair = pair();
    ask(&pair.one, "192.0.2.2", 84).unwrap();
    pair.street.cut(&pair.two).unwrap();
    assert_eq!(
        ask(&pair.one, "192.0.2.2", 84).unwrap_err().kind(),
        io::ErrorKind::TimedOut
    );
    pair.street.heal(&pair.two).unwrap();
    ask(&pair.one, "192.0.2.2", 84).unwrap();
}

#[test]
fn a_pulled_cable_is_seen_in_the_home() {
    let pair = pair();
    pair.street.carrier(&pair.two, false).unwrap();
    let error = ask(&pair.two, "192.0.2.1", 84).unwrap_err();
    assert_ne!(error.kind(), io::ErrorKind::PermissionDenied, "{error}");
    pair.street.carrier(&pair.two, true).unwrap();
    let back = Instant::now();
    while ask(&pair.two, "192.0.2.1", 84).is_err() {
        assert!(
            back.elapsed() < Duration::from_secs(15),
            "the line stays dead"
        );
    }
}

#[test]
fn throughput_is_what_the_receiver_counts() {
    let pair = pair();
    let bits = throughput(
        pair.one.space(),
        pair.two.space(),
        ip("2001:db8::2"),
        Duration::from_millis(200),
    )
    .unwrap();
    assert!(bits > 1e6, "{bits} bit/s");
}

#[test]
fn each_home_has_a_run_directory_of_its_own() {
    let pair = pair();
    pair.one
        .space()
        .run(|| std::fs::write("/run/mark", "one").unwrap())
        .unwrap();
    assert!(
        !pair
            .two
            .space()
            .run(|| std::path::Path::new("/run/mark").exists())
            .unwrap()
    );
    assert!(!std::path::Path::new("/run/mark").exists());
}

#[test]
fn a_pod_reaches_its_node_over_a_link_of_its_own() {
    let pair = pair();
    let pod = super::Space::private().unwrap();
    pair.one
        .space()
        .join(
            ("pod0", &[net("198.51.100.1/24")]),
            (&pod, "eth0", &[net("198.51.100.2/24")]),
        )
        .unwrap();
    pod.route(net("0.0.0.0/0"), ip("198.51.100.1"), None)
        .unwrap();
    let request = Echo {
        patience: PATIENCE,
        ..Echo::new(ip("192.0.2.1"))
    };
    pod.run(|| echo(request)).unwrap().unwrap();
}
