//! Plans of the pair between host and node. Its part of the model of the kernel is in `plan/tests.rs`.

use proptest::prelude::*;

use super::*;
use crate::address::pair_networks;
use crate::plan::plan;
use crate::plan::tests::{address, carry_out, desired, found_addresses, link, net, settled, text};
use crate::state::{Kind, Link, ObservedHostLink};

const HOST: u32 = 40;
const NODE: u32 = 3;

/// A pair as the kernel makes it: the host's end and the node's.
pub fn pair() -> (ObservedLink, ObservedLink) {
    let end = |name: &str, index, other| ObservedLink {
        link: Link {
            index,
            lower: Some(other),
            lower_elsewhere: true,
            ..link(name, Kind::Veth)
        },
        addresses: Vec::new(),
        routes: Vec::new(),
    };
    (end("hepto-mars", HOST, NODE), end("host0", NODE, HOST))
}

/// A route as the kernel shows what was asked for.
pub fn route(route: &PairRoute) -> Route {
    Route {
        destination: route.to.into(),
        gateway: Some(route.via),
        onlink: false,
        metric: METRIC,
        link: 7,
        source: route.source,
        origin: Origin::Static,
    }
}

fn linked(ipv6: bool) -> DesiredHostLink {
    let settings = |path: &str| vec![(path.to_owned(), "0".to_owned())];
    DesiredHostLink {
        name: "hepto-mars".into(),
        alias: "hepto:acides:mars".into(),
        sysctls: settings("net/ipv6/conf/host0/accept_ra"),
        host_sysctls: settings("net/ipv6/conf/hepto-mars/accept_ra"),
        ipv6,
        networks: pair_networks("hepto:acides:mars"),
    }
}

/// A node as it was before, whose host has these addresses on its interface, and what it shall have now.
fn asked(host: &[&str]) -> (Desired, Observed) {
    let wanted = Desired {
        host_link: Some(linked(true)),
        ..desired()
    };
    let mut observed = settled();
    observed.host_link.addresses = host.iter().map(|text| address(text)).collect();
    (wanted, observed)
}

const ADDRESSES: [&str; 3] = ["192.168.1.10/24", "2001:db8:1::10/64", "fe80::77/64"];

/// The same with the pair in place.
fn made() -> (Desired, Observed) {
    let (wanted, observed) = asked(&ADDRESSES);
    let made = carry_out(&plan(&wanted, &observed), observed);
    assert_eq!(text(&plan(&wanted, &made)), "");
    (wanted, made)
}

pub fn wanted() -> impl Strategy<Value = Option<DesiredHostLink>> {
    proptest::option::of(any::<bool>().prop_map(linked))
}

pub fn found() -> impl Strategy<Value = ObservedHostLink> {
    let networks = pair_networks("hepto:acides:mars");
    let used = networks[..3]
        .iter()
        .map(|network| IpNet::from(*network))
        .collect::<Vec<_>>();
    let taken = proptest::sample::subsequence(used, 0..=3);
    // A pair that an earlier plan made, another's link of that name, or nothing.
    let there = prop_oneof![Just(0), Just(1), Just(2)];
    (
        there,
        taken,
        found_addresses(),
        any::<[bool; 2]>(),
        found_addresses(),
    )
        .prop_map(|(there, taken, addresses, [up, marked], on_node)| {
            let mut seen = ObservedHostLink {
                addresses,
                taken,
                ..ObservedHostLink::default()
            };
            let (mut host, mut node) = pair();
            host.link.alias = marked.then(|| "hepto:acides:mars".to_owned());
            (host.link.up, node.link.up) = (up, !up);
            node.addresses = on_node;
            let old = |to: &str, metric| Route {
                metric,
                ..route(&PairRoute {
                    to: to.parse().expect("an address"),
                    via: "fe80::2".parse().expect("an address"),
                    source: None,
                })
            };
            host.routes = vec![
                old("192.0.2.1", METRIC),
                old("203.0.113.7", METRIC),
                old("203.0.113.8", 7),
            ];
            match there {
                0 => (seen.host, seen.node) = (Some(host), Some(node)),
                1 => {
                    seen.node = Some(ObservedLink {
                        link: link("host0", Kind::Bridge),
                        ..node
                    })
                }
                _ => {}
            }
            seen
        })
}

#[test]
fn each_end_leads_to_what_the_other_is_known_by() {
    let (wanted, observed) = asked(&ADDRESSES);
    insta::assert_snapshot!(text(&plan(&wanted, &observed)), @r"
    host link: make a veth pair, the host's end hepto-mars
    host link: set net/ipv6/conf/host0/accept_ra to 0
    host's end: set net/ipv6/conf/hepto-mars/accept_ra to 0
    host's end: mark as hepto:acides:mars
    host's end: set up
    host link: set up
    host's end: add the address 169.254.91.245/30
    host's end: add the address fe80::1/64
    host link: add the address 169.254.91.246/30
    host link: add the address fe80::2/64
    host link: add the address 2001:db8:1::1/128
    host link: add the address 192.168.1.123/32
    host's end: add the route to 2001:db8:1::1 via fe80::2 from 2001:db8:1::10
    host's end: add the route to 192.168.1.123 via 169.254.91.246 from 192.168.1.10
    host link: add the route to 192.168.1.10 via 169.254.91.245 from 192.168.1.123
    host link: add the route to 2001:db8:1::10 via fe80::1 from 2001:db8:1::1
    ");
}

#[test]
fn without_ipv6_it_carries_ipv4_alone() {
    let (mut wanted, observed) = asked(&ADDRESSES);
    wanted.host_link = Some(linked(false));
    let steps = text(&plan(&wanted, &observed));
    assert!(
        steps.contains("add the route to 192.168.1.10 via"),
        "{steps}"
    );
    let of_pair = steps
        .lines()
        .filter(|line| line.contains("route") || line.contains("address"));
    assert!(of_pair.clone().all(|line| !line.contains("::")), "{steps}");
}

#[test]
fn a_host_without_addresses_asks_by_the_pairs_own() {
    let (wanted, observed) = asked(&["fe80::77/64", "169.254.9.9/16", "127.0.0.1/8"]);
    let steps = plan(&wanted, &observed);
    let at = |subject| -> Vec<String> {
        let routes = steps.iter().filter(|step| step.subject == subject);
        routes
            .filter(|step| matches!(step.action, Action::AddRoute(_)))
            .map(ToString::to_string)
            .collect()
    };
    assert_eq!(
        at(Subject::HostLink),
        [""; 0],
        "the node has nothing to reach"
    );
    insta::assert_snapshot!(at(Subject::HostEnd).join("\n"), @r"
    host's end: add the route to 2001:db8:1::1 via fe80::2 from fe80::1
    host's end: add the route to 192.168.1.123 via 169.254.91.246 from 169.254.91.245
    ");
}

#[test]
fn a_node_without_a_family_reaches_nothing_in_it() {
    let (mut wanted, observed) = asked(&ADDRESSES);
    wanted.uplink.as_mut().unwrap().addresses.pop();
    let steps = text(&plan(&wanted, &observed));
    assert!(
        steps.contains("host link: add the route to 2001:db8:1::10"),
        "{steps}"
    );
    assert!(!steps.contains("add the route to 192.168"), "{steps}");
}

#[test]
fn it_follows_the_addresses_of_host_and_node() {
    let (mut wanted, mut made) = made();
    made.host_link.addresses[0] = address("192.168.1.11/24");
    made.host_link.addresses[1] = Address {
        duplicate: true,
        ..made.host_link.addresses[1]
    };
    wanted.uplink.as_mut().unwrap().addresses[2] = net("192.168.1.124/24");
    insta::assert_snapshot!(text(&plan(&wanted, &made)), @r"
    uplink: add the address 192.168.1.124/24
    uplink: remove the address 192.168.1.123/24
    host link: add the address 192.168.1.124/32
    host link: remove the address 192.168.1.123/32
    host's end: add the route to 2001:db8:1::1 via fe80::2 from fe80::1
    host's end: add the route to 192.168.1.124 via 169.254.91.246 from 192.168.1.11
    host's end: remove the route to 192.168.1.123 via 169.254.91.246 from 192.168.1.10
    host link: add the route to 192.168.1.11 via 169.254.91.245 from 192.168.1.124
    host link: remove the route to 192.168.1.10 via 169.254.91.245 from 192.168.1.123
    host link: remove the route to 2001:db8:1::10 via fe80::1 from 2001:db8:1::1
    ");
}

#[test]
fn a_router_of_the_host_is_never_led_to_the_node() {
    let (wanted, mut observed) = asked(&ADDRESSES);
    observed.host_link.gateways = vec!["192.168.1.123".parse().unwrap()];
    let steps = text(&plan(&wanted, &observed));
    let to_it = "host's end: add the route to 192.168.1.123";
    assert!(!steps.contains(to_it), "{steps}");
    assert!(
        steps.contains("host's end: add the route to 2001:db8:1::1"),
        "{steps}"
    );
}

#[test]
fn it_goes_when_it_is_no_longer_wanted() {
    let (_, made) = made();
    assert_eq!(text(&plan(&desired(), &made)), "host link: delete\n");
    let gone = carry_out(&plan(&desired(), &made), made);
    assert_eq!(gone.host_link.host, None);
}

#[test]
fn a_link_that_only_has_a_name_of_it_is_another() {
    let (_, made) = made();
    for harm in [
        (|seen: &mut ObservedHostLink| seen.host.as_mut().unwrap().link.lower = Some(4))
            as fn(&mut ObservedHostLink),
        |seen| seen.node.as_mut().unwrap().link.lower = Some(41),
        |seen| seen.host.as_mut().unwrap().link.lower_elsewhere = false,
        |seen| seen.host.as_mut().unwrap().link.kind = Kind::Other,
        |seen| seen.node = None,
    ] {
        let mut seen = made.clone();
        harm(&mut seen.host_link);
        assert_eq!(seen.host_link.pair(), None);
        assert_eq!(text(&plan(&desired(), &seen)), "", "it is not deleted");
    }
}

#[test]
fn a_network_that_others_use_is_not_taken() {
    let (wanted, mut observed) = asked(&ADDRESSES);
    let networks = pair_networks("hepto:acides:mars");
    let [host, _] = pair_v4(networks[0]);
    observed.host_link.taken = vec![net("169.254.169.254/32"), IpNet::from(IpAddr::from(host))];
    let elsewhere = text(&plan(&wanted, &observed));
    let [host, _] = pair_v4(networks[1]);
    assert!(
        elsewhere.contains(&format!("host's end: add the address {host}/30")),
        "{elsewhere}"
    );
    // Another takes it later: the pair moves, and moves nowhere when the first is free again.
    let (wanted, mut made) = made();
    made.host_link.taken = vec![IpNet::from(networks[0])];
    let moved = carry_out(&plan(&wanted, &made), made);
    assert_eq!(text(&plan(&wanted, &moved)), "");
    let back = Observed {
        host_link: ObservedHostLink {
            taken: Vec::new(),
            ..moved.host_link.clone()
        },
        ..moved
    };
    assert_eq!(text(&plan(&wanted, &back)), "");
    let had = back.host_link.host.unwrap().addresses;
    assert!(
        had.iter()
            .any(|address| address.net.addr() == IpAddr::from(host)),
        "{had:?}"
    );
}

#[test]
fn what_others_gave_the_hosts_end_stays() {
    let (wanted, mut made) = made();
    let host = made.host_link.host.as_mut().unwrap();
    host.addresses.extend([
        address("169.254.3.3/16"),
        address("fe80::1234/64"),
        address("10.0.0.1/8"),
    ]);
    host.routes.push(Route {
        metric: 7,
        ..host.routes[0]
    });
    assert_eq!(text(&plan(&wanted, &made)), "");
}
